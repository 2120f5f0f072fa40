//! Tables on their way to queries: the rows that can be used, in Parquet files of this process.

use crate::error::PipelineError;
use crate::profile::settings::Settings;
use crate::profile::staged_table::StagedTable;
use crate::profile::types::{Times, Unusable};
use crate::rows::bad_rows::{BadRow, readable_ids, sift};
use crate::rows::columns::read_batches;
use crate::rows::side_files::read_columns;
use crate::rows::times::EventTimes;
use crate::run::names::tables::{self, INTERACTIONS};
use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::keyed::{hash_id, hash_int, hash_text};
use twotower_artifacts::{IdKind, Ids, Side};
use twotower_encoders::{FeatureSpec, PlainColumn, SideSpec};
use twotower_queries::Keys;
use twotower_tables::{Table, TableBatch, id_kind};

/// What the stage is called in messages.
const STAGE: &str = "profile";
/// Partitions that values are divided into. There are so many that one of them takes little memory.
const PARTITIONS: u64 = 256;
/// Hashes that a [`Sketch`] keeps.
const KEPT: usize = 1024;
/// The column of ids in every staged file of users or items.
pub const ID: &str = "id";

/// The partition of a text, as it is staged.
pub fn partition(text: &str) -> u64 {
    hash_text(text) % PARTITIONS
}

/// Estimates how many distinct values there are, from the smallest of their hashes (Bar-Yossef et al., Counting
/// Distinct Elements in a Data Stream, 2002): within a few percent. It decides how queries go about their work, and
/// nothing that they find.
#[derive(Default)]
struct Sketch(BTreeSet<u64>);

impl Sketch {
    fn add(&mut self, hash: u64) {
        if self.0.len() < KEPT || self.0.last().is_some_and(|last| hash < *last) {
            self.0.insert(hash);
            if self.0.len() > KEPT {
                self.0.pop_last();
            }
        }
    }

    fn estimate(&self) -> u64 {
        match self.0.last() {
            Some(last) if self.0.len() == KEPT => ((KEPT - 1) as f64 / (*last as f64 / u64::MAX as f64)) as u64,
            _ => self.0.len() as u64,
        }
    }
}

/// The sum of numbers, and of what additions lost (Neumaier's): rows are added in order, so that it depends on
/// nothing else.
#[derive(Default)]
struct Sum {
    sum: f64,
    lost: f64,
    count: u64,
}

impl Sum {
    fn add(&mut self, x: f64) {
        let sum = self.sum + x;
        self.lost += if self.sum.abs() >= x.abs() { (self.sum - sum) + x } else { (x - sum) + self.sum };
        self.sum = sum;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.sum + self.lost) / self.count as f64 }
    }
}

/// A staged column of values or numbers, and the column of their partitions.
pub struct StagedColumn {
    column: String,
    partition: String,
    sketch: Sketch,
    sum: Sum,
}

impl StagedColumn {
    fn new(name: &str) -> Self {
        Self {
            column: name.to_string(),
            partition: format!("{name} partition"),
            sketch: Sketch::default(),
            sum: Sum::default(),
        }
    }

    /// Where it stands, in the file that holds it.
    pub fn keys<'a>(&'a self, path: &'a Path) -> Keys<'a> {
        Keys { path, column: &self.column, partition: &self.partition }
    }

    /// About how many distinct values there are.
    pub fn distinct(&self) -> u64 {
        self.sketch.estimate()
    }

    /// The mean of the numbers.
    pub fn mean(&self) -> f64 {
        self.sum.mean()
    }

    fn texts(&mut self, texts: LargeStringArray) -> [(String, ArrayRef); 2] {
        let hashes = texts.iter().map(|text| {
            let hash = text.map(hash_text)?;
            self.sketch.add(hash);
            Some((hash % PARTITIONS) as i32)
        });
        let partitions: Int32Array = hashes.collect();
        self.staged(Arc::new(texts), partitions)
    }

    fn numbers(&mut self, numbers: Float64Array) -> [(String, ArrayRef); 2] {
        let hashes = numbers.iter().map(|x| {
            let x = x?;
            let hash = hash_int(x.to_bits() as i64);
            self.sketch.add(hash);
            self.sum.add(x);
            Some((hash % PARTITIONS) as i32)
        });
        let partitions: Int32Array = hashes.collect();
        self.staged(Arc::new(numbers), partitions)
    }

    fn staged(&self, values: ArrayRef, partitions: Int32Array) -> [(String, ArrayRef); 2] {
        [(self.column.clone(), values), (self.partition.clone(), Arc::new(partitions))]
    }
}

/// What is staged of a feature.
pub enum StagedFeature {
    /// One value a row.
    Values(StagedColumn),
    /// One number a row.
    Numbers(StagedColumn),
    /// How many values each row has; and these, in a file of their own.
    Lists { lengths: StagedColumn, values: StagedColumn, file: Box<StagedTable> },
    /// How long the vector of each row is.
    Vectors(StagedColumn),
}

/// A feature, staged.
pub struct Feature {
    /// The feature.
    pub spec: FeatureSpec,
    /// Rows without a value.
    pub missing: u64,
    /// The rest.
    pub staged: StagedFeature,
}

/// Users or items, staged.
pub struct StagedSide {
    /// The file.
    pub file: StagedTable,
    /// The kind of their ids.
    pub ids: IdKind,
    /// All rows.
    pub rows: u64,
    /// Those left out.
    pub unusable: Unusable,
    /// The features that read a column.
    pub features: Vec<Feature>,
}

impl StagedSide {
    /// Reads a table of users or items.
    ///
    /// # Errors
    /// Any table error, a column that is not there among them; [`PipelineError::Data`] where no row can be used.
    pub fn read(settings: &Settings, dir: &Path, side: Side, spec: &SideSpec) -> Result<Self, PipelineError> {
        let tables = &settings.config.tables;
        let source = match side {
            Side::User => &tables.users.source,
            Side::Item => &tables.items.source,
        };
        let table = Table::open(tables::of(side), source)?;
        let columns = read_columns(spec);
        columns.iter().try_for_each(|column| table.column(column).map(drop))?;
        let table = table.leniently();
        let ids = id_kind(&table, &spec.id_column)?;
        let total = table.require_rows()?;
        let mut file = StagedTable::beside(&dir.join(tables::of(side)))?;
        let mut features = Vec::new();
        let mut unusable = Unusable::default();
        let mut bar = settings.progress.bar(&format!("read {side}s"), total, "rows");
        for batch in read_batches(STAGE, &table, &columns, 0..total, &settings.cancel)? {
            let batch = batch?;
            bar.advance(batch.batch.num_rows() as u64);
            let (good, bad) = sift(&batch, &spec.id_column, |rows| Rows::of(rows, side, spec, ids))?;
            unusable.add(&bad);
            for (_, rows) in good {
                if features.is_empty() {
                    features = rows.features(spec, dir)?;
                }
                rows.stage(&mut features, &mut file)?;
            }
        }
        if unusable.rows == total {
            return Err(none_usable(table.name(), total, &unusable));
        }
        file.finish()?;
        for feature in &mut features {
            if let StagedFeature::Lists { file, .. } = &mut feature.staged {
                file.finish()?;
            }
        }
        Ok(Self { file, ids, rows: total, unusable, features })
    }

    /// Where the ids stand.
    pub fn keys(&self) -> Keys<'_> {
        Keys { path: self.file.path(), column: ID, partition: ID }
    }

    /// Rows that are staged.
    pub fn usable(&self) -> u64 {
        self.rows - self.unusable.rows
    }
}

impl Unusable {
    fn add(&mut self, bad: &[BadRow]) {
        self.rows += bad.len() as u64;
        if self.first.is_none() {
            self.first = bad.first().map(ToString::to_string);
        }
    }
}

fn none_usable(table: &str, total: u64, unusable: &Unusable) -> PipelineError {
    let first = unusable.first.as_deref().unwrap_or_default();
    PipelineError::Data(format!("table `{table}`: none of {total} rows can be used; the first is {first}"))
}

/// Ids as integers of at least 0 that are told apart by 63 bits of a hash.
fn hashed(ids: &Ids) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(ids.iter().map(|id| (hash_id(id) >> 1) as i64)))
}

/// Rows of users or items.
struct Rows {
    ids: Ids,
    /// Of each feature of the side; none of one that reads no column of the table.
    columns: Vec<Option<PlainColumn>>,
}

impl Rows {
    fn of(rows: &TableBatch, side: Side, spec: &SideSpec, kind: IdKind) -> Result<Self, PipelineError> {
        let ids = readable_ids(rows, &spec.id_column, kind)?;
        let columns = spec.features.iter().map(|feature| feature.plain(side, &spec.id_column, &rows.batch));
        Ok(Self { ids, columns: columns.collect::<Result<_, _>>()? })
    }

    /// The features that read a column, with nothing staged.
    fn features(&self, spec: &SideSpec, dir: &Path) -> Result<Vec<Feature>, PipelineError> {
        let mut features = Vec::new();
        for (at, (spec, column)) in spec.features.iter().zip(&self.columns).enumerate() {
            let staged = match column {
                None => continue,
                Some(PlainColumn::Values(_)) => StagedFeature::Values(StagedColumn::new(&format!("value {at}"))),
                Some(PlainColumn::Numbers(_)) => StagedFeature::Numbers(StagedColumn::new(&format!("number {at}"))),
                Some(PlainColumn::Lists { .. }) => StagedFeature::Lists {
                    lengths: StagedColumn::new(&format!("length {at}")),
                    values: StagedColumn::new("value"),
                    file: Box::new(StagedTable::beside(&dir.join("values"))?),
                },
                Some(PlainColumn::Vectors(_)) => StagedFeature::Vectors(StagedColumn::new(&format!("length {at}"))),
            };
            features.push(Feature { spec: spec.clone(), missing: 0, staged });
        }
        Ok(features)
    }

    /// Appends the rows to what is staged.
    fn stage(self, features: &mut [Feature], file: &mut StagedTable) -> Result<(), PipelineError> {
        let mut columns = vec![(ID.to_string(), hashed(&self.ids))];
        for (feature, column) in features.iter_mut().zip(self.columns.into_iter().flatten()) {
            feature.missing += column.missing();
            columns.extend(match (&mut feature.staged, column) {
                (StagedFeature::Values(staged), PlainColumn::Values(texts)) => staged.texts(texts),
                (StagedFeature::Numbers(staged), PlainColumn::Numbers(numbers)) => staged.numbers(numbers),
                (StagedFeature::Vectors(staged), PlainColumn::Vectors(lengths)) => staged.numbers(as_numbers(&lengths)),
                (StagedFeature::Lists { lengths, values, file }, PlainColumn::Lists { lengths: of_rows, values: all }) => {
                    write(file, values.texts(all))?;
                    lengths.numbers(as_numbers(&of_rows))
                }
                _ => {
                    let name = feature.spec.name();
                    return Err(PipelineError::Data(format!(
                        "feature `{name}`: its column has another form than in the rows before; please report this as a bug"
                    )));
                }
            });
        }
        write(file, columns)
    }
}

fn as_numbers(lengths: &Int64Array) -> Float64Array {
    lengths.iter().map(|length| length.map(|length| length as f64)).collect()
}

fn write(file: &mut StagedTable, columns: impl IntoIterator<Item = (String, ArrayRef)>) -> Result<(), PipelineError> {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns);
    file.write(&batch.map_err(|e| PipelineError::Data(format!("stage rows for a profile: {e}")))?)
}

/// Interactions, staged.
pub struct StagedEvents {
    file: StagedTable,
    /// All rows.
    pub rows: u64,
    /// Those left out.
    pub unusable: Unusable,
    /// When they were.
    pub times: Option<Times>,
}

impl StagedEvents {
    /// Reads the interactions table, with ids of the kinds that the other tables have.
    ///
    /// # Errors
    /// Any table error; times that count in unlike units; [`PipelineError::Data`] where no row can be used.
    pub fn read(settings: &Settings, dir: &Path, users: IdKind, items: IdKind) -> Result<Self, PipelineError> {
        let spec = &settings.config.tables.interactions;
        let columns = [Some(&spec.user), Some(&spec.item), spec.times.timestamp.as_ref()];
        let columns: Vec<String> = columns.into_iter().flatten().cloned().collect();
        let table = Table::open(INTERACTIONS, &spec.source)?;
        columns.iter().try_for_each(|column| table.column(column).map(drop))?;
        let table = table.leniently();
        let total = table.require_rows()?;
        let mut file = StagedTable::beside(&dir.join(INTERACTIONS))?;
        let mut times = EventTimes::open(&table, &spec.times)?;
        let mut unusable = Unusable::default();
        let mut bar = settings.progress.bar("read events", total, "rows");
        for batch in read_batches(STAGE, &table, &columns, 0..total, &settings.cancel)? {
            let batch = batch?;
            bar.advance(batch.batch.num_rows() as u64);
            let (good, bad) = sift(&batch, &spec.user, |rows| {
                let ids = |column: &str, kind| readable_ids(rows, column, kind);
                Ok((ids(&spec.user, users)?, ids(&spec.item, items)?, times.read(rows)?))
            })?;
            unusable.add(&bad);
            for (rows, (users, items, at)) in good {
                times.add(rows.first_row, at.values());
                write(&mut file, [(Side::User.to_string(), hashed(&users)), (Side::Item.to_string(), hashed(&items))])?;
            }
        }
        if unusable.rows == total {
            return Err(none_usable(table.name(), total, &unusable));
        }
        file.finish()?;
        let (_, span) = times.finish()?;
        let times = span.map(|span| Times { first: span.first, last: span.last, unit: span.unit });
        Ok(Self { file, rows: total, unusable, times })
    }

    /// Where the ids of a side stand.
    pub fn keys(&self, side: Side) -> Keys<'_> {
        let column = match side {
            Side::User => "user",
            Side::Item => "item",
        };
        Keys { path: self.file.path(), column, partition: column }
    }

    /// Rows that are staged.
    pub fn usable(&self) -> u64 {
        self.rows - self.unusable.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sketches_count_few_exactly_and_many_nearly() {
        let estimate = |distinct: i64| {
            let mut sketch = Sketch::default();
            (0..3 * distinct).for_each(|i| sketch.add(hash_int(i % distinct)));
            sketch.estimate()
        };
        assert_eq!((Sketch::default().estimate(), estimate(1), estimate(1000)), (0, 1, 1000));
        let many = estimate(200_000);
        assert!((160_000..240_000).contains(&many), "{many}");
    }

    #[test]
    fn sums_keep_what_additions_lose() {
        let mut sum = Sum::default();
        assert_eq!(sum.mean(), 0.0);
        [1e100, 1.0, -1e100, 2.0].into_iter().for_each(|x| sum.add(x));
        assert_eq!(sum.mean(), 0.75);
    }
}
