//! Reads an object as a file: from its beginning on, or at places.

use crate::budget::Permit;
use crate::error::StoreError;
use crate::object::Object;
use crate::runtime::Pending;
use crate::store::Store;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of a range.
pub const RANGE_BYTES: u64 = 8 << 20;
/// Bytes of the first range: whoever looks at the beginning alone reads no more.
const FIRST_BYTES: u64 = 256 << 10;
/// How much longer the next range is, until they are [`RANGE_BYTES`] long.
const GROWTH: u64 = 4;

/// Reads an object by ranges, some of which are on their way before they are needed, as far as the process may hold
/// bytes ahead of their use ([`StoreSettings::read_ahead_mib`](crate::StoreSettings::read_ahead_mib)). An object that
/// changes meanwhile is an error.
///
/// Memory: a range, and those ahead.
pub struct RangeReader {
    store: Store,
    object: Object,
    /// The range that is being read, and where in it.
    current: Bytes,
    at: usize,
    /// Where the range behind the current one begins.
    next: u64,
    /// Ranges on their way, in order.
    ahead: VecDeque<Flight>,
    /// Where the range begins that is asked for next, and its length.
    asked: u64,
    length: u64,
}

struct Flight {
    answer: Pending<Result<Bytes, StoreError>>,
    bytes: u64,
    /// Of none but the first, which every reader may have.
    permit: Option<Permit>,
}

impl RangeReader {
    pub(crate) fn new(store: Store, object: Object) -> Self {
        let (current, ahead) = (Bytes::new(), VecDeque::new());
        Self { store, object, current, at: 0, next: 0, ahead, asked: 0, length: FIRST_BYTES }
    }

    /// What is read.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Reads the bytes from `place` on into `into`, as far as there are any, and returns how many; the place from which
    /// [`Read`] goes on stays.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub fn read_at(&self, into: &mut [u8], place: u64) -> Result<usize, StoreError> {
        let bytes = self.store.get_range(&self.object, place..place.saturating_add(into.len() as u64))?;
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Asks for ranges until one is on its way, and for more if there is room.
    fn ask(&mut self) -> Result<(), StoreError> {
        while self.asked < self.object.bytes {
            let bytes = self.length.min(self.object.bytes - self.asked);
            let permit = match self.ahead.is_empty() {
                true => None,
                // The beginning may be all that is read.
                false if self.length < RANGE_BYTES => break,
                false => match self.store.0.ahead.take(usize::try_from(bytes).unwrap_or(usize::MAX)) {
                    None => break,
                    permit => permit,
                },
            };
            let range = self.store.range(&self.object, self.asked..self.asked + bytes)?;
            self.ahead.push_back(Flight { answer: Pending::start(range)?, bytes, permit });
            self.asked += bytes;
            self.length = (self.length * GROWTH).min(RANGE_BYTES);
        }
        Ok(())
    }

    /// Makes the next range the current one; false at the end.
    fn advance(&mut self) -> Result<bool, StoreError> {
        self.ask()?;
        let Some(flight) = self.ahead.pop_front() else { return Ok(false) };
        match flight.answer.wait().and_then(|answer| answer) {
            Ok(answer) => self.current = answer,
            Err(error) => {
                // Whoever reads on after an error gets the same bytes.
                self.ahead.clear();
                self.asked = self.next;
                return Err(error);
            }
        }
        // From here on it is the one that every reader has.
        drop(flight.permit);
        self.at = 0;
        self.next += flight.bytes;
        self.ask()?;
        Ok(true)
    }

    fn place(&self) -> u64 {
        self.next - (self.current.len() - self.at) as u64
    }
}

impl Read for RangeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while self.at == self.current.len() {
            if !self.advance()? {
                return Ok(0);
            }
        }
        let given = into.len().min(self.current.len() - self.at);
        into[..given].copy_from_slice(&self.current[self.at..self.at + given]);
        self.at += given;
        Ok(given)
    }
}

impl Seek for RangeReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(by) => self.object.bytes.checked_add_signed(by),
            SeekFrom::Current(by) => self.place().checked_add_signed(by),
        };
        let place = place.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let begun = self.next - self.current.len() as u64;
        if (begun..=self.next).contains(&place) {
            self.at = (place - begun) as usize;
        } else {
            self.ahead.clear();
            (self.current, self.at) = (Bytes::new(), 0);
            (self.next, self.asked, self.length) = (place, place, FIRST_BYTES);
        }
        Ok(place)
    }
}
