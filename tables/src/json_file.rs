//! JSON Lines as Arrow batches: scalars are text, arrays are lists of text; encoders parse them.

use crate::encoding::Encoding;
use crate::error::TableError;
use crate::identity::SourceFile;
use crate::place::Lines;
use crate::records::Records;
use crate::text_file::{FileBatch, new_batch, reject};
use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_json::reader::ValueIter;
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Lines from which the columns are learnt.
const SAMPLE_LINES: usize = 1000;

/// Opens a file of lines.
pub fn open(source: &SourceFile, encoding: Encoding) -> Result<Records, TableError> {
    Records::open(source, encoding, "\n", None)
}

/// Learns the columns from the first 1,000 lines, in order of appearance, adding to `columns`: `List` of text where
/// more values are arrays than are not, text otherwise. Lines that are no objects are passed over, unless there are no
/// others: reading meets them again.
pub fn learn_columns(
    source: &SourceFile,
    encoding: Encoding,
    columns: &mut Vec<(String, DataType)>,
) -> Result<(), TableError> {
    let mut records = open(source, encoding)?;
    let mut first_bad = None;
    // Of a key: arrays, less values that are neither arrays nor null.
    let mut arrays: Vec<(String, i32)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for _ in 0..SAMPLE_LINES {
        let record = match records.next_record() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error @ TableError::Undecodable { .. }) => {
                first_bad.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(value) = ValueIter::new(record.text.as_bytes(), None).next() else { continue };
        let Some(object) = value.as_ref().ok().and_then(|value| value.as_object()) else {
            let reason = value.err().map_or("expected a JSON object".into(), |e| e.to_string());
            first_bad.get_or_insert(TableError::Json { path: source.path().to_path_buf(), line: record.line, reason });
            continue;
        };
        for (key, value) in object {
            let at = *places.entry(key.clone()).or_insert_with(|| {
                arrays.push((key.clone(), 0));
                arrays.len() - 1
            });
            arrays[at].1 += if value.is_array() { 1 } else { -i32::from(!value.is_null()) };
        }
    }
    let mut places: HashMap<String, usize> =
        columns.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
    for (name, arrays) in arrays {
        let at = *places.entry(name.clone()).or_insert_with(|| {
            columns.push((name, DataType::Utf8));
            columns.len() - 1
        });
        if arrays > 0 {
            columns[at].1 = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
        }
    }
    match first_bad {
        Some(error) if columns.is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// Streams batches of a JSON Lines file.
pub struct JsonReader {
    /// The file, from the first row to read.
    pub records: Records,
    /// For messages.
    pub path: PathBuf,
    /// The columns to read; other keys are passed over.
    pub schema: SchemaRef,
    /// Rows per batch.
    pub batch_rows: usize,
    /// Bytes of a batch's lines; a longer line comes alone.
    pub batch_bytes: usize,
    /// Rows still to read.
    pub left: u64,
    /// Whether a line that cannot be read is rejected instead of ending the stream.
    pub lenient: bool,
}

/// Stands for a line that was rejected: a row of nulls.
const NOTHING: &str = "{}";

impl JsonReader {
    fn read_batch(&mut self) -> Result<Option<FileBatch>, TableError> {
        let wanted = (self.batch_rows as u64).min(self.left);
        let mut text = String::new();
        let mut ends = Vec::new();
        let mut lines = Vec::new();
        let mut bytes = 0;
        let mut rejected = Vec::new();
        let (mut cut, mut places) = (None, Lines::default());
        while (lines.len() as u64) < wanted {
            let line = match self.records.next_record_within(&mut bytes, self.batch_bytes) {
                Ok(Some(record)) => {
                    text.push_str(record.text);
                    record.line
                }
                Ok(None) => break,
                Err(error @ TableError::Undecodable { line, .. }) => {
                    let lenient = self.lenient && self.records.is_one_line();
                    reject(error, lenient, lines.len() as u64, &mut rejected)?;
                    text.push_str(NOTHING);
                    line
                }
                Err(error) => return Err(error),
            };
            // A file that was cut ends in a line without a break.
            if !self.records.is_one_line() {
                cut = Some(lines.len());
            }
            places.push(lines.len(), line);
            ends.push(text.len());
            lines.push(line);
        }
        self.left -= lines.len() as u64;
        if lines.is_empty() {
            return Ok(None);
        }
        let line = |k: usize| &text[k.checked_sub(1).map_or(0, |before| ends[before])..ends[k]];
        let json = |at: usize, e: ArrowError| {
            let (path, reason) = (self.path.clone(), e.to_string());
            TableError::Json { path, line: lines[at], reason }
        };
        let whole = self.decode((0..lines.len()).map(line));
        let Err(error) = whole else {
            return Ok(whole.ok().map(|batch| FileBatch { batch, rejected, lines: Some(places) }));
        };
        // The batch says no more than that some line is wrong: find out which.
        for at in 0..lines.len() {
            if let Err(e) = self.decode(std::iter::once(line(at))) {
                reject(json(at, e), self.lenient && cut != Some(at), at as u64, &mut rejected)?;
            }
        }
        rejected.sort_by_key(|(at, _)| *at);
        let good = |at: usize| rejected.binary_search_by_key(&at, |(at, _)| *at).is_err();
        let batch = match rejected.is_empty() {
            true => Err(error),
            false => self.decode((0..lines.len()).map(|at| if good(at) { line(at) } else { NOTHING })),
        };
        Ok(Some(FileBatch { batch: batch.map_err(|e| json(0, e))?, rejected, lines: Some(places) }))
    }

    fn decode<'a>(&self, lines: impl ExactSizeIterator<Item = &'a str>) -> Result<RecordBatch, ArrowError> {
        let rows = lines.len();
        let mut decoder = ReaderBuilder::new(self.schema.clone())
            .with_coerce_primitive(true)
            .with_batch_size(rows + 1)
            .build_decoder()?;
        for (row, line) in lines.enumerate() {
            let used = decoder.decode(line.as_bytes())?;
            if used < line.len() || decoder.has_partial_record() || decoder.len() != row + 1 {
                return Err(ArrowError::JsonError("expected one whole JSON object".to_string()));
            }
        }
        let batch = decoder.flush()?.filter(|batch| batch.num_rows() == rows);
        let batch = batch.ok_or_else(|| ArrowError::JsonError("expected JSON objects".to_string()))?;
        Ok(new_batch(&self.schema, batch.columns().to_vec(), rows))
    }
}

impl Iterator for JsonReader {
    type Item = Result<FileBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_batch().transpose()
    }
}
