//! Sharding as pure arithmetic: (rows, i, n) to a range of rows.

use crate::error::PipelineError;
use crate::run::manifests::settings;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use twotower_artifacts::Manifest;

/// Environment variables that may hold a shard's index, in order of precedence.
const INDEX_VARIABLES: [&str; 3] = ["TWOTOWER_SHARD", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"];

/// The most shards of a table. Each of them has files of its own.
pub const MOST_SHARDS: u32 = 1_000_000;

/// Shard `index` of `count`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    /// This shard, below `count`.
    pub index: u32,
    /// Number of shards, at least 1.
    pub count: u32,
}

/// A shard among the settings of a part.
#[derive(Serialize, Deserialize)]
struct ShardRecord {
    shard: u32,
    shards: u32,
}

impl Shard {
    /// The whole table as one shard.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// A shard, checked.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] when `index >= count` or `count` is 0.
    pub fn new(index: u32, count: u32) -> Result<Self, PipelineError> {
        if !(1..=MOST_SHARDS).contains(&count) {
            return Err(PipelineError::usage(format!(
                "shard {index}/{count}: the number of shards must be 1 to {MOST_SHARDS}"
            )));
        }
        if index < count {
            Ok(Self { index, count })
        } else {
            Err(PipelineError::usage(format!(
                "shard {index}/{count}: indices count from 0, so the last shard of {count} is {}/{count}",
                count - 1
            )))
        }
    }

    /// The shard that a part's manifest says it is of.
    ///
    /// # Errors
    /// [`PipelineError`] saying why there can be no such shard; `reader` is the stage that wants to know.
    pub(crate) fn of_part(reader: &str, manifest: &Manifest) -> Result<Self, PipelineError> {
        let ShardRecord { shard, shards } = settings(reader, manifest)?;
        Shard::new(shard, shards)
    }

    /// As [`Shard::of_part`]; none where there can be no such shard.
    pub(crate) fn of(manifest: &Manifest) -> Option<Self> {
        Self::of_part("", manifest).ok()
    }

    /// The names of the settings that tell a part from the others, as the keys of stages have them.
    pub(crate) const INDEX_SETTING: &str = "shard";

    /// The shard as the keys of stages name it.
    pub(crate) fn settings(self) -> [(&'static str, serde_json::Value); 2] {
        [(Self::INDEX_SETTING, self.index.into()), ("shards", self.count.into())]
    }

    /// The parts that this shard of a table of `rows` rows is cut into, such that none has many more than `most` rows:
    /// shards of a larger number, which together hold the same rows; the shard itself where `most` is 0. Shards of one
    /// number are cut alike.
    pub(crate) fn parts(self, rows: u64, most: u64) -> impl Iterator<Item = Self> {
        let largest = rows.div_ceil(self.count.into());
        let room = u64::from(MOST_SHARDS / self.count).max(1);
        let each = largest.checked_div(most).map_or(1, |_| largest.div_ceil(most).clamp(1, room)) as u32;
        let (first, count) = (self.index * each, self.count * each);
        (first..first + each).map(move |index| Self { index, count })
    }

    /// Parses `i/n`.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] naming what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, PipelineError> {
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
        match parsed {
            Some((index, count)) => Self::new(index, count),
            None => Err(PipelineError::usage(format!(
                "shard `{text}`: expected i/n such as 0/8, i counted from 0 and below n"
            ))),
        }
    }

    /// The shard this process is to do: `flag` (`i/n`) if given; else the index from the first of
    /// `INDEX_VARIABLES` that is set (`i/n`, or `i` with `count` from `--shards`); none where no shard is asked for.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] for an unreadable value, or an index without a count.
    pub fn resolve(
        flag: Option<&str>,
        count: Option<u32>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, PipelineError> {
        let whole = |source: &str, text: &str| {
            let shard = Self::parse(text)?;
            match count {
                Some(n) if n != shard.count => {
                    Err(PipelineError::usage(format!("{source} {text} and --shards {n} disagree; give one of them")))
                }
                _ => Ok(Some(shard)),
            }
        };
        if let Some(text) = flag {
            return whole("--shard", text);
        }
        let from_environment =
            INDEX_VARIABLES.iter().find_map(|name| variable(name).filter(|v| !v.is_empty()).map(|v| (*name, v)));
        match (from_environment, count) {
            (Some((name, value)), _) if value.contains('/') => whole(name, &value),
            (Some((name, value)), Some(n)) => {
                let index = value.trim().parse().map_err(|_| {
                    PipelineError::usage(format!("{name}={value}: expected a shard index counted from 0"))
                })?;
                Self::new(index, n).map(Some)
            }
            // A scheduler's variable alone does not say how many shards there are, and a job step of an
            // array need not be sharded: only our own variable is an instruction.
            (Some(("TWOTOWER_SHARD", value)), None) => Err(PipelineError::usage(format!(
                "TWOTOWER_SHARD={value} without a number of shards; give --shards N or TWOTOWER_SHARD=i/n"
            ))),
            (Some((name, value)), None) => {
                tracing::warn!("{name}={value} ignored: no --shards N given, so the whole table is done");
                Ok(None)
            }
            (None, Some(1)) => Ok(Some(Self::WHOLE)),
            (None, None) => Ok(None),
            (None, Some(n)) => Err(PipelineError::usage(format!(
                "--shards {n} without a shard index; give --shard i/{n} or set one of {}",
                INDEX_VARIABLES.join(", ")
            ))),
        }
    }

    /// The rows of a table of `rows` that are this shard's: `floor(rows * i / n) .. floor(rows * (i + 1) / n)`.
    /// Over all i the ranges are disjoint, cover the table, and differ in length by at most one.
    pub fn range(self, rows: u64) -> Range<u64> {
        let at = |i: u32| (rows as u128 * i as u128 / self.count as u128) as u64;
        at(self.index)..at(self.index + 1)
    }

    /// The shards of `count` that together hold this shard's rows of a table of `rows`.
    pub(crate) fn covering(self, rows: u64, count: u32) -> impl Iterator<Item = Self> {
        let wanted = self.range(rows);
        let first = Self::holding(wanted.start, rows, count);
        (first..count).map(move |index| Self { index, count }).take_while(move |s| s.range(rows).start < wanted.end)
    }

    /// Index of the shard of `count` that holds `row` of a table of `rows`; `count` for a row beyond it.
    pub(crate) fn holding(row: u64, rows: u64, count: u32) -> u32 {
        if row >= rows {
            return count;
        }
        // The least i with floor(rows * (i + 1) / count) > row.
        let end = ((u128::from(row) + 1) * u128::from(count)).div_ceil(u128::from(rows));
        (end - 1) as u32
    }

    /// `00003-of-00008`, as it stands in file names.
    pub(crate) fn label(self) -> String {
        format!("{:05}-of-{:05}", self.index, self.count)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shards_are_disjoint_cover_all_rows_and_are_balanced(
            rows in 0u64..200_000_000,
            n in 1u32..200,
            most in prop_oneof![Just(0), 100_000u64..20_000_000],
        ) {
            let mut next = 0;
            for index in 0..n {
                let range = Shard::new(index, n).unwrap().range(rows);
                prop_assert_eq!(range.start, next);
                let length = range.end - range.start;
                prop_assert!(length == rows / n as u64 || length == rows / n as u64 + 1);
                if length > 0 {
                    prop_assert_eq!(Shard::holding(range.start, rows, n), index);
                    prop_assert_eq!(Shard::holding(range.end - 1, rows, n), index);
                }
                let parts: Vec<Shard> = Shard::new(index, n).unwrap().parts(rows, most).collect();
                prop_assert_eq!(parts[0].range(rows).start, range.start);
                prop_assert_eq!(parts[parts.len() - 1].range(rows).end, range.end);
                prop_assert!(parts.windows(2).all(|two| two[0].range(rows).end == two[1].range(rows).start));
                prop_assert!(most == 0 || parts.iter().all(|part| part.range(rows).count() as u64 <= most + 1));
                prop_assert!(parts.iter().all(|part| part.count == n * parts.len() as u32));
                next = range.end;
            }
            prop_assert_eq!(next, rows);
            prop_assert_eq!(Shard::holding(rows, rows, n), n);
        }
    }

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_index_at_the_count_is_refused_and_the_message_names_the_last_shard() {
        let message = Shard::parse("8/8").unwrap_err().to_string();
        assert!(message.contains("7/8"), "{message}");
        assert!(Shard::parse("x/8").is_err() && Shard::parse("3").is_err() && Shard::parse("0/0").is_err());
    }

    #[test]
    fn the_index_falls_back_to_the_scheduler_when_the_count_is_given() {
        let slurm = |name: &str| (name == "SLURM_ARRAY_TASK_ID").then(|| "3".to_string());
        assert_eq!(Shard::resolve(None, Some(8), slurm).unwrap(), Some(Shard { index: 3, count: 8 }));
        assert_eq!(Shard::resolve(None, None, slurm).unwrap(), None);
        assert_eq!(Shard::resolve(None, Some(1), none).unwrap(), Some(Shard::WHOLE));
        assert_eq!(Shard::resolve(Some("1/2"), None, slurm).unwrap(), Some(Shard { index: 1, count: 2 }));
        let own = |name: &str| (name == "TWOTOWER_SHARD").then(|| "2/4".to_string());
        assert_eq!(Shard::resolve(None, None, own).unwrap(), Some(Shard { index: 2, count: 4 }));
        assert!(Shard::resolve(None, Some(8), none).is_err());
    }
}
