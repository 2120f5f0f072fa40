//! Reads files of neighbours back: whole, or only their edges, that is the number of rows and the first and last user.

use crate::error::ArtifactError;
use crate::ids::Ids;
use crate::neighbours::{LISTS, LONG, NeighbourFormat, NeighboursInfo};
use crate::parquet_file::ParquetSource;
use crate::publish::io_error;
use crate::regular::open_regular;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{Array, ListArray};
use arrow_schema::DataType;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Neighbour lists read back: a user and its items, best first.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighbourTable {
    /// Users in file order.
    pub users: Ids,
    /// `[users + 1]`.
    pub offsets: Vec<usize>,
    /// Item ids of all lists.
    pub items: Ids,
    /// Cosine similarities of all lists.
    pub scores: Vec<f32>,
}

impl NeighbourTable {
    pub(crate) fn new(info: &NeighboursInfo) -> Self {
        Self { users: Ids::new(info.users), offsets: vec![0], items: Ids::new(info.items), scores: Vec::new() }
    }

    /// A table of no users, for ids of the same kinds.
    pub(crate) fn empty_like(&self) -> Self {
        let (users, items) = (Ids::new(self.users.kind()), Ids::new(self.items.kind()));
        Self { users, offsets: vec![0], items, scores: Vec::new() }
    }

    /// Appends the first user of another table, which has one, with his list.
    pub(crate) fn extend_first(&mut self, other: &Self) {
        let pairs = other.offsets[0]..other.offsets[1];
        self.users.extend_from(&other.users, 0..1);
        self.items.extend_from(&other.items, pairs.clone());
        self.scores.extend_from_slice(&other.scores[pairs]);
        self.offsets.push(self.scores.len());
    }

    /// Appends the users of another table, and of each list the first `best` items.
    pub(crate) fn extend_best(&mut self, other: &Self, best: usize) {
        self.users.extend_from(&other.users, 0..other.users.len());
        for ends in other.offsets.windows(2) {
            let pairs = ends[0]..ends[1].min(ends[0].saturating_add(best));
            self.items.extend_from(&other.items, pairs.clone());
            self.scores.extend_from_slice(&other.scores[pairs]);
            self.offsets.push(self.scores.len());
        }
    }
}

/// Streams a [`NeighbourFormat::Parquet`] file in batches of `batch_users`. Where lists are long, row groups hold few
/// users; batches are then at most an eighth of a row group, or 8 users if that is more.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Corrupt`] or [`ArtifactError::Version`], on
/// opening and from the stream.
pub fn read_lists(
    path: impl AsRef<Path>,
    batch_users: usize,
) -> Result<impl Iterator<Item = Result<NeighbourTable, ArtifactError>>, ArtifactError> {
    read_list_rows(path, 0..u64::MAX, batch_users)
}

/// As [`read_lists`], of some rows of the file.
///
/// # Errors
/// As [`read_lists`].
pub fn read_list_rows(
    path: impl AsRef<Path>,
    rows: std::ops::Range<u64>,
    batch_users: usize,
) -> Result<impl Iterator<Item = Result<NeighbourTable, ArtifactError>>, ArtifactError> {
    ListFile::open(path.as_ref())?.rows(rows, batch_users)
}

/// A [`NeighbourFormat::Parquet`] file, open to be read.
#[derive(Debug)]
pub(crate) struct ListFile {
    pub(crate) source: ParquetSource,
    info: NeighboursInfo,
}

impl ListFile {
    /// Opens a file and looks at its columns.
    ///
    /// # Errors
    /// As [`read_lists`].
    pub(crate) fn open(path: &Path) -> Result<Self, ArtifactError> {
        let source = ParquetSource::open(path)?;
        let info: NeighboursInfo = source.details(LISTS)?;
        let [_, items, _] = info.of.columns();
        let is_list = |i: usize, name: &str| {
            let field = source.schema().fields().get(i);
            field.is_some_and(|f| f.name() == name && matches!(f.data_type(), DataType::List(_)))
        };
        if !is_list(1, items) || !is_list(2, "cosine_similarity") {
            return Err(source.corrupt(format!("expected an id, `{items}` and `cosine_similarity`")));
        }
        Ok(Self { source, info })
    }

    /// The same file, which another thread can read at the same time.
    pub(crate) fn apart(&self) -> Result<Self, ArtifactError> {
        Ok(Self { source: self.source.apart()?, info: self.info.clone() })
    }

    /// Streams some rows in batches of `batch_users`, as [`read_lists`] does.
    ///
    /// # Errors
    /// As [`read_lists`].
    pub(crate) fn rows(
        &self,
        rows: std::ops::Range<u64>,
        batch_users: usize,
    ) -> Result<impl Iterator<Item = Result<NeighbourTable, ArtifactError>> + use<>, ArtifactError> {
        let Self { source, info } = self;
        let (path, info) = (source.path().to_path_buf(), info.clone());
        let batch_users = batch_users.min((source.largest_group() / 8).max(8));
        let batches = source.batches(rows, batch_users)?;
        Ok(batches.map(move |batch| {
            let batch = batch?;
            let corrupt = |reason: &str| ArtifactError::Corrupt { path: path.clone(), reason: reason.to_string() };
            let mut table = NeighbourTable::new(&info);
            let (items, scores) = (batch.column(1).as_list::<i32>(), batch.column(2).as_list::<i32>());
            let lengths =
                |list: &ListArray| list.offsets().windows(2).map(|w| (w[1] - w[0]) as usize).collect::<Vec<_>>();
            if lengths(items) != lengths(scores) {
                return Err(corrupt("`item_ids` and `cosine_similarity` have lists of unlike lengths"));
            }
            for length in lengths(items) {
                table.offsets.push(table.offsets[table.offsets.len() - 1] + length);
            }
            let total = table.offsets[table.offsets.len() - 1];
            let slice = |list: &ListArray| list.values().slice(list.offsets()[0] as usize, total);
            let floats = slice(scores);
            let floats = floats
                .as_primitive_opt::<Float32Type>()
                .filter(|f| f.null_count() == 0)
                .ok_or_else(|| corrupt("`cosine_similarity` is not a list of 32-bit floats"))?;
            table.scores.extend_from_slice(floats.values());
            table.users.extend_from_array(batch.column(0)).map_err(|e| e.in_file(&path, "user_id"))?;
            table.items.extend_from_array(&slice(items)).map_err(|e| e.in_file(&path, "item_ids"))?;
            Ok(table)
        }))
    }
}

/// What a [`NeighbourFormat::Parquet`] file says of its lists.
///
/// # Errors
/// As [`read_lists`].
pub fn lists_info(path: impl AsRef<Path>) -> Result<NeighboursInfo, ArtifactError> {
    ParquetSource::open(path.as_ref())?.details(LISTS)
}

/// Loads a [`NeighbourFormat::ParquetLong`] file. It holds no users without neighbours.
///
/// # Errors
/// As [`read_lists`]; ranks must run 1, 2, 3, … per user.
pub fn load_long(path: impl AsRef<Path>) -> Result<NeighbourTable, ArtifactError> {
    let path = path.as_ref();
    let source = ParquetSource::open(path)?;
    let info: NeighboursInfo = source.details(LONG)?;
    let mut table = NeighbourTable::new(&info);
    for batch in source.batches(0..u64::MAX, 8192)? {
        let batch = batch?;
        let [user, rank, item, score, ..] = batch.columns() else {
            return Err(source.corrupt("expected at least four columns"));
        };
        let (Some(rank), Some(score)) =
            (rank.as_primitive_opt::<UInt32Type>(), score.as_primitive_opt::<Float32Type>())
        else {
            return Err(source.corrupt("expected `rank` as UInt32 and `cosine_similarity` as Float32"));
        };
        let mut users = Ids::new(info.users);
        users.extend_from_array(user).map_err(|e| e.in_file(path, "user_id"))?;
        for (row, &rank) in rank.values().iter().enumerate() {
            if rank == 1 {
                table.users.push(users.get(row));
                table.offsets.push(table.offsets[table.offsets.len() - 1]);
            }
            let listed = table.users.len();
            let length = table.offsets[listed] - table.offsets[listed.saturating_sub(1)];
            if listed == 0 || table.users.get(listed - 1) != users.get(row) || length + 1 != rank as usize {
                return Err(source.corrupt(format!("rank {rank} of user `{}` is out of order", users.get(row))));
            }
            table.offsets[listed] += 1;
        }
        table.items.extend_from_array(item).map_err(|e| e.in_file(path, "item_id"))?;
        table.scores.extend_from_slice(score.values());
    }
    Ok(table)
}

/// The edges of a file of neighbours; see [`inspect_neighbours`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourEdges {
    /// Rows: users, or pairs in [`NeighbourFormat::ParquetLong`].
    pub rows: u64,
    /// User of the first row, as text.
    pub first: Option<String>,
    /// User of the last row, as text.
    pub last: Option<String>,
}

/// Counts the rows of a file that a sink wrote, and reads the users of its first and last row.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Version`], and [`ArtifactError::Corrupt`] for
/// rows that are not of this format.
pub fn inspect_neighbours(path: impl AsRef<Path>, format: NeighbourFormat) -> Result<NeighbourEdges, ArtifactError> {
    let path = path.as_ref();
    let artifact = match format {
        NeighbourFormat::Parquet => LISTS,
        NeighbourFormat::ParquetLong => LONG,
        NeighbourFormat::Jsonl => return inspect_lines(path),
    };
    let source = ParquetSource::open(path)?;
    let _: NeighboursInfo = source.details(artifact)?;
    let rows = source.rows();
    let user = |row: u64| -> Result<Option<String>, ArtifactError> {
        let Some(batch) = source.batches(row..row + 1, 1)?.next().transpose()? else { return Ok(None) };
        let column = batch.columns().first().ok_or_else(|| source.corrupt("no columns"))?;
        let ids = Ids::from_array(column.as_ref()).map_err(|e| e.in_file(path, "user_id"))?;
        Ok(ids.iter().next().map(|id| id.to_string()))
    };
    let last = rows.checked_sub(1).map_or(Ok(None), user)?;
    Ok(NeighbourEdges { rows, first: if rows > 0 { user(0)? } else { None }, last })
}

/// [`inspect_neighbours`] for JSON Lines. It reads the whole file, and holds a line in memory at a time.
fn inspect_lines(path: &Path) -> Result<NeighbourEdges, ArtifactError> {
    let corrupt = |row: u64, reason: &str| ArtifactError::Corrupt {
        path: path.to_path_buf(),
        reason: format!("line {}: {reason}", row + 1),
    };
    let user = |row: u64, line: &str| -> Result<Option<String>, ArtifactError> {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| corrupt(row, &e.to_string()))?;
        match &value["user_id"] {
            serde_json::Value::String(id) => Ok(Some(id.clone())),
            serde_json::Value::Number(id) => Ok(Some(id.to_string())),
            _ => Err(corrupt(row, "no `user_id`")),
        }
    };
    let mut lines = BufReader::new(open_regular(path)?);
    let (mut rows, mut first, mut line, mut next) = (0, None, String::new(), String::new());
    while lines.read_line(&mut next).map_err(io_error("read", path))? > 0 {
        std::mem::swap(&mut line, &mut next);
        next.clear();
        if rows == 0 {
            first = user(0, &line)?;
        }
        rows += 1;
    }
    let last = if rows > 0 { user(rows - 1, &line)? } else { None };
    Ok(NeighbourEdges { rows, first, last })
}
