//! JSON Lines as Arrow batches: scalars are text, arrays are lists of text; encoders parse them.

use crate::error::TableError;
use crate::records::Records;
use crate::spec::Encoding;
use crate::text_file::new_batch;
use arrow_array::RecordBatch;
use arrow_json::ReaderBuilder;
use arrow_json::reader::ValueIter;
use arrow_schema::{ArrowError, DataType, Field, SchemaRef};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines from which the columns are learnt.
const SAMPLE_LINES: usize = 1000;

/// Opens a file of lines.
pub fn open(path: &Path, encoding: Encoding) -> Result<Records, TableError> {
    Records::open(path, encoding, "\n", None)
}

/// Learns the columns from the first 1,000 lines, in order of appearance, adding to `columns`: `List` of text where
/// an array was seen, text otherwise.
pub fn learn_columns(path: &Path, encoding: Encoding, columns: &mut Vec<(String, DataType)>) -> Result<(), TableError> {
    let mut records = open(path, encoding)?;
    for _ in 0..SAMPLE_LINES {
        let Some(record) = records.next_record()? else { break };
        let json = |reason: String| TableError::Json { path: path.to_path_buf(), line: record.line, reason };
        let value = match ValueIter::new(record.text.as_bytes(), None).next() {
            Some(Ok(value)) => value,
            Some(Err(e)) => return Err(json(e.to_string())),
            None => continue,
        };
        let object = value.as_object().ok_or_else(|| json("expected a JSON object".to_string()))?;
        for (key, value) in object {
            let at = columns.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
                columns.push((key.clone(), DataType::Utf8));
                columns.len() - 1
            });
            if value.is_array() {
                columns[at].1 = DataType::List(Arc::new(Field::new("element", DataType::Utf8, true)));
            }
        }
    }
    Ok(())
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
}

impl JsonReader {
    fn read_batch(&mut self) -> Result<Option<RecordBatch>, TableError> {
        let wanted = (self.batch_rows as u64).min(self.left);
        let mut text = String::new();
        let mut ends = Vec::new();
        let mut lines = Vec::new();
        let mut bytes = 0;
        while (lines.len() as u64) < wanted {
            let Some(record) = self.records.next_record_within(&mut bytes, self.batch_bytes)? else { break };
            text.push_str(&record.text);
            ends.push(text.len());
            lines.push(record.line);
        }
        self.left -= lines.len() as u64;
        if lines.is_empty() {
            return Ok(None);
        }
        let line = |k: usize| &text[k.checked_sub(1).map_or(0, |before| ends[before])..ends[k]];
        let whole = self.decode((0..lines.len()).map(line));
        match whole {
            Ok(batch) => Ok(Some(batch)),
            Err(e) => {
                // The batch says no more than that some line is wrong: find the first.
                let (at, reason) = (0..lines.len())
                    .find_map(|k| self.decode(std::iter::once(line(k))).err().map(|e| (k, e)))
                    .unwrap_or((0, e));
                Err(TableError::Json { path: self.path.clone(), line: lines[at], reason: reason.to_string() })
            }
        }
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
    type Item = Result<RecordBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_batch().transpose()
    }
}
