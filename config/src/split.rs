//! Which interactions train, validate and test: a pure function of their order.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};
use twotower_artifacts::Interactions;
use twotower_models::examples::{Known, Role};
use twotower_models::rng::Rng;

/// How positives are held out. In every split that draws nothing, a user's held-out events are their latest ones, so a
/// model never sees an event later than the one it predicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SplitConfig {
    /// A user's last event tests, the one before validates; users with fewer than three train only.
    LeaveLastOut {
        /// Give the validation events back to training (no validation metric, no early stopping).
        #[serde(default)]
        train_on_validation: bool,
    },
    /// Events from `test_from` on test, those from `validation_from` on validate. Where they are not
    /// given, they are the times that leave the given fractions of all events behind them.
    Time {
        /// First time of the validation period, in the timestamp column's unit.
        #[serde(default)]
        validation_from: Option<i64>,
        /// First time of the test period.
        #[serde(default)]
        test_from: Option<i64>,
        /// Fraction of events that validate.
        #[serde(default = "tenth")]
        validation: f64,
        /// Fraction of events that test.
        #[serde(default = "tenth")]
        test: f64,
        /// Give the validation events back to training.
        #[serde(default)]
        train_on_validation: bool,
    },
    /// The last `test` fraction of each user's events tests, the `validation` fraction before it validates.
    Ratio {
        /// Fraction of a user's events that validate.
        #[serde(default = "tenth")]
        validation: f64,
        /// Fraction of a user's events that test.
        #[serde(default = "tenth")]
        test: f64,
        /// Give the validation events back to training.
        #[serde(default)]
        train_on_validation: bool,
    },
    /// Events drawn from all of each user's test and validate, and all that train are known beside them: the split of
    /// most papers on collaborative filtering. A model may learn from events later than those it predicts.
    Random {
        /// Fraction of a user's events that validate.
        #[serde(default = "tenth")]
        validation: f64,
        /// Fraction of a user's events that test.
        #[serde(default = "tenth")]
        test: f64,
        /// Of the draw.
        #[serde(default = "one")]
        seed: u64,
        /// Give the validation events back to training.
        #[serde(default)]
        train_on_validation: bool,
    },
    /// All events of some items test, so that none of them trains: how well a model retrieves items that nobody has taken
    /// yet. Of the others, events drawn from all of each user's validate. What is known is as with a random split.
    ColdItems {
        /// Fraction of the items with events whose events test.
        #[serde(default = "twentieth")]
        items: f64,
        /// Fraction of a user's other events that validate.
        #[serde(default = "tenth")]
        validation: f64,
        /// Of both draws.
        #[serde(default = "one")]
        seed: u64,
        /// Give the validation events back to training.
        #[serde(default)]
        train_on_validation: bool,
    },
}

fn one() -> u64 {
    1
}

fn twentieth() -> f64 {
    0.05
}

fn tenth() -> f64 {
    0.1
}

impl Default for SplitConfig {
    fn default() -> Self {
        SplitConfig::LeaveLastOut { train_on_validation: false }
    }
}

impl SplitConfig {
    /// The name that stands in metrics files.
    pub fn protocol(&self) -> String {
        let returned = if self.train_on_validation() { ", validation trained" } else { "" };
        match self {
            SplitConfig::LeaveLastOut { .. } => format!("leave-last-out{returned}"),
            SplitConfig::Time { validation_from, test_from, validation, test, .. } => {
                let period = |from: &Option<i64>, share: &f64| {
                    from.map_or(format!("last {share} of events"), |time| format!("from {time}"))
                };
                let (tests, validates) = (period(test_from, test), period(validation_from, &(validation + test)));
                format!("time ({tests} test, {validates} before them validate{returned})")
            }
            SplitConfig::Ratio { validation, test, .. } => {
                format!("ratio (last {test} of a user's events test, {validation} before validate{returned})")
            }
            SplitConfig::Random { validation, test, seed, .. } => {
                format!("random, seed {seed} ({test} of a user's events test, {validation} validate{returned})")
            }
            SplitConfig::ColdItems { items, validation, seed, .. } => {
                format!(
                    "cold items, seed {seed} (all events of {items} of the items test, {validation} of a user's others validate{returned})"
                )
            }
        }
    }

    /// Whether validation events train as well.
    pub fn train_on_validation(&self) -> bool {
        match self {
            SplitConfig::LeaveLastOut { train_on_validation }
            | SplitConfig::Time { train_on_validation, .. }
            | SplitConfig::Ratio { train_on_validation, .. }
            | SplitConfig::Random { train_on_validation, .. }
            | SplitConfig::ColdItems { train_on_validation, .. } => *train_on_validation,
        }
    }

    /// What is known of a user beside an event.
    pub fn known(&self) -> Known {
        match self {
            SplitConfig::LeaveLastOut { .. } | SplitConfig::Time { .. } | SplitConfig::Ratio { .. } => Known::Earlier,
            SplitConfig::Random { .. } | SplitConfig::ColdItems { .. } => Known::Training,
        }
    }

    /// Checks that parts fit beside each other.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] naming the setting.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            SplitConfig::LeaveLastOut { .. } | SplitConfig::ColdItems { .. } => Ok(()),
            SplitConfig::Time { validation, test, .. }
            | SplitConfig::Ratio { validation, test, .. }
            | SplitConfig::Random { validation, test, .. }
                if validation + test >= 1.0 =>
            {
                Err(ConfigError::usage(format!(
                    "split: validation = {validation} and test = {test}: expected fractions that sum to less than 1"
                )))
            }
            SplitConfig::Time { validation_from: Some(v), test_from: Some(t), .. } if v > t => {
                Err(ConfigError::usage(format!("split: validation_from = {v} is later than test_from = {t}")))
            }
            _ => Ok(()),
        }
    }

    /// The role of every event.
    pub fn roles(&self, interactions: &Interactions) -> Vec<Role> {
        let held = if self.train_on_validation() { Role::Train } else { Role::Validation };
        let mut roles = vec![Role::Train; interactions.len()];
        match self {
            SplitConfig::LeaveLastOut { .. } => {
                for u in 0..interactions.users() {
                    let events = interactions.events(u);
                    if events.len() >= 3 {
                        roles[events.end - 1] = Role::Test;
                        roles[events.end - 2] = held;
                    }
                }
            }
            SplitConfig::Time { validation_from, test_from, validation, test, .. } => {
                let mut times = interactions.times.clone();
                times.sort_unstable();
                let quantile = |share: f64| {
                    let at = ((1.0 - share) * times.len() as f64).round() as usize;
                    times.get(at).copied().unwrap_or(i64::MAX)
                };
                let test_from = test_from.unwrap_or_else(|| quantile(*test));
                let validation_from = validation_from.unwrap_or_else(|| quantile(validation + test).min(test_from));
                for (role, time) in roles.iter_mut().zip(&interactions.times) {
                    *role = match *time {
                        t if t >= test_from => Role::Test,
                        t if t >= validation_from => held,
                        _ => Role::Train,
                    };
                }
            }
            SplitConfig::Random { validation, test, seed, .. } => {
                for u in 0..interactions.users() {
                    let mut events: Vec<usize> = interactions.events(u).collect();
                    let (tested, validated) = held_out(events.len(), *validation, *test);
                    Rng::at(*seed, &[SPLIT, u as u64]).shuffle(&mut events);
                    events[..tested].iter().for_each(|event| roles[*event] = Role::Test);
                    events[tested..tested + validated].iter().for_each(|event| roles[*event] = held);
                }
            }
            SplitConfig::ColdItems { items, validation, seed, .. } => {
                let cold = drawn_items(interactions, *items, *seed);
                for u in 0..interactions.users() {
                    let is_cold = |event: &usize| cold[interactions.items[*event] as usize];
                    let (tested, mut others): (Vec<usize>, Vec<usize>) = interactions.events(u).partition(is_cold);
                    tested.into_iter().for_each(|event| roles[event] = Role::Test);
                    let (_, validated) = held_out(others.len(), *validation, 0.0);
                    Rng::at(*seed, &[SPLIT, u as u64]).shuffle(&mut others);
                    others[..validated].iter().for_each(|event| roles[*event] = held);
                }
            }
            SplitConfig::Ratio { validation, test, .. } => {
                for u in 0..interactions.users() {
                    let events = interactions.events(u);
                    let (tested, validated) = held_out(events.len(), *validation, *test);
                    let end = events.end;
                    roles[end - tested..end].fill(Role::Test);
                    roles[end - tested - validated..end - tested].fill(held);
                }
            }
        }
        roles
    }
}

/// Streams of random numbers of a split: of a user's events, and of items.
const SPLIT: u64 = 20;
const ITEMS: u64 = 21;

/// Whether each item, by its row, is one of the given fraction of those that have events: of at least one, where there are
/// any.
fn drawn_items(interactions: &Interactions, fraction: f64, seed: u64) -> Vec<bool> {
    let mut drawn = vec![false; interactions.items.iter().max().map_or(0, |last| *last as usize + 1)];
    let mut with_events: Vec<u32> = interactions.items.clone();
    with_events.sort_unstable();
    with_events.dedup();
    let count = (with_events.len() as f64 * fraction).ceil() as usize;
    Rng::at(seed, &[ITEMS]).shuffle(&mut with_events);
    with_events.iter().take(count).for_each(|item| drawn[*item as usize] = true);
    drawn
}

/// How many of a user's events test and how many validate; at least one trains.
fn held_out(events: usize, validation: f64, test: f64) -> (usize, usize) {
    let part = |share: f64| (events as f64 * share).floor() as usize;
    let tested = part(test);
    (tested, part(validation + test) - tested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn interactions(sizes: &[usize]) -> Interactions {
        let mut all = Interactions { offsets: vec![0], ..Default::default() };
        for size in sizes {
            for t in 0..*size {
                all.items.push(t as u32);
                all.times.push(t as i64);
                all.weights.push(1.0);
            }
            all.offsets.push(all.items.len() as u64);
        }
        all
    }

    #[test]
    fn leave_last_out_holds_out_the_two_latest_events_of_users_with_three() {
        let roles = SplitConfig::default().roles(&interactions(&[3, 2, 1]));
        use Role::*;
        assert_eq!(roles, [Train, Validation, Test, Train, Train, Train]);
        let returned = SplitConfig::LeaveLastOut { train_on_validation: true }.roles(&interactions(&[3]));
        assert_eq!(returned, [Train, Train, Test]);
    }

    #[test]
    fn no_split_trains_on_an_event_later_than_one_it_tests() {
        let all = interactions(&[10, 20, 1, 0, 7]);
        for split in [
            SplitConfig::default(),
            SplitConfig::Ratio { validation: 0.2, test: 0.3, train_on_validation: false },
            SplitConfig::Time {
                validation_from: None,
                test_from: None,
                validation: 0.2,
                test: 0.2,
                train_on_validation: false,
            },
        ] {
            let roles = split.roles(&all);
            let rank = |r: Role| match r {
                Role::Train => 0,
                Role::Validation => 1,
                _ => 2,
            };
            for u in 0..all.users() {
                assert!(all.events(u).map(|e| rank(roles[e])).is_sorted(), "{split:?}");
            }
            assert!(roles.contains(&Role::Test) && roles.contains(&Role::Validation), "{split:?}");
        }
    }

    #[test]
    fn a_random_split_holds_out_its_share_of_every_user_by_its_seed_alone() {
        let all = interactions(&[10, 40, 1, 0, 7]);
        let roles =
            |seed| SplitConfig::Random { validation: 0.1, test: 0.2, seed, train_on_validation: false }.roles(&all);
        let count = |roles: &[Role], u: usize, role| all.events(u).filter(|e| roles[*e] == role).count();
        let first = roles(7);
        for (u, tested, validated) in [(0, 2, 1), (1, 8, 4), (2, 0, 0), (4, 1, 1)] {
            assert_eq!((count(&first, u, Role::Test), count(&first, u, Role::Validation)), (tested, validated), "{u}");
        }
        assert_eq!(first, roles(7));
        assert_ne!(first, roles(8));
        // From the midst of the others, not from their end.
        assert!(all.events(1).take(20).any(|e| first[e] == Role::Test));
    }

    #[test]
    fn a_split_of_cold_items_tests_all_events_of_its_share_of_items_by_its_seed_alone() {
        let mut all = interactions(&[30; 40]);
        // Of 61 items, those that are multiples of 3 alone have events.
        all.items.iter_mut().enumerate().for_each(|(at, item)| *item = ((at * 7 + at / 30) % 20 * 3 + 3) as u32);
        let split = |items, seed| SplitConfig::ColdItems { items, validation: 0.1, seed, train_on_validation: false };
        let roles = split(0.1, 7).roles(&all);
        let of = |roles: &[Role], item: u32| -> HashSet<Role> {
            (0..all.len()).filter(|event| all.items[*event] == item).map(|event| roles[event]).collect()
        };
        let cold = |roles: &[Role]| (3..=60).step_by(3).filter(|item| of(roles, *item).contains(&Role::Test)).collect();
        let drawn: Vec<u32> = cold(&roles);
        assert_eq!(drawn.len(), 2);
        for item in (3..=60).step_by(3) {
            let found = of(&roles, item);
            assert_eq!(found.len() == 1 && found.contains(&Role::Test), drawn.contains(&item), "{item}: {found:?}");
        }
        for u in 0..all.users() {
            let count = |role| all.events(u).filter(|event| roles[*event] == role).count();
            let others = 30 - count(Role::Test);
            assert_eq!((count(Role::Validation), count(Role::Train)), (others / 10, others - others / 10));
        }
        assert_eq!(roles, split(0.1, 7).roles(&all));
        let other: Vec<u32> = cold(&split(0.1, 8).roles(&all));
        assert_ne!(drawn, other);
        // There is something to test, however small the share, and nothing where there are no events.
        let least: Vec<u32> = cold(&split(1e-6, 7).roles(&all));
        assert_eq!(least.len(), 1);
        assert!(split(0.5, 7).roles(&interactions(&[])).is_empty());
        assert_eq!(split(0.5, 7).known(), Known::Training);
        let returned = SplitConfig::ColdItems { items: 0.1, validation: 0.1, seed: 7, train_on_validation: true };
        assert!(!returned.roles(&all).contains(&Role::Validation));
        assert_eq!(
            returned.protocol(),
            "cold items, seed 7 (all events of 0.1 of the items test, 0.1 of a user's others validate, validation trained)"
        );
    }

    #[test]
    fn a_time_split_by_fraction_leaves_about_that_fraction_behind() {
        let all = interactions(&[100]);
        let split = SplitConfig::Time {
            validation_from: None,
            test_from: None,
            validation: 0.1,
            test: 0.2,
            train_on_validation: false,
        };
        let roles = split.roles(&all);
        assert_eq!(roles.iter().filter(|r| **r == Role::Test).count(), 20);
        assert_eq!(roles.iter().filter(|r| **r == Role::Validation).count(), 10);
    }
}
