//! Cuts text files into records (lines, or rows with quoted line breaks) and records into fields.
//!
//! Quoting as in RFC 4180: a field that begins with the quote runs to the closing quote, a doubled
//! quote stands for itself, and a quote inside an unquoted field is an ordinary character. Lines end in
//! LF or CRLF; blank lines are skipped. Memory: one buffer of 256 KiB, or twice the longest record.

use crate::content::Content;
use crate::encoding::Encoding;
use crate::error::TableError;
use crate::identity::SourceFile;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use twotower_stores::StoreError;

const BUFFER_BYTES: usize = 256 << 10;
/// A longer record is a quote that was never closed, or a poisoned row.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Byte offset in the content: in the file itself where it is plain UTF-8, else in what is decoded.
    pub offset: u64,
    /// Line, from 1.
    pub line: u64,
}

/// Records of a file, one after another.
pub struct Records {
    content: Content,
    path: PathBuf,
    encoding: Encoding,
    /// The encoding that the file fits, once that was looked for.
    fitting: OnceLock<Option<Encoding>>,
    delimiter: Vec<u8>,
    quote: Option<u8>,
    buffer: Vec<u8>,
    /// `buffer[start..end]` is read and not yet consumed.
    start: usize,
    end: usize,
    at_end: bool,
    position: Position,
    /// Whether the last record was one line with its break.
    one_line: bool,
}

/// One record.
pub struct Record<'a> {
    /// Its text without the line break.
    pub text: &'a str,
    /// Line on which it begins, from 1.
    pub line: u64,
}

impl Records {
    /// Opens a file of records. Without a quote, every line is a record.
    ///
    /// # Errors
    /// As [`Content::open`]; [`TableError::Header`] for what is no text, but compressed in a way that is not read;
    /// [`TableError::Undecodable`] for UTF-16 where another encoding is expected.
    pub fn open(
        source: &SourceFile,
        encoding: Encoding,
        delimiter: &str,
        quote: Option<u8>,
    ) -> Result<Self, TableError> {
        let content = Content::open(source, encoding)?;
        let position = Position { offset: content.start(), line: 1 };
        let mut records = Self {
            content,
            path: source.path().to_path_buf(),
            encoding,
            fitting: OnceLock::new(),
            delimiter: delimiter.as_bytes().to_vec(),
            quote,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            at_end: false,
            position,
            one_line: true,
        };
        records.fill()?;
        let begins = &records.buffer[..records.end];
        if let Some(reason) = no_text(begins) {
            return Err(TableError::Header { path: records.path, reason: reason.to_string() });
        }
        // Text of two bytes a character, without a mark.
        if begins.get(..2).is_some_and(|two| (two[0] == 0) != (two[1] == 0)) {
            return Err(records.undecodable(1, ": it looks like UTF-16".to_string(), begins));
        }
        Ok(records)
    }

    /// Where the next record, or blank line, begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes on from a position that [`Records::position`] gave for this file.
    pub fn seek(&mut self, position: Position) -> Result<(), TableError> {
        self.content.seek(position.offset)?;
        (self.start, self.end, self.at_end, self.position) = (0, 0, false, position);
        Ok(())
    }

    /// Whether the record given last was one line with its break. Others may stand for more than a row: a file that
    /// was cut ends in a line without a break, and a stray quote swallows the lines that follow.
    pub fn is_one_line(&self) -> bool {
        self.one_line
    }

    /// Passes over the next record, if there is one.
    pub fn skip(&mut self) -> Result<bool, TableError> {
        Ok(self.advance()?.is_some())
    }

    /// The next record.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, TableError> {
        self.next_record_within(&mut 0, usize::MAX)
    }

    /// The next record; `None` also where it would take the records that `bytes` counts beyond `limit`,
    /// unless it is the first of them. The record is then still to come.
    pub fn next_record_within(&mut self, bytes: &mut usize, limit: usize) -> Result<Option<Record<'_>>, TableError> {
        let Some((start, end, at)) = self.advance()? else { return Ok(None) };
        let first = *bytes == 0;
        *bytes += end - start;
        if *bytes > limit && !first {
            (self.start, self.position) = (start, at);
            return Ok(None);
        }
        let raw = &self.buffer[start..end];
        let text = std::str::from_utf8(raw).map_err(|e| {
            let good = e.valid_up_to();
            let line = at.line + raw[..good].iter().filter(|b| **b == b'\n').count() as u64;
            let place = match self.content.is_plain() {
                true => format!(" (byte {} of the file)", at.offset + good as u64),
                false => String::new(),
            };
            self.undecodable(line, place, &self.buffer[start..self.end])
        })?;
        Ok(Some(Record { text, line: at.line }))
    }

    /// The error of a line that is not in the file's encoding. `bytes`, from the record on, tell which one fits.
    fn undecodable(&self, line: u64, reason: String, bytes: &[u8]) -> TableError {
        let fitting = self.fitting.get_or_init(|| {
            let of_bytes = || Encoding::fitting(bytes).filter(|_| self.content.is_plain());
            self.content.fitting().or_else(of_bytes)
        });
        TableError::Undecodable { path: self.path.clone(), line, encoding: self.encoding, reason, fitting: *fitting }
    }

    /// Consumes the next record that is not blank: its bytes in the buffer without the line break, and its place.
    fn advance(&mut self) -> Result<Option<(usize, usize, Position)>, TableError> {
        loop {
            let bytes = &self.buffer[self.start..self.end];
            let Some(length) = self.record_length(bytes) else {
                if self.at_end {
                    return Ok(None);
                }
                self.fill()?;
                continue;
            };
            let raw = &bytes[..length];
            let lines = raw.iter().filter(|b| **b == b'\n').count() as u64;
            self.one_line = lines == 1 && raw.ends_with(b"\n");
            let body = raw.strip_suffix(b"\n").unwrap_or(raw);
            let body = body.strip_suffix(b"\r").unwrap_or(body).len();
            let (start, at) = (self.start, self.position);
            self.start += length;
            self.position = Position { offset: at.offset + length as u64, line: at.line + lines };
            if body > 0 {
                return Ok(Some((start, start + body, at)));
            }
        }
    }

    /// Length of the record at the start of `bytes`, its line break included; `None` when more must be read first.
    fn record_length(&self, bytes: &[u8]) -> Option<usize> {
        let line_end = bytes.iter().position(|b| *b == b'\n');
        let whole = line_end.map(|n| n + 1).or((self.at_end && !bytes.is_empty()).then_some(bytes.len()));
        let line = &bytes[..line_end.unwrap_or(bytes.len())];
        if self.quote.is_none_or(|quote| !line.contains(&quote)) {
            return whole;
        }
        let mut at = 0;
        loop {
            let field = next_field(&bytes[at..], &self.delimiter, self.quote, self.at_end);
            at += field.length;
            match field.ended {
                Ended::Delimiter => {}
                Ended::Line => return Some(at),
                Ended::Bytes => return self.at_end.then_some(bytes.len()),
            }
        }
    }

    /// Reads on, behind what is not yet consumed.
    fn fill(&mut self) -> Result<(), TableError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            if self.end >= MAX_RECORD_BYTES {
                let reason = format!("is longer than {} MiB; is a quote not closed?", MAX_RECORD_BYTES >> 20);
                return Err(TableError::Record { path: self.path.clone(), line: self.position.line, reason });
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        while self.end < self.buffer.len() && !self.at_end {
            match self.content.read(&mut self.buffer[self.end..])? {
                0 => self.at_end = true,
                n => self.end += n,
            }
        }
        Ok(())
    }
}

/// Why a file whose content begins with these bytes is no text that can be read, if it is not.
fn no_text(bytes: &[u8]) -> Option<&'static str> {
    const BEGINNINGS: [(&[u8], &str); 5] = [
        (b"\x1F\x8B", "the file is compressed twice, by gzip within; uncompress it once"),
        (b"\x28\xB5\x2F\xFD", "the file is compressed twice, by zstd within; uncompress it once"),
        (b"\xFD7zXZ\x00", "the file is compressed by xz; uncompress it first, or compress it by gzip, zstd or bzip2"),
        (b"PK\x03\x04", "the file is a zip archive; unpack it first"),
        (b"PAR1", "the file is Parquet; set `format` accordingly"),
    ];
    BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, reason)| *reason)
}

/// What ended a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Delimiter,
    Line,
    Bytes,
}

/// The field at the start of some bytes.
struct Field {
    /// Bytes up to and with what ended it.
    length: usize,
    /// Bytes of the field itself, quotes included.
    body: usize,
    /// Offset of the closing quote, for a quoted field that is closed.
    closing: Option<usize>,
    ended: Ended,
}

/// Finds the end of the field at the start of `bytes`. `complete` says that nothing follows `bytes`.
fn next_field(bytes: &[u8], delimiter: &[u8], quote: Option<u8>, complete: bool) -> Field {
    let mut at = 0;
    let mut closing = None;
    if let Some(quote) = quote.filter(|q| bytes.first() == Some(q)) {
        at = 1;
        loop {
            match bytes[at..].iter().position(|b| *b == quote).map(|n| at + n) {
                Some(found) if bytes.get(found + 1) == Some(&quote) => at = found + 2,
                Some(found) if complete || found + 1 < bytes.len() => {
                    closing = Some(found);
                    at = found + 1;
                    break;
                }
                _ => return Field { length: bytes.len(), body: bytes.len(), closing: None, ended: Ended::Bytes },
            }
        }
    }
    loop {
        match bytes[at..].iter().position(|b| *b == delimiter[0] || *b == b'\n').map(|n| at + n) {
            Some(found) if bytes[found..].starts_with(delimiter) => {
                return Field { length: found + delimiter.len(), body: found, closing, ended: Ended::Delimiter };
            }
            Some(found) if bytes[found] == b'\n' => {
                return Field { length: found + 1, body: found, closing, ended: Ended::Line };
            }
            Some(found) => at = found + 1,
            None => return Field { length: bytes.len(), body: bytes.len(), closing, ended: Ended::Bytes },
        }
    }
}

/// Cuts a record into fields and hands each to `field` with its number; returns how many there are, or `None` when
/// a quote is not closed. `scratch` holds unescaped fields.
pub fn split_fields<E>(
    record: &str,
    delimiter: &str,
    quote: Option<u8>,
    scratch: &mut String,
    mut field: impl FnMut(usize, &str) -> Result<(), E>,
) -> Result<Option<usize>, E> {
    let mut rest = record;
    let mut number = 0;
    loop {
        let found = next_field(rest.as_bytes(), delimiter.as_bytes(), quote, true);
        let body = &rest[..found.body];
        match (found.closing, quote) {
            (Some(closing), Some(quote)) => {
                let mark = char::from(quote);
                scratch.clear();
                let mut parts = body[1..closing].split(mark);
                scratch.extend(parts.next());
                // Between doubled quotes every second part is the empty string inside the pair.
                while let (Some(_), Some(part)) = (parts.next(), parts.next()) {
                    scratch.push(mark);
                    scratch.push_str(part);
                }
                scratch.push_str(&body[closing + 1..]);
                field(number, scratch)?;
            }
            (None, Some(quote)) if body.as_bytes().first() == Some(&quote) => return Ok(None),
            _ => field(number, body)?,
        }
        number += 1;
        if found.ended == Ended::Bytes {
            return Ok(Some(number));
        }
        rest = &rest[found.length..];
    }
}

/// Wraps an I/O error with what was attempted and where.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TableError {
    move |source| match of_store(&source) {
        Some(error) => TableError::Store(error),
        None => TableError::Io { action, path: path.to_path_buf(), source },
    }
}

/// What a store says of an error, if it is one's.
pub(crate) fn of_store(error: &std::io::Error) -> Option<StoreError> {
    error.get_ref()?.downcast_ref().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(record: &str, delimiter: &str) -> Option<Vec<String>> {
        let mut fields = Vec::new();
        let count = split_fields(record, delimiter, Some(b'"'), &mut String::new(), |_, f| {
            fields.push(f.to_string());
            Ok::<(), ()>(())
        });
        count.unwrap().map(|_| fields)
    }

    fn records(content: &[u8]) -> Vec<(u64, String)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let source = SourceFile::find(file.path().to_path_buf()).unwrap();
        let mut records = Records::open(&source, Encoding::Utf8, ",", Some(b'"')).unwrap();
        let mut all = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            all.push((record.line, record.text.to_string()));
        }
        all
    }

    #[test]
    fn fields_are_cut_as_rfc_4180_says() {
        let fields = |r: &str| split(r, ",").unwrap();
        assert_eq!(fields("a,,c"), ["a", "", "c"]);
        assert_eq!(fields("\"a,b\",\"c\"\"d\",\"\""), ["a,b", "c\"d", ""]);
        assert_eq!(fields("\"\"\"\",\"x\"\"\"\"y\""), ["\"", "x\"\"y"]);
        assert_eq!(fields("5\" disk,b\"c\""), ["5\" disk", "b\"c\""]);
        assert_eq!(fields("\"line\nbreak\",z"), ["line\nbreak", "z"]);
        assert_eq!(split("1::2:3::", "::").unwrap(), ["1", "2:3", ""]);
        assert_eq!(split("\"open,b", ","), None);
    }

    #[test]
    fn lines_are_counted_through_quotes_blank_lines_and_crlf() {
        let found = records(b"\xEF\xBB\xBFa,b\r\n\r\n\"x\ny\",1\r\n\nlast,2");
        let expected = [(1, "a,b"), (3, "\"x\ny\",1"), (6, "last,2")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_string())));
    }

    #[test]
    fn a_record_longer_than_the_buffer_is_whole() {
        let long = "x".repeat(BUFFER_BYTES * 3);
        let found = records(format!("a\n\"{long}\n\"\nb\n").as_bytes());
        assert_eq!(found[1].1.len(), long.len() + 3);
        assert_eq!(found[2], (4, "b".to_string()));
    }

    proptest! {
        #[test]
        fn quoted_fields_survive_any_content(
            rows in proptest::collection::vec(proptest::collection::vec("[a,\"\n\r: é]{0,6}", 1..4), 1..6),
            delimiter in prop_oneof![Just(","), Just("::"), Just(" é")],
        ) {
            let quoted = |f: &String| format!("\"{}\"", f.replace('"', "\"\""));
            let lines: Vec<String> =
                rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(delimiter)).collect();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), lines.join("\r\n")).unwrap();
            let source = SourceFile::find(file.path().to_path_buf()).unwrap();
            let mut records = Records::open(&source, Encoding::Utf8, delimiter, Some(b'"')).unwrap();
            for row in &rows {
                let text = records.next_record().unwrap().unwrap().text.to_string();
                prop_assert_eq!(split(&text, delimiter).unwrap(), row.clone());
            }
            prop_assert!(records.next_record().unwrap().is_none());
        }
    }
}
