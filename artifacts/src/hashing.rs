//! Checksums that are computed while a file is written, so that it need not be read again.

use crate::fingerprint::Fingerprint;
use std::io::{self, Write};

/// Passes bytes on and keeps their BLAKE3 hash and count.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Starts with the hash of nothing.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The whole 32-byte hash of what was written so far.
    pub fn digest(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// The fingerprint of the bytes written so far, equal to [`Fingerprint::of`] them.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::finish(&self.hasher)
    }

    /// The writer inside. Its buffer is not flushed.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_all_bytes_however_they_were_split() {
        let mut w = HashingWriter::new(Vec::new());
        w.write_all(b"one").unwrap();
        w.write_all(b" two").unwrap();
        assert_eq!(w.bytes(), 7);
        assert_eq!(w.fingerprint(), Fingerprint::of(b"one two"));
        assert_eq!(w.into_inner(), b"one two");
    }
}
