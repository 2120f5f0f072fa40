//! The items that a held-out one is ranked against where these are sampled.

use crate::config::Ranking;
use rustc_hash::FxHashSet;
use twotower_artifacts::Ragged;
use twotower_models::examples::{Role, TrainingSet, Window};
use twotower_models::rng::Rng;

/// Streams of random numbers, apart from that of the users that are measured.
const DISTINCT: u64 = 2;
const PAPER: u64 = 3;

/// For each window, [`Ranking::NEGATIVES`] distinct items drawn uniformly from those its user has no interaction with;
/// all of these where there are fewer.
pub(super) fn distinct(set: &TrainingSet, windows: &[Window], seed: u64) -> Ragged {
    let items = set.items.rows();
    let mut candidates = Ragged::default();
    for window in windows {
        let events = set.interactions.events(window.user as usize);
        let known: FxHashSet<u32> = set.interactions.items[events].iter().copied().collect();
        let mut drawn = FxHashSet::default();
        let mut rng = Rng::at(seed, &[DISTINCT, window.user as u64]);
        let wanted = Ranking::NEGATIVES.min(items.saturating_sub(known.len()));
        while drawn.len() < wanted {
            let item = rng.below(items) as u32;
            if !known.contains(&item) {
                drawn.insert(item);
            }
        }
        let mut drawn: Vec<u32> = drawn.into_iter().collect();
        drawn.sort_unstable();
        candidates.push_row(drawn);
    }
    candidates
}

/// As `evaluate` of kang205/SASRec (`util.py`) draws: for each window, [`Ranking::NEGATIVES`] draws from all items that
/// are not among its user's training items, with repeats. So a negative may be the item that validates, and even the one
/// that tests. None where a user's training items are the whole catalogue.
pub(super) fn of_paper(set: &TrainingSet, windows: &[Window], seed: u64) -> Ragged {
    let items = set.items.rows();
    let mut candidates = Ragged::default();
    for window in windows {
        let trains = set.interactions.events(window.user as usize).filter(|event| set.roles[*event] == Role::Train);
        let trained: FxHashSet<u32> = trains.map(|event| set.interactions.items[event]).collect();
        let mut rng = Rng::at(seed, &[PAPER, window.user as u64]);
        let wanted = if trained.len() < items { Ranking::NEGATIVES } else { 0 };
        let drawn = std::iter::repeat_with(|| rng.below(items) as u32).filter(|item| !trained.contains(item));
        candidates.push_row(drawn.take(wanted));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::super::questions::tests::training_set;
    use super::*;
    use crate::config::split::SplitConfig;

    /// Three users with the events 0 1 2 3, 4 5 and 0 1 .. 6 of a catalogue of 8 items.
    fn set() -> TrainingSet {
        let users: [&[u32]; 3] = [&[0, 1, 2, 3], &[4, 5], &[0, 1, 2, 3, 4, 5, 6]];
        training_set(&users, 8, &SplitConfig::default())
    }

    fn windows(set: &TrainingSet) -> Vec<Window> {
        (0..set.interactions.users()).map(|user| set.after_all(user)).collect()
    }

    fn distinct_of(row: &[u32]) -> Vec<u32> {
        let mut row = row.to_vec();
        row.sort_unstable();
        row.dedup();
        row
    }

    #[test]
    fn distinct_negatives_are_all_items_without_an_event_where_these_are_few() {
        let set = set();
        let drawn = distinct(&set, &windows(&set), 1);
        assert_eq!([drawn.row(0), drawn.row(1), drawn.row(2)], [&[4, 5, 6, 7][..], &[0, 1, 2, 3, 6, 7], &[7]]);
    }

    #[test]
    fn negatives_of_the_paper_are_a_hundred_draws_from_what_does_not_train_the_held_out_items_among_them() {
        let set = set();
        let drawn = of_paper(&set, &windows(&set), 1);
        // The last item tests and the one before validates; a user with two events trains only.
        for (user, possible) in [(0, &[2, 3, 4, 5, 6, 7][..]), (1, &[0, 1, 2, 3, 6, 7]), (2, &[5, 6, 7])] {
            assert_eq!(drawn.row(user).len(), 100);
            assert_eq!(distinct_of(drawn.row(user)), possible, "user {user}");
            // Each of n items is drawn 100 / n times, with a deviation of at most 5.
            let mean = 100.0 / possible.len() as f64;
            for item in possible {
                let count = drawn.row(user).iter().filter(|drawn| *drawn == item).count() as f64;
                assert!((count - mean).abs() < 20.0, "user {user}: item {item}: {count}");
            }
        }
        assert_eq!(drawn.values, of_paper(&set, &windows(&set), 1).values);
        assert_ne!(drawn.values, of_paper(&set, &windows(&set), 2).values);
        // What one user gets does not depend on who else is measured.
        assert_eq!(of_paper(&set, &windows(&set)[2..], 1).row(0), drawn.row(2));
    }

    #[test]
    fn a_user_who_trained_on_the_whole_catalogue_has_no_negatives() {
        let set = training_set(&[&[0, 1, 0, 1]], 2, &SplitConfig::default());
        assert!(of_paper(&set, &windows(&set), 1).row(0).is_empty());
        assert!(distinct(&set, &windows(&set), 1).row(0).is_empty());
    }
}
