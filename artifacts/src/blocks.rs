//! A writer that gathers its output in blocks and hashes it on the way.

use std::io::{self, Write};

/// Size of a block in bytes. A file is written in aligned blocks, so that the page cache holds it in few large pieces.
/// Smaller blocks are slower, and so are larger ones where the free memory is fragmented.
const BLOCK: usize = 1 << 18;

/// Passes bytes on in blocks and keeps their BLAKE3 hash and count.
pub(crate) struct BlockWriter<W> {
    inner: W,
    /// The bytes that are not passed on yet.
    block: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Whether a write has failed. How much of it reached the file is then unknown, so no other may follow.
    broken: bool,
}

impl<W: Write> BlockWriter<W> {
    /// Starts with the hash of nothing.
    pub fn new(inner: W) -> Self {
        let (block, hasher) = (Vec::with_capacity(BLOCK), blake3::Hasher::new());
        Self { inner, block, hasher, bytes: 0, broken: false }
    }

    /// Passes on the rest, and returns the number of all bytes written and their hash in hexadecimal.
    ///
    /// # Errors
    /// An error of the writer inside, and any call after such an error.
    pub fn finish(&mut self) -> io::Result<(u64, String)> {
        self.flush()?;
        Ok((self.bytes, self.hasher.finalize().to_hex().to_string()))
    }

    /// The writer inside. Bytes that are written to it directly are not hashed.
    pub fn inner_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the file failed"));
        }
        self.hasher.update(&self.block);
        self.bytes += self.block.len() as u64;
        self.broken = true;
        self.inner.write_all(&self.block)?;
        self.broken = false;
        self.block.clear();
        Ok(())
    }
}

impl<W: Write> Write for BlockWriter<W> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.pass_on()?;
        }
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the bytes it is given, and the length of each write.
    #[derive(Default)]
    struct Sink(Vec<u8>, Vec<usize>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes);
            self.1.push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_come_in_whole_blocks_and_the_hash_is_of_all_however_they_were_split() {
        let bytes: Vec<u8> = (0..2 * BLOCK + 77_777).map(|i| ((i * i) >> 7) as u8).collect();
        for piece in [1000, BLOCK, 3 * BLOCK / 2 + 1, bytes.len()] {
            let mut writer = BlockWriter::new(Sink::default());
            bytes.chunks(piece).for_each(|piece| writer.write_all(piece).unwrap());
            let (count, hash) = writer.finish().unwrap();
            assert_eq!((count, hash), (bytes.len() as u64, blake3::hash(&bytes).to_hex().to_string()));
            assert!(writer.inner.0 == bytes);
            assert_eq!(writer.inner.1, [BLOCK, BLOCK, 77_777]);
        }
    }

    #[test]
    fn after_a_failed_write_nothing_more_is_written_and_the_file_cannot_be_finished() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = BlockWriter::new(Full(0));
        writer.write_all(&[1; 10]).unwrap();
        assert_eq!(writer.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(writer.write_all(&vec![1; 2 * BLOCK]).is_err());
        assert!(writer.finish().is_err());
        assert_eq!(writer.inner.0, 10);
    }
}
