//! The content of a text file: uncompressed, decoded to UTF-8, from any place on.
//!
//! How a file is compressed, its first bytes say, whatever its name. Bytes that mean nothing in the file's encoding
//! become one byte that no UTF-8 has, so that the row in which they stand is found out as any other that is no text.
//! Memory: 256 KiB of buffers, and of zstd a window of up to 128 MiB.

use crate::encoding::{Encoding, Mark};
use crate::error::TableError;
use crate::identity::SourceFile;
use crate::opened::Opened;
use crate::records::{io_error, of_store};
use encoding_rs::{Decoder, DecoderResult};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const BUFFER_BYTES: usize = 64 << 10;
/// How much of a file is looked at to tell its encoding.
const SAMPLE_BYTES: u64 = 1 << 20;
/// Room that any character needs.
const CHARACTER_BYTES: usize = 16;
/// Stands for bytes that mean nothing in their encoding; it stands in no UTF-8.
const UNDECODABLE: u8 = 0xFF;

/// A compression of a whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
    Bzip2,
}

impl Compression {
    /// The compression of a file that begins with some bytes.
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1F, 0x8B, ..] => Some(Compression::Gzip),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Some(Compression::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
        }
    }
}

/// The content of a text file as a stream of UTF-8.
pub struct Content {
    file: Opened,
    path: PathBuf,
    compression: Option<Compression>,
    encoding: Encoding,
    /// What is read from; none where it is the file itself.
    decoded: Option<Box<dyn Read + Send>>,
    /// Where the content begins: in the file behind its byte order mark, or 0 of what is decoded.
    start: u64,
}

impl Content {
    /// Opens a file at the beginning of its content, behind a byte order mark.
    ///
    /// # Errors
    /// As [`SourceFile::open`]; [`TableError::Undecodable`] for a byte order mark of another encoding, or none where
    /// one is needed; [`TableError::Damaged`] for a file that does not uncompress.
    pub fn open(source: &SourceFile, encoding: Encoding) -> Result<Self, TableError> {
        let path = source.path().to_path_buf();
        let mut file = source.open()?;
        let head = head_of(&mut file).map_err(io_error("read", &path))?;
        let compression = Compression::of(&head);
        let mut content = Self { file, path, compression, encoding, decoded: None, start: 0 };
        content.begin()?;
        Ok(content)
    }

    /// Where the content begins, in the bytes that [`Content::read`] gives.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether places are those of the file's own bytes.
    pub fn is_plain(&self) -> bool {
        self.decoded.is_none()
    }

    /// Goes to the beginning, behind the mark.
    fn begin(&mut self) -> Result<(), TableError> {
        let failed = |e| damaged(&self.path, self.compression, e);
        let mut bytes = uncompressed(&self.file, self.compression).map_err(failed)?;
        let head = head_of(&mut bytes).map_err(failed)?;
        let mark = Mark::of(&head);
        let named = match (self.encoding, mark) {
            (Encoding::Utf8, None | Some(Mark::Utf8)) => None,
            (Encoding::Utf16, Some(Mark::Utf16(order))) => Some(Some(order)),
            (Encoding::Latin1, None) => Some(None),
            (Encoding::Named(encoding), None) => Some(Some(encoding)),
            (Encoding::Named(encoding), Some(Mark::Utf16(order))) if encoding == order => Some(Some(encoding)),
            (_, Some(mark)) => return Err(self.other_mark(mark)),
            (Encoding::Utf16, None) => {
                return Err(self.undecodable("the file has no byte order mark of UTF-16".into(), self.fitting()));
            }
        };
        let skipped = mark.map_or(0, Mark::len);
        let rest = Cursor::new(head[skipped..].to_vec()).chain(bytes);
        let decoding = match named {
            None if self.compression.is_none() => {
                self.start = skipped as u64;
                self.file.seek(SeekFrom::Start(self.start)).map_err(io_error("read", &self.path))?;
                return Ok(());
            }
            None => {
                self.decoded = Some(Box::new(rest));
                return Ok(());
            }
            Some(Some(encoding)) => Decoding::Named(encoding.new_decoder_without_bom_handling()),
            Some(None) => Decoding::Latin1,
        };
        self.decoded = Some(Box::new(Transcoder::new(rest, decoding)));
        Ok(())
    }

    fn other_mark(&self, mark: Mark) -> TableError {
        let (name, fitting) = match mark {
            Mark::Utf8 => ("UTF-8", Some(Encoding::Utf8)),
            Mark::Utf16(_) => ("UTF-16", Some(Encoding::Utf16)),
            Mark::Utf32 => ("UTF-32, which is not read", None),
        };
        self.undecodable(format!("the file begins with the byte order mark of {name}"), fitting)
    }

    fn undecodable(&self, reason: String, fitting: Option<Encoding>) -> TableError {
        let (path, encoding) = (self.path.clone(), self.encoding);
        TableError::Undecodable { path, line: 1, encoding, reason: format!(": {reason}"), fitting }
    }

    /// Reads some bytes of UTF-8, as [`Read::read`].
    ///
    /// # Errors
    /// [`TableError::Io`], [`TableError::Damaged`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TableError> {
        loop {
            let read = match &mut self.decoded {
                Some(decoded) => decoded.read(buffer),
                None => self.file.read(buffer),
            };
            match read {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => return read.map_err(|e| damaged(&self.path, self.compression, e)),
            }
        }
    }

    /// Goes to a place, counted as [`Content::start`] is. What is compressed or decoded is read up to there.
    ///
    /// # Errors
    /// As [`Content::open`] and [`Content::read`].
    pub fn seek(&mut self, place: u64) -> Result<(), TableError> {
        if self.is_plain() {
            self.file.seek(SeekFrom::Start(place)).map_err(io_error("read", &self.path))?;
            return Ok(());
        }
        self.begin()?;
        let Some(decoded) = &mut self.decoded else { return Ok(()) };
        let passed = io::copy(&mut decoded.take(place), &mut io::sink());
        passed.map(drop).map_err(|e| damaged(&self.path, self.compression, e))
    }

    /// The encoding that the beginning of the file fits, before it is decoded; none where it says nothing of that.
    pub fn fitting(&self) -> Option<Encoding> {
        // A second reading of a file moves the first.
        let file = match &self.file {
            Opened::File(_) => Opened::File(File::open(&self.path).ok()?),
            Opened::Object(..) => self.file.again().ok()?,
        };
        let mut sample = Vec::new();
        uncompressed(&file, self.compression).ok()?.take(SAMPLE_BYTES).read_to_end(&mut sample).ok()?;
        let says_something = !sample.is_ascii() || sample.contains(&0);
        says_something.then(|| Encoding::fitting(&sample)).flatten()
    }
}

/// The first few bytes.
fn head_of(bytes: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    bytes.by_ref().take(6).read_to_end(&mut head)?;
    Ok(head)
}

/// The bytes of a file from its beginning on, uncompressed.
fn uncompressed(file: &Opened, compression: Option<Compression>) -> io::Result<Box<dyn Read + Send>> {
    let file = file.again()?;
    let buffered = |file| BufReader::with_capacity(BUFFER_BYTES, file);
    Ok(match compression {
        None => Box::new(file),
        Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(buffered(file))),
        Some(Compression::Zstd) => Box::new(zstd::stream::read::Decoder::with_buffer(buffered(file))?),
        Some(Compression::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(file))),
    })
}

/// What went wrong in reading a file: the system's doing, or the content's.
fn damaged(path: &Path, compression: Option<Compression>, source: io::Error) -> TableError {
    match compression.filter(|_| source.raw_os_error().is_none() && of_store(&source).is_none()) {
        Some(compression) => TableError::Damaged { path: path.to_path_buf(), compression: compression.name(), source },
        None => io_error("read", path)(source),
    }
}

/// How bytes become characters.
enum Decoding {
    Latin1,
    Named(Decoder),
}

/// Text of another encoding as UTF-8.
struct Transcoder<R> {
    inner: R,
    decoding: Decoding,
    /// Bytes read, and where those begin that are not decoded yet.
    raw: Vec<u8>,
    raw_at: usize,
    at_end: bool,
    /// Bytes decoded, and where those begin that are not given yet.
    ready: Vec<u8>,
    ready_at: usize,
    finished: bool,
}

impl<R: Read> Transcoder<R> {
    fn new(inner: R, decoding: Decoding) -> Self {
        let (raw, ready) = (Vec::new(), Vec::new());
        Self { inner, decoding, raw, raw_at: 0, at_end: false, ready, ready_at: 0, finished: false }
    }

    /// Decodes on, once all that was decoded is given.
    fn decode(&mut self) -> io::Result<()> {
        if self.raw_at == self.raw.len() && !self.at_end {
            self.raw.resize(BUFFER_BYTES, 0);
            self.raw_at = 0;
            let read = self.inner.read(&mut self.raw);
            self.raw.truncate(*read.as_ref().unwrap_or(&0));
            self.at_end = read? == 0;
        }
        self.ready.resize(BUFFER_BYTES + CHARACTER_BYTES, 0);
        self.ready_at = 0;
        let raw = &self.raw[self.raw_at..];
        let (read, mut written) = match &mut self.decoding {
            Decoding::Latin1 => {
                self.finished = self.at_end;
                encoding_rs::mem::convert_latin1_to_utf8_partial(raw, &mut self.ready)
            }
            Decoding::Named(decoder) => {
                let room = &mut self.ready[..BUFFER_BYTES];
                let (result, read, written) = decoder.decode_to_utf8_without_replacement(raw, room, self.at_end);
                self.finished = self.at_end && result == DecoderResult::InputEmpty;
                let is_bad = matches!(result, DecoderResult::Malformed(..));
                if is_bad {
                    self.ready[written] = UNDECODABLE;
                }
                (read, written + usize::from(is_bad))
            }
        };
        self.raw_at += read;
        written = written.min(self.ready.len());
        self.ready.truncate(written);
        Ok(())
    }
}

impl<R: Read> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready_at == self.ready.len() {
            if self.finished || buffer.is_empty() {
                return Ok(0);
            }
            self.decode()?;
        }
        let ready = &self.ready[self.ready_at..];
        let given = ready.len().min(buffer.len());
        buffer[..given].copy_from_slice(&ready[..given]);
        self.ready_at += given;
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn content(bytes: &[u8], encoding: &str) -> Result<(tempfile::NamedTempFile, Content), TableError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let source = SourceFile::find(file.path().to_path_buf()).unwrap();
        Content::open(&source, Encoding::of_name(encoding).unwrap()).map(|content| (file, content))
    }

    fn all(content: &mut Content, piece: usize) -> Result<Vec<u8>, TableError> {
        let (mut whole, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(whole),
                n => whole.extend_from_slice(&buffer[..n]),
            }
        }
    }

    fn compressed(bytes: &[u8]) -> [Vec<u8>; 3] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(bytes).unwrap();
        [gzip.finish().unwrap(), zstd::encode_all(bytes, 1).unwrap(), bzip2.finish().unwrap()]
    }

    #[test]
    fn text_of_any_encoding_and_compression_is_the_same_text_from_any_place() {
        let text: String = (0..30_000).map(|row| format!("{row},广州{}深圳\n", row % 7)).collect();
        let (gbk, _, _) = encoding_rs::GBK.encode(&text);
        let utf_16 = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
        let files: Vec<(&str, Vec<u8>)> = vec![
            ("utf-8", text.clone().into_bytes()),
            ("utf-8", format!("\u{feff}{text}").into_bytes()),
            ("gbk", gbk.to_vec()),
            ("gb18030", gbk.to_vec()),
            ("utf-16", [b"\xFF\xFE".to_vec(), utf_16(u16::to_le_bytes)].concat()),
            ("utf-16", [b"\xFE\xFF".to_vec(), utf_16(u16::to_be_bytes)].concat()),
            ("utf-16le", [b"\xFF\xFE".to_vec(), utf_16(u16::to_le_bytes)].concat()),
            ("utf-16be", utf_16(u16::to_be_bytes)),
        ];
        for (encoding, bytes) in files {
            for bytes in [bytes.clone()].into_iter().chain(compressed(&bytes)) {
                let (_file, mut content) = content(&bytes, encoding).unwrap();
                let start = content.start();
                assert!(all(&mut content, 10_007).unwrap() == text.as_bytes(), "{encoding}");
                for place in [0, 5, 400_000, text.len()] {
                    content.seek(start + place as u64).unwrap();
                    assert!(all(&mut content, 4096).unwrap() == text.as_bytes()[place..], "{encoding} at {place}");
                }
            }
        }
        let (_file, mut latin) = content(b"caf\xE9\n", "latin-1").unwrap();
        assert_eq!(all(&mut latin, 3).unwrap(), "café\n".as_bytes());
    }

    #[test]
    fn several_compressed_streams_in_a_file_are_one_text() {
        let parts = compressed(b"a\nb\n").into_iter().zip(compressed(b"c\n"));
        for (first, second) in parts {
            let (_file, mut content) = content(&[first, second].concat(), "utf-8").unwrap();
            assert_eq!(all(&mut content, 100).unwrap(), b"a\nb\nc\n");
        }
    }

    #[test]
    fn bytes_that_mean_nothing_become_one_that_no_text_has_and_the_rest_stays() {
        let (_file, mut content) = content(b"a\n\xFF\xFFb\n\xB9\xE3\n\xB9", "gbk").unwrap();
        assert_eq!(
            all(&mut content, 100).unwrap(),
            ["a\n\0\0b\n".as_bytes(), "广\n\0".as_bytes()]
                .concat()
                .iter()
                .map(|b| if *b == 0 { UNDECODABLE } else { *b })
                .collect::<Vec<u8>>()
        );
    }

    #[test]
    fn a_mark_that_contradicts_the_setting_is_an_error_that_says_what_fits() {
        for (bytes, encoding, fitting) in [
            (&b"\xFF\xFEa\0"[..], "utf-8", Some("utf-16")),
            (b"\xEF\xBB\xBFa", "gbk", Some("utf-8")),
            (b"\xFF\xFEa\0", "utf-16be", Some("utf-16")),
            (b"a\0b\0c\0", "utf-16", Some("utf-16le")),
            (b"abc", "utf-16", None),
            (b"\xFF\xFE\0\0a\0\0\0", "utf-8", None),
        ] {
            let Err(TableError::Undecodable { fitting: found, .. }) = content(bytes, encoding) else {
                panic!("{bytes:?} was read as {encoding}")
            };
            assert_eq!(found.map(Encoding::name).as_deref(), fitting, "{bytes:?} as {encoding}");
        }
    }

    #[test]
    fn a_compressed_file_that_is_cut_is_an_error_of_the_data() {
        for bytes in compressed("0123456789,x\n".repeat(50_000).as_bytes()) {
            let cut = &bytes[..bytes.len() - 9];
            let error = content(cut, "utf-8").and_then(|(_file, mut content)| all(&mut content, 4096)).unwrap_err();
            assert!(matches!(error, TableError::Damaged { .. }), "{error}");
        }
    }
}
