//! Ids of one table that another one does not have: an example of both sides, and how they are likely to differ.

use crate::rows::bad_rows::{readable_ids, sift};
use crate::rows::columns::read_batches;
use crate::watch::cancel::Cancel;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use twotower_artifacts::{Id, IdKind, Ids};
use twotower_tables::Table;
use unicode_normalization::UnicodeNormalization;

/// Ids of a side that are compared, at the most.
pub const COMPARED: usize = 10_000;
/// Characters of an id that are compared.
const LONGEST: usize = 200;
/// The share of the ids of one side that have a trait, and of the other side that may have it, for it to be the
/// difference.
const MOST: f64 = 0.9;
const FEW: f64 = 0.1;

/// Some ids of a table, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SomeIds {
    texts: Vec<String>,
    /// Whether they are integers.
    are_integers: bool,
}

impl SomeIds {
    /// Some of many ids: the first.
    pub fn of(ids: &Ids) -> Self {
        let mut some = Self::default();
        ids.iter().take(COMPARED).for_each(|id| some.add(id, COMPARED));
        some
    }

    /// Adds an id, unless there are `most` already.
    pub fn add(&mut self, id: Id<'_>, most: usize) {
        if self.texts.len() < most {
            self.are_integers = matches!(id, Id::Int(_));
            self.texts.push(id.to_string().chars().take(LONGEST).collect());
        }
    }

    /// Adds those of another, up to `most` in all.
    pub fn merge(&mut self, other: Self, most: usize) {
        let room = most.saturating_sub(self.texts.len());
        self.are_integers |= other.are_integers;
        self.texts.extend(other.texts.into_iter().take(room));
    }

    /// The first as a message shows it.
    pub fn example(&self) -> Option<String> {
        self.texts.first().map(|id| self.shown(id))
    }

    fn shown(&self, id: &str) -> String {
        if self.are_integers { id.to_string() } else { Id::Text(id).quoted() }
    }
}

/// Ids of rows of a table, if they can be read.
pub fn ids_of(table: &Table, column: &str, kind: IdKind, rows: Range<u64>, cancel: &Cancel) -> SomeIds {
    let read = || -> Option<Ids> {
        let wanted = [column.to_string()];
        let batch = read_batches("encode-features", table, &wanted, rows, cancel).ok()?.next()?.ok()?;
        let (good, _) = sift(&batch, column, |rows| readable_ids(rows, column, kind)).ok()?;
        let mut ids = Ids::new(kind);
        good.iter().for_each(|(_, some)| ids.extend_from(some, 0..some.len()));
        Some(ids)
    };
    read().map_or_else(SomeIds::default, |ids| SomeIds::of(&ids))
}

/// A way in which programs write one id differently, and what an id is without it.
struct Difference {
    name: &'static str,
    without: fn(&str) -> String,
}

/// Those that are looked for, the most certain first.
const DIFFERENCES: [Difference; 6] = [
    Difference { name: "spaces around them", without: |id| id.trim_matches(is_blank).to_string() },
    Difference { name: "the quotes around them", without: |id| id.trim_matches(['"', '\'']).to_string() },
    Difference { name: "the fraction of a float, such as `.0`", without: without_fraction },
    Difference { name: "leading zeros", without: without_zeros },
    Difference { name: "letter case", without: |id| id.to_lowercase() },
    Difference {
        name: "their Unicode form (composed or decomposed letters, or full width)",
        without: |id| id.nfkc().collect(),
    },
];

/// Spaces of all kinds, and characters that do not show.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}')
}

fn without_fraction(id: &str) -> String {
    match id.split_once('.') {
        Some((whole, fraction)) if !whole.is_empty() && fraction.bytes().all(|b| b == b'0') => whole.to_string(),
        _ => id.to_string(),
    }
}

fn without_zeros(id: &str) -> String {
    match id.trim_start_matches('0') {
        "" => "0".to_string(),
        rest => rest.to_string(),
    }
}

/// What is said of ids that a table does not have: the first of them, one that the table has, and the likely
/// difference; nothing where there are none.
pub fn told(strangers: &SomeIds, table: &str, known: &SomeIds) -> Option<String> {
    let stranger = strangers.example()?;
    let has = match known.example() {
        Some(known) => format!("which has {known}"),
        None => "which has none that can be read".to_string(),
    };
    let reason = difference(strangers, known).map_or(String::new(), |reason| format!(": {reason}"));
    Some(format!("{stranger} is not in `{table}`, {has}{reason}"))
}

/// A search among all ids of a run for the one that was meant by an id that is not there.
pub struct Meant<'t> {
    typed: &'t str,
    bare: String,
    found: SomeIds,
}

impl<'t> Meant<'t> {
    /// What was typed.
    pub fn by(typed: &'t str) -> Self {
        Self { typed, bare: bare(typed), found: SomeIds::default() }
    }

    /// Looks at an id; true once one has been found that differs only in the way it is written.
    pub fn is(&mut self, id: Id<'_>) -> bool {
        if self.found.texts.is_empty() && bare(&id.to_string()) == self.bare {
            self.found.add(id, 1);
        }
        !self.found.texts.is_empty()
    }

    /// What is said of the id that was found, with the difference.
    pub fn told(&self) -> Option<String> {
        let typed = SomeIds { texts: vec![self.typed.to_string()], are_integers: self.found.are_integers };
        Some(format!("did you mean {}? {}", self.found.example()?, difference(&typed, &self.found)?))
    }
}

/// An id without anything in which programs write it differently.
fn bare(id: &str) -> String {
    DIFFERENCES.iter().fold(id.to_string(), |id, difference| (difference.without)(&id))
}

/// How the ids of two sides differ, if that is likely: an id of one side is one of the other without some difference,
/// or nearly all ids of one side have something that those of the other, otherwise alike, have not.
pub fn difference(strangers: &SomeIds, known_ids: &SomeIds) -> Option<String> {
    let same = |without: &dyn Fn(&str) -> String| {
        let there: BTreeMap<String, &String> = known_ids.texts.iter().map(|id| (without(id), id)).collect();
        let found = strangers.texts.iter().find_map(|id| Some((id, *there.get(&without(id))?)));
        found.filter(|(stranger, known)| stranger != known)
    };
    let shown = |(stranger, known): (&String, &String)| {
        format!("{} is {} there", strangers.shown(stranger), known_ids.shown(known))
    };
    for Difference { name, without } in &DIFFERENCES {
        if let Some(pair) = same(without) {
            return Some(format!("they differ in {name}: {}", shown(pair)));
        }
    }
    if let Some(pair) = same(&bare) {
        return Some(format!("they differ in several ways: {}", shown(pair)));
    }
    let share = |ids: &SomeIds, without: fn(&str) -> String| {
        let with = ids.texts.iter().filter(|id| without(id) != **id).count();
        with as f64 / ids.texts.len().max(1) as f64
    };
    let likely = DIFFERENCES.iter().find(|Difference { without, .. }| {
        let shares = [share(strangers, *without), share(known_ids, *without)];
        let shapes = |ids: &SomeIds| ids.texts.iter().map(|id| shape(&without(id))).collect::<BTreeSet<_>>();
        shares.iter().any(|share| *share >= MOST)
            && shares.iter().any(|share| *share <= FEW)
            && !shapes(strangers).is_disjoint(&shapes(known_ids))
    });
    likely.map(|Difference { name, .. }| format!("they are likely to differ in {name}"))
}

/// The kinds of characters of an id, in order.
fn shape(id: &str) -> String {
    let kind = |c: char| match c {
        c if c.is_numeric() => '9',
        c if c.is_uppercase() => 'A',
        c if c.is_alphabetic() => 'a',
        c => c,
    };
    let mut kinds: Vec<char> = id.chars().map(kind).collect();
    kinds.dedup();
    kinds.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(ids: &[&str]) -> SomeIds {
        let texts = ids.iter().map(|id| id.to_string()).collect();
        SomeIds { texts, are_integers: false }
    }

    #[test]
    fn the_likely_difference_is_found_and_shown() {
        for (stranger, known, says) in [
            ("00123", "123", "leading zeros"),
            ("123", "00123", "leading zeros"),
            ("u12", "U12", "letter case"),
            ("U12\u{a0}", "U12", "spaces around them"),
            ("U12", "U12    ", "spaces around them"),
            ("123.0", "123", "fraction"),
            ("\"U1\"", "U1", "quotes"),
            ("Cafe\u{301}", "Caf\u{e9}", "Unicode form"),
            ("１２３", "123", "Unicode form"),
            (" u0012.0", "U0012", "several ways"),
        ] {
            let told = told(&some(&["x", stranger]), "users", &some(&["other", known])).unwrap();
            assert!(told.contains(says) && told.contains("\"x\" is not in `users`, which has \"other\": "), "{told}");
            assert!(told.contains(&Id::Text(known).quoted()), "{told}");
        }
        let known = SomeIds::of(&Ids::Int(vec![900, 901]));
        let none = told(&SomeIds::of(&Ids::Int(vec![7])), "items", &known).unwrap();
        // An id that is simply not there differs in nothing.
        assert_eq!(none, "7 is not in `items`, which has 900");
        assert_eq!(told(&SomeIds::default(), "items", &known), None);
    }

    #[test]
    fn the_id_that_was_meant_is_found_among_all() {
        let ids = ["7", "x", "00000000386", "0386"];
        let told = |typed: &str| {
            let mut meant = Meant::by(typed);
            ids.iter().any(|id| meant.is(Id::Text(id)));
            meant.told()
        };
        let zeros = told("386").unwrap();
        assert!(zeros.starts_with("did you mean \"00000000386\"? they differ in leading zeros"), "{zeros}");
        let case = told(" X").unwrap();
        assert!(case.starts_with("did you mean \"x\"? they differ in several ways"), "{case}");
        assert_eq!(told("387"), None);
    }

    #[test]
    fn sides_without_a_common_id_are_told_apart_by_what_nearly_all_of_one_have() {
        let ids = |write: fn(usize) -> String, from: usize| SomeIds {
            texts: (from..from + 50).map(write).collect(),
            are_integers: false,
        };
        for (stranger, known, says) in [
            (ids(|i| format!("{i}.0"), 100), ids(|i| i.to_string(), 900), Some("fraction")),
            (ids(|i| format!("U{i}"), 100), ids(|i| format!("u{i}"), 900), Some("letter case")),
            (ids(|i| format!("0{i}"), 100), ids(|i| i.to_string(), 900), Some("leading zeros")),
            (ids(|i| i.to_string(), 100), ids(|i| i.to_string(), 900), None),
            (ids(|i| format!("P{i}"), 100), ids(|i| i.to_string(), 900), None),
        ] {
            let found = difference(&stranger, &known);
            assert_eq!(found.is_some(), says.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(says.unwrap_or_default()));
        }
        assert_eq!(difference(&some(&[]), &some(&[])), None);
    }
}
