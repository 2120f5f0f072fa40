//! The quarantine: rows that cannot be used are written down, with reason and place, and left out by every stage.

use crate::error::PipelineError;
use crate::rows::bad_rows::{BadRow, split_around};
use crate::run::dir::{RunDir, remove_if_there};
use crate::run::files::encoders as files;
use crate::run::manifests::require;
use crate::run::names::rows;
use crate::run::names::tables::{self, INTERACTIONS, ITEMS, USERS};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use twotower_artifacts::publish::Staged;
use twotower_artifacts::{ArtifactError, FileEntry, Fingerprint, Manifest, Side, open_regular};
use twotower_tables::TableBatch;

/// The tables whose rows may be set aside, which count their rows under their own names, and the names of the counts of
/// bad rows.
pub const BAD_ROWS: [(&str, &str); 3] = [
    (USERS, rows::USERS_QUARANTINED),
    (ITEMS, rows::ITEMS_QUARANTINED),
    (INTERACTIONS, rows::INTERACTIONS_QUARANTINED),
];
/// Bad rows that an error names.
const NAMED: usize = 3;

/// How many rows of a table of `rows` rows may be bad.
fn allowed(rows: u64, max_bad_rows: f64) -> u64 {
    (rows as f64 * max_bad_rows) as u64
}

/// Whether the tables that a manifest of `encode-features` counts have no more bad rows than the job allows.
pub fn within_limit(manifest: &Manifest, max_bad_rows: f64) -> bool {
    let count = |name: &str| manifest.rows.get(name).copied().unwrap_or_default();
    BAD_ROWS.iter().all(|(table, bad)| count(bad) <= allowed(count(table), max_bad_rows))
}

/// Writes bad rows down as they are found.
pub struct QuarantineWriter<'a> {
    dir: &'a Path,
    max_bad_rows: f64,
    file: Option<BufWriter<Staged>>,
    /// Bad rows by table.
    counts: BTreeMap<String, u64>,
    /// The first bad rows of the table that is being read.
    first: Vec<BadRow>,
    /// Bad rows of the tables of users and of items.
    rows: BTreeMap<Side, Vec<u64>>,
}

impl<'a> QuarantineWriter<'a> {
    /// A quarantine without rows, in the encoder folder `dir`.
    pub fn new(dir: &'a Path, max_bad_rows: f64) -> Self {
        Self { dir, max_bad_rows, file: None, counts: BTreeMap::new(), first: Vec::new(), rows: BTreeMap::new() }
    }

    /// Adds bad rows of a table of `rows` rows.
    ///
    /// # Errors
    /// [`PipelineError::Data`] when the table has more bad rows than the job allows, naming the first; I/O.
    pub fn add(&mut self, rows: u64, bad: Vec<BadRow>) -> Result<(), PipelineError> {
        for bad in bad {
            let count = self.count(&bad.table) + 1;
            self.counts.insert(bad.table.clone(), count);
            self.first.retain(|first| first.table == bad.table);
            if self.first.len() < NAMED {
                self.first.push(bad.clone());
            }
            // Reading ends as soon as there are too many, and as many as the error names.
            if count > allowed(rows, self.max_bad_rows) && self.first.len() == NAMED {
                return Err(self.refuse(&bad.table, rows));
            }
            if let Some(side) = [Side::User, Side::Item].into_iter().find(|side| bad.table == tables::of(*side)) {
                self.rows.entry(side).or_default().push(bad.row);
            }
            let path = self.dir.join(files::QUARANTINE);
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(BufWriter::new(Staged::create(&path)?)),
            };
            serde_json::to_writer(&mut *file, &bad)
                .map_err(std::io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(PipelineError::io("write", path))?;
        }
        Ok(())
    }

    /// Says that a table of `rows` rows has been read through.
    ///
    /// # Errors
    /// As [`QuarantineWriter::add`], for a table with too many bad rows, but fewer than that error names.
    pub fn end(&self, table: &str, rows: u64) -> Result<(), PipelineError> {
        match self.count(table) > allowed(rows, self.max_bad_rows) {
            true => Err(self.refuse(table, rows)),
            false => Ok(()),
        }
    }

    fn refuse(&self, table: &str, rows: u64) -> PipelineError {
        let named: Vec<String> = self.first.iter().map(BadRow::to_string).collect();
        let (count, share) = (self.count(table), self.max_bad_rows);
        PipelineError::Data(format!(
            "{table}: {count} bad rows so far, more than `encode.max_bad_rows` = {share} of {rows} rows: {}; mend the table, or raise `encode.max_bad_rows` to set more rows aside",
            named.join("; ")
        ))
    }

    /// Bad rows of a table so far.
    pub fn count(&self, table: &str) -> u64 {
        self.counts.get(table).copied().unwrap_or_default()
    }

    /// Bad rows of a side's table so far.
    pub fn of(&self, side: Side) -> Quarantine {
        Quarantine::new(self.rows.get(&side).cloned().unwrap_or_default())
    }

    /// Publishes the file, or removes an earlier one where no row is bad.
    ///
    /// # Errors
    /// I/O.
    pub fn publish(self) -> Result<Option<FileEntry>, PipelineError> {
        let path = self.dir.join(files::QUARANTINE);
        let Some(file) = self.file else {
            remove_if_there(&path)?;
            return Ok(None);
        };
        file.into_inner().map_err(|e| PipelineError::io("write", &path)(e.into_error()))?.commit()?;
        Ok(Some(FileEntry::of_file(self.dir, files::QUARANTINE, self.counts.values().sum())?))
    }
}

/// The rows of a table of users, or of items, that are left out.
#[derive(Debug, Clone, Default)]
pub struct Quarantine {
    /// Ascending.
    rows: Arc<[u64]>,
}

impl Quarantine {
    fn new(mut rows: Vec<u64>) -> Self {
        rows.sort_unstable();
        Self { rows: rows.into() }
    }

    /// The rows of a side's table that the encoder folder `dir` with that manifest leaves out.
    ///
    /// # Errors
    /// A file that is not the one of the manifest, or that has another number of rows than it says.
    pub fn load(dir: &Path, manifest: &Manifest, side: Side) -> Result<Self, PipelineError> {
        let Some(entry) = manifest.files.iter().find(|file| file.path == files::QUARANTINE) else {
            return Ok(Self::default());
        };
        entry.verify(dir)?;
        let path = dir.join(files::QUARANTINE);
        let corrupt = |reason: String| ArtifactError::Corrupt { path: path.clone(), reason };
        let (table, mut rows) = (tables::of(side), Vec::new());
        let file = open_regular(&path)?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(PipelineError::io("read", &path))?;
            let bad: BadRow = serde_json::from_str(&line).map_err(|e| corrupt(format!("not a bad row: {e}")))?;
            if bad.table == table {
                rows.push(bad.row);
            }
        }
        let counted = BAD_ROWS.iter().find(|(of, _)| *of == table).and_then(|(_, name)| manifest.rows.get(*name));
        let said = counted.copied().unwrap_or_default();
        if rows.len() as u64 != said {
            return Err(corrupt(format!("{} rows of {table}, its manifest says {said}", rows.len())).into());
        }
        Ok(Self::new(rows))
    }

    /// The users that vectors were made without, which must be those with the fingerprint `expected`.
    ///
    /// # Errors
    /// As [`Quarantine::load`]; [`ArtifactError::Mismatch`] when the run has set other rows aside since.
    pub fn of_vectors(stage: &'static str, run: &RunDir, expected: &Fingerprint) -> Result<Self, PipelineError> {
        let dir = run.encoders();
        let manifest = require(stage, &dir.join(files::MANIFEST), "twotower encode-features")?;
        let found = Self::load(&dir, &manifest, Side::User)?;
        match found.fingerprint() {
            Some(fingerprint) if fingerprint == *expected => Ok(found),
            other => Err(ArtifactError::Mismatch {
                what: dir.join(files::QUARANTINE).display().to_string(),
                expected_from: "user vectors, made without the rows with fingerprint".into(),
                expected: expected.to_string(),
                found_from: "rows with fingerprint".into(),
                found: other.map_or("none".into(), |f| f.to_string()),
                advice: "run `twotower infer --side user` again".into(),
            }
            .into()),
        }
    }

    /// Fingerprint of the rows that are left out; none where none are.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let bytes = || self.rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>();
        (!self.rows.is_empty()).then(|| Fingerprint::of(&bytes()))
    }

    /// The rows of a range that are not left out.
    pub fn rows_left(&self, range: Range<u64>) -> impl Iterator<Item = u64> + Send + use<> {
        let (rows, mut next) = (self.rows.clone(), self.rows.partition_point(|row| *row < range.start));
        range.filter(move |row| {
            let out = rows.get(next) == Some(row);
            next += usize::from(out);
            !out
        })
    }

    /// How many rows of a range are left out.
    pub fn within(&self, range: &Range<u64>) -> u64 {
        let before = |row: u64| self.rows.partition_point(|r| *r < row);
        before(range.end).saturating_sub(before(range.start)) as u64
    }

    /// Checks that a result has all rows of a range but those left out, and returns how many are left out.
    ///
    /// # Errors
    /// [`PipelineError::Data`]: the table has changed since it was counted.
    pub fn account(&self, range: &Range<u64>, written: u64) -> Result<u64, PipelineError> {
        let (quarantined, counted) = (self.within(range), range.end - range.start);
        if written + quarantined == counted {
            return Ok(quarantined);
        }
        Err(PipelineError::Data(format!(
            "{written} rows were read and {quarantined} left out, {counted} were counted; the table changed meanwhile, run the command again"
        )))
    }

    /// The rows that are not left out, in batches that have their place in the table.
    ///
    /// # Errors
    /// Those of `batches`; [`PipelineError::Data`] for a row that cannot be read although it is not left out.
    pub fn filter<E: Into<PipelineError>, B: Iterator<Item = Result<TableBatch, E>>>(
        &self,
        batches: B,
    ) -> impl Iterator<Item = Result<TableBatch, PipelineError>> + use<E, B> {
        let quarantine = self.clone();
        batches.flat_map(move |batch| {
            let good = batch.map_err(Into::into).and_then(|batch| quarantine.good(batch));
            let (batches, error) = match good {
                Ok(batches) => (batches, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            batches.into_iter().map(Ok).chain(error.map(Err))
        })
    }

    fn good(&self, batch: TableBatch) -> Result<Vec<TableBatch>, PipelineError> {
        let (first, end) = (batch.first_row, batch.first_row + batch.batch.num_rows() as u64);
        let from = self.rows.partition_point(|row| *row < first);
        let to = self.rows.partition_point(|row| *row < end);
        let bad = &self.rows[from..to];
        let unknown = batch.rejected.iter().find(|(row, _)| bad.binary_search(&(first + *row as u64)).is_err());
        if let Some((row, reason)) = unknown {
            return Err(PipelineError::Data(format!(
                "table `{}`: row {}: {reason}; `encode-features` could read it, so the table has changed: run the command again",
                batch.table(),
                first + *row as u64
            )));
        }
        if bad.is_empty() {
            return Ok(vec![batch]);
        }
        Ok(split_around(&batch, bad.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::bad_rows::{readable_ids, sift};
    use twotower_artifacts::IdKind;
    use twotower_tables::{ReadOptions, Table, TableSpec};

    /// One batch of a users table of `count` rows. Its `bad` rows have one field too few.
    fn batch(dir: &Path, count: u64, bad: &[u64]) -> TableBatch {
        let path = dir.join("users.csv");
        let row = |row: u64| if bad.contains(&row) { format!("{row}\n") } else { format!("{row},x\n") };
        std::fs::write(&path, "id,name\n".to_string() + &(0..count).map(row).collect::<String>()).unwrap();
        let table = Table::open(USERS, &TableSpec::new(path.to_str().unwrap())).unwrap().leniently();
        let read = ReadOptions { columns: &["id".into(), "name".into()], rows: 0..count, batch_rows: count as usize };
        table.read(read).unwrap().next().unwrap().unwrap()
    }

    /// First row and end of a batch.
    type Place = (u64, u64);

    fn places(batches: &[TableBatch]) -> Vec<Place> {
        batches.iter().map(|b| (b.first_row, b.first_row + b.batch.num_rows() as u64)).collect()
    }

    #[test]
    fn good_rows_keep_their_places() {
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(dir.path(), 3000, &[]);
        let cases: [(&[u64], &[Place]); 4] = [
            (&[], &[(0, 3000)]),
            (&[0], &[(1, 3000)]),
            (&[1500, 1501], &[(0, 1500), (1502, 3000)]),
            (&[2, 2999], &[(0, 2), (3, 2999)]),
        ];
        for (bad, expected) in cases {
            assert_eq!(places(&split_around(&batch, bad.iter().copied())), expected, "{bad:?}");
        }
        let all = batch.slice(0..2);
        assert!(split_around(&all, [0, 1]).is_empty());
        // Rows of a batch that does not begin the table.
        let later = batch.slice(1490..1510);
        assert_eq!(places(&split_around(&later, [1500, 1501])), [(1490, 1500), (1502, 1510)]);
    }

    #[test]
    fn a_quarantine_counts_its_rows_in_a_range_and_refuses_a_sum_that_is_not_the_tables() {
        let quarantine = Quarantine::new(vec![9, 3, 5]);
        assert_eq!([0..3, 3..4, 3..9, 0..10, 10..20].map(|range| quarantine.within(&range)), [0, 1, 2, 3, 0]);
        assert_eq!(quarantine.account(&(3..10), 4).unwrap(), 3);
        for written in [3, 5] {
            let error = quarantine.account(&(3..10), written).unwrap_err().to_string();
            assert!(error.contains(&format!("{written} rows were read and 3 left out, 7 were counted")), "{error}");
        }
        assert_eq!(Quarantine::new(vec![5, 3, 9]).fingerprint(), quarantine.fingerprint());
        assert_ne!(Quarantine::new(vec![3, 5]).fingerprint(), quarantine.fingerprint());
        assert_eq!(Quarantine::default().fingerprint(), None);
    }

    #[test]
    fn a_row_that_cannot_be_read_and_is_not_in_quarantine_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(dir.path(), 8, &[2, 6]);
        let read = |bad: Vec<u64>| {
            let batches = std::iter::once(Ok::<_, PipelineError>(batch.clone()));
            Quarantine::new(bad).filter(batches).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(places(&read(vec![2, 6]).unwrap()), [(0, 2), (3, 6), (7, 8)]);
        let error = read(vec![2]).unwrap_err().to_string();
        assert!(error.contains("row 6") && error.contains("the table has changed"), "{error}");
    }

    #[test]
    fn bad_rows_are_found_one_by_one_and_what_is_wrong_with_all_of_them_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let batch = batch(dir.path(), 8, &[2]);
        let ids = |rows: &TableBatch| readable_ids(rows, "id", IdKind::Int).map(drop);
        let no_fives =
            |rows: &TableBatch| match (rows.first_row..rows.first_row + rows.batch.num_rows() as u64).contains(&5) {
                true => Err(PipelineError::Data("a five".into())),
                false => ids(rows),
            };
        let (good, found) = sift(&batch, "id", no_fives).unwrap();
        let good: Vec<TableBatch> = good.into_iter().map(|(rows, ())| rows).collect();
        assert_eq!(places(&good), [(0, 2), (3, 5), (6, 8)]);
        let found: Vec<_> = found.iter().map(|bad| (bad.row, bad.id.as_deref(), bad.reason.as_str())).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].0 == 2 && found[0].1.is_none() && found[0].2.contains("line 4"), "{found:?}");
        assert_eq!(found[1], (5, Some("5"), "a five"));
        let (_, all) = sift(&batch, "id", |rows| readable_ids(rows, "name", IdKind::Int)).unwrap();
        assert_eq!(all.len(), 8);
        // No row is to blame for a column that is not there, nor for what is wrong with rows together.
        assert!(sift(&batch, "id", |rows| readable_ids(rows, "none", IdKind::Int)).is_err());
        let together = |rows: &TableBatch| match rows.batch.num_rows() {
            5 => Err(PipelineError::Data("five rows".into())),
            _ => Ok(()),
        };
        let error = sift(&batch.slice(3..8), "id", together).unwrap_err().to_string();
        assert!(error.contains("five rows"), "{error}");
    }

    #[test]
    fn bad_rows_up_to_the_share_are_written_down_and_more_stop_the_run_with_the_first_named() {
        let dir = tempfile::tempdir().unwrap();
        let rows = batch(dir.path(), 8, &[]);
        let bad = |row: usize| BadRow::new(&rows, row, "id", &"é".repeat(1000));
        let mut writer = QuarantineWriter::new(dir.path(), 0.25);
        writer.add(8, vec![bad(7), bad(1)]).unwrap();
        writer.end(USERS, 8).unwrap();
        assert_eq!((writer.count(USERS), writer.of(Side::User).rows.to_vec()), (2, vec![1, 7]));
        // A third is more than a quarter of 8, and enough for the error to name.
        let error = writer.add(8, vec![bad(2)]).unwrap_err().to_string();
        assert!(
            error.contains("users: 3 bad rows")
                && error.contains("row 7 (line 9 of")
                && error.contains("row 2 (line 4 of"),
            "{error}"
        );
        let mut few = QuarantineWriter::new(dir.path(), 0.0);
        few.add(8, vec![bad(4)]).unwrap();
        let error = few.end(USERS, 8).unwrap_err().to_string();
        assert!(error.contains("1 bad rows") && error.contains("row 4"), "{error}");
        drop(few);
        assert!(!dir.path().join(files::QUARANTINE).exists(), "nothing is published by a writer that was dropped");
        let entry = {
            let mut kept = QuarantineWriter::new(dir.path(), 0.25);
            kept.add(8, vec![bad(7)]).unwrap();
            kept.publish().unwrap()
        };
        assert_eq!(entry.unwrap().rows, 1);
        let line = std::fs::read_to_string(dir.path().join(files::QUARANTINE)).unwrap();
        let read: BadRow = serde_json::from_str(line.trim()).unwrap();
        assert_eq!((read.row, read.reason.chars().count()), (7, SHOWN_REASON_WITH_MARK));
        assert!(QuarantineWriter::new(dir.path(), 0.25).publish().unwrap().is_none());
        assert!(!dir.path().join(files::QUARANTINE).exists(), "no row is bad any more");
    }

    /// Characters of a reason that was cut, with the mark of it.
    const SHOWN_REASON_WITH_MARK: usize = 401;
}
