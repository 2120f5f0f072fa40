//! Counts values, numbers, events of users and items, and segments.
//!
//! Keys are counted in passes. Each row has a partition, a number that is the same for equal keys. A pass takes the
//! rows whose partition leaves one remainder. So only a share of the distinct keys is in memory at a time, however many
//! there are.

use crate::QueryError;
use crate::query::Query;
use polars::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// The number of percentiles of a distribution, from the 0th to the 100th.
pub const PERCENTILES: usize = 101;

/// A pass over the keys whose partition leaves the remainder `index` when it is divided by `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    index: u32,
    of: u32,
}

impl Pass {
    /// All `of` passes, but at least one. Every key is in exactly one of them.
    pub fn all(of: u32) -> impl ExactSizeIterator<Item = Pass> {
        let of = of.max(1);
        (0..of).map(move |index| Pass { index, of })
    }

    /// Whether keys of this partition are in the pass.
    pub fn holds(self, partition: u64) -> bool {
        partition % u64::from(self.of) == u64::from(self.index)
    }

    /// The rows of a frame that are in the pass, given the name of the column of partitions.
    fn of(self, frame: LazyFrame, partition: &str) -> LazyFrame {
        match self.of {
            1 => frame,
            of => {
                let remainder = col(partition).cast(DataType::Int64) % lit(i64::from(of));
                frame.filter(remainder.eq(lit(i64::from(self.index))))
            }
        }
    }
}

/// The keys of a query: a column of a staged file.
#[derive(Debug, Clone, Copy)]
pub struct Keys<'a> {
    /// The staged file.
    pub path: &'a Path,
    /// The column of keys. Rows where it is null are ignored.
    pub column: &'a str,
    /// The column of partitions, which are integers of at least 0. It may be the column of keys, if these are such.
    pub partition: &'a str,
}

impl<'a> Keys<'a> {
    fn query(&self, name: &'static str) -> Query<'a> {
        Query { name, path: self.path }
    }

    /// The keys of a pass that are not null.
    fn scan(&self, query: &Query<'_>, pass: Pass) -> Result<LazyFrame, QueryError> {
        Ok(pass.of(query.scan()?, self.partition).filter(col(self.column).is_not_null()))
    }

    /// The number of distinct keys of a pass.
    ///
    /// # Errors
    /// [`QueryError`] when polars cannot read the file.
    pub fn distinct(&self, pass: Pass) -> Result<u64, QueryError> {
        let query = self.query("count the distinct values");
        let keys = self.scan(&query, pass)?.group_by([col(self.column)]).agg([len().alias("n")]);
        let counted = query.collect(keys.select([len().cast(DataType::Int64).alias("distinct")]))?;
        Ok(query.counts(&counted, "distinct")?.first().copied().unwrap_or(0))
    }

    /// Counts the texts of a pass, and lists the `top` most frequent. With `known`, it also counts the rows whose text
    /// is not one of these; those of other passes may be left out of them.
    ///
    /// # Errors
    /// [`QueryError`] when polars cannot read the file.
    pub fn texts<'v>(
        &self,
        pass: Pass,
        top: usize,
        known: Option<impl Iterator<Item = &'v str>>,
    ) -> Result<TextCounts, QueryError> {
        let query = self.query("count the values");
        let grouped = self.scan(&query, pass)?.group_by([col(self.column).alias("value")]);
        let grouped = query.collect(grouped.agg([len().cast(DataType::Int64).alias("n")]))?;
        let order = SortMultipleOptions::default().with_order_descending_multi([true, false]);
        let listed = query.collect(grouped.clone().lazy().sort(["n", "value"], order).slice(0, top as IdxSize))?;
        let texts = listed.column("value").and_then(|column| column.str()).map_err(|e| query.error(e))?;
        let texts: Vec<String> = texts.iter().flatten().map(str::to_string).collect();
        let unknown = known.map(|known| {
            let mut texts = StringChunkedBuilder::new("value".into(), 0);
            known.for_each(|text| texts.append_value(text));
            let known = DataFrame::new_infer_height(vec![texts.finish().into_column()]).map_err(|e| query.error(e))?;
            let strangers = grouped.clone().lazy().anti_join(known.lazy(), col("value"), col("value"));
            let counted = query.collect(strangers.select([col("n").sum().alias("n")]))?;
            Ok::<_, QueryError>(query.counts(&counted, "n")?.first().copied().unwrap_or(0))
        });
        let rows = query.counts(&grouped, "n")?;
        Ok(TextCounts {
            distinct: rows.len() as u64,
            rows: rows.iter().sum(),
            unknown: unknown.transpose()?,
            top: texts.into_iter().zip(query.counts(&listed, "n")?).collect(),
        })
    }

    /// How many rows each key of a pass has, for all keys and for those that are also in `known`, a column of the same
    /// type.
    ///
    /// # Errors
    /// [`QueryError`] when polars cannot read a file.
    pub fn rows_each(&self, pass: Pass, known: Keys<'_>) -> Result<RowsEach, QueryError> {
        let query = self.query("count the rows of each key");
        let grouped = self.scan(&query, pass)?.group_by([col(self.column).alias("key")]);
        let grouped = query.collect(grouped.agg([len().cast(DataType::Int64).alias("n")]))?;
        let histogram = |frame: LazyFrame| {
            let keys = query.collect(frame.group_by([col("n")]).agg([len().cast(DataType::Int64).alias("keys")]))?;
            Ok::<_, QueryError>(query.counts(&keys, "n")?.into_iter().zip(query.counts(&keys, "keys")?).collect())
        };
        let those = known.query("find the keys that are known");
        let those = known.scan(&those, pass)?.select([col(known.column).alias("key")]);
        let both = grouped.clone().lazy().semi_join(those, col("key"), col("key"));
        Ok(RowsEach { all: histogram(grouped.lazy())?, known: histogram(both)? })
    }

    /// The smallest and the largest number, and percentiles by linear interpolation. Percentiles are those of every
    /// `every`th row. None if there are no numbers.
    ///
    /// # Memory
    /// The numbers of those rows.
    ///
    /// # Errors
    /// [`QueryError`] when polars cannot read the file.
    pub fn spread(&self, every: u64) -> Result<Option<Spread>, QueryError> {
        let query = self.query("sort the numbers");
        let numbers = |frame: LazyFrame| {
            frame.filter(col(self.column).is_not_null()).select([col(self.column).cast(DataType::Float64).alias("x")])
        };
        let ends = numbers(query.scan()?).select([
            len().cast(DataType::Int64).alias("n"),
            col("x").min().fill_null(lit(0.0)).alias("min"),
            col("x").max().fill_null(lit(0.0)).alias("max"),
        ]);
        let ends = query.collect(ends)?;
        let real = |frame: &DataFrame, name: &str| query.column::<f64>(frame, name, |c| c.f64());
        let (min, max) = (real(&ends, "min")?, real(&ends, "max")?);
        let (Some(count), Some(min), Some(max)) =
            (query.counts(&ends, "n")?.first().copied().filter(|n| *n > 0), min.first(), max.first())
        else {
            return Ok(None);
        };
        let frame = match every {
            0 | 1 => query.scan()?,
            every => query.scan_numbered(Some("row"))?.filter(
                (col("row").cast(DataType::Int64) % lit(i64::try_from(every).unwrap_or(i64::MAX))).eq(lit(0i64)),
            ),
        };
        let sorted = query.collect(numbers(frame).sort(["x"], SortMultipleOptions::default()))?;
        let sorted = real(&sorted, "x")?;
        let mut percentiles = percentiles(&sorted);
        if let [first, .., last] = &mut percentiles[..] {
            (*first, *last) = (*min, *max);
        }
        Ok(Some(Spread { count, min: *min, max: *max, percentiles }))
    }
}

/// The 0th to 100th percentile of sorted numbers, by linear interpolation between neighbours. Empty without numbers.
pub fn percentiles(sorted: &[f64]) -> Vec<f64> {
    let Some(last) = sorted.len().checked_sub(1) else { return Vec::new() };
    let at = |percent: usize| {
        let (whole, rest) = (percent * last / 100, percent * last % 100);
        let low = sorted[whole];
        match sorted.get(whole + 1) {
            // The difference is finite, since features read no numbers beyond 1e100.
            Some(high) if rest > 0 && *high > low => low + (high - low) * (rest as f64 / 100.0),
            _ => low,
        }
    };
    (0..PERCENTILES).map(at).collect()
}

/// Counts of the texts of a column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextCounts {
    /// Distinct texts.
    pub distinct: u64,
    /// Rows that have a text.
    pub rows: u64,
    /// Rows whose text is unknown, if the known texts were given.
    pub unknown: Option<u64>,
    /// The most frequent texts with their numbers of rows. Equally frequent ones are in ascending order.
    pub top: Vec<(String, u64)>,
}

impl TextCounts {
    /// Adds the counts of another pass, which has no text in common with this one, and keeps the `top` most frequent.
    pub fn merge(&mut self, other: Self, top: usize) {
        self.distinct += other.distinct;
        self.rows += other.rows;
        self.unknown = self.unknown.or(other.unknown.map(|_| 0)).map(|n| n + other.unknown.unwrap_or(0));
        self.top.extend(other.top);
        self.top.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        self.top.truncate(top);
    }
}

/// Numbers of keys by their number of rows.
pub type Histogram = BTreeMap<u64, u64>;

/// How many rows the keys of a column have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowsEach {
    /// All keys.
    pub all: Histogram,
    /// The known keys.
    pub known: Histogram,
}

/// The distribution of the numbers of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// As of [`percentiles`]. The first and the last are those of all rows.
    pub percentiles: Vec<f64>,
}

/// Counts the users of a pass by their value of a feature, which is none if it is missing, and by their number of
/// events.
///
/// `users` is the column of ids in the users table, `value` the column of values beside it, and `events` the column of
/// users in the events.
///
/// # Errors
/// [`QueryError`] when polars cannot read a file.
pub fn segments(
    users: Keys<'_>,
    value: &str,
    events: Keys<'_>,
    pass: Pass,
) -> Result<BTreeMap<Option<String>, Histogram>, QueryError> {
    let query = users.query("count the events of segments");
    let theirs = events.query("count the events of users");
    let counts = events.scan(&theirs, pass)?.group_by([col(events.column).alias("user")]);
    let counts = counts.agg([len().cast(DataType::Int64).alias("n")]);
    let rows = users.scan(&query, pass)?.select([col(users.column).alias("user"), col(value).alias("value")]);
    let joined = rows.left_join(counts, col("user"), col("user"));
    let joined = joined.select([col("value"), col("n").fill_null(lit(0i64))]);
    let grouped = joined.group_by([col("value"), col("n")]).agg([len().cast(DataType::Int64).alias("users")]);
    let grouped = query.collect(grouped)?;
    let values = grouped.column("value").and_then(|column| column.str()).map_err(|e| query.error(e))?;
    let rows = query.counts(&grouped, "n")?.into_iter().zip(query.counts(&grouped, "users")?);
    let mut segments = BTreeMap::<Option<String>, Histogram>::new();
    for (value, (events, users)) in values.iter().zip(rows) {
        *segments.entry(value.map(str::to_string)).or_default().entry(events).or_default() += users;
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A staged file with these columns. Tests use the number of bytes of a text as its partition.
    fn staged(dir: &Path, name: &str, columns: Vec<Column>) -> PathBuf {
        let path = dir.join(name);
        let mut frame = DataFrame::new_infer_height(columns).unwrap();
        ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
        path
    }

    fn texts(dir: &Path, values: &[Option<&str>]) -> PathBuf {
        let partitions: Vec<Option<i32>> = values.iter().map(|v| v.map(|v| v.len() as i32)).collect();
        let columns = vec![Column::new("v".into(), values.to_vec()), Column::new("p".into(), partitions)];
        staged(dir, "texts", columns)
    }

    fn ids(dir: &Path, name: &str, ids: &[i64]) -> PathBuf {
        staged(dir, name, vec![Column::new("id".into(), ids.to_vec())])
    }

    #[test]
    fn texts_are_counted_alike_in_any_number_of_passes() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [Some("é"), Some("b"), Some("ccc"), None, Some("b"), Some("a"), Some("dddd"), Some("ccc")];
        let path = texts(dir.path(), &rows);
        let keys = Keys { path: &path, column: "v", partition: "p" };
        for passes in [1, 2, 3, 7] {
            let mut counts = TextCounts::default();
            let mut distinct = 0;
            for pass in Pass::all(passes) {
                let known = ["b", "é", "zz"].into_iter().filter(|text| pass.holds(text.len() as u64));
                counts.merge(keys.texts(pass, 3, Some(known)).unwrap(), 3);
                distinct += keys.distinct(pass).unwrap();
            }
            let top = vec![("b".to_string(), 2), ("ccc".to_string(), 2), ("a".to_string(), 1)];
            let expected = TextCounts { distinct: 5, rows: 7, unknown: Some(4), top };
            assert_eq!((counts, distinct), (expected, 5), "{passes} passes");
        }
        let none = keys.texts(Pass { index: 0, of: 1 }, 2, None::<std::iter::Empty<&str>>).unwrap();
        assert_eq!((none.unknown, none.top.len()), (None, 2));
    }

    #[test]
    fn numbers_are_spread_from_the_smallest_to_the_largest() {
        let dir = tempfile::tempdir().unwrap();
        let x: Vec<Option<f64>> = vec![Some(4.0), None, Some(1.0), Some(3.0), Some(2.0), Some(0.0)];
        let n: Vec<Option<i64>> = vec![Some(2), Some(2), Some(2), None, Some(2), Some(2)];
        let none: Vec<Option<f64>> = vec![None; 6];
        let columns = vec![Column::new("x".into(), x), Column::new("n".into(), n), Column::new("none".into(), none)];
        let path = staged(dir.path(), "numbers", columns);
        let keys = |column: &'static str| Keys { path: &path, column, partition: column };
        let spread = keys("x").spread(1).unwrap().unwrap();
        assert_eq!((spread.count, spread.min, spread.max), (5, 0.0, 4.0));
        assert_eq!(spread.percentiles.len(), PERCENTILES);
        for (percent, found) in spread.percentiles.iter().enumerate() {
            assert!((found - percent as f64 / 25.0).abs() < 1e-12, "{percent}%: {found}");
        }
        let constant = keys("n").spread(1).unwrap().unwrap();
        assert_eq!(constant.percentiles, [2.0; PERCENTILES]);
        assert_eq!(keys("none").spread(1).unwrap(), None);
        // Rows 0, 2 and 4: 4, 1 and 2; the ends are those of all rows.
        let sampled = keys("x").spread(2).unwrap().unwrap();
        assert_eq!((sampled.count, sampled.min, sampled.percentiles[0]), (5, 0.0, 0.0));
        assert_eq!((sampled.percentiles[25], sampled.percentiles[50], sampled.percentiles[75]), (1.5, 2.0, 3.0));
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        assert!(percentiles(&[]).is_empty());
        assert_eq!(percentiles(&[7.0]), [7.0; PERCENTILES]);
        let two = percentiles(&[0.0, 10.0]);
        assert_eq!((two[0], two[1], two[50], two[99], two[100]), (0.0, 0.1, 5.0, 9.9, 10.0));
    }

    #[test]
    fn rows_of_keys_are_counted_with_and_without_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let events = ids(dir.path(), "events", &[3, 3, 3, 8, 8, 5, 6, 6]);
        let known = ids(dir.path(), "known", &[3, 5, 6, 7, 7]);
        let keys = |path: &'static str| path;
        let of = |path| Keys { path, column: keys("id"), partition: "id" };
        for passes in [1, 2, 5] {
            let mut sum = RowsEach::default();
            for pass in Pass::all(passes) {
                let each = of(&events).rows_each(pass, of(&known)).unwrap();
                each.all.into_iter().for_each(|(n, keys)| *sum.all.entry(n).or_default() += keys);
                each.known.into_iter().for_each(|(n, keys)| *sum.known.entry(n).or_default() += keys);
            }
            assert_eq!(sum.all, Histogram::from([(1, 1), (2, 2), (3, 1)]), "{passes} passes");
            assert_eq!(sum.known, Histogram::from([(1, 1), (2, 1), (3, 1)]), "{passes} passes");
        }
    }

    #[test]
    fn segments_have_users_with_and_without_events() {
        let dir = tempfile::tempdir().unwrap();
        let values = [Some("a"), Some("a"), Some("b"), None, Some("b")];
        let columns = vec![Column::new("id".into(), vec![1i64, 2, 3, 4, 5]), Column::new("v".into(), values.to_vec())];
        let users = staged(dir.path(), "users", columns);
        let events = ids(dir.path(), "events", &[1, 1, 3, 4, 4, 4, 99]);
        let of = |path| Keys { path, column: "id", partition: "id" };
        for passes in [1, 3] {
            let mut sum = BTreeMap::<Option<String>, Histogram>::new();
            for pass in Pass::all(passes) {
                for (value, histogram) in segments(of(&users), "v", of(&events), pass).unwrap() {
                    let sum = sum.entry(value).or_default();
                    histogram.into_iter().for_each(|(n, users)| *sum.entry(n).or_default() += users);
                }
            }
            let expected = [
                (None, Histogram::from([(3, 1)])),
                (Some("a".to_string()), Histogram::from([(0, 1), (2, 1)])),
                (Some("b".to_string()), Histogram::from([(0, 1), (1, 1)])),
            ];
            assert_eq!(sum, BTreeMap::from(expected), "{passes} passes");
        }
    }
}
