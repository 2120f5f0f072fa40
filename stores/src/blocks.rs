//! Reads an object at many places, as the reader of Parquet does: page after page of several columns, each of which is
//! one stretch of the object.
//!
//! The object is cut into blocks of one size. A block is asked for when a byte of it is needed, with those behind it that
//! its stretch still has; when a stretch of a group is entered, the beginnings of the group's other stretches are asked
//! for as well, and when it ends, the same stretch of the next group. Blocks used longest ago go first. Readers of
//! neighbouring rows share one cache, so that what lies between them is read once.

use crate::error::StoreError;
use crate::object::Object;
use crate::runtime::Pending;
use crate::store::Store;
use bytes::Bytes;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The smallest and the largest block.
const SMALLEST: u64 = 128 << 10;
const LARGEST: u64 = 8 << 20;
/// Blocks of what is read for its footer alone.
const FOOTER: u64 = 64 << 10;
/// Blocks asked for behind the one that is needed.
const BEHIND: u64 = 2;
/// Reads up to this size are headers of pages, which are read again by whoever passes over the pages.
const HEADER: usize = 256;
/// The most headers that are kept.
const MOST_HEADERS: usize = 1 << 16;

/// The blocks that are held of all objects that are open.
pub struct Cache {
    /// The most bytes, as far as every object has the blocks that it cannot do without.
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By object and number: the block, its bytes, and when it was used last.
    blocks: HashMap<(u64, u64), (Arc<Block>, u64, u64)>,
    bytes: u64,
    clock: u64,
    objects: u64,
}

impl Cache {
    pub fn new(limit: u64) -> Self {
        Self { limit, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, key: (u64, u64)) {
        if let Some((_, bytes, _)) = self.blocks.remove(&key) {
            self.bytes -= bytes;
        }
    }
}

/// The blocks of an object that are held; clones share them.
///
/// Memory: half of [`StoreSettings::read_ahead_mib`](crate::StoreSettings::read_ahead_mib) for all objects that are open,
/// or four blocks of 128 KiB for each stretch of a group if that is more; and 256 bytes for each of up to 65,536 headers
/// of an object.
#[derive(Clone)]
pub struct Blocks(Arc<Inner>);

struct Inner {
    store: Store,
    object: Object,
    /// Its number in the cache.
    id: u64,
    block: u64,
    /// The most bytes that the cache holds when this object asks for more.
    most: u64,
    /// The stretches that are read, of each group, in order of their places.
    groups: Vec<Vec<Range<u64>>>,
    headers: Mutex<HashMap<u64, Bytes>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = self.cache().state();
        let own: Vec<(u64, u64)> = state.blocks.keys().filter(|(object, _)| *object == self.id).copied().collect();
        own.into_iter().for_each(|key| state.remove(key));
    }
}

/// A block that is held or on its way.
struct Block {
    answer: OnceLock<Result<Bytes, StoreError>>,
    pending: Mutex<Option<Pending<Result<Bytes, StoreError>>>>,
}

impl Block {
    fn get(&self) -> Result<Bytes, StoreError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = pending.take() {
            let answer = waiting.wait().and_then(|answer| answer);
            return self.answer.get_or_init(|| answer).clone();
        }
        match self.answer.get() {
            Some(answer) => answer.clone(),
            None => Ok(Bytes::new()),
        }
    }
}

impl Blocks {
    /// The blocks of an object of which the stretches of some groups will be read, each group after the one before it.
    pub fn new(store: Store, object: Object, groups: Vec<Vec<Range<u64>>>) -> Self {
        let stretches = groups.iter().map(Vec::len).max().unwrap_or(0).max(1) as u64;
        let held = store.0.cache.limit;
        let block = (held / (4 * stretches)).clamp(SMALLEST, LARGEST);
        Self::of(store, object, block, held.max(4 * stretches * block), groups)
    }

    /// The blocks of an object of which no more than the end will be read.
    pub fn of_footer(store: Store, object: Object) -> Self {
        let held = store.0.cache.limit;
        Self::of(store, object, FOOTER, held, Vec::new())
    }

    fn of(store: Store, object: Object, block: u64, most: u64, groups: Vec<Vec<Range<u64>>>) -> Self {
        let id = {
            let mut state = store.0.cache.state();
            state.objects += 1;
            state.objects
        };
        Self(Arc::new(Inner { store, object, id, block, most, groups, headers: Mutex::default() }))
    }

    /// What is read.
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// Reads the bytes from `place` on into `into`, as far as there are any, and returns how many.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub fn read_at(&self, into: &mut [u8], place: u64) -> Result<usize, StoreError> {
        let inner = &self.0;
        let there = usize::try_from(inner.object.bytes.saturating_sub(place)).unwrap_or(usize::MAX);
        let wanted = into.len().min(there);
        let into = &mut into[..wanted];
        if wanted <= HEADER && inner.header(into, place) {
            return Ok(wanted);
        }
        let mut done = 0;
        while done < wanted {
            let at = place + done as u64;
            let number = at / inner.block;
            let block = inner.block_at(number, at)?;
            let bytes = match block.get() {
                Ok(bytes) => bytes,
                Err(error) => {
                    inner.forget(number);
                    return Err(error);
                }
            };
            let from = (at - number * inner.block) as usize;
            let given = bytes.len().saturating_sub(from).min(wanted - done);
            if given == 0 {
                return Ok(done);
            }
            into[done..done + given].copy_from_slice(&bytes[from..from + given]);
            done += given;
        }
        if wanted <= HEADER {
            inner.keep_header(into, place);
        }
        Ok(done)
    }
}

impl Inner {
    fn cache(&self) -> &Cache {
        &self.store.0.cache
    }

    fn headers(&self) -> MutexGuard<'_, HashMap<u64, Bytes>> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self, into: &mut [u8], place: u64) -> bool {
        let found = self.headers().get(&place).filter(|header| header.len() >= into.len()).cloned();
        found.map(|header| into.copy_from_slice(&header[..into.len()])).is_some()
    }

    fn keep_header(&self, bytes: &[u8], place: u64) {
        let mut headers = self.headers();
        if headers.len() >= MOST_HEADERS {
            headers.clear();
        }
        headers.insert(place, Bytes::copy_from_slice(bytes));
    }

    fn forget(&self, number: u64) {
        self.cache().state().remove((self.id, number));
    }

    /// The block that holds the byte `at`, and those asked for that will be needed next.
    fn block_at(&self, number: u64, at: u64) -> Result<Arc<Block>, StoreError> {
        let mut state = self.cache().state();
        let is_new = !state.blocks.contains_key(&(self.id, number));
        let block = self.ask(&mut state, number)?;
        if let Some((group, stretch)) = self.stretch_at(at) {
            let range = &self.groups[group][stretch];
            let last = range.end.saturating_sub(1) / self.block;
            for next in number + 1..=last.min(number + BEHIND) {
                self.ask_ahead(&mut state, next)?;
            }
            if is_new && number == range.start / self.block {
                for other in &self.groups[group] {
                    self.ask_ahead(&mut state, other.start / self.block)?;
                }
            }
            if number + BEHIND >= last
                && let Some(next) = self.groups.get(group + 1).and_then(|group| group.get(stretch))
            {
                self.ask_ahead(&mut state, next.start / self.block)?;
            }
        }
        Ok(block)
    }

    /// The stretch that holds a byte.
    fn stretch_at(&self, at: u64) -> Option<(usize, usize)> {
        let ends = |group: &Vec<Range<u64>>| group.last().is_some_and(|last| last.end <= at);
        let group = self.groups.partition_point(ends);
        let stretch = self.groups.get(group)?.iter().position(|range| range.contains(&at))?;
        Some((group, stretch))
    }

    /// Asks for a block that will be needed soon; one that is held already does not become younger.
    fn ask_ahead(&self, state: &mut State, number: u64) -> Result<(), StoreError> {
        if !state.blocks.contains_key(&(self.id, number)) {
            self.ask(state, number)?;
        }
        Ok(())
    }

    fn ask(&self, state: &mut State, number: u64) -> Result<Arc<Block>, StoreError> {
        state.clock += 1;
        let (now, key) = (state.clock, (self.id, number));
        if let Some((block, _, used)) = state.blocks.get_mut(&key) {
            *used = now;
            return Ok(block.clone());
        }
        let start = number * self.block;
        let end = self.object.bytes.min(start + self.block);
        let bytes = end.saturating_sub(start);
        while state.bytes + bytes > self.most {
            let oldest = state.blocks.iter().min_by_key(|(_, (_, _, used))| *used).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            state.remove(oldest);
        }
        let range = self.store.range(&self.object, start..end)?;
        let (answer, pending) = (OnceLock::new(), Mutex::new(Some(Pending::start(range)?)));
        let block = Arc::new(Block { answer, pending });
        state.blocks.insert(key, (block.clone(), bytes, now));
        state.bytes += bytes;
        Ok(block)
    }
}
