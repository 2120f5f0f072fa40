//! Reads single fields of a protobuf file without decoding all of it. So a hostile file cannot turn few bytes into many
//! structs, and tables of gigabytes can stay on disk.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use twotower_artifacts::{ArtifactError, open_regular};

/// The most bytes of a key and a length, or of a key and a number.
const HEAD: usize = 20;
/// The most bytes of a part that is read whole, such as a schema, a node, or the shape of a tensor.
const MAX_PART: u64 = 16 << 20;

/// A field of a message.
#[derive(Debug, Clone)]
pub(super) struct Field {
    /// Its number.
    pub number: u32,
    /// The offset of its key in the file.
    pub start: u64,
    /// The range of its content, without key and length.
    pub content: Range<u64>,
}

/// An open model file.
pub(super) struct ModelFile<'a> {
    pub path: &'a Path,
    file: File,
    size: u64,
}

impl<'a> ModelFile<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], and [`ArtifactError::Corrupt`] for a size that no ONNX file has.
    pub fn open(path: &'a Path) -> Result<Self, ArtifactError> {
        let io = |source| ArtifactError::Io { action: "read", path: path.to_path_buf(), source };
        let file = open_regular(path)?;
        let size = file.metadata().map_err(io)?.len();
        let model = Self { path, file, size };
        if model.size > i32::MAX as u64 {
            return Err(model.corrupt(format!("{} bytes, more than an ONNX file can have", model.size)));
        }
        Ok(model)
    }

    /// The whole file.
    pub fn whole(&self) -> Range<u64> {
        0..self.size
    }

    /// The fields of the message at this range of the file.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] if it is not a message, or has more than `most` fields.
    pub fn fields(&self, message: Range<u64>, most: usize) -> Result<Vec<Field>, ArtifactError> {
        let damaged = |at: u64| self.corrupt(format!("not an ONNX model, or damaged at byte {at}"));
        let (mut fields, mut at) = (Vec::new(), message.start);
        while at < message.end {
            if fields.len() == most {
                return Err(self.corrupt(format!("more than {most} parts, which no exported tower has")));
            }
            let mut head = [0; HEAD];
            let head = &mut head[..(message.end - at).min(HEAD as u64) as usize];
            self.read_at(head, at)?;
            let mut rest = &head[..];
            let (number, kind) = decode_key(&mut rest).map_err(|_| damaged(at))?;
            let mut varint = || decode_varint(&mut rest).map_err(|_| damaged(at));
            let length = match kind {
                WireType::Varint => varint().map(|_| 0)?,
                WireType::LengthDelimited => varint()?,
                WireType::SixtyFourBit => 8,
                WireType::ThirtyTwoBit => 4,
                WireType::StartGroup | WireType::EndGroup => return Err(damaged(at)),
            };
            let from = at + (head.len() - rest.remaining()) as u64;
            let end = from.checked_add(length).filter(|end| *end <= message.end).ok_or_else(|| damaged(at))?;
            fields.push(Field { number, start: at, content: from..end });
            at = end;
        }
        Ok(fields)
    }

    /// The bytes at this range of the file.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] if there are more than any part of a tower has, except a table.
    pub fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>, ArtifactError> {
        let length = range.end - range.start;
        if length > MAX_PART {
            return Err(self.corrupt(format!("a part of {length} bytes, expected at most {MAX_PART}")));
        }
        let mut bytes = vec![0; length as usize];
        self.read_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// The floats at this range of the file.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn floats(&self, range: Range<u64>) -> Result<Vec<f32>, ArtifactError> {
        floats(&self.file, range).map_err(|source| self.io(source))
    }

    /// Compares `expected` with the bytes of the file from `at` on, and returns the offset of the first that differs.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn difference(&self, expected: &[u8], at: u64) -> Result<Option<u64>, ArtifactError> {
        let mut found = vec![0; expected.len().min(self.size.saturating_sub(at) as usize)];
        self.read_at(&mut found, at)?;
        let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
        Ok((same < expected.len()).then_some(at + same as u64))
    }

    pub fn corrupt(&self, reason: String) -> ArtifactError {
        ArtifactError::Corrupt { path: self.path.to_path_buf(), reason }
    }

    fn io(&self, source: io::Error) -> ArtifactError {
        ArtifactError::Io { action: "read", path: self.path.to_path_buf(), source }
    }

    fn read_at(&self, bytes: &mut [u8], at: u64) -> Result<(), ArtifactError> {
        self.file.read_exact_at(bytes, at).map_err(|source| self.io(source))
    }
}

/// The little-endian floats at a range of a file, which must not go beyond its end.
pub(super) fn floats(file: &File, range: Range<u64>) -> io::Result<Vec<f32>> {
    let mut values = Vec::with_capacity(((range.end - range.start) / 4) as usize);
    let (mut block, mut at) = (vec![0; 1 << 16], range.start);
    while at < range.end {
        let bytes = (range.end - at).min(block.len() as u64) as usize;
        file.read_exact_at(&mut block[..bytes], at)?;
        values.extend(block[..bytes].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        at += bytes as u64;
    }
    Ok(values)
}
