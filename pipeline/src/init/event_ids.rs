//! Which columns of interactions name the user and the item: by what is given, by names, or by the ids that they hold.
//!
//! User and item are never told apart by a tie: where the ids of both tables are alike, such as small integers, `init`
//! asks.

use super::{Guess, KnownColumns, Sampled};
use crate::error::PipelineError;
use crate::rows::strangers::{self, COMPARED, SomeIds};
use std::collections::BTreeSet;
use twotower_artifacts::{Id, IdKind};
use twotower_encoders::init::ColumnSample;

/// How well the other assignment of two columns may fit, as a share of the chosen one's, for the ids to decide.
const CLEAR: f64 = 0.9;

/// A table of users or items, whose ids interactions name.
pub struct Entity<'a> {
    name: &'static str,
    /// The word for one of them in names of columns.
    word: &'static str,
    /// The flag that names the column of interactions.
    flag: &'static str,
    id: &'a str,
    ids: BTreeSet<&'a String>,
}

impl<'a> Entity<'a> {
    /// Users, by their id column.
    pub fn users(table: &'a Sampled, id: &'a str) -> Self {
        Self::new(table, "user", "--event-user", id)
    }

    /// Items, by their id column.
    pub fn items(table: &'a Sampled, id: &'a str) -> Self {
        Self::new(table, "item", "--event-item", id)
    }

    fn new(table: &'a Sampled, word: &'static str, flag: &'static str, id: &'a str) -> Self {
        let own = table.columns.iter().filter(|(sample, _)| sample.name == id);
        Self { name: table.name, word, flag, id, ids: own.flat_map(|(sample, _)| sample.values.keys()).collect() }
    }

    /// Distinct values of a column that are ids of the table.
    fn shared(&self, column: &ColumnSample) -> usize {
        column.values.keys().filter(|value| self.ids.contains(value)).count()
    }

    /// The share of a column's distinct values that are.
    fn share(&self, column: &ColumnSample) -> f64 {
        self.shared(column) as f64 / column.values.len().max(1) as f64
    }

    /// Whether a column is called like the id, or like what the table holds.
    fn is_named(&self, column: &ColumnSample) -> bool {
        let named = word(&column.name);
        !named.is_empty() && (named == word(self.id) || named == self.word)
    }

    fn told(&self, column: &ColumnSample) -> String {
        let (shared, all) = (self.shared(column), column.values.len());
        format!("{shared} of the {all} values of `{}`", column.name)
    }

    fn none(&self, columns: &[&ColumnSample]) -> PipelineError {
        let mut events = SomeIds::default();
        columns.iter().flat_map(|s| s.values.keys()).for_each(|value| events.add(Id::Text(value), COMPARED));
        let mut known = SomeIds::default();
        self.ids.iter().for_each(|value| known.add(Id::Text(value), COMPARED));
        let told = strangers::difference(&events, &known).map_or(String::new(), |told| format!("; {told}"));
        PipelineError::Data(format!(
            "interactions: no column shares values with `{}` of {}{told}; name it by --event-user or --event-item, or another id by --user-id or --item-id",
            self.id, self.name
        ))
    }
}

/// The letters of a name without a last `id`: `userId` and `USER_ID` are `user`.
fn word(name: &str) -> String {
    let letters: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    letters.strip_suffix("id").map_or(letters.clone(), str::to_string)
}

impl Sampled {
    /// The columns of users' and of items' ids in interactions.
    ///
    /// # Errors
    /// [`PipelineError::Data`] where no column holds ids of a table; [`PipelineError::Usage`] where two columns hold ids
    /// of both, so that it cannot be told which is which.
    pub fn ids_of_events(
        &self,
        known: &KnownColumns,
        [user, item]: [&Entity<'_>; 2],
        guesses: &mut Vec<Guess>,
    ) -> Result<[String; 2], PipelineError> {
        let given = |own: &Option<String>| own.as_deref().map(|own| self.known(own)).transpose();
        let given = [given(&known.event_user)?, given(&known.event_item)?];
        let samples = || self.columns.iter().map(|(sample, _)| sample);
        let usable: Vec<&ColumnSample> = samples().filter(|s| IdKind::of(&s.data_type).is_some()).collect();
        let free = |taken: &Option<String>| -> Vec<&ColumnSample> {
            usable.iter().copied().filter(|s| taken.as_ref() != Some(&s.name)).collect()
        };
        let named = |one: &Entity<'_>, other: &Entity<'_>, taken: &Option<String>| {
            let same = free(taken).into_iter().find(|s| s.name == one.id && one.id != other.id);
            let alike = || free(taken).into_iter().find(|s| one.is_named(s) && !other.is_named(s) && one.shared(s) > 0);
            same.or_else(alike).map(|s| s.name.clone())
        };
        let by_name = [
            given[0].clone().or_else(|| named(user, item, &given[1])),
            given[1].clone().or_else(|| named(item, user, &given[0])),
        ];
        let chosen = match by_name.clone() {
            [Some(user), Some(item)] => [user, item],
            [Some(found), None] => [found.clone(), self.most_shared(item, &free(&Some(found)))?],
            [None, Some(found)] => [self.most_shared(user, &free(&Some(found.clone())))?, found],
            [None, None] => self.pair(user, item, &usable)?,
        };
        for (at, entity) in [user, item].into_iter().enumerate() {
            let why = match (&given[at], &by_name[at]) {
                (Some(_), _) => continue,
                (None, Some(name)) if name == entity.id => format!("same name as `{}` of {}", entity.id, entity.name),
                (None, Some(_)) => format!("named like `{}` of {}, and shares values with it", entity.id, entity.name),
                (None, None) => {
                    let told = samples().find(|s| s.name == chosen[at]).map_or(String::new(), |s| entity.told(s));
                    format!("shares values with `{}` of {}: {told}", entity.id, entity.name)
                }
            };
            guesses.push(Guess { about: format!("interactions.{}", chosen[at]), reason: why });
        }
        guesses.extend(self.swapped(user, item, &chosen)?);
        Ok(chosen)
    }

    /// What is said of two columns of which each holds the other one's ids better than its own.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] where that is certain: one of them holds none of its own, and nearly all fit the other way.
    fn swapped(
        &self,
        user: &Entity<'_>,
        item: &Entity<'_>,
        chosen: &[String; 2],
    ) -> Result<Option<Guess>, PipelineError> {
        let sample = |name: &String| self.columns.iter().map(|(s, _)| s).find(|s| s.name == *name);
        let (Some(u), Some(i)) = (sample(&chosen[0]), sample(&chosen[1])) else { return Ok(None) };
        let (held, otherwise) = ([user.share(u), item.share(i)], [user.share(i), item.share(u)]);
        if held[0] + held[1] >= CLEAR * (otherwise[0] + otherwise[1]) {
            return Ok(None);
        }
        let told = format!(
            "`{}` is to be the user and `{}` the item, but the other way round fits better: {} are ids of {} and {} are ids of {}, against {} and {}",
            u.name,
            i.name,
            user.told(i),
            user.name,
            item.told(u),
            item.name,
            user.told(u),
            item.told(i)
        );
        let next = format!("{} {} {} {}", user.flag, i.name, item.flag, u.name);
        if held.contains(&0.0) && otherwise.iter().all(|share| *share >= CLEAR) {
            return Err(PipelineError::usage(format!("interactions: {told}; give {next}")));
        }
        let reason = format!("interactions: {told}; if they were swapped, give {next}");
        Ok(Some(Guess { about: "warning".to_string(), reason }))
    }

    /// The column that holds most ids of a table.
    fn most_shared(&self, entity: &Entity<'_>, columns: &[&ColumnSample]) -> Result<String, PipelineError> {
        let best = columns.iter().max_by_key(|s| entity.shared(s)).filter(|s| entity.shared(s) > 0);
        best.map(|s| s.name.clone()).ok_or_else(|| entity.none(columns))
    }

    /// The two columns that together hold most ids, the users' first.
    fn pair(
        &self,
        user: &Entity<'_>,
        item: &Entity<'_>,
        columns: &[&ColumnSample],
    ) -> Result<[String; 2], PipelineError> {
        // What no column holds is told first.
        self.most_shared(user, columns)?;
        self.most_shared(item, columns)?;
        // How many ids each column holds, of users and of items.
        let counted: Vec<(&ColumnSample, usize, usize)> =
            columns.iter().map(|s| (*s, user.shared(s), item.shared(s))).filter(|(_, u, i)| u + i > 0).collect();
        let pairs = counted.iter().flat_map(|u| counted.iter().map(move |i| (u, i)));
        let both = pairs.filter(|(u, i)| u.0.name != i.0.name && u.1 > 0 && i.2 > 0);
        let Some((of_user, of_item)) = both.max_by_key(|(u, i)| u.1 + i.2) else { return Err(item.none(columns)) };
        let (held, otherwise) = (of_user.1 + of_item.2, of_item.1 + of_user.2);
        let (u, i) = (of_user.0, of_item.0);
        let by_share = user.share(i) >= CLEAR * user.share(u) && item.share(u) >= CLEAR * item.share(i);
        let by_count = otherwise as f64 >= CLEAR * held as f64;
        if by_share || by_count {
            return Err(PipelineError::usage(format!(
                "interactions: the ids do not tell which column names the user and which the item: {} and {} are ids of {}, {} and {} are ids of {}; name them by {} and {}",
                user.told(u),
                user.told(i),
                user.name,
                item.told(u),
                item.told(i),
                item.name,
                user.flag,
                item.flag
            )));
        }
        Ok([u.name.clone(), i.name.clone()])
    }
}
