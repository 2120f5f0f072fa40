//! Encodes row groups of a Parquet file: the columns of a group in parallel, or a whole group on one thread.

use crate::chunk::EncodedChunk;
use crate::code_chunk::{CodeChunk, MOST_CODES};
use crate::list_chunk::ListChunk;
use crate::parquet_file::Storage;
use crate::text_chunk::TextChunk;
use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnDescPtr;
use rayon::prelude::*;
use std::io::Write;
use std::sync::Arc;

/// How the row groups of a file are encoded.
pub(crate) struct GroupFormat {
    schema: SchemaRef,
    factory: ArrowRowGroupWriterFactory,
    /// The leaf of each column. Columns are primitives or lists of primitives, so each has exactly one.
    leaves: Vec<ColumnDescPtr>,
    properties: WriterPropertiesPtr,
    /// How each column is stored.
    stored: Vec<Storage>,
}

impl GroupFormat {
    /// The format of a file that was opened for rows of `schema`. `stored` says how each column is stored.
    pub fn of<W: Write + Send>(file: &SerializedFileWriter<W>, schema: SchemaRef, stored: Vec<Storage>) -> Self {
        Self {
            stored,
            factory: ArrowRowGroupWriterFactory::new(file, schema.clone()),
            leaves: file.schema_descr().columns().to_vec(),
            properties: file.properties().clone(),
            schema,
        }
    }

    /// The format's Arrow schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }
}

/// A row group to which rows are added. Its bytes do not depend on the threads that encode it.
pub(crate) struct RowGroup {
    format: Arc<GroupFormat>,
    columns: Vec<ColumnEncoder>,
    rows: usize,
    /// Bytes of text in all columns.
    text: usize,
}

/// The encoder of a column: that of the `parquet` crate, or one of ours.
enum ColumnEncoder {
    Arrow(Box<ArrowColumnWriter>),
    Lists(ListChunk),
    Codes(Box<CodeChunk>),
    Text(Box<TextChunk>),
}

/// An encoded row group, ready to be written.
pub struct EncodedGroup {
    columns: Vec<ColumnChunk>,
    pub(crate) rows: usize,
}

/// An encoded column of a row group.
enum ColumnChunk {
    Arrow(Box<ArrowColumnChunk>),
    Own(EncodedChunk),
}

impl RowGroup {
    /// A row group without rows.
    pub fn new(format: Arc<GroupFormat>) -> Self {
        Self { format, columns: Vec::new(), rows: 0, text: 0 }
    }

    /// Number of rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the group has at least so many rows, or at least so many bytes of text, and should be written.
    pub fn is_full(&self, rows: usize, text: usize) -> bool {
        self.rows >= rows || self.text >= text
    }

    /// Counts the rows of a batch, and makes the encoders if the group has none yet.
    fn start(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.rows += batch.num_rows();
        self.text += batch.columns().iter().map(|column| text_bytes(column.as_ref())).sum::<usize>();
        if self.columns.is_empty() {
            let GroupFormat { factory, schema, leaves, properties, stored } = &*self.format;
            let writers = factory.create_column_writers(0)?;
            let columns = schema.fields().iter().zip(leaves).zip(stored).zip(writers);
            let columns = columns.map(|(((field, leaf), stored), writer)| {
                let codec = properties.compression(leaf.path());
                Ok(match stored {
                    Storage::Codes(cardinality) if *cardinality <= MOST_CODES => {
                        ColumnEncoder::Codes(Box::new(CodeChunk::new(*cardinality, leaf, codec)?))
                    }
                    Storage::Prefixed => ColumnEncoder::Text(Box::new(TextChunk::new(leaf, codec))),
                    _ => match ListChunk::new(field.data_type(), leaf, codec, *stored == Storage::Repeating) {
                        Some(lists) => ColumnEncoder::Lists(lists),
                        None => ColumnEncoder::Arrow(Box::new(writer)),
                    },
                })
            });
            self.columns = columns.collect::<Result<_, ParquetError>>()?;
        }
        Ok(())
    }

    /// Appends rows. The columns are encoded on the threads of the current rayon pool.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch)?;
        self.columns.par_iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Appends rows on the calling thread.
    pub fn push_here(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch)?;
        self.columns.iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Finishes the group on the calling thread, and begins an empty one.
    pub fn finish_here(&mut self) -> Result<EncodedGroup, ParquetError> {
        self.text = 0;
        let columns = std::mem::take(&mut self.columns).into_iter().map(ColumnEncoder::finish);
        Ok(EncodedGroup { columns: columns.collect::<Result<_, _>>()?, rows: std::mem::take(&mut self.rows) })
    }

    /// Finishes the group on the threads of the current rayon pool, and begins an empty one.
    pub fn finish(&mut self) -> Result<EncodedGroup, ParquetError> {
        self.text = 0;
        let columns = std::mem::take(&mut self.columns).into_par_iter().map(ColumnEncoder::finish);
        Ok(EncodedGroup { columns: columns.collect::<Result<_, _>>()?, rows: std::mem::take(&mut self.rows) })
    }
}

/// Bytes of text in a column of text or of lists of text; 0 for other columns.
fn text_bytes(column: &dyn Array) -> usize {
    let between =
        |offsets: &[i32]| offsets.last().zip(offsets.first()).map_or(0, |(last, first)| (last - first) as usize);
    match column.data_type() {
        DataType::Utf8 => between(column.as_string::<i32>().offsets()),
        DataType::List(_) => {
            let lists = column.as_list::<i32>();
            text_bytes(&lists.values().slice(lists.offsets()[0] as usize, between(lists.offsets())))
        }
        _ => 0,
    }
}

impl EncodedGroup {
    /// Writes the row group to the file.
    pub(crate) fn write_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let mut group = file.next_row_group()?;
        for column in self.columns {
            match column {
                ColumnChunk::Arrow(chunk) => chunk.append_to_row_group(&mut group)?,
                ColumnChunk::Own(chunk) => group.append_column(&chunk, chunk.close())?,
            }
        }
        group.close().map(|_| ())
    }
}

impl ColumnEncoder {
    /// Appends column `i` of a batch.
    fn push(&mut self, batch: &RecordBatch, i: usize) -> Result<(), ParquetError> {
        match self {
            ColumnEncoder::Arrow(writer) => compute_leaves(batch.schema_ref().field(i), batch.column(i))?
                .iter()
                .try_for_each(|leaf| writer.write(leaf)),
            ColumnEncoder::Lists(lists) => {
                lists.push(batch.column(i));
                Ok(())
            }
            ColumnEncoder::Codes(codes) => codes.push(batch.column(i)),
            ColumnEncoder::Text(text) => text.push(batch.column(i)),
        }
    }

    fn finish(self) -> Result<ColumnChunk, ParquetError> {
        Ok(match self {
            ColumnEncoder::Arrow(writer) => ColumnChunk::Arrow(Box::new(writer.close()?)),
            ColumnEncoder::Lists(lists) => ColumnChunk::Own(lists.encode()?),
            ColumnEncoder::Codes(codes) => ColumnChunk::Own(codes.encode()?),
            ColumnEncoder::Text(text) => ColumnChunk::Own(text.encode()?),
        })
    }
}
