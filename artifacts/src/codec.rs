//! Versioned binary files: the only place that knows bincode.
//!
//! The layout is the same for every version of the payload: magic bytes, version (u32 LE), payload (bincode 2,
//! standard configuration), length of the payload (u64 LE), BLAKE3 hash of everything before it (32 bytes). Files are
//! written and read as streams, so the memory taken is that of the value.

use crate::error::ArtifactError;
use crate::hashing::HashingWriter;
use crate::publish::{io_error, publish_file};
use crate::regular::open_regular;
use bincode::config::standard;
use bincode::error::DecodeError;
use bincode::serde::{decode_from_std_read, encode_into_std_write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

const TRAILER: u64 = 8 + 32;
/// The most bytes of memory that one byte of payload may become. A small number of 8 bytes is written in one.
const GROWTH: u64 = 16;

/// Decodes a payload of `payload` bytes. It allocates no more than so many bytes can hold, whatever lengths they claim.
fn decode_bounded<T: DeserializeOwned>(payload: u64, reader: &mut impl Read) -> Result<T, DecodeError> {
    /// bincode takes its bound as a constant, so this chooses the smallest power of four that is enough.
    macro_rules! bounded_by {
        ($($bits:literal)*) => {
            match payload.saturating_mul(GROWTH) {
                $(bytes if bytes <= 1 << $bits => decode_from_std_read(reader, standard().with_limit::<{ 1 << $bits }>()),)*
                bytes => Err(DecodeError::OtherString(format!("{bytes} bytes, more than this build reads"))),
            }
        };
    }
    bounded_by!(12 14 16 18 20 22 24 26 28 30 32 34 36 38 40 42)
}

/// Publishes `value` under `path`.
///
/// # Errors
/// [`ArtifactError::Io`], also when the value cannot be serialised.
pub fn write_versioned(
    path: impl AsRef<Path>,
    magic: &str,
    version: u32,
    value: &impl Serialize,
) -> Result<(), ArtifactError> {
    publish_file(path, |w| encode_into(w, magic, version, value))
}

/// Reads a file of [`write_versioned`]: its format version and its value.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be opened, [`ArtifactError::Corrupt`] when it has another magic,
/// is truncated or altered, [`ArtifactError::Version`] when it is newer than `supported`.
pub fn read_versioned<T: DeserializeOwned>(
    path: impl AsRef<Path>,
    magic: &str,
    supported: u32,
) -> Result<(u32, T), ArtifactError> {
    let path = path.as_ref();
    let file = open_regular(path)?;
    decode_from(BufReader::with_capacity(1 << 16, file), path, magic, supported)
}

/// The format version of a file of [`write_versioned`], for callers that read an earlier version as another type. The
/// content is not checked.
///
/// # Errors
/// [`ArtifactError::Io`] when it cannot be opened, [`ArtifactError::Corrupt`] when it has another magic or none.
pub fn version(path: impl AsRef<Path>, magic: &str) -> Result<u32, ArtifactError> {
    let path = path.as_ref();
    let (mut found, mut version) = (vec![0; magic.len()], [0; 4]);
    let mut file = open_regular(path)?;
    match file.read_exact(&mut found).and_then(|()| file.read_exact(&mut version)) {
        Ok(()) if found == magic.as_bytes() => Ok(u32::from_le_bytes(version)),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(io_error("read", path)(error)),
        _ => Err(ArtifactError::Corrupt { path: path.to_path_buf(), reason: format!("not a `{magic}` file") }),
    }
}

/// The bytes that [`write_versioned`] would write.
///
/// # Errors
/// [`ArtifactError::Io`] when the value cannot be serialised.
pub fn encode(magic: &str, version: u32, value: &impl Serialize) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, magic, version, value).map_err(io_error("encode", Path::new(magic)))?;
    Ok(bytes)
}

/// Reads bytes of [`encode`]. Errors name `path`.
///
/// # Errors
/// As [`read_versioned`].
pub fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    path: impl AsRef<Path>,
    magic: &str,
    supported: u32,
) -> Result<(u32, T), ArtifactError> {
    decode_from(Cursor::new(bytes), path.as_ref(), magic, supported)
}

fn encode_into(w: impl Write, magic: &str, version: u32, value: &impl Serialize) -> io::Result<()> {
    let mut w = HashingWriter::new(w);
    w.write_all(magic.as_bytes())?;
    w.write_all(&version.to_le_bytes())?;
    let header = w.bytes();
    // The encoder writes one number at a time, and hashing such small writes is slow.
    let mut buffered = BufWriter::with_capacity(1 << 16, &mut w);
    encode_into_std_write(value, &mut buffered, standard()).map_err(io::Error::other)?;
    buffered.flush()?;
    drop(buffered);
    let payload = w.bytes() - header;
    w.write_all(&payload.to_le_bytes())?;
    let digest = w.digest();
    w.into_inner().write_all(digest.as_bytes())
}

fn decode_from<T: DeserializeOwned>(
    mut r: impl Read + Seek,
    path: &Path,
    magic: &str,
    supported: u32,
) -> Result<(u32, T), ArtifactError> {
    let corrupt = |reason: String| ArtifactError::Corrupt { path: path.to_path_buf(), reason };
    let size = r.seek(SeekFrom::End(0)).map_err(io_error("read", path))?;
    r.rewind().map_err(io_error("read", path))?;
    let header = magic.len() as u64 + 4;
    let Some(payload) = size.checked_sub(header + TRAILER) else {
        return Err(corrupt(format!("{size} bytes are too few for a `{magic}` file; it is truncated")));
    };

    // The length stated at the end is compared first. A file that was made longer, as a sparse file may be, would
    // take hours to hash.
    let mut said = [0; 8];
    r.seek(SeekFrom::Start(header + payload))
        .and_then(|_| r.read_exact(&mut said))
        .and_then(|()| r.rewind())
        .map_err(io_error("read", path))?;
    if said != payload.to_le_bytes() {
        let (said, size) = (u64::from_le_bytes(said).saturating_add(header + TRAILER), size);
        return Err(corrupt(format!(
            "it has {size} bytes and states {said} at its end; it is truncated, longer or altered"
        )));
    }

    // First pass: magic, version and checksum. Nothing is decoded before they hold.
    let mut hasher = HashingWriter::new(io::sink());
    let mut head = vec![0; header as usize];
    r.read_exact(&mut head).map_err(io_error("read", path))?;
    let (found_magic, version) = head.split_at(magic.len());
    if found_magic != magic.as_bytes() {
        return Err(corrupt(format!("not a `{magic}` file")));
    }
    let version = u32::from_le_bytes([version[0], version[1], version[2], version[3]]);
    let mut trailer = [0; TRAILER as usize];
    hasher
        .write_all(&head)
        .and_then(|()| io::copy(&mut (&mut r).take(payload), &mut hasher))
        .and_then(|_| r.read_exact(&mut trailer))
        .and_then(|()| hasher.write_all(&trailer[..8]))
        .map_err(io_error("read", path))?;
    if hasher.digest().as_bytes() != &trailer[8..] {
        return Err(corrupt("the checksum does not fit the content; it is truncated or altered".to_string()));
    }
    if version > supported {
        return Err(ArtifactError::Version { path: path.to_path_buf(), found: version, supported });
    }

    r.seek(SeekFrom::Start(header)).map_err(io_error("read", path))?;
    let mut body = r.take(payload);
    let value = decode_bounded(payload, &mut body).map_err(|e| corrupt(format!("`{magic}` version {version}: {e}")))?;
    match body.limit() {
        0 => Ok((version, value)),
        left => Err(corrupt(format!("`{magic}` version {version}: {left} bytes after the value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MAGIC: &str = "twotower-test";
    type Rows = Vec<(String, Option<i64>, Vec<f64>)>;

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<(u32, T), ArtifactError> {
        decode(bytes, "sample.bin", MAGIC, 3)
    }

    #[test]
    fn a_file_reads_back_and_names_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.bin");
        let value = BTreeMap::from([("a".to_string(), vec![1.5f32, f32::MIN]), ("b".to_string(), vec![])]);
        write_versioned(&path, MAGIC, 2, &value).unwrap();
        let (version, back): (u32, BTreeMap<String, Vec<f32>>) = read_versioned(&path, MAGIC, 3).unwrap();
        assert_eq!((version, back), (2, value));
        assert_eq!(std::fs::read(&path).unwrap().len() as u64, path.metadata().unwrap().len());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_corrupt() {
        let bytes = encode(MAGIC, 1, &vec!["some".to_string(), "text".to_string()]).unwrap();
        for len in 0..bytes.len() {
            assert!(matches!(read::<Vec<String>>(&bytes[..len]), Err(ArtifactError::Corrupt { .. })), "{len} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(read::<Vec<String>>(&flipped), Err(ArtifactError::Corrupt { .. })), "bit {bit}");
        }
    }

    #[test]
    fn newer_versions_and_other_magics_are_refused() {
        let newer = encode(MAGIC, 4, &1u8).unwrap();
        assert!(matches!(read::<u8>(&newer), Err(ArtifactError::Version { found: 4, supported: 3, .. })));
        let other = encode("twotower-tesu", 1, &1u8).unwrap();
        assert!(read::<u8>(&other).unwrap_err().to_string().contains("not a `twotower-test` file"));
    }

    #[test]
    fn a_crafted_length_is_an_error_and_not_an_allocation() {
        // These payloads claim a string or a list of 2^bits bytes, and have a valid checksum.
        for bits in [12, 20, 29, 33, 40, 60] {
            let payload = [&[253u8][..], &(1u64 << bits).to_le_bytes()].concat();
            let mut bytes = [MAGIC.as_bytes(), &1u32.to_le_bytes(), &payload, &9u64.to_le_bytes()].concat();
            let digest = blake3::hash(&bytes);
            bytes.extend_from_slice(digest.as_bytes());
            let message = |error: ArtifactError| error.to_string();
            let text = message(read::<String>(&bytes).unwrap_err());
            assert!(text.contains("LimitExceeded"), "2^{bits}: {text}");
            assert!(matches!(read::<Vec<u64>>(&bytes), Err(ArtifactError::Corrupt { .. })));
        }
    }

    #[test]
    fn values_that_take_most_room_for_their_bytes_read_back() {
        // Each number is one byte in the file and eight in memory.
        let small: Vec<u64> = vec![1; 1_000_000];
        let bytes = encode(MAGIC, 1, &small).unwrap();
        assert!(bytes.len() < 1_000_100);
        assert!(read::<Vec<u64>>(&bytes).unwrap().1 == small);
        let mixed: Vec<(Option<u64>, String)> = vec![(Some(1), String::new()); 100_000];
        assert!(read::<Vec<(Option<u64>, String)>>(&encode(MAGIC, 1, &mixed).unwrap()).unwrap().1 == mixed);
    }

    proptest! {
        #[test]
        fn any_value_survives(value: Rows) {
            let bytes = encode(MAGIC, 3, &value).unwrap();
            let back = read::<Rows>(&bytes).unwrap().1;
            prop_assert_eq!(encode(MAGIC, 3, &back).unwrap(), bytes);
        }
    }
}
