//! The row group in progress of a Parquet file: its columns, encoded side by side.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_schema::{DataType, Schema};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::data_type::FloatType;
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use rayon::prelude::*;
use std::io::Write;

/// Rows of floats written at a time.
const FLOAT_ROWS: usize = 1024;

/// Columns of the rows taken so far. They are encoded on the threads of the current rayon pool; the bytes
/// do not depend on how many these are.
#[derive(Default)]
pub(crate) struct RowGroup {
    columns: Vec<Pending>,
    rows: usize,
}

/// A column of the row group.
enum Pending {
    Encoded(Box<ArrowColumnWriter>),
    /// Lists of `width` floats each: their levels are known beforehand, so they wait as they are.
    Floats {
        width: usize,
        values: Vec<f32>,
    },
}

/// A column that is complete.
enum Complete {
    Encoded(Box<ArrowColumnChunk>),
    Floats { width: usize, values: Vec<f32> },
}

impl RowGroup {
    /// Rows taken so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends rows. Every column has one leaf: plain columns, and lists of them.
    pub fn encode<W: Write + Send>(
        &mut self,
        batch: &RecordBatch,
        file: &SerializedFileWriter<W>,
        factory: &ArrowRowGroupWriterFactory,
    ) -> Result<(), ParquetError> {
        let schema = batch.schema_ref();
        if self.columns.is_empty() {
            let writers = factory.create_column_writers(file.flushed_row_groups().len())?;
            self.columns = writers.into_iter().enumerate().map(|(i, writer)| Pending::new(schema, i, writer)).collect();
        }
        self.rows += batch.num_rows();
        self.columns.par_iter_mut().enumerate().try_for_each(|(i, column)| match column {
            Pending::Encoded(writer) => {
                compute_leaves(schema.field(i), batch.column(i))?.iter().try_for_each(|leaf| writer.write(leaf))
            }
            Pending::Floats { values, .. } => {
                let lists = batch.column(i).as_fixed_size_list();
                values.extend_from_slice(lists.values().as_primitive::<Float32Type>().values());
                Ok(())
            }
        })
    }

    /// Writes the row group, and is empty again.
    pub fn write_to<W: Write + Send>(&mut self, file: &mut SerializedFileWriter<W>) -> Result<(), ParquetError> {
        let Self { columns, .. } = std::mem::take(self);
        let complete = columns.into_par_iter().map(|column| {
            Ok::<_, ParquetError>(match column {
                Pending::Encoded(writer) => Complete::Encoded(Box::new(writer.close()?)),
                Pending::Floats { width, values } => Complete::Floats { width, values },
            })
        });
        let complete: Vec<Complete> = complete.collect::<Result<_, _>>()?;
        let mut group = file.next_row_group()?;
        for column in complete {
            match column {
                Complete::Encoded(chunk) => chunk.append_to_row_group(&mut group)?,
                Complete::Floats { width, values } => write_floats(&mut group, width, &values)?,
            }
        }
        group.close().map(|_| ())
    }
}

impl Pending {
    fn new(schema: &Schema, column: usize, writer: ArrowColumnWriter) -> Self {
        let field = schema.field(column);
        match field.data_type() {
            DataType::FixedSizeList(element, width)
                if *element.data_type() == DataType::Float32 && !element.is_nullable() && !field.is_nullable() =>
            {
                Pending::Floats { width: *width as usize, values: Vec::new() }
            }
            _ => Pending::Encoded(Box::new(writer)),
        }
    }
}

/// Writes lists of `width` floats, none of them null, as the next column.
///
/// An element of a list that is there and of one that is not null has definition level 1; the first of each
/// list has repetition level 0, the others 1 (the Dremel encoding of Parquet's format, section Nested Encoding).
fn write_floats<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    width: usize,
    values: &[f32],
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("more columns than the schema has".to_string()))?;
    let writer = column.typed::<FloatType>();
    let definition = vec![1; FLOAT_ROWS * width];
    let repetition: Vec<i16> = (0..FLOAT_ROWS * width).map(|i| i16::from(i % width != 0)).collect();
    for part in values.chunks(FLOAT_ROWS * width.max(1)) {
        writer.write_batch(part, Some(&definition[..part.len()]), Some(&repetition[..part.len()]))?;
    }
    column.close()
}
