//! The gates on recalled lists: `lists`, `coverage`, `users` and `overlap`, on the sample that `recall` keeps.

use super::facts::Facts;
use super::verdict::{Measure, Measures};
use super::{NO_PREVIOUS, Night};
use crate::stream::distinct::DistinctSketch;
use crate::stream::sample::SampledLists;
use twotower_artifacts::keyed::{Identity, KeyedMap, KeyedSet};

/// Users below which a mean over them says too little.
const FEWEST: usize = 100;

/// Whether users get something of their own: distinct vectors, distinct lists, lists of different users that are not
/// all alike, and about as many items as in the previous run.
pub fn lists(night: &Night<'_>) -> Measures {
    let (config, now) = (&night.config.gates, night.now);
    // Among a handful of users, few may be distinct.
    let least = |users: u64| config.min_distinct.min((users / 100).max(2)).min(users) as f64;
    let distinct = |facts: &Facts| facts.distinct.as_ref().map(DistinctSketch::count);
    let (mut measured, mut notes) = (Vec::new(), Vec::new());
    if let Some(vectors) = distinct(now) {
        let what = format!("distinct vectors of {} users", now.recalled);
        measured.push(Measure::at_least(what, vectors as f64, least(now.recalled)));
    }
    if let Some(sample) = &now.sample {
        let users = sample.users.len();
        let what = format!("distinct lists of {users} sampled users");
        measured.push(Measure::at_least(what, distinct_lists(sample) as f64, least(users as u64)));
        let chance = now.topk as f64 / now.eligible.max(1) as f64;
        let pairs = (0..users).map(|row| (row, (row + users / 2) % users));
        let alike = (users >= FEWEST && chance < 0.5).then(|| mean_common(pairs, sample, sample)).flatten();
        measured.extend(alike.map(|alike| {
            let what = "how much lists of different users have in common, from 0 (as by chance) to 1 (all):";
            Measure::at_most(what, (alike - chance) / (1.0 - chance), config.max_alike)
        }));
    }
    measured.push(Measure::at_least("items in all lists", now.pairs as f64, 1.0));
    match night.before {
        Some(before) => {
            let (run, a_user) = (before.name(), |n: u64, facts: &Facts| n as f64 / facts.recalled.max(1) as f64);
            if let (Some(vectors), Some(earlier)) = (distinct(now), distinct(before).filter(|n| *n > 0)) {
                let kept = a_user(vectors, now) / a_user(earlier, before);
                let what = format!("distinct vectors a user over run `{run}`'s");
                measured.push(Measure::at_least(what, kept, config.min_distinct_kept));
            }
            // Where the job asks for fewer items than it did, users get fewer.
            let filled = a_user(before.pairs, before).min(now.topk as f64);
            if filled > 0.0 {
                let kept = a_user(now.pairs, now) / filled;
                measured.push(Measure::at_least(format!("items a user over run `{run}`'s"), kept, config.min_filled));
            }
        }
        None => notes.push(NO_PREVIOUS.into()),
    }
    let advice = "users get the same items where no feature tells them apart: see which features are constant or missing, or, where few distinct users are meant, turn the gate off with `gates.off = [\"lists\"]`";
    Measures { measured, notes, advice: Some(advice.into()) }
}

/// Number of distinct lists, by their items.
fn distinct_lists(sample: &SampledLists) -> usize {
    (0..sample.users.len()).map(|row| sample.list(row)).collect::<KeyedSet<&[Identity]>>().len()
}

/// Share of the items that could be recalled which stand in the list of at least one sampled user.
///
/// Items that could be recalled are the eligible ones, or the places in all lists where there are fewer.
pub fn coverage(night: &Night<'_>) -> Measures {
    let config = &night.config.gates;
    let Some(share) = covered(night.now) else { return Measures::none(no_sample(night.now)) };
    let mut measures = Measures::default();
    measures.measured.push(Measure::at_least("share of the catalogue", share, config.min_coverage));
    match night.before.map(|before| (before, covered(before))) {
        Some((before, Some(earlier))) if earlier > 0.0 => measures.measured.push(Measure::at_least(
            format!("share of what `{}` covered", before.name()),
            share / earlier,
            config.min_coverage_kept,
        )),
        Some((before, _)) => measures.notes.push(no_sample(before)),
        None => measures.notes.push(NO_PREVIOUS.into()),
    }
    measures
}

/// Share of the sampled users that the previous run's sample has too.
pub fn users(night: &Night<'_>) -> Measures {
    let (now, before) = match samples(night) {
        Ok(samples) => samples,
        Err(reason) => return Measures::none(reason),
    };
    let shared = shared(now, before).len();
    // Each sample holds a share of its table's users, and the smaller share bounds what both can hold.
    let possible = now.users.len().min(before.users.len());
    let share = shared as f64 / possible as f64;
    let limit = night.config.gates.min_shared_users;
    Measures { measured: vec![Measure::at_least("share of sampled users", share, limit)], ..Measures::default() }
}

/// Mean overlap@k of users' lists with their own of the previous run.
///
/// The limit lies above what they share with another user's list of the previous run: where users get lists of
/// other users, or lists of nothing learned, the two are alike, however few items are popular.
pub fn overlap(night: &Night<'_>) -> Measures {
    let (now, before) = match samples(night) {
        Ok(samples) => samples,
        Err(reason) => return Measures::none(reason),
    };
    let shared = shared(now, before);
    if shared.len() < FEWEST {
        return Measures::none(format!(
            "{} of the sampled users are in both runs, too few to compare: {FEWEST} are needed",
            shared.len()
        ));
    }
    let mean = |shift: usize| {
        let other = |i: usize| shared[(i + shift) % shared.len()].1;
        mean_common(shared.iter().enumerate().map(|(i, (row, _))| (*row, other(i))), now, before)
    };
    let (Some(own), Some(others)) = (mean(0), mean(shared.len() / 2)) else {
        return Measures::none("the lists of the sampled users are empty");
    };
    let limit = others + night.config.gates.min_overlap * (1.0 - others);
    let k = night.now.topk;
    Measures {
        measured: vec![Measure::at_least(format!("mean overlap@{k} of {} users", shared.len()), own, limit)],
        notes: vec![format!("overlap@{k} with another user's list of the previous run is {others:.4}")],
        advice: None,
    }
}

fn no_sample(facts: &Facts) -> String {
    format!("run `{}` has no sample of lists", facts.name())
}

/// The share of distinct items in a sample, of those that could stand in it.
fn covered(facts: &Facts) -> Option<f64> {
    let sample = facts.sample.as_ref()?;
    let distinct: KeyedSet<Identity> = sample.items.iter().copied().collect();
    let possible = facts.eligible.min(sample.items.len() as u64).max(1);
    Some(distinct.len() as f64 / possible as f64)
}

/// The samples of this run and the previous one, or why there are not both.
fn samples<'n>(night: &'n Night<'_>) -> Result<(&'n SampledLists, &'n SampledLists), String> {
    let before = night.before.ok_or(NO_PREVIOUS)?;
    let now = night.now.sample.as_ref().ok_or_else(|| no_sample(night.now))?;
    Ok((now, before.sample.as_ref().ok_or_else(|| no_sample(before))?))
}

/// Rows of the users that are in both, in the order of the first.
fn shared(now: &SampledLists, before: &SampledLists) -> Vec<(usize, usize)> {
    let rows: KeyedMap<Identity, usize> = before.users.iter().enumerate().map(|(row, user)| (*user, row)).collect();
    // `recall` refuses users that stand twice. A sample in which one does is not compared.
    if rows.len() < before.users.len() {
        return Vec::new();
    }
    now.users.iter().enumerate().filter_map(|(row, user)| Some((row, *rows.get(user)?))).collect()
}

/// Mean of [`common`] over pairs of rows, the first of `a` and the second of `b`; none where all lists are empty.
fn mean_common(pairs: impl Iterator<Item = (usize, usize)>, a: &SampledLists, b: &SampledLists) -> Option<f64> {
    let each = pairs.filter_map(|(row_a, row_b)| common(a, row_a, b, row_b));
    let (sum, n) = each.fold((0.0, 0usize), |(sum, n), share| (sum + share, n + 1));
    (n > 0).then(|| sum / n as f64)
}

/// Share of the shorter list's length that the first items of both have in common; none for an empty list.
fn common(a: &SampledLists, row_a: usize, b: &SampledLists, row_b: usize) -> Option<f64> {
    let (first, second) = (a.list(row_a), b.list(row_b));
    let k = first.len().min(second.len());
    let first: KeyedSet<Identity> = first[..k].iter().copied().collect();
    let both = second[..k].iter().filter(|item| first.contains(*item)).count();
    (k > 0).then(|| both as f64 / k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::Id;

    #[test]
    fn overlap_is_counted_over_the_shorter_list() {
        let id = |id: i64| Identity::of(Id::Int(id));
        let table = |offsets: &[usize], items: &[i64]| SampledLists {
            users: (0..offsets.len() as i64 - 1).map(id).collect(),
            offsets: offsets.to_vec(),
            items: items.iter().map(|item| id(*item)).collect(),
        };
        let now = table(&[0, 4, 4], &[1, 2, 3, 4]);
        let before = table(&[0, 2, 4], &[2, 9, 1, 2]);
        assert_eq!(common(&now, 0, &before, 0), Some(0.5));
        assert_eq!(common(&now, 0, &before, 1), Some(1.0));
        assert_eq!(common(&now, 1, &before, 1), None);
        assert_eq!(shared(&now, &before), [(0, 0), (1, 1)]);
    }
}
