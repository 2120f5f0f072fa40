//! Row groups of a Parquet file in progress: their columns, encoded side by side or a whole group on one thread.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_schema::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::column::writer::{ColumnCloseResult, ColumnWriterImpl};
use parquet::data_type::FloatType;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;
use rayon::prelude::*;
use std::io::Write;
use std::sync::Arc;

/// Rows of floats written at a time.
const FLOAT_ROWS: usize = 1024;

/// How the row groups of a file are encoded.
pub(crate) struct GroupFormat {
    schema: SchemaRef,
    factory: ArrowRowGroupWriterFactory,
    /// Every column has one leaf: plain columns, and lists of them.
    leaves: Vec<ColumnDescPtr>,
    properties: WriterPropertiesPtr,
    /// Rows of a whole row group.
    rows: usize,
}

impl GroupFormat {
    /// The format of a file that was opened for rows of `schema`, `rows` a row group.
    pub fn of<W: Write + Send>(file: &SerializedFileWriter<W>, schema: SchemaRef, rows: usize) -> Self {
        Self {
            factory: ArrowRowGroupWriterFactory::new(file, schema.clone()),
            leaves: file.schema_descr().columns().to_vec(),
            properties: file.properties().clone(),
            schema,
            rows,
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
    /// Room that lists of floats took in the row group before.
    spare: Vec<Vec<f32>>,
    rows: usize,
}

/// A column of a row group that takes rows.
enum Pending {
    Encoded(Box<ArrowColumnWriter>),
    /// Lists of `width` floats each: their levels are known beforehand, so they wait as they are.
    Floats {
        width: usize,
        values: Vec<f32>,
    },
}

/// A row group that only has to be written.
pub struct EncodedGroup {
    columns: Vec<Encoded>,
    pub(crate) rows: usize,
}

/// A column of it.
enum Encoded {
    Chunk(Box<ArrowColumnChunk>),
    Floats(Bytes, Box<ColumnCloseResult>),
}

impl RowGroup {
    /// A row group without rows.
    pub fn new(format: Arc<GroupFormat>) -> Self {
        Self { format, columns: Vec::new(), spare: Vec::new(), rows: 0 }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns, ready for another so many rows.
    fn start(&mut self, rows: usize) -> Result<(), ParquetError> {
        self.rows += rows;
        if self.columns.is_empty() {
            let writers = self.format.factory.create_column_writers(0)?.into_iter();
            let fields = self.format.schema.fields().iter();
            // Taken whole: a vector that doubles leaves gaps of the sizes that it had.
            let mut room =
                |width: usize| self.spare.pop().unwrap_or_else(|| Vec::with_capacity(width * self.format.rows));
            self.columns =
                fields.zip(writers).map(|(field, w)| Pending::new(field.data_type(), w, &mut room)).collect();
        }
        Ok(())
    }

    /// Appends rows, the columns on the threads of the current rayon pool.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch.num_rows())?;
        self.columns.par_iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Appends rows on the calling thread.
    pub fn push_here(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        self.start(batch.num_rows())?;
        self.columns.iter_mut().enumerate().try_for_each(|(i, column)| column.push(batch, i))
    }

    /// Encodes what is left on the calling thread.
    pub fn finish_here(self) -> Result<EncodedGroup, ParquetError> {
        let Self { format, columns, rows, .. } = self;
        let columns = columns.into_iter().zip(&format.leaves).map(|(column, leaf)| match column {
            Pending::Encoded(writer) => Ok(Encoded::Chunk(Box::new(writer.close()?))),
            Pending::Floats { width, values } => {
                let mut bytes = TrackedWrite::new(Vec::with_capacity(values.len() * 4));
                let pages = Box::new(SerializedPageWriter::new(&mut bytes));
                let mut writer = ColumnWriterImpl::new(leaf.clone(), format.properties.clone(), pages);
                write_lists(&mut writer, width, &values)?;
                let close = Box::new(writer.close()?);
                Ok(Encoded::Floats(bytes.into_inner()?.into(), close))
            }
        });
        Ok(EncodedGroup { columns: columns.collect::<Result<_, ParquetError>>()?, rows })
    }

    /// Writes the row group, its columns finished on the threads of the current rayon pool, and starts anew.
    pub fn write_to<W: Write + Send>(&mut self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let columns = std::mem::take(&mut self.columns);
        self.rows = 0;
        enum Complete {
            Chunk(Box<ArrowColumnChunk>),
            // Not encoded into memory first: vectors are most of their file.
            Floats { width: usize, values: Vec<f32> },
        }
        let complete = columns.into_par_iter().map(|column| {
            Ok::<_, ParquetError>(match column {
                Pending::Encoded(writer) => Complete::Chunk(Box::new(writer.close()?)),
                Pending::Floats { width, values } => Complete::Floats { width, values },
            })
        });
        let complete: Vec<Complete> = complete.collect::<Result<_, _>>()?;
        let mut group = file.next_row_group()?;
        for column in complete {
            match column {
                Complete::Chunk(chunk) => chunk.append_to_row_group(&mut group)?,
                Complete::Floats { width, mut values } => {
                    write_floats(&mut group, width, &values)?;
                    values.clear();
                    self.spare.push(values);
                }
            }
        }
        group.close().map(|_| ())
    }
}

impl EncodedGroup {
    /// Writes the row group.
    pub(crate) fn write_to<W: Write + Send>(self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let mut group = file.next_row_group()?;
        for column in self.columns {
            match column {
                Encoded::Chunk(chunk) => chunk.append_to_row_group(&mut group)?,
                Encoded::Floats(bytes, close) => group.append_column(&bytes, *close)?,
            }
        }
        group.close().map(|_| ())
    }
}

impl Pending {
    fn new(data_type: &DataType, writer: ArrowColumnWriter, room: impl FnOnce(usize) -> Vec<f32>) -> Self {
        match data_type {
            DataType::FixedSizeList(element, width)
                if *element.data_type() == DataType::Float32 && !element.is_nullable() =>
            {
                Pending::Floats { width: *width as usize, values: room(*width as usize) }
            }
            _ => Pending::Encoded(Box::new(writer)),
        }
    }

    /// Appends rows of column `i`.
    fn push(&mut self, batch: &RecordBatch, i: usize) -> Result<(), ParquetError> {
        match self {
            Pending::Encoded(writer) => compute_leaves(batch.schema_ref().field(i), batch.column(i))?
                .iter()
                .try_for_each(|leaf| writer.write(leaf)),
            Pending::Floats { values, .. } => {
                let lists = batch.column(i).as_fixed_size_list();
                values.extend_from_slice(lists.values().as_primitive::<Float32Type>().values());
                Ok(())
            }
        }
    }
}

/// Writes lists of `width` floats as the next column.
fn write_floats<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    width: usize,
    values: &[f32],
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("more columns than the schema has".to_string()))?;
    write_lists(column.typed::<FloatType>(), width, values)?;
    column.close()
}

/// Writes lists of `width` floats, none of them null.
///
/// An element of a list that is there and of one that is not null has definition level 1; the first of each
/// list has repetition level 0, the others 1 (the Dremel encoding of Parquet's format, section Nested Encoding).
fn write_lists(writer: &mut ColumnWriterImpl<'_, FloatType>, width: usize, values: &[f32]) -> Result<(), ParquetError> {
    let definition = vec![1; FLOAT_ROWS * width];
    let repetition: Vec<i16> = (0..FLOAT_ROWS * width).map(|i| i16::from(i % width != 0)).collect();
    for part in values.chunks(FLOAT_ROWS * width.max(1)) {
        writer.write_batch(part, Some(&definition[..part.len()]), Some(&repetition[..part.len()]))?;
    }
    Ok(())
}
