//! The gates on recalled lists: `coverage`, `users` and `overlap`, on the sample that `recall` keeps.

use super::facts::Facts;
use super::verdict::{Measured, Measures};
use super::{NO_PREVIOUS, Night};
use crate::id_index::IdIndex;
use rustc_hash::FxHashSet;
use twotower_artifacts::Id;
use twotower_artifacts::neighbours_file::NeighbourTable;

/// Users below which a mean over them says too little.
const FEWEST: usize = 100;

/// Share of the items that could be recalled which stand in the list of at least one sampled user.
///
/// Items that could be recalled are the eligible ones, or the places in all lists where there are fewer.
pub fn coverage(night: &Night<'_>) -> Measures {
    let config = &night.config.gates;
    let Some(share) = covered(night.now) else { return Measures::none(no_sample(night.now)) };
    let mut measures = Measures::default();
    measures.measured.push(Measured::at_least("share of the catalogue", share, config.min_coverage));
    match night.before.map(|before| (before, covered(before))) {
        Some((before, Some(earlier))) if earlier > 0.0 => measures.measured.push(Measured::at_least(
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
    Measures { measured: vec![Measured::at_least("share of sampled users", share, limit)], notes: Vec::new() }
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
        let each = shared.iter().enumerate().filter_map(|(i, (row, _))| common(now, *row, before, other(i)));
        let (sum, n) = each.fold((0.0, 0usize), |(sum, n), share| (sum + share, n + 1));
        (n > 0).then(|| sum / n as f64)
    };
    let (Some(own), Some(others)) = (mean(0), mean(shared.len() / 2)) else {
        return Measures::none("the lists of the sampled users are empty");
    };
    let limit = others + night.config.gates.min_overlap * (1.0 - others);
    let k = night.now.topk;
    Measures {
        measured: vec![Measured::at_least(format!("mean overlap@{k} of {} users", shared.len()), own, limit)],
        notes: vec![format!("overlap@{k} with another user's list of the previous run is {others:.4}")],
    }
}

fn no_sample(facts: &Facts) -> String {
    format!("run `{}` has no sample of lists", facts.name())
}

/// Share of the items that could stand in a sample which do.
fn covered(facts: &Facts) -> Option<f64> {
    let sample = facts.sample.as_ref()?;
    let distinct: FxHashSet<Id<'_>> = sample.items.iter().collect();
    let possible = facts.eligible.min(sample.items.len() as u64).max(1);
    Some(distinct.len() as f64 / possible as f64)
}

/// The samples of this run and the previous one, or why there are not both.
fn samples<'n>(night: &'n Night<'_>) -> Result<(&'n NeighbourTable, &'n NeighbourTable), String> {
    let before = night.before.ok_or(NO_PREVIOUS)?;
    let now = night.now.sample.as_ref().ok_or_else(|| no_sample(night.now))?;
    Ok((now, before.sample.as_ref().ok_or_else(|| no_sample(before))?))
}

/// Rows of the users that are in both, in the order of the first.
fn shared(now: &NeighbourTable, before: &NeighbourTable) -> Vec<(usize, usize)> {
    // A user stands once in a run's results, or `recall` would have refused; one that does not is in neither.
    let Ok(index) = IdIndex::new(before.users.clone()) else { return Vec::new() };
    let found = now.users.iter().enumerate().filter_map(|(row, user)| Some((row, index.find(user)? as usize)));
    found.collect()
}

/// Share of the shorter list's length that the first items of both have in common; none for an empty list.
fn common(a: &NeighbourTable, row_a: usize, b: &NeighbourTable, row_b: usize) -> Option<f64> {
    let range = |table: &NeighbourTable, row: usize| table.offsets[row]..table.offsets[row + 1];
    let (a_range, b_range) = (range(a, row_a), range(b, row_b));
    let k = a_range.len().min(b_range.len());
    let first: FxHashSet<Id<'_>> = a_range.take(k).map(|at| a.items.get(at)).collect();
    let both = b_range.take(k).filter(|at| first.contains(&b.items.get(*at))).count();
    (k > 0).then(|| both as f64 / k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twotower_artifacts::Ids;

    #[test]
    fn overlap_is_counted_over_the_shorter_list() {
        let table = |offsets: &[usize], items: &[i64]| NeighbourTable {
            users: Ids::Int((0..offsets.len() as i64 - 1).collect()),
            offsets: offsets.to_vec(),
            items: Ids::Int(items.to_vec()),
            scores: vec![0.0; items.len()],
        };
        let now = table(&[0, 4, 4], &[1, 2, 3, 4]);
        let before = table(&[0, 2, 4], &[2, 9, 1, 2]);
        assert_eq!(common(&now, 0, &before, 0), Some(0.5));
        assert_eq!(common(&now, 0, &before, 1), Some(1.0));
        assert_eq!(common(&now, 1, &before, 1), None);
        assert_eq!(shared(&now, &before), [(0, 0), (1, 1)]);
    }
}
