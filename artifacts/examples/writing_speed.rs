//! Speed of encoding Parquet columns by this crate's own column chunks and by the writer of the `parquet` crate.
//!
//! `cargo run --release -p twotower-artifacts --example writing_speed -- [PAIRS]` encodes a row group of 65,536 rows,
//! given in batches of 8,192, with both writers on one thread. They run in alternating pairs in one process (default 21
//! pairs, after one that is not counted), and nothing is written to disk. For each kind of columns and each
//! compression, it prints a line of JSON with the medians in milliseconds, the sizes of the files in bytes, and for
//! each encoding of the `parquet` crate the ratio: the median over the pairs of its time divided by that of ours. Times
//! are of the processor, which stand still while other processes compute.
//!
//! The kinds are those of the product: 10 columns of codes beside a column of integer ids (`code_chunk.rs`), a column
//! of text ids (`text_chunk.rs`), 4 columns of numbers with a flag whose values repeat, and a column of vectors of 64
//! floats (`list_chunk.rs`), each beside integer ids. Both writers encode integer ids by the `parquet` crate.

use arrow_array::{Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression as Codec, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use std::hint::black_box;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::codes::GROUP_ROWS;
use twotower_artifacts::parquet_file::Compression;
use twotower_artifacts::split_mix::{GAMMA, mix};
use twotower_artifacts::{
    CodeBatch, CodesInfo, CodesWriter, Column, EncodedGroup, FieldSchema, FieldShape, Fingerprint, Id, IdKind, Ids,
    Side, TowerSchema,
};

type Failure = Box<dyn std::error::Error>;

/// Rows of a batch.
const BATCH: usize = 8192;

/// How the `parquet` crate encodes the columns that are compared.
#[derive(Debug, Clone, Copy)]
enum Rival {
    Dictionary,
    Plain,
    DeltaBinaryPacked,
    DeltaByteArray,
}

/// Columns of one kind.
struct Case {
    name: &'static str,
    ids: Ids,
    fields: Vec<FieldSchema>,
    columns: Vec<Column>,
    rivals: &'static [Rival],
}

/// A random number that is a function of `n`.
fn random(n: usize) -> usize {
    mix(n as u64 + GAMMA) as usize
}

/// Processor time of the calling thread so far. It is read from the clock itself, since `/proc` counts in ticks of 4
/// ms.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `time`, which is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn cases() -> Vec<Case> {
    let numbers = || Ids::Int((0..GROUP_ROWS as i64).map(|row| 1_000_000 + 3 * row).collect());
    let mut texts = Ids::new(IdKind::Text);
    (0..GROUP_ROWS).for_each(|row| texts.push(Id::Text(&format!("u{:09}", 3 * row + random(row) % 3))));
    let field = |name: String, shape| FieldSchema { name, shape };
    let cardinalities = [5, 6, 12, 28, 63, 343, 803, 2003, 3003, 4003];
    let code = |(i, cardinality): (usize, u32)| {
        let codes = (0..GROUP_ROWS).map(|row| (random(row + (i << 20)) % cardinality as usize) as u32).collect();
        let shape = FieldShape::Code { table: format!("t{i}"), cardinality };
        (field(format!("c{i}"), shape), Column::Code(codes))
    };
    let (code_fields, codes) = cardinalities.into_iter().enumerate().map(code).unzip();
    let number = |i: usize| {
        let value =
            |row: usize| [(random(row + (i << 20)) % 2000) as f32 / 7.0, f32::from(u8::from(row.is_multiple_of(50)))];
        let values = (0..GROUP_ROWS).flat_map(value).collect();
        (field(format!("n{i}"), FieldShape::Dense { width: 2 }), Column::Dense { width: 2, values })
    };
    let (number_fields, repeating) = (0..4).map(number).unzip();
    let values = (0..GROUP_ROWS * 64).map(|i| (random(i) % (1 << 24)) as f32 / 1e8 - 0.08).collect();
    let vectors = vec![Column::Dense { width: 64, values }];
    let vector_fields = vec![field("vector".into(), FieldShape::Dense { width: 64 })];
    let case = |name, ids, fields, columns, rivals| Case { name, ids, fields, columns, rivals };
    vec![
        case("codes", numbers(), code_fields, codes, &[Rival::Dictionary, Rival::DeltaBinaryPacked]),
        case("text_ids", texts, Vec::new(), Vec::new(), &[Rival::DeltaByteArray, Rival::Dictionary]),
        case("repeating_numbers", numbers(), number_fields, repeating, &[Rival::Dictionary, Rival::Plain]),
        case("vectors", numbers(), vector_fields, vectors, &[Rival::Plain]),
    ]
}

impl Case {
    fn batches() -> impl Iterator<Item = Range<usize>> {
        (0..GROUP_ROWS).step_by(BATCH).map(|first| first..first + BATCH)
    }

    /// Rows as the product gives them to its writer.
    fn rows(&self, rows: Range<usize>) -> (ArrayRef, CodeBatch) {
        let columns = self.columns.iter().map(|column| match column {
            Column::Code(codes) => Column::Code(codes[rows.clone()].to_vec()),
            Column::Dense { width, values } => {
                Column::Dense { width: *width, values: values[rows.start * width..rows.end * width].to_vec() }
            }
            Column::Ragged(_) => Column::Ragged(Default::default()),
        });
        (self.ids.to_array(rows.clone()), CodeBatch { columns: columns.collect() })
    }

    /// The same rows as Arrow columns.
    fn record_batch(&self, rows: Range<usize>) -> Result<RecordBatch, Failure> {
        let (ids, batch) = self.rows(rows);
        let mut columns = vec![("id".to_string(), ids)];
        for (field, column) in self.fields.iter().zip(batch.columns) {
            let array: ArrayRef = match column {
                Column::Code(codes) => Arc::new(UInt32Array::from(codes)),
                Column::Dense { width, values } => {
                    let element = Arc::new(Field::new("element", DataType::Float32, false));
                    let values = Arc::new(Float32Array::from(values));
                    Arc::new(FixedSizeListArray::try_new(element, i32::try_from(width)?, values, None)?)
                }
                Column::Ragged(_) => return Err("no case has ragged columns".into()),
            };
            columns.push((field.name.clone(), array));
        }
        let fields: Vec<Field> =
            columns.iter().map(|(name, array)| Field::new(name, array.data_type().clone(), false)).collect();
        let columns = columns.into_iter().map(|(_, array)| array).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn writer(&self, path: &Path, compression: Compression) -> Result<CodesWriter, Failure> {
        let encoder = Fingerprint::of(b"writing_speed");
        let schema = TowerSchema { side: Side::User, encoder, fields: self.fields.clone() };
        Ok(CodesWriter::create(path, &CodesInfo { ids: self.ids.kind(), schema }, compression)?)
    }

    /// The settings of the `parquet` crate: those of the product, but for the encoding of the compared columns.
    fn properties(&self, schema: &Schema, compression: Compression, rival: Rival) -> Result<WriterProperties, Failure> {
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Lz4 => Codec::LZ4_RAW,
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
        };
        let mut properties =
            WriterProperties::builder().set_compression(codec).set_statistics_enabled(EnabledStatistics::None);
        for (i, leaf) in ArrowSchemaConverter::new().convert(schema)?.columns().iter().enumerate() {
            let is_integer_id = i == 0 && self.ids.kind() == IdKind::Int;
            let encoding = if is_integer_id { Rival::DeltaBinaryPacked } else { rival };
            properties = stored(properties, leaf.path(), encoding, codec);
        }
        Ok(properties.build())
    }
}

/// Sets how a column is encoded. As in the product, LZ4 is not used for bit-packed values.
fn stored(
    properties: parquet::file::properties::WriterPropertiesBuilder,
    leaf: &ColumnPath,
    encoding: Rival,
    codec: Codec,
) -> parquet::file::properties::WriterPropertiesBuilder {
    let is_dictionary = matches!(encoding, Rival::Dictionary);
    let properties = properties.set_column_dictionary_enabled(leaf.clone(), is_dictionary);
    let is_packed = matches!(encoding, Rival::Dictionary | Rival::DeltaBinaryPacked);
    let codec = if is_packed && codec == Codec::LZ4_RAW { Codec::UNCOMPRESSED } else { codec };
    let properties = properties.set_column_compression(leaf.clone(), codec);
    match encoding {
        Rival::Dictionary => properties,
        Rival::Plain => properties.set_column_encoding(leaf.clone(), Encoding::PLAIN),
        Rival::DeltaBinaryPacked => properties.set_column_encoding(leaf.clone(), Encoding::DELTA_BINARY_PACKED),
        Rival::DeltaByteArray => properties.set_column_encoding(leaf.clone(), Encoding::DELTA_BYTE_ARRAY),
    }
}

/// Encodes a row group by this crate's column chunks. Returns the seconds it took, and the row groups.
fn encode_ours(writer: &CodesWriter, case: &Case) -> Result<(f64, Vec<EncodedGroup>), Failure> {
    let batches: Vec<_> = Case::batches().map(|rows| case.rows(rows)).collect();
    let start = thread_seconds();
    let mut part = writer.groups().part();
    for (ids, batch) in batches {
        part.push(ids, batch)?;
    }
    let groups = part.finish()?;
    Ok((thread_seconds() - start, groups))
}

/// Encodes a row group by the column writers of the `parquet` crate, which its `ArrowWriter` uses. Returns the seconds.
fn encode_theirs(factory: &ArrowRowGroupWriterFactory, batches: &[RecordBatch]) -> Result<f64, Failure> {
    let start = thread_seconds();
    let mut writers = factory.create_column_writers(0)?;
    for batch in batches {
        for ((field, column), writer) in batch.schema().fields().iter().zip(batch.columns()).zip(&mut writers) {
            for leaf in compute_leaves(field, column)? {
                writer.write(&leaf)?;
            }
        }
    }
    let chunks = writers.into_iter().map(|writer| writer.close()).collect::<Result<Vec<_>, _>>()?;
    let seconds = thread_seconds() - start;
    black_box(chunks);
    Ok(seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn compare(case: &Case, compression: Compression, pairs: usize, dir: &Path) -> Result<(), Failure> {
    let batches = Case::batches().map(|rows| case.record_batch(rows)).collect::<Result<Vec<_>, _>>()?;
    let schema = batches.first().map(RecordBatch::schema).ok_or("there are no rows")?;
    let mut writer = case.writer(&dir.join("ours.parquet"), compression)?;
    let mut lines = Vec::new();
    for rival in case.rivals {
        let properties = Arc::new(case.properties(&schema, compression, *rival)?);
        let root = ArrowSchemaConverter::new().convert(&schema)?.root_schema_ptr();
        let file = SerializedFileWriter::new(Vec::new(), root, properties.clone())?;
        let factory = ArrowRowGroupWriterFactory::new(&file, schema.clone());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in 0..=pairs {
            let seconds = [encode_ours(&writer, case)?.0, encode_theirs(&factory, &batches)?];
            if pair > 0 {
                ours.push(seconds[0]);
                theirs.push(seconds[1]);
            }
        }
        let ratio = median(theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours).collect());
        let mut whole = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.as_ref().clone()))?;
        batches.iter().try_for_each(|batch| whole.write(batch))?;
        lines.push((format!("{rival:?}"), median(ours), median(theirs), ratio, whole.into_inner()?.len()));
    }
    for group in encode_ours(&writer, case)?.1 {
        writer.append(group)?;
    }
    let ours_bytes = writer.finish()?.bytes;
    for (rival, ours, theirs, ratio, bytes) in lines {
        let hundredths = |x: f64| (x * 100.0).round() / 100.0;
        let line = serde_json::json!({
            "columns": case.name, "compression": compression, "parquet_encoding": rival,
            "ours_ms": hundredths(ours * 1e3), "parquet_ms": hundredths(theirs * 1e3), "ratio": hundredths(ratio),
            "ours_bytes": ours_bytes, "parquet_bytes": bytes,
        });
        println!("{line}");
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let pairs = std::env::args().nth(1).map_or(Ok(21), |pairs| pairs.parse())?;
    let dir = tempfile::tempdir()?;
    for case in cases() {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            compare(&case, compression, pairs, dir.path())?;
        }
    }
    Ok(())
}
