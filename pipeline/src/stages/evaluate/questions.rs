//! Whom `evaluate` measures, and on which items.

use super::negatives;
use crate::config::Ranking;
use crate::config::split::SplitConfig;
use crate::error::PipelineError;
use twotower_artifacts::Ragged;
use twotower_models::examples::{Role, TrainingSet, Window};
use twotower_models::rng::Rng;

/// One window per measured user: what is known, what is right.
pub(super) struct Questions {
    /// The moment before each user's held-out items.
    pub windows: Vec<Window>,
    /// What a full ranking leaves out.
    pub excluded: Ragged,
    /// The held-out items of each user.
    pub relevant: Ragged,
    /// Users without a test event.
    pub without_test: usize,
    /// Users whose test events are all of items that they had before.
    pub without_new: usize,
    tests: usize,
    /// Test events of items that their user had before.
    pub repeated: usize,
    /// Users who were not drawn.
    pub not_drawn: usize,
}

/// The share of test events with items that their users had before, above which there is a warning.
const MANY_REPEATED: f64 = 0.1;

impl Questions {
    /// The users of a set that a ranking measures, at most `max_users` of them, drawn with the seed, where that is not 0.
    pub fn new(set: &TrainingSet, ranking: Ranking, max_users: usize, seed: u64) -> Self {
        let novel = match ranking {
            Ranking::Full | Ranking::Sampled => set.novel(),
            // The paper ranks whatever a user had last, be it for the second time.
            Ranking::SampledPaper => vec![true; set.interactions.len()],
        };
        let max_users = match (ranking, max_users) {
            (Ranking::Full | Ranking::Sampled, most) => most,
            (Ranking::SampledPaper, 0) => Ranking::PAPER_USERS,
            (Ranking::SampledPaper, most) => most.min(Ranking::PAPER_USERS),
        };
        let mut windows: Vec<Window> = Vec::new();
        let (mut without_test, mut without_new, mut all_tests, mut repeated) = (0, 0, 0, 0);
        for user in 0..set.interactions.users() {
            let mut tests = set.interactions.events(user).filter(|e| set.roles[*e] == Role::Test).peekable();
            let Some(first) = tests.peek().copied() else {
                without_test += 1;
                continue;
            };
            let (tests, new) = tests.fold((0, 0), |(all, new), e| (all + 1, new + usize::from(novel[e])));
            all_tests += tests;
            repeated += tests - new;
            match new {
                0 => without_new += 1,
                _ => windows.push({
                    let targets = first..set.interactions.events(user).end;
                    Window { user: user as u32, targets, role: Role::Test }
                }),
            }
        }
        let all = windows.len();
        if max_users > 0 && all > max_users {
            Rng::at(seed, &[1]).shuffle(&mut windows);
            windows.truncate(max_users);
            windows.sort_unstable_by_key(|window| window.user);
        }
        let (mut excluded, mut relevant) = (Ragged::default(), Ragged::default());
        for window in &windows {
            excluded.push_row(set.known_items(window));
            let new = set.targets(window).filter(|e| novel[*e]);
            let mut right: Vec<u32> = new.map(|e| set.interactions.items[e]).collect();
            right.sort_unstable();
            relevant.push_row(right);
        }
        let not_drawn = all - windows.len();
        Self { windows, excluded, relevant, without_test, without_new, tests: all_tests, repeated, not_drawn }
    }

    /// Logs and returns what a person should know about the events that test.
    pub fn warnings(&self) -> Vec<String> {
        let Self { tests, repeated, without_new, .. } = self;
        let many = *repeated as f64 > MANY_REPEATED * *tests as f64;
        let warning = format!(
            "{repeated} of {tests} test events are of items that their user had before, which are not retrieved: left out, and so are {without_new} users that have no other"
        );
        many.then_some(warning).into_iter().inspect(|warning| tracing::warn!("evaluate: {warning}")).collect()
    }

    /// Refuses a split that leaves nobody to measure.
    pub fn require_some(&self, split: &SplitConfig) -> Result<(), PipelineError> {
        let reason = match (self.windows.is_empty(), self.without_new) {
            (false, _) => return Ok(()),
            (true, 0) => "no user has a test event; a leave-last-out split needs users with three interactions".into(),
            (true, users) => format!(
                "the test events of all {users} users that have some are of items that they had before, which are not retrieved"
            ),
        };
        Err(PipelineError::Data(format!("evaluate: under the split `{}` {reason}", split.protocol())))
    }

    /// The items that each user's are ranked against, where these are not all.
    pub fn candidates(&self, set: &TrainingSet, ranking: Ranking, seed: u64) -> Option<Ragged> {
        match ranking {
            Ranking::Full => None,
            Ranking::Sampled => Some(negatives::distinct(set, &self.windows, seed)),
            Ranking::SampledPaper => Some(negatives::of_paper(set, &self.windows, seed)),
        }
    }

    /// The number of users one of whose own items is among the candidates.
    pub fn own_drawn(&self, candidates: &Ragged) -> usize {
        let is_drawn = |user: &usize| {
            let right = self.relevant.row(*user);
            candidates.row(*user).iter().any(|item| right.binary_search(item).is_ok())
        };
        (0..self.windows.len()).filter(is_drawn).count()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use twotower_artifacts::{
        CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, Interactions, Side, TowerSchema,
    };

    /// Users with the events of these items, in this order, of a catalogue of `items` items.
    pub fn training_set(users: &[&[u32]], items: usize, split: &SplitConfig) -> TrainingSet {
        let events: Vec<u32> = users.concat();
        let offsets = users.iter().scan(0, |end, user| {
            *end += user.len() as u64;
            Some(*end)
        });
        let interactions = Interactions {
            offsets: std::iter::once(0).chain(offsets).collect(),
            times: (0..events.len() as i64).collect(),
            weights: vec![1.0; events.len()],
            items: events,
            unit: None,
        };
        let schema = |side, fields| TowerSchema { side, encoder: Fingerprint::of(b"e"), fields };
        let item = FieldShape::Code { table: "item".into(), cardinality: items as u32 };
        let user_schema = schema(Side::User, Vec::new());
        let item_schema = schema(Side::Item, vec![FieldSchema { name: "item".into(), shape: item }]);
        let (roles, known) = (split.roles(&interactions), split.known());
        TrainingSet {
            users: CodeBatch::empty(&user_schema),
            items: CodeBatch { columns: vec![Column::Code((0..items as u32).collect())] },
            user_schema,
            item_schema,
            item_codes: Vec::new(),
            interactions,
            roles,
            known,
        }
    }

    #[test]
    fn the_paper_ranks_every_last_item_and_the_other_rankings_only_new_ones() {
        // The second user's last item is one he had before; the third has too few events.
        let set = training_set(&[&[0, 1, 2, 3], &[4, 5, 6, 4], &[1, 2]], 9, &SplitConfig::default());
        for (ranking, users) in [(Ranking::Full, &[0][..]), (Ranking::Sampled, &[0]), (Ranking::SampledPaper, &[0, 1])]
        {
            let questions = Questions::new(&set, ranking, 0, 1);
            let measured: Vec<u32> = questions.windows.iter().map(|window| window.user).collect();
            assert_eq!(measured, users, "{ranking:?}");
            let tests = users.iter().map(|user| [3, 4][*user as usize]);
            assert!((0..users.len()).map(|at| questions.relevant.row(at)[0]).eq(tests), "{ranking:?}");
        }
        let questions = Questions::new(&set, Ranking::SampledPaper, 0, 1);
        let mut drawn = Ragged::default();
        drawn.push_row([2, 3, 8]);
        drawn.push_row([5, 6, 6]);
        assert_eq!((questions.own_drawn(&drawn), questions.repeated), (1, 0));
    }

    #[test]
    fn the_paper_measures_at_most_ten_thousand_users() {
        let users = vec![&[0u32, 1, 2][..]; Ranking::PAPER_USERS + 30];
        let set = training_set(&users, 5, &SplitConfig::default());
        for (most, measured) in [(0, 10_000), (20_000, 10_000), (40, 40)] {
            let questions = Questions::new(&set, Ranking::SampledPaper, most, 1);
            assert_eq!((questions.windows.len(), questions.not_drawn), (measured, users.len() - measured));
        }
        assert_eq!(Questions::new(&set, Ranking::Full, 0, 1).windows.len(), users.len());
    }

    #[test]
    fn in_a_random_split_no_item_that_trains_is_ranked_and_none_that_tests_is_excluded() {
        let (users, events, items) = (30usize, 40usize, 70u32);
        let mut rng = Rng::at(3, &[]);
        let interactions = Interactions {
            offsets: (0..=users as u64).map(|user| user * events as u64).collect(),
            items: (0..users * events).map(|_| rng.below(items as usize) as u32).collect(),
            times: (0..(users * events) as i64).collect(),
            weights: vec![1.0; users * events],
            unit: None,
        };
        let split = SplitConfig::Random { validation: 0.1, test: 0.3, seed: 5, train_on_validation: false };
        let schema = |side| TowerSchema { side, encoder: Fingerprint::of(b"e"), fields: Vec::new() };
        let (user_schema, item_schema) = (schema(Side::User), schema(Side::Item));
        let (users, items) = (CodeBatch::empty(&user_schema), CodeBatch::empty(&item_schema));
        let (roles, known) = (split.roles(&interactions), split.known());
        let set =
            TrainingSet { user_schema, item_schema, users, items, item_codes: Vec::new(), interactions, roles, known };
        let questions = Questions::new(&set, Ranking::Full, 0, 1);
        assert_eq!(questions.windows.len(), 30);
        for (at, window) in questions.windows.iter().enumerate() {
            let all = set.interactions.events(window.user as usize);
            let of = |role: Role| -> Vec<u32> {
                all.clone().filter(|e| set.roles[*e] == role).map(|e| set.interactions.items[e]).collect()
            };
            // What validates is known at the test.
            let (known, tested) = ([of(Role::Train), of(Role::Validation)].concat(), of(Role::Test));
            let (excluded, relevant) = (questions.excluded.row(at), questions.relevant.row(at));
            assert!(known.iter().all(|item| excluded.contains(item)), "user {}", window.user);
            assert!(excluded.iter().all(|item| known.contains(item)), "user {}", window.user);
            let mut expected: Vec<u32> = tested.into_iter().filter(|item| !excluded.contains(item)).collect();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(relevant, expected, "user {}", window.user);
        }
    }
}
