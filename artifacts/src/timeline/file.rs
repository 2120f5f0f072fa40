//! The file of a timeline.
//!
//! Layout: magic bytes, blocks, the index (a file of [`crate::codec`]), and the length of the index (u64 LE). A block
//! has four sections, each compressed with LZ4 and hashed separately: users (rows, identities and numbers of events),
//! items, times, weights. The index holds these hashes, and the hash of the index is the timeline's fingerprint. So a
//! reader notices any changed byte that it reads, and need not read the whole file to trust a part of it.

use super::{BlockRoom, Detail, Event, Histories, TimelineInfo};
use crate::blocks::BlockWriter;
use crate::codec;
use crate::error::ArtifactError;
use crate::fingerprint::Fingerprint;
use crate::keyed::Identity;
use crate::manifest::FileEntry;
use crate::publish::{Staged, io_error};
use crate::regular::open_regular;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The first bytes of the file, and of its index.
pub const MAGIC: &str = "twotower-timeline";
const VERSION: u32 = 1;
/// Users after which a block ends.
const BLOCK_USERS: usize = 2048;
/// Events after which a block ends. All events of a user are in one block.
const BLOCK_EVENTS: usize = 1 << 16;
/// Bytes of a user in the first section: row, identity, number of events.
const USER: usize = 8 + 16 + 4;
const SECTIONS: usize = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Index {
    /// The [`TimelineInfo`] as JSON, since bincode cannot decode its tagged enum.
    info: String,
    users: u64,
    events: u64,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Block {
    /// Row of its first user.
    first: u64,
    /// Row of its last user.
    last: u64,
    /// The byte of the file at which it begins.
    offset: u64,
    users: u32,
    events: u32,
    /// Compressed bytes of each section.
    bytes: [u32; SECTIONS],
    /// The first 16 bytes of the BLAKE3 hash of each compressed section.
    hashes: [[u8; 16]; SECTIONS],
}

fn hash(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// Writes a timeline, user by user.
pub struct TimelineWriter {
    file: BlockWriter<Staged>,
    name: PathBuf,
    info: TimelineInfo,
    index: Index,
    offset: u64,
    block: Histories,
}

impl TimelineWriter {
    /// A timeline without users, to be published under `path`.
    ///
    /// # Errors
    /// [`ArtifactError::Io`] when the file cannot be created.
    pub fn create(path: impl AsRef<Path>, info: TimelineInfo) -> Result<Self, ArtifactError> {
        let path = path.as_ref().to_path_buf();
        let mut block = Histories::default();
        block.clear();
        let index = Index { info: String::new(), users: 0, events: 0, blocks: Vec::new() };
        let mut file = BlockWriter::new(Staged::create(&path)?);
        file.write_all(MAGIC.as_bytes()).map_err(io_error("write", &path))?;
        Ok(Self { file, name: path, info, index, offset: MAGIC.len() as u64, block })
    }

    /// Adds a user. Rows have to ascend from call to call, and the events have to be in time order.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn write(&mut self, row: u64, identity: Identity, events: &[Event]) -> Result<(), ArtifactError> {
        let block = &mut self.block;
        debug_assert!(block.rows.last().is_none_or(|last| *last < row));
        block.rows.push(row);
        block.identities.push(identity);
        block.items.extend(events.iter().map(|event| event.item));
        block.times.extend(events.iter().map(|event| event.time));
        block.weights.extend(events.iter().map(|event| event.weight));
        block.offsets.push(block.items.len() as u64);
        if block.rows.len() >= BLOCK_USERS || block.items.len() >= BLOCK_EVENTS {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), ArtifactError> {
        let block = &self.block;
        let (Some(first), Some(last)) = (block.rows.first(), block.rows.last()) else { return Ok(()) };
        let too_long = |_| ArtifactError::Length {
            path: self.name.clone(),
            what: "events of one user",
            expected: u32::MAX as usize / 16,
            found: block.items.len(),
        };
        let mut who = Vec::with_capacity(block.len() * USER);
        for (user, (row, identity)) in block.rows.iter().zip(&block.identities).enumerate() {
            who.extend(row.to_le_bytes());
            who.extend(identity.upper.to_le_bytes());
            who.extend(identity.lower.to_le_bytes());
            let events = u32::try_from(block.events(user).len()).map_err(too_long)?;
            who.extend(events.to_le_bytes());
        }
        let sections = [
            who,
            block.items.iter().flat_map(|item| item.to_le_bytes()).collect(),
            block.times.iter().flat_map(|time| time.to_le_bytes()).collect(),
            block.weights.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<u8>>(),
        ];
        let mut entry = Block {
            first: *first,
            last: *last,
            offset: self.offset,
            users: block.len() as u32,
            events: u32::try_from(block.items.len()).map_err(too_long)?,
            bytes: [0; SECTIONS],
            hashes: [[0; 16]; SECTIONS],
        };
        for (section, values) in sections.iter().enumerate() {
            let packed = lz4_flex::block::compress(values);
            entry.bytes[section] = u32::try_from(packed.len()).map_err(too_long)?;
            entry.hashes[section] = hash(&packed);
            self.file.write_all(&packed).map_err(io_error("write", &self.name))?;
            self.offset += packed.len() as u64;
        }
        self.index.users += block.len() as u64;
        self.index.events += block.items.len() as u64;
        self.index.blocks.push(entry);
        self.block.clear();
        Ok(())
    }

    /// Finishes a file without a name, which is removed when the timeline is dropped.
    ///
    /// # Errors
    /// [`ArtifactError::Io`].
    pub fn finish_unnamed(mut self) -> Result<Timeline, ArtifactError> {
        self.end_file()?;
        let file = self.file.inner_mut().file()?;
        Timeline::of(file, self.name.clone())
    }

    /// Publishes the file, and returns its entry, whose rows are users, and the fingerprint of the timeline.
    ///
    /// # Errors
    /// [`ArtifactError::Io`]; the file of that name is then unchanged.
    pub fn finish(mut self) -> Result<(FileEntry, Fingerprint), ArtifactError> {
        let (bytes, blake3, fingerprint) = self.end_file()?;
        self.file.inner_mut().publish()?;
        let name = self.name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok((FileEntry { path: name, bytes, rows: self.index.users, blake3 }, fingerprint))
    }

    /// Writes the index, and returns the file's size and hash, and the timeline's fingerprint.
    fn end_file(&mut self) -> Result<(u64, String, Fingerprint), ArtifactError> {
        self.end_block()?;
        let failed = || io_error("write", &self.name);
        self.index.info = serde_json::to_string(&self.info).map_err(std::io::Error::from).map_err(failed())?;
        let index = codec::encode(MAGIC, VERSION, &self.index)?;
        self.file.write_all(&index).map_err(failed())?;
        self.file.write_all(&(index.len() as u64).to_le_bytes()).map_err(failed())?;
        let (bytes, blake3) = self.file.finish().map_err(failed())?;
        Ok((bytes, blake3, Fingerprint::of(&index)))
    }
}

/// A timeline on disk. Any number of threads may read it.
#[derive(Debug)]
pub struct Timeline {
    file: File,
    path: PathBuf,
    info: TimelineInfo,
    index: Index,
    fingerprint: Fingerprint,
}

impl Timeline {
    /// Opens a file of [`TimelineWriter`]. Memory: its index, about 100 bytes for 2,048 users or 65,536 events.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], [`ArtifactError::Corrupt`], [`ArtifactError::Version`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ArtifactError> {
        let path = path.as_ref().to_path_buf();
        Self::of(open_regular(&path)?, path)
    }

    fn of(file: File, path: PathBuf) -> Result<Self, ArtifactError> {
        let failed = || io_error("read", &path);
        let corrupt = |reason: String| ArtifactError::Corrupt { path: path.clone(), reason };
        let size = file.metadata().map_err(failed())?.len();
        let mut length = [0; 8];
        let end = size.checked_sub(8).ok_or_else(|| corrupt(format!("{size} bytes are too few for a timeline")))?;
        file.read_exact_at(&mut length, end).map_err(failed())?;
        let start = end.checked_sub(u64::from_le_bytes(length));
        let start = start.ok_or_else(|| corrupt("its index is longer than the file; it is truncated".into()))?;
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).map_err(failed())?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).map_err(failed())?;
        if magic != *MAGIC.as_bytes() {
            return Err(corrupt("not a timeline".into()));
        }
        let (_, index): (u32, Index) = codec::decode(&bytes, &path, MAGIC, VERSION)?;
        let mut offset = MAGIC.len() as u64;
        let mut next = 0;
        let mut sums = (0, 0);
        for block in &index.blocks {
            if block.offset != offset || block.first < next || block.last < block.first {
                return Err(corrupt(format!("its blocks are out of order at row {}", block.first)));
            }
            offset += block.bytes.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
            next = block.last.saturating_add(1);
            sums = (sums.0 + u64::from(block.users), sums.1 + u64::from(block.events));
        }
        if offset != start || sums != (index.users, index.events) {
            return Err(corrupt("its blocks are not those of its index".into()));
        }
        let info = serde_json::from_str(&index.info).map_err(|e| corrupt(format!("its head: {e}")))?;
        Ok(Self { file, info, index, fingerprint: Fingerprint::of(&bytes), path })
    }

    /// What the file states about the timeline.
    pub fn info(&self) -> &TimelineInfo {
        &self.info
    }

    /// Fingerprint of the whole content.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of users with events, including those that are not in the users table.
    pub fn users(&self) -> u64 {
        self.index.users
    }

    /// Number of events.
    pub fn events(&self) -> u64 {
        self.index.events
    }

    /// Number of events of the users whose row is below `row`.
    ///
    /// # Errors
    /// As [`Timeline::read`].
    pub fn events_before(&self, row: u64) -> Result<u64, ArtifactError> {
        let mut events = 0;
        for block in self.index.blocks.iter().take_while(|block| block.first < row) {
            if block.last < row {
                events += u64::from(block.events);
                continue;
            }
            let mut found = Histories::default();
            self.read(block.first..row, Detail::Items, &mut found)?;
            events += found.items.len() as u64;
        }
        Ok(events)
    }

    /// The range of rows of each block. Together they hold all users, and reading one reads one block.
    pub fn blocks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.index.blocks.iter().map(|block| block.first..block.last.saturating_add(1))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        (self.index.blocks.len() * size_of::<Block>()) as u64
    }

    /// Replaces the content of `into` by the users at `rows` and their events.
    ///
    /// # Errors
    /// [`ArtifactError::Io`], and [`ArtifactError::Corrupt`] if a byte that is read has changed.
    pub fn read(&self, rows: Range<u64>, detail: Detail, into: &mut Histories) -> Result<(), ArtifactError> {
        into.clear();
        let first = self.index.blocks.partition_point(|block| block.last < rows.start);
        for block in &self.index.blocks[first..] {
            if block.first >= rows.end {
                break;
            }
            self.read_block(block, &rows, detail, into)?;
        }
        Ok(())
    }

    /// Appends the users of a block whose rows are in `rows`.
    fn read_block(
        &self,
        block: &Block,
        rows: &Range<u64>,
        detail: Detail,
        into: &mut Histories,
    ) -> Result<(), ArtifactError> {
        let taken = match detail {
            Detail::Items => 2,
            Detail::Times => 3,
            Detail::All => SECTIONS,
        };
        let length = |section: usize| block.bytes[section] as usize;
        let BlockRoom { mut packed, mut values } = std::mem::take(&mut into.room);
        packed.resize((0..taken).map(length).sum(), 0);
        self.file.read_exact_at(&mut packed, block.offset).map_err(io_error("read", &self.path))?;
        let mut rest = &packed[..];
        // Puts the next section into `values`.
        let mut section = |section: usize, bytes: usize, values: &mut Vec<u8>| {
            let (own, after) = rest.split_at(length(section));
            rest = after;
            if hash(own) != block.hashes[section] {
                return Err(self.corrupt(block, "the checksum does not fit the content; it is altered"));
            }
            // LZ4 expands a byte to at most 255. A section that claims more is damaged, and is not allocated.
            if bytes > 255 * own.len() {
                let reason = format!("a section of {} bytes cannot have {bytes} when decompressed", own.len());
                return Err(self.corrupt(block, &reason));
            }
            values.resize(bytes, 0);
            match lz4_flex::block::decompress_into(own, values) {
                Ok(found) if found == bytes => Ok(()),
                Ok(found) => Err(self.corrupt(block, &format!("a section of {found} bytes, expected {bytes}"))),
                Err(error) => Err(self.corrupt(block, &error.to_string())),
            }
        };
        let (users, events) = (block.users as usize, block.events as usize);
        section(0, users * USER, &mut values)?;
        let mut event = 0;
        let (mut begin, mut end) = (None, 0);
        for user in values.chunks_exact(USER) {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| user[at + byte]));
            let row = word(0);
            let count = u32::from_le_bytes(std::array::from_fn(|byte| user[24 + byte])) as usize;
            let own = event..event + count;
            event = own.end;
            if event > events || into.rows.last().is_some_and(|last| *last >= row) {
                return Err(self.corrupt(block, "its users are out of order, or have more events than it holds"));
            }
            if !rows.contains(&row) {
                continue;
            }
            begin.get_or_insert(own.start);
            end = own.end;
            into.rows.push(row);
            into.identities.push(Identity { upper: word(8), lower: word(16) });
            let before = into.offsets.last().copied().unwrap_or(0);
            into.offsets.push(before + count as u64);
        }
        let kept = begin.unwrap_or(end)..end;
        let cut = |width: usize| kept.start * width..kept.end * width;
        section(1, events * 4, &mut values)?;
        let first = into.items.len();
        into.items.extend(values[cut(4)].chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        if into.items[first..].iter().any(|item| u64::from(*item) >= self.info.items) {
            return Err(self.corrupt(block, "an item is beyond the end of the items table"));
        }
        if detail != Detail::Items {
            section(2, events * 8, &mut values)?;
            let time = |b: &[u8]| i64::from_le_bytes(std::array::from_fn(|byte| b[byte]));
            into.times.extend(values[cut(8)].chunks_exact(8).map(time));
        }
        if detail == Detail::All {
            section(3, events * 4, &mut values)?;
            let weight = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            into.weights.extend(values[cut(4)].chunks_exact(4).map(weight));
        }
        into.room = BlockRoom { packed, values };
        Ok(())
    }

    fn corrupt(&self, block: &Block, reason: &str) -> ArtifactError {
        let reason = format!("block of rows {} to {}: {reason}", block.first, block.last);
        ArtifactError::Corrupt { path: self.path.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::ids::Id;
    use crate::keyed::IdentityKey;

    fn key() -> IdentityKey {
        IdentityKey::of(&[&Fingerprint::of(b"users"), &Fingerprint::of(b"interactions")])
    }

    fn info() -> TimelineInfo {
        TimelineInfo { table_rows: 20_000, items: 500, clock: Clock::Order, key: key() }
    }

    /// Every third row has events, and one row has more events than a block holds.
    fn events_of(row: u64) -> Vec<Event> {
        let count = if row == 3000 { 70_000 } else { row % 7 };
        (0..count).map(|i| Event { item: ((row + i) % 500) as u32, time: i as i64 - 3, weight: i as f32 }).collect()
    }

    fn written(path: &Path) -> (FileEntry, Fingerprint) {
        let mut writer = TimelineWriter::create(path, info()).unwrap();
        for row in (0..20_100).step_by(3) {
            writer.write(row, key().identity(Id::Int(row as i64)), &events_of(row)).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn any_range_of_rows_reads_back_with_the_events_of_its_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timeline");
        let (entry, fingerprint) = written(&path);
        entry.verify(dir.path()).unwrap();
        let timeline = Timeline::open(&path).unwrap();
        assert_eq!((timeline.info(), timeline.fingerprint()), (&info(), &fingerprint));
        assert_eq!((timeline.users(), entry.rows), (6700, 6700));
        assert!(timeline.index.blocks.len() > 3);
        let mut found = Histories::default();
        for rows in [0..0, 0..1, 1..3, 0..20_000, 2990..3010, 6140..6150, 5..17_777, 20_000..u64::MAX, 30_000..30_001] {
            timeline.read(rows.clone(), Detail::All, &mut found).unwrap();
            let expected: Vec<u64> = (0..20_100).step_by(3).filter(|row| rows.contains(row)).collect();
            assert_eq!(found.rows, expected, "{rows:?}");
            for (user, row) in expected.iter().enumerate() {
                let range = found.events(user);
                let own = range.map(|e| Event { item: found.items[e], time: found.times[e], weight: found.weights[e] });
                assert!(own.eq(events_of(*row)), "row {row}");
                assert_eq!(found.find(*row, Id::Int(*row as i64), &key()), Ok(Some(user)));
                assert_eq!(found.find(*row, Id::Int(7 + *row as i64), &key()), Err(*row));
            }
            assert_eq!(found.find(4, Id::Int(4), &key()), Ok(None));
            let (items, times) = (found.items.clone(), found.times.clone());
            timeline.read(rows.clone(), Detail::Items, &mut found).unwrap();
            assert_eq!((found.items.len(), found.times.len(), &found.items), (items.len(), 0, &items));
            timeline.read(rows, Detail::Times, &mut found).unwrap();
            assert_eq!((&found.items, &found.times, found.weights.len()), (&items, &times, 0));
        }
    }

    #[test]
    fn a_changed_byte_is_found_by_whoever_reads_it_and_a_cut_file_by_whoever_opens_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("timeline");
        let (_, fingerprint) = written(&path);
        let good = std::fs::read(&path).unwrap();
        let read = || -> Result<(), ArtifactError> {
            let timeline = Timeline::open(&path)?;
            if timeline.fingerprint() != &fingerprint {
                return Err(ArtifactError::Corrupt { path: path.clone(), reason: "another fingerprint".into() });
            }
            timeline.read(0..u64::MAX, Detail::All, &mut Histories::default())
        };
        read().unwrap();
        for at in (0..good.len()).step_by(good.len() / 97).chain([good.len() - 1, good.len() - 8]) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(read(), Err(ArtifactError::Corrupt { .. })), "byte {at}");
        }
        for length in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(matches!(read(), Err(ArtifactError::Corrupt { .. })), "{length} bytes");
        }
    }
}
