//! Neighbour sinks: where `recall` writes each user's items.
//!
//! A sink publishes its file in [`NeighbourSink::finish`]. If it is dropped before, no file of that name appears.

use crate::blocks::BlockWriter;
use crate::error::ArtifactError;
use crate::ids::{IdKind, Ids};
use crate::list_room::{CHUNK_PAIRS, CHUNK_TEXT, GROUP_BYTES, GROUP_IDS, GROUP_ROWS, GROUP_TEXT, ListRoom};
use crate::manifest::{FileEntry, entry_name};
use crate::parquet_file::{Artifact, Compression, ParquetFile};
use crate::publish::{Staged, io_error};
use arrow_array::{ArrayRef, Float32Array, ListArray, UInt32Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, FieldRef, Schema};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const LISTS: Artifact = Artifact { name: "neighbours", version: 1 };
pub(crate) const LONG: Artifact = Artifact { name: "neighbours-long", version: 1 };

/// File format of neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeighbourFormat {
    /// A row per user: `user_id`, `item_ids`, `cosine_similarity` (lists of equal length), and `score` of a model of inner
    /// products.
    #[default]
    Parquet,
    /// A row per neighbour: `user_id`, `rank` from 1, `item_id`, `cosine_similarity`, and `score` as above.
    ParquetLong,
    /// A JSON object per user and line, with the keys of [`NeighbourFormat::Parquet`].
    Jsonl,
}

impl NeighbourFormat {
    /// All formats.
    pub const ALL: [NeighbourFormat; 3] =
        [NeighbourFormat::Parquet, NeighbourFormat::ParquetLong, NeighbourFormat::Jsonl];

    /// File name extension, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            NeighbourFormat::Parquet | NeighbourFormat::ParquetLong => "parquet",
            NeighbourFormat::Jsonl => "jsonl",
        }
    }
}

/// Neighbour lists of some users, best first.
#[derive(Debug, Clone, Copy)]
pub struct NeighbourLists<'a> {
    /// `[users + 1]`; user u's neighbours are `offsets[u]..offsets[u + 1]` of the slices below.
    pub offsets: &'a [usize],
    /// Rows of `item_ids`.
    pub rows: &'a [u32],
    /// Cosine similarities in [-1, 1], descending per user.
    pub scores: &'a [f32],
    /// Ids of all items by row.
    pub item_ids: &'a Ids,
}

impl NeighbourLists<'_> {
    fn check(&self, users: &Ids, path: &Path) -> Result<(), ArtifactError> {
        let total = self.offsets.last().copied().unwrap_or(0);
        let lengths = [
            ("offsets", self.offsets.len(), users.len() + 1),
            ("item rows", self.rows.len(), total),
            ("scores", self.scores.len(), total),
        ];
        match lengths.into_iter().find(|(_, found, expected)| found != expected) {
            Some((what, found, expected)) => {
                Err(ArtifactError::Length { path: path.to_path_buf(), what, expected, found })
            }
            None => Ok(()),
        }
    }

    /// Ids of the items `neighbours`, as a column.
    fn items(&self, neighbours: std::ops::Range<usize>) -> ArrayRef {
        self.item_ids.take(self.rows[neighbours].iter().map(|&row| row as usize))
    }

    /// Similarities of `neighbours` as a column, and their inner products as another, where the file has these.
    fn scores(
        &self,
        neighbours: std::ops::Range<usize>,
        info: &NeighboursInfo,
    ) -> impl Iterator<Item = ArrayRef> + use<> {
        let cosines = self.scores[neighbours].to_vec();
        let products = info.score().map(|(_, scale)| cosines.iter().map(|cosine| scale * cosine).collect());
        [Some(cosines), products].into_iter().flatten().map(|column| Arc::new(Float32Array::from(column)) as ArrayRef)
    }
}

/// Where neighbours go.
pub trait NeighbourSink: Send {
    /// Appends the lists of `users`, in order.
    ///
    /// # Errors
    /// [`ArtifactError::Length`] or [`ArtifactError::IdKind`] for arguments that do not fit, or a failed write.
    fn write(&mut self, users: &Ids, lists: &NeighbourLists<'_>) -> Result<(), ArtifactError>;

    /// Publishes the file. Rows count as the format does: users, or neighbours in the long form.
    ///
    /// # Errors
    /// A failed write; then there is no file of the final name.
    fn finish(self: Box<Self>) -> Result<FileEntry, ArtifactError>;
}

/// What a file of neighbours states in its Parquet metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NeighboursInfo {
    /// Kind of the user ids.
    pub users: IdKind,
    /// Kind of the item ids.
    pub items: IdKind,
    /// Whose neighbours they are.
    #[serde(default, skip_serializing_if = "NeighboursOf::is_users")]
    pub of: NeighboursOf,
    /// Of a model of inner products, what cosines are multiplied with to be these: `score` in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_product_scale: Option<f32>,
}

/// Whose neighbours a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeighboursOf {
    /// Items of users.
    #[default]
    Users,
    /// Items of items.
    Items,
}

impl NeighboursOf {
    fn is_users(&self) -> bool {
        *self == Self::Users
    }

    /// Names of the columns: whose neighbours, lists of them, and one of them.
    pub(crate) fn columns(self) -> [&'static str; 3] {
        match self {
            Self::Users => ["user_id", "item_ids", "item_id"],
            Self::Items => ["item_id", "similar_item_ids", "similar_item_id"],
        }
    }
}

impl NeighboursInfo {
    /// What a file of the items of users says.
    pub fn of_users(users: IdKind, items: IdKind) -> Self {
        Self { users, items, of: NeighboursOf::Users, inner_product_scale: None }
    }

    /// What a file of the items that are near each item says.
    pub fn of_items(items: IdKind) -> Self {
        Self { users: items, items, of: NeighboursOf::Items, inner_product_scale: None }
    }

    /// The same, for a file that has inner products too.
    #[must_use]
    pub fn scaled(self, inner_product_scale: Option<f32>) -> Self {
        Self { inner_product_scale, ..self }
    }

    /// The column of inner products, where there is one: its name, and what cosines are multiplied with.
    fn score(&self) -> Option<(&'static str, f32)> {
        self.inner_product_scale.map(|scale| ("score", scale))
    }

    fn check(&self, users: &Ids, items: &Ids, path: &Path) -> Result<(), ArtifactError> {
        for (expected, ids) in [(self.users, users), (self.items, items)] {
            if ids.kind() != expected {
                let found = ids.kind();
                return Err(ArtifactError::IdKind { path: path.to_path_buf(), expected, found });
            }
        }
        Ok(())
    }
}

/// Opens a sink that will publish a file of the given format under `path`, for lists that take at most `room`.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], or [`ArtifactError::TooLong`].
pub fn open_sink(
    format: NeighbourFormat,
    path: impl AsRef<Path>,
    info: &NeighboursInfo,
    room: ListRoom,
    compression: Compression,
) -> Result<Box<dyn NeighbourSink>, ArtifactError> {
    let path = path.as_ref();
    room.check(path)?;
    Ok(match format {
        NeighbourFormat::Parquet => Box::new(ListSink::create(path, info, room, compression)?),
        NeighbourFormat::ParquetLong => Box::new(LongSink::create(path, info, room, compression)?),
        NeighbourFormat::Jsonl => Box::new(JsonSink::create(path, info)?),
    })
}

/// The sink of [`NeighbourFormat::Parquet`].
struct ListSink {
    file: ParquetFile,
    room: ListRoom,
    info: NeighboursInfo,
    item: FieldRef,
    score: FieldRef,
}

impl ListSink {
    fn create(
        path: &Path,
        info: &NeighboursInfo,
        room: ListRoom,
        compression: Compression,
    ) -> Result<Self, ArtifactError> {
        let item = Arc::new(Field::new("element", info.items.data_type(), false));
        let score = Arc::new(Field::new("element", DataType::Float32, false));
        let [whose, items, _] = info.of.columns();
        let mut fields = vec![
            Field::new(whose, info.users.data_type(), false),
            Field::new(items, DataType::List(item.clone()), false),
            Field::new("cosine_similarity", DataType::List(score.clone()), false),
        ];
        fields.extend(info.score().map(|(name, _)| Field::new(name, DataType::List(score.clone()), false)));
        let schema = Arc::new(Schema::new(fields));
        let plain: Vec<&str> =
            [whose, "cosine_similarity"].into_iter().chain(info.score().map(|(name, _)| name)).collect();
        let file = ParquetFile::create(path, schema, room.group_users(), compression, &plain, LISTS, info)?;
        let file = file.with_text(GROUP_BYTES + GROUP_IDS);
        Ok(Self { file, room, info: info.clone(), item, score })
    }
}

impl NeighbourSink for ListSink {
    fn write(&mut self, users: &Ids, lists: &NeighbourLists<'_>) -> Result<(), ArtifactError> {
        lists.check(users, self.file.path())?;
        self.info.check(users, lists.item_ids, self.file.path())?;
        let chunk = self.room.chunk_users();
        for start in (0..users.len()).step_by(chunk) {
            let end = users.len().min(start + chunk);
            let offsets = &lists.offsets[start..=end];
            let neighbours = offsets[0]..offsets[end - start];
            let offsets = OffsetBuffer::<i32>::from_lengths(offsets.windows(2).map(|w| w[1] - w[0]));
            let list = |field: &FieldRef, values: ArrayRef| -> Result<ArrayRef, ArtifactError> {
                ListArray::try_new(field.clone(), offsets.clone(), values, None)
                    .map(|list| Arc::new(list) as ArrayRef)
                    .map_err(crate::parquet_file::arrow_error("write", self.file.path()))
            };
            let mut columns = vec![users.to_array(start..end), list(&self.item, lists.items(neighbours.clone()))?];
            for column in lists.scores(neighbours, &self.info) {
                columns.push(list(&self.score, column)?);
            }
            self.file.write(columns)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FileEntry, ArtifactError> {
        self.file.finish()
    }
}

/// The sink of [`NeighbourFormat::ParquetLong`].
struct LongSink {
    file: ParquetFile,
    room: ListRoom,
    info: NeighboursInfo,
}

impl LongSink {
    fn create(
        path: &Path,
        info: &NeighboursInfo,
        room: ListRoom,
        compression: Compression,
    ) -> Result<Self, ArtifactError> {
        let [whose, _, item] = info.of.columns();
        let scores = || std::iter::once("cosine_similarity").chain(info.score().map(|(name, _)| name));
        let mut fields = vec![
            Field::new(whose, info.users.data_type(), false),
            Field::new("rank", DataType::UInt32, false),
            Field::new(item, info.items.data_type(), false),
        ];
        fields.extend(scores().map(|name| Field::new(name, DataType::Float32, false)));
        let (schema, plain) = (Arc::new(Schema::new(fields)), scores().collect::<Vec<_>>());
        let file = ParquetFile::create(path, schema, GROUP_ROWS, compression, &plain, LONG, info)?;
        Ok(Self { file: file.with_text(GROUP_TEXT), room, info: info.clone() })
    }
}

impl NeighbourSink for LongSink {
    fn write(&mut self, users: &Ids, lists: &NeighbourLists<'_>) -> Result<(), ArtifactError> {
        lists.check(users, self.file.path())?;
        self.info.check(users, lists.item_ids, self.file.path())?;
        let (mut user, end) = (0, lists.offsets[users.len()]);
        // Chunks are counted in pairs and may end within a user's list, so that columns of repeated ids stay small.
        let chunk = (CHUNK_TEXT / (self.room.pair_bytes + users.longest())).clamp(1, CHUNK_PAIRS);
        for first in (lists.offsets[0]..end).step_by(chunk) {
            let neighbours = first..end.min(first + chunk);
            let (mut user_ids, mut ranks) = (Ids::new(users.kind()), Vec::new());
            let mut pair = first;
            while pair < neighbours.end {
                let list = lists.offsets[user]..lists.offsets[user + 1];
                let stop = list.end.min(neighbours.end);
                user_ids.extend_from(users, std::iter::repeat_n(user, stop - pair));
                ranks.extend((pair..stop).map(|pair| (pair - list.start + 1) as u32));
                pair = stop;
                user += usize::from(stop == list.end);
            }
            let mut columns = vec![
                user_ids.to_array(0..user_ids.len()),
                Arc::new(UInt32Array::from(ranks)),
                lists.items(neighbours.clone()),
            ];
            columns.extend(lists.scores(neighbours, &self.info));
            self.file.write(columns)?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<FileEntry, ArtifactError> {
        self.file.finish()
    }
}

/// The sink of [`NeighbourFormat::Jsonl`].
struct JsonSink {
    output: BlockWriter<Staged>,
    path: PathBuf,
    info: NeighboursInfo,
    rows: u64,
}

impl JsonSink {
    fn create(path: &Path, info: &NeighboursInfo) -> Result<Self, ArtifactError> {
        let output = BlockWriter::new(Staged::create(path)?);
        Ok(Self { output, path: path.to_path_buf(), info: info.clone(), rows: 0 })
    }

    fn write_user(&mut self, user: usize, users: &Ids, lists: &NeighbourLists<'_>) -> std::io::Result<()> {
        let neighbours = lists.offsets[user]..lists.offsets[user + 1];
        let (w, [whose, items, _]) = (&mut self.output, self.info.of.columns());
        write!(w, "{{\"{whose}\":")?;
        serde_json::to_writer(&mut *w, &users.get(user))?;
        write!(w, ",\"{items}\":[")?;
        for n in neighbours.clone() {
            w.write_all(if n == neighbours.start { b"" } else { b"," })?;
            serde_json::to_writer(&mut *w, &lists.item_ids.get(lists.rows[n] as usize))?;
        }
        w.write_all(b"],\"cosine_similarity\":")?;
        serde_json::to_writer(&mut *w, &lists.scores[neighbours.clone()])?;
        if let Some((name, scale)) = self.info.score() {
            write!(w, ",\"{name}\":")?;
            let products: Vec<f32> = lists.scores[neighbours].iter().map(|cosine| scale * cosine).collect();
            serde_json::to_writer(&mut *w, &products)?;
        }
        w.write_all(b"}\n")
    }
}

impl NeighbourSink for JsonSink {
    fn write(&mut self, users: &Ids, lists: &NeighbourLists<'_>) -> Result<(), ArtifactError> {
        lists.check(users, &self.path)?;
        self.info.check(users, lists.item_ids, &self.path)?;
        for user in 0..users.len() {
            self.write_user(user, users, lists).map_err(io_error("write", &self.path))?;
            self.rows += 1;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<FileEntry, ArtifactError> {
        let (bytes, blake3) = self.output.finish().map_err(io_error("write", &self.path))?;
        self.output.inner_mut().publish()?;
        Ok(FileEntry { path: entry_name(&self.path), bytes, rows: self.rows, blake3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id;
    use crate::neighbours_file::{load_long, read_lists};
    use crate::parquet_file::ParquetSource;
    use arrow_array::cast::AsArray;
    use arrow_array::types::UInt32Type;

    const INFO: NeighboursInfo =
        NeighboursInfo { users: IdKind::Text, items: IdKind::Int, of: NeighboursOf::Users, inner_product_scale: None };

    const ROOM: ListRoom = ListRoom { pairs: 4, pair_bytes: 12 };

    #[test]
    fn lists_of_text_beyond_two_gibibytes_a_batch_are_written() {
        // 1,024 users with 520 items of 4,096 bytes each make 2.2 GB, more than one column with 32-bit offsets holds.
        let (k, count) = (520, 1024);
        let mut items = Ids::new(IdKind::Text);
        (0..k).for_each(|i| items.push(Id::Text(&format!("{i:04096}"))));
        let users = Ids::Int((0..count as i64).collect());
        let info = NeighboursInfo::of_users(IdKind::Int, IdKind::Text);
        let offsets: Vec<usize> = (0..=count).map(|user| user * k).collect();
        let rows: Vec<u32> = (0..count * k).map(|pair| (pair % k) as u32).collect();
        let scores = vec![0.5; count * k];
        let lists = NeighbourLists { offsets: &offsets, rows: &rows, scores: &scores, item_ids: &items };
        let dir = tempfile::tempdir().unwrap();
        for format in [NeighbourFormat::Parquet, NeighbourFormat::ParquetLong] {
            let path = dir.path().join("part");
            let mut sink = open_sink(format, &path, &info, ListRoom::new(k, &items), Compression::Zstd).unwrap();
            sink.write(&users, &lists).unwrap();
            let rows = sink.finish().unwrap().rows;
            let expected = if format == NeighbourFormat::Parquet { count } else { count * k };
            assert_eq!(rows, expected as u64, "{format:?}");
        }
    }

    /// Users with 3, 1 and 0 neighbours among three items, written in two calls.
    fn write_sample(sink: &mut dyn NeighbourSink) {
        let items = Ids::Int(vec![700, 701, 702]);
        let mut first = Ids::new(IdKind::Text);
        first.push(Id::Text("a\"b"));
        let lists = NeighbourLists { offsets: &[0, 3], rows: &[2, 0, 1], scores: &[1.0, 0.25, -1.0], item_ids: &items };
        sink.write(&first, &lists).unwrap();
        let mut rest = Ids::new(IdKind::Text);
        rest.push(Id::Text("c"));
        rest.push(Id::Text("d"));
        let lists = NeighbourLists { offsets: &[0, 1, 1], rows: &[1], scores: &[0.5], item_ids: &items };
        sink.write(&rest, &lists).unwrap();
    }

    fn sample_file(format: NeighbourFormat) -> (tempfile::TempDir, PathBuf, FileEntry) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("part.{}", format.extension()));
        let mut sink = open_sink(format, &path, &INFO, ROOM, Compression::None).unwrap();
        write_sample(sink.as_mut());
        assert!(!path.exists());
        let entry = sink.finish().unwrap();
        assert_eq!(entry, FileEntry::of_file(dir.path(), &entry.path, entry.rows).unwrap());
        (dir, path, entry)
    }

    #[test]
    fn lists_read_back_in_any_batch_size() {
        let (_dir, path, entry) = sample_file(NeighbourFormat::Parquet);
        assert_eq!(entry.rows, 3);
        let whole: Vec<_> = read_lists(&path, 100).unwrap().map(Result::unwrap).collect();
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].users.iter().map(|u| u.to_string()).collect::<Vec<_>>(), ["a\"b", "c", "d"]);
        assert_eq!(whole[0].offsets, [0, 3, 4, 4]);
        assert_eq!(whole[0].items, Ids::Int(vec![702, 700, 701, 701]));
        assert_eq!(whole[0].scores, [1.0, 0.25, -1.0, 0.5]);
        let single: Vec<_> = read_lists(&path, 1).unwrap().map(Result::unwrap).collect();
        assert_eq!(single[1].items, Ids::Int(vec![701]));
        assert_eq!(single[2].offsets, [0, 0]);
    }

    #[test]
    fn the_long_form_ranks_from_one_and_has_no_distance() {
        let (_dir, path, entry) = sample_file(NeighbourFormat::ParquetLong);
        assert_eq!(entry.rows, 4);
        let source = ParquetSource::open(&path).unwrap();
        let names: Vec<_> = source.schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["user_id", "rank", "item_id", "cosine_similarity"]);
        let table = load_long(&path).unwrap();
        assert_eq!(table.users.len(), 2);
        assert_eq!(table.offsets, [0, 3, 4]);
        assert_eq!(table.items, Ids::Int(vec![702, 700, 701, 701]));
    }

    #[test]
    fn the_long_form_is_cut_inside_lists_and_ranks_go_on() {
        let lens = [CHUNK_PAIRS + 5, 0, 3, CHUNK_PAIRS];
        let offsets: Vec<usize> = (0..=lens.len()).map(|users| lens[..users].iter().sum()).collect();
        let pairs = offsets[lens.len()];
        let items = Ids::Int((0..pairs as i64).collect());
        let (rows, scores): (Vec<u32>, Vec<f32>) = ((0..pairs as u32).collect(), vec![0.5; pairs]);
        let lists = NeighbourLists { offsets: &offsets, rows: &rows, scores: &scores, item_ids: &items };
        let info = NeighboursInfo::of_users(IdKind::Int, IdKind::Int);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        let room = ListRoom::new(CHUNK_PAIRS + 5, &items);
        let mut sink = open_sink(NeighbourFormat::ParquetLong, &path, &info, room, Compression::None).unwrap();
        sink.write(&Ids::Int(vec![7, 8, 9, 10]), &lists).unwrap();
        assert_eq!(sink.finish().unwrap().rows, pairs as u64);
        let table = load_long(&path).unwrap();
        assert_eq!(table.users, Ids::Int(vec![7, 9, 10]));
        assert_eq!(table.offsets, [offsets[0], offsets[1], offsets[3], offsets[4]]);
        assert_eq!(table.items, items);
        let ranks: Vec<u32> = ParquetSource::open(&path)
            .unwrap()
            .batches(0..u64::MAX, 4096)
            .unwrap()
            .flat_map(|batch| batch.unwrap().column(1).as_primitive::<UInt32Type>().values().to_vec())
            .collect();
        assert_eq!(ranks, lens.iter().flat_map(|len| 1..=*len as u32).collect::<Vec<_>>());
    }

    #[test]
    fn the_edges_of_every_format_are_the_first_and_the_last_user() {
        let edges = [
            (NeighbourFormat::Parquet, 3, "d"),
            // The long form does not hold users without neighbours.
            (NeighbourFormat::ParquetLong, 4, "c"),
            (NeighbourFormat::Jsonl, 3, "d"),
        ];
        for (format, rows, last) in edges {
            let (_dir, path, _) = sample_file(format);
            let found = crate::inspect_neighbours(&path, format).unwrap();
            let user = |id: &str| Some(id.to_string());
            assert_eq!((found.rows, found.first, found.last), (rows, user("a\"b"), user(last)), "{format:?}");
        }
    }

    #[test]
    fn json_lines_keep_integer_ids_as_integers() {
        let (_dir, path, entry) = sample_file(NeighbourFormat::Jsonl);
        assert_eq!(entry.rows, 3);
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], r#"{"user_id":"a\"b","item_ids":[702,700,701],"cosine_similarity":[1.0,0.25,-1.0]}"#);
        assert_eq!(lines[2], r#"{"user_id":"d","item_ids":[],"cosine_similarity":[]}"#);
    }

    #[test]
    fn every_format_has_inner_products_where_cosines_are_scaled_to_these_and_reads_them_back() {
        for format in [NeighbourFormat::Parquet, NeighbourFormat::ParquetLong, NeighbourFormat::Jsonl] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("part");
            let mut sink = open_sink(format, &path, &INFO.scaled(Some(3.0)), ROOM, Compression::None).unwrap();
            write_sample(sink.as_mut());
            sink.finish().unwrap();
            let user = Id::Text("a\"b");
            let (_, found) = crate::neighbour_lookup::find_list(&path, format, user).unwrap().unwrap();
            assert_eq!(found.scores, [1.0, 0.25, -1.0], "{format:?}");
            let scores = match format {
                NeighbourFormat::Jsonl => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
                    line["score"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>()
                }
                NeighbourFormat::Parquet | NeighbourFormat::ParquetLong => {
                    let source = ParquetSource::open(&path).unwrap();
                    let artifact = if format == NeighbourFormat::Parquet { LISTS } else { LONG };
                    assert_eq!(source.details::<NeighboursInfo>(artifact).unwrap().inner_product_scale, Some(3.0));
                    let batch = source.batches(0..3, 3).unwrap().next().unwrap().unwrap();
                    let column = batch.column_by_name("score").unwrap();
                    let values = column.as_list_opt::<i32>().map_or(column, |lists| lists.values());
                    values.as_primitive::<arrow_array::types::Float32Type>().values()[..3].to_vec()
                }
            };
            assert_eq!(scores, [3.0, 0.75, -3.0], "{format:?}");
        }
    }

    #[test]
    fn a_sink_stopped_midway_leaves_nothing_under_any_name() {
        for format in [NeighbourFormat::Parquet, NeighbourFormat::ParquetLong, NeighbourFormat::Jsonl] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("part");
            let mut sink = open_sink(format, &path, &INFO, ROOM, Compression::Zstd).unwrap();
            write_sample(sink.as_mut());
            assert!(!path.exists(), "{format:?}");
            drop(sink);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{format:?}");
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = open_sink(NeighbourFormat::Jsonl, dir.path().join("p"), &INFO, ROOM, Compression::None).unwrap();
        let items = Ids::Int(vec![1]);
        let lists = NeighbourLists { offsets: &[0, 1], rows: &[0], scores: &[], item_ids: &items };
        let mut users = Ids::new(IdKind::Text);
        users.push(Id::Text("u"));
        assert!(matches!(sink.write(&users, &lists), Err(ArtifactError::Length { what: "scores", .. })));
        let lists = NeighbourLists { scores: &[0.1], ..lists };
        assert!(matches!(sink.write(&Ids::Int(vec![1]), &lists), Err(ArtifactError::IdKind { .. })));
        assert!(sink.write(&users, &lists).is_ok());
    }
}
