//! The gates on what users have seen and on the job's own exclusions: `history` and `exclusions`. Ids that match
//! nothing exclude nothing, and nothing but these gates would tell.

use super::facts::Facts;
use super::verdict::{Measure, Measures};
use super::{NO_PREVIOUS, Night};
use crate::run::details::InteractionsState;
use crate::run::names::tables::INTERACTIONS;
use crate::timeline::counts::{ExclusionCounts, PairCounts};

const DAY: u64 = 86_400;
/// Rows or users of the previous run below which chance alone moves their number by half.
const FEWEST: f64 = 30.0;

/// Interactions: that there are some, that they are of the users and items at hand, and that they are neither fewer
/// nor older than in the previous run.
pub fn history(night: &Night<'_>) -> Measures {
    let config = &night.config.gates;
    let Some((excluded, seen)) = seen(night.now) else { return unseen(night) };
    let mut measures = Measures::default();
    let rows = seen.rows.saturating_sub(seen.unreadable);
    measures.measured.push(Measure::at_least("rows of interactions that can be read", rows as f64, 1.0));
    let earlier = night.before.and_then(|before| Some((before, self::seen(before)?.1)));
    // Not much below the previous run's share, less what users or items that are gone account for.
    let least = |share: &dyn Fn(&PairCounts) -> f64, size: &dyn Fn(&Facts) -> u64| match earlier {
        None => config.min_matched,
        Some((before, earlier)) => {
            let left = (size(night.now) as f64 / size(before).max(1) as f64).min(1.0);
            config.min_matched.max(share(earlier) * left - config.strangers_margin)
        }
    };
    if rows > 0 {
        let known = |counts: &PairCounts| {
            let rows = counts.rows.saturating_sub(counts.unreadable);
            share(rows.saturating_sub(counts.unknown_items), rows)
        };
        let what = "share of the interactions whose item is in the catalogue";
        measures.measured.push(Measure::at_least(what, known(seen), least(&known, &Facts::items)));
    }
    if seen.pairs > 0 {
        let known = |counts: &PairCounts| share(counts.matched_pairs, counts.pairs);
        let what = "share of the seen pairs whose user is in the users table";
        measures.measured.push(Measure::at_least(what, known(seen), least(&known, &|facts| facts.recalled)));
    }
    measures.advice = Some(advice(INTERACTIONS, excluded, seen));
    let Some(before) = night.before else {
        measures.notes.push(NO_PREVIOUS.into());
        return measures;
    };
    let run = before.name();
    let Some((_, earlier)) = self::seen(before) else {
        measures.notes.push(format!("run `{run}` did not exclude what users have seen"));
        return measures;
    };
    let readable = |counts: &PairCounts| counts.rows.saturating_sub(counts.unreadable) as f64;
    let kept = [
        ("rows of interactions", rows as f64, readable(earlier), readable(earlier)),
        (
            "users with seen items, as a share of all,",
            share(seen.matched_users, night.now.recalled),
            share(earlier.matched_users, before.recalled),
            earlier.matched_users as f64,
        ),
        (
            "seen items a user",
            share(seen.matched_pairs, night.now.recalled),
            share(earlier.matched_pairs, before.recalled),
            earlier.matched_users as f64,
        ),
    ];
    for (what, now, then, _) in kept.into_iter().filter(|(.., of)| *of >= FEWEST) {
        measures.measured.push(Measure::at_least(format!("{what} over run `{run}`'s"), now / then, config.min_history));
    }
    age(night, seen, &run, earlier, &mut measures);
    measures
}

/// For a job that does not exclude what users have seen: that there are as many interactions to train from as in the
/// previous run.
fn unseen(night: &Night<'_>) -> Measures {
    let Some(rows) = night.now.interactions.filter(|rows| *rows > 0) else {
        return Measures::none("the run reads no interactions");
    };
    let Some(before) = night.before else { return Measures::none(NO_PREVIOUS) };
    match before.interactions.filter(|rows| *rows > 0) {
        Some(earlier) => Measures {
            measured: vec![Measure::at_least(
                format!("rows of interactions over run `{}`'s", before.name()),
                share(rows, earlier),
                night.config.gates.min_history,
            )],
            ..Measures::default()
        },
        None => Measures::none(format!("run `{}` read no interactions", before.name())),
    }
}

/// That the newest interaction is not older than the previous run's, and not the same for days.
fn age(night: &Night<'_>, seen: &PairCounts, run: &str, earlier: &PairCounts, measures: &mut Measures) {
    match (seen.times, earlier.times) {
        (Some((oldest, newest)), Some((first, last))) => {
            let later = newest.saturating_sub(last) as f64;
            // Of two units, or none, only the numbers are known.
            let (later, unit) = match seen.unit.filter(|unit| earlier.unit == Some(*unit)) {
                Some(unit) => (later / unit.per_second() as f64, ", in seconds"),
                None => (later, ""),
            };
            measures.measured.push(Measure::at_least(
                format!("newest time of an interaction, less run `{run}`'s {}{unit}:", earlier.shown(last)),
                later,
                0.0,
            ));
            // Logs share pairs only if this one reaches back over half of the earlier one's time.
            let span = last.saturating_sub(first) as f64;
            let reaches_back = oldest <= first || last.saturating_sub(oldest) as f64 > 0.5 * span;
            if let Some(kept) = seen.some_pairs.shared(&earlier.some_pairs).filter(|_| reaches_back) {
                measures.measured.push(Measure::at_least(
                    format!("share of the pairs of a user and an item that are run `{run}`'s, too,"),
                    kept,
                    night.config.gates.min_pairs_kept,
                ));
            }
        }
        (None, None) => measures.notes.push("interactions have no times, so their age is not known".into()),
        (Some(_), None) => measures.notes.push(format!("interactions of run `{run}` had no times")),
        (None, Some((_, last))) => measures.measured.push(Measure::at_least(
            format!(
                "interactions with a time that can be read, in which run `{run}`'s newest was {}:",
                earlier.shown(last)
            ),
            0.0,
            1.0,
        )),
    }
    if let Some(state) = &night.now.interactions_state {
        measures.measured.push(Measure::at_most(
            "whole days for which interactions have been the same",
            (night.clock.saturating_sub(state.since) / DAY) as f64,
            night.config.gates.max_still_days,
        ));
    }
}

/// How the interactions are, and since when: since the previous run's have been so, where these are the same.
pub fn interactions_state(now: &Facts, before: Option<&Facts>, clock: u64) -> Option<InteractionsState> {
    let (_, seen) = seen(now)?;
    let newest = seen.times.map_or("no times".to_string(), |(_, newest)| format!("newest {newest}"));
    let state = format!("{newest}, {} rows, {} pairs", seen.rows, seen.pairs);
    let earlier = before.and_then(|before| before.interactions_state.as_ref());
    let since = earlier.filter(|earlier| earlier.state == state).map_or(clock, |earlier| earlier.since.min(clock));
    Some(InteractionsState { state, since })
}

/// How the interactions are, as a message shows it.
pub fn shown_state(now: &Facts) -> String {
    let Some((_, seen)) = seen(now) else { return String::new() };
    let newest = seen.times.map_or("no times".to_string(), |(_, newest)| format!("newest {}", seen.shown(newest)));
    format!("{newest}, {} rows, {} pairs", seen.rows, seen.pairs)
}

/// Pairs and lists of the job's own: that those given match something, and not much less than in the previous run.
pub fn exclusions(night: &Night<'_>) -> Measures {
    let least = night.config.gates.min_exclusions;
    let Some(excluded) = &night.now.excluded else { return Measures::none("the job has none") };
    let before = night.before.and_then(|before| Some((before, before.excluded.as_ref()?)));
    let mut measures = Measures::default();
    let mut advice = Vec::new();
    let own = excluded.pairs.iter().filter(|(name, _)| *name != INTERACTIONS);
    let pairs = own.map(|(name, counts)| {
        let of = |run: &Facts, counts: &PairCounts| share(counts.matched_pairs, run.recalled);
        let earlier = before.and_then(|(run, excluded)| Some(of(run, excluded.pairs.get(name)?)));
        let now = (counts.rows, counts.matched_pairs, of(night.now, counts));
        (name, now, earlier, self::advice(name, excluded, counts), "pairs that match", "pairs a user that match")
    });
    let lists = excluded.lists.iter().map(|(name, counts)| {
        let earlier = before.and_then(|(_, excluded)| Some(excluded.lists.get(name)?.known as f64));
        let example = counts.example.clone().unwrap_or_default();
        let told = counts.strangers.as_ref().map_or(String::new(), |told| format!("; {told}"));
        let advice = format!("{name} names items such as {example}, the items table such as {}{told}", excluded.item);
        (
            name,
            (counts.rows, counts.known, counts.known as f64),
            earlier,
            advice,
            "items that match",
            "items that match",
        )
    });
    for (name, (rows, matched, now), earlier, told, what, relative) in pairs.chain(lists) {
        let mut fails = false;
        if rows > 0 {
            fails |= matched == 0;
            measures.measured.push(Measure::at_least(
                format!("{what}, of {rows} rows of {name}:"),
                matched as f64,
                1.0,
            ));
        }
        if let (Some((run, _)), Some(earlier)) = (before, earlier.filter(|earlier| *earlier > 0.0)) {
            let run = run.name();
            fails |= now / earlier < least;
            measures.measured.push(Measure::at_least(
                format!("{relative}, of {name} over run `{run}`'s"),
                now / earlier,
                least,
            ));
        }
        if fails && rows > 0 {
            advice.push(told);
        }
    }
    if measures.measured.is_empty() {
        return Measures::none("the job has none, or they are empty");
    }
    if night.before.is_none() {
        measures.notes.push(NO_PREVIOUS.into());
    }
    measures.advice = (!advice.is_empty()).then(|| advice.join("; "));
    measures
}

/// Shows ids of a table of pairs beside ids of the tables that they should be in.
fn advice(name: &str, excluded: &ExclusionCounts, counts: &PairCounts) -> String {
    let Some((user, item)) = &counts.example else { return format!("{name} has no row that can be read") };
    let known = excluded.user.as_deref().unwrap_or("none");
    let told = counts.strangers.as_ref().map_or(String::new(), |told| format!("; {told}"));
    format!(
        "{name} names users such as {user} and items such as {item}, the users table has {known} and the items table {}{told}",
        excluded.item
    )
}

fn seen(facts: &Facts) -> Option<(&ExclusionCounts, &PairCounts)> {
    let excluded = facts.excluded.as_ref()?;
    Some((excluded, excluded.pairs.get(INTERACTIONS)?))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
