//! Hashes under a key that each process draws anew, so that nobody can prepare values that collide.
//!
//! A hash table finds a value by its 64-bit hash and then compares the value. Where no comparison follows, an
//! [`Identity`] of 128 bits stands for an id. Hashes differ from run to run, so no output may depend on them.
//! Identities on disk are computed under an [`IdentityKey`], which is derived from the tables that hold the ids.

use crate::fingerprint::Fingerprint;
use crate::ids::{Id, Ids};
use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// The keys of this process.
#[derive(Debug)]
struct Keys {
    table: u64,
    shared: SharedSeed,
    identity: SipHasher13,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    // The standard library takes its key from the operating system. Hashes under that key are as hard to guess.
    let drawn = RandomState::new();
    let key = |number: u64| drawn.hash_one(number);
    Keys { table: key(0), shared: SharedSeed::from_u64(key(1)), identity: SipHasher13::new_with_keys(key(2), key(3)) }
});

impl Keys {
    #[inline(always)]
    fn hash_bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.table, &self.shared);
        hasher.write(bytes);
        hasher.finish()
    }

    #[inline(always)]
    fn hash_int(&self, value: i64) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.table, &self.shared);
        hasher.write_u64(value as u64);
        hasher.finish()
    }
}

/// Hash of a text for a table; all its bits are evenly spread.
#[inline]
pub fn hash_text(text: &str) -> u64 {
    KEYS.hash_bytes(text.as_bytes())
}

/// Hash of an integer for a table; all its bits are evenly spread.
#[inline]
pub fn hash_int(value: i64) -> u64 {
    KEYS.hash_int(value)
}

/// Hash of an id for a table, or for sorting ids that are compared later.
#[inline]
pub fn hash_id(id: Id<'_>) -> u64 {
    match id {
        Id::Int(value) => hash_int(value),
        Id::Text(text) => hash_text(text),
    }
}

/// Calls `each` in order with the position of each id and its hash, which equals [`hash_id`] of it.
#[inline]
pub fn hash_ids(ids: &Ids, mut each: impl FnMut(usize, u64)) {
    let keys = &*KEYS;
    match ids {
        Ids::Int(ids) => ids.iter().enumerate().for_each(|(at, id)| each(at, keys.hash_int(*id))),
        Ids::Text(ids) => ids.bytes().enumerate().for_each(|(at, id)| each(at, keys.hash_bytes(id))),
    }
}

/// A 128-bit hash that stands for an id (SipHash-1-3; Aumasson and Bernstein, INDOCRYPT 2012). The chance that any two
/// of a billion ids share one is about 10^-21, whoever chose the ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The half by which identities are ordered. Its bits are evenly spread.
    pub upper: u64,
    /// The other half.
    pub lower: u64,
}

impl Identity {
    /// The identity of an id in this process.
    #[inline]
    pub fn of(id: Id<'_>) -> Self {
        Self::under(&KEYS.identity, id)
    }

    #[inline]
    fn under(keyed: &SipHasher13, id: Id<'_>) -> Self {
        let hash = match id {
            Id::Text(text) => keyed.hash(text.as_bytes()),
            Id::Int(value) => {
                // An integer is followed by a byte that UTF-8 never has, so no text has the identity of an integer.
                let mut hasher = *keyed;
                hasher.write_u64(value as u64);
                hasher.write_u8(0xff);
                hasher.finish128()
            }
        };
        Self { upper: hash.h1, lower: hash.h2 }
    }
}

/// The key of identities that go to disk. It is derived from the fingerprints of the tables that hold the ids, so equal
/// inputs give equal outputs. Nobody can prepare ids that collide, since other ids have another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityKey(u64, u64);

impl IdentityKey {
    /// The key of the ids in tables with these fingerprints.
    pub fn of(tables: &[&Fingerprint]) -> Self {
        let mut hasher = blake3::Hasher::new();
        tables.iter().for_each(|table| {
            hasher.update(table.as_str().as_bytes());
        });
        let hash = hasher.finalize();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| hash.as_bytes()[at + byte]));
        Self(word(0), word(8))
    }

    /// The identity of an id under this key.
    #[inline]
    pub fn identity(&self, id: Id<'_>) -> Identity {
        Identity::under(&SipHasher13::new_with_keys(self.0, self.1), id)
    }
}

/// Builds the hashers of maps and sets whose keys come from data.
#[derive(Debug, Clone, Copy)]
pub struct KeyedState(&'static Keys);

impl Default for KeyedState {
    fn default() -> Self {
        Self(&KEYS)
    }
}

impl BuildHasher for KeyedState {
    type Hasher = foldhash::fast::FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> Self::Hasher {
        foldhash::fast::FoldHasher::with_seed(self.0.table, &self.0.shared)
    }
}

/// A map whose keys come from data.
pub type KeyedMap<K, V> = HashMap<K, V, KeyedState>;
/// A set whose values come from data.
pub type KeyedSet<T> = HashSet<T, KeyedState>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdKind;
    use std::collections::BTreeSet;

    /// The most hashes that `slot` maps to one slot.
    fn fullest(hashes: impl Iterator<Item = u64>, slot: impl Fn(u64) -> usize, slots: usize) -> u32 {
        let mut counts = vec![0; slots];
        hashes.for_each(|hash| counts[slot(hash)] += 1);
        counts.into_iter().max().unwrap()
    }

    #[test]
    fn hashes_are_spread_over_their_low_and_their_high_bits_whatever_the_values_share() {
        let slots = 1 << 16;
        let check = |name: &str, hash: &dyn Fn(u64) -> u64| {
            let low = fullest((0..1 << 16).map(hash), |hash| hash as usize % slots, slots);
            let high = fullest((0..1 << 16).map(hash), |hash| (hash >> 48) as usize, slots);
            // Counts follow a Poisson law of mean 1. The chance that any of 65,536 slots has 14 is below one in ten
            // million.
            assert!(low < 14 && high < 14, "{name}: {low} {high}");
        };
        check("integers", &|i| hash_int(i as i64));
        check("multiples of 2^40", &|i| hash_int((i << 40) as i64));
        check("short texts", &|i| hash_text(&i.to_string()));
        check("texts that share 40 bytes", &|i| hash_text(&format!("{}{i:08}", "customer-".repeat(5))));
        check("texts that share 300 bytes", &|i| hash_text(&format!("{i:08}{}", "x".repeat(300))));
        check("identities of texts", &|i| Identity::of(Id::Text(&i.to_string())).upper);
        check("identities of integers", &|i| Identity::of(Id::Int(i as i64)).lower);
    }

    /// Ids that all have the same hash in `rustc_hash` 2, made from its public constants.
    fn colliding(i: u32) -> String {
        format!("JyZYDautJq5jL4m10123456789abcdef|e4#)+~z{i:08}@mail.example.com")
    }

    #[test]
    fn ids_of_every_kind_have_identities_and_hashes_of_their_own() {
        let mut identities = BTreeSet::new();
        let mut hashes = BTreeSet::new();
        let texts = (0..50_000).map(colliding).chain((0..50_000).map(|i| i.to_string()));
        let texts: Vec<String> = texts.chain((0..5000).map(|i| "a".repeat(i))).collect();
        let ids = texts.iter().map(|text| Id::Text(text)).chain((0..50_000).map(|i| Id::Int(i << 32)));
        let ids: Vec<Id<'_>> = ids.collect();
        ids.iter().for_each(|id| {
            identities.insert(Identity::of(*id));
            hashes.insert(hash_id(*id));
        });
        assert_eq!((identities.len(), hashes.len()), (ids.len(), ids.len()));
        for kind in [IdKind::Text, IdKind::Int] {
            let mut column = Ids::new(kind);
            ids.iter().filter(|id| id.kind() == kind).for_each(|id| column.push(*id));
            let mut together = Vec::new();
            hash_ids(&column, |at, hash| together.push((at, hash)));
            assert!(together.into_iter().eq(column.iter().map(hash_id).enumerate()));
        }
        let word = "12345678";
        let same_bytes = Id::Int(i64::from_le_bytes(*b"12345678"));
        assert_ne!(Identity::of(same_bytes), Identity::of(Id::Text(word)));
    }
}
