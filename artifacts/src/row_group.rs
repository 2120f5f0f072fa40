//! Row groups of a Parquet file in progress: their columns, encoded side by side or a whole group on one thread.

use crate::chunk::EncodedChunk;
use crate::code_chunk::{CodeChunk, MOST_CODES};
use crate::list_chunk::ListChunk;
use crate::parquet_file::Stored;
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
    /// Every column has one leaf: plain columns, and lists of them.
    leaves: Vec<ColumnDescPtr>,
    properties: WriterPropertiesPtr,
    /// How each column is stored.
    stored: Vec<Stored>,
}

impl GroupFormat {
    /// The format of a file that was opened for rows of `schema`, with how each column is stored.
    pub fn of<W: Write + Send>(file: &SerializedFileWriter<W>, schema: SchemaRef, stored: Vec<Stored>) -> Self {
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

/// A row group that takes rows. The bytes do not depend on which threads encode it.
pub(crate) struct RowGroup {
    format: Arc<GroupFormat>,
    columns: Vec<Pending>,
    rows: usize,
    /// Bytes of text in them.
    text: usize,
}

/// A column of a row group that takes rows.
enum Pending {
    Writer(Box<ArrowColumnWriter>),
    Lists(ListChunk),
    Codes(Box<CodeChunk>),
    Text(Box<TextChunk>),
}

/// A row group that only has to be written.
pub struct EncodedGroup {
    columns: Vec<Encoded>,
    pub(crate) rows: usize,
}

/// A column of it.
enum Encoded {
    Chunk(Box<ArrowColumnChunk>),
    Own(EncodedChunk),
}

impl RowGroup {
    /// A row group without rows.
    pub fn new(format: Arc<GroupFormat>) -> Self {
        Self { format, columns: Vec::new(), rows: 0, text: 0 }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether it has so many rows, or so many bytes of text, that it should be written.
    pub fn is_full(&self, rows: usize, text: usize) -> bool {
        self.rows >= rows || self.text >= text
    }

    /// The columns, ready for the rows of another batch.
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
                    Stored::Codes(cardinality) if *cardinality <= MOST_CODES => {
                        Pending::Codes(Box::new(CodeChunk::new(*cardinality, leaf, codec)?))
                    }
                    Stored::Prefixed => Pending::Text(Box::new(TextChunk::new(leaf, codec))),
                    _ => match ListChunk::new(field.data_type(), leaf, codec, *stored == Stored::Repeating) {
                        Some(lists) => Pending::Lists(lists),
                        None => Pending::Writer(Box::new(writer)),
                    },
                })
            });
            self.columns = columns.collect::<Result<_, ParquetError>>()?;
        }
        Ok(())
    }

    /// Appends rows, the columns on the threads of the current rayon pool.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch)?;
        self.columns.par_iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Appends rows on the calling thread.
    pub fn push_here(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch)?;
        self.columns.iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Encodes what is left on the calling thread, and starts anew.
    pub fn finish_here(&mut self) -> Result<EncodedGroup, ParquetError> {
        self.text = 0;
        let columns = std::mem::take(&mut self.columns).into_iter().map(Pending::finish);
        Ok(EncodedGroup { columns: columns.collect::<Result<_, _>>()?, rows: std::mem::take(&mut self.rows) })
    }

    /// Encodes what is left on the threads of the current rayon pool, and starts anew.
    pub fn finish(&mut self) -> Result<EncodedGroup, ParquetError> {
        self.text = 0;
        let columns = std::mem::take(&mut self.columns).into_par_iter().map(Pending::finish);
        Ok(EncodedGroup { columns: columns.collect::<Result<_, _>>()?, rows: std::mem::take(&mut self.rows) })
    }
}

/// Bytes of text in a column of text, or of lists of it.
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
    /// Writes the row group.
    pub(crate) fn write_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let mut group = file.next_row_group()?;
        for column in self.columns {
            match column {
                Encoded::Chunk(chunk) => chunk.append_to_row_group(&mut group)?,
                Encoded::Own(chunk) => group.append_column(&chunk, chunk.close())?,
            }
        }
        group.close().map(|_| ())
    }
}

impl Pending {
    /// Appends rows of column `i`.
    fn push(&mut self, batch: &RecordBatch, i: usize) -> Result<(), ParquetError> {
        match self {
            Pending::Writer(writer) => compute_leaves(batch.schema_ref().field(i), batch.column(i))?
                .iter()
                .try_for_each(|leaf| writer.write(leaf)),
            Pending::Lists(lists) => {
                lists.push(batch.column(i));
                Ok(())
            }
            Pending::Codes(codes) => codes.push(batch.column(i)),
            Pending::Text(text) => text.push(batch.column(i)),
        }
    }

    fn finish(self) -> Result<Encoded, ParquetError> {
        Ok(match self {
            Pending::Writer(writer) => Encoded::Chunk(Box::new(writer.close()?)),
            Pending::Lists(lists) => Encoded::Own(lists.encode()?),
            Pending::Codes(codes) => Encoded::Own(codes.encode()?),
            Pending::Text(text) => Encoded::Own(text.encode()?),
        })
    }
}
