//! Which users took which items in training.

use twotower_artifacts::Ragged;
use twotower_models::examples::{Role, TrainingSet};

/// Users of an item over whom co-occurrences are counted, at most: evenly spaced where there are more.
const MOST_USERS: usize = 10_000;

fn evenly(rows: &[u32], most: usize) -> impl Iterator<Item = &u32> {
    let n = rows.len().min(most);
    (0..n).map(move |i| &rows[i * rows.len() / n])
}

/// The pairs of a user and an item in training events, each once.
pub(super) struct TrainedPairs {
    /// Items of each user, ascending.
    by_user: Ragged,
    /// Users of each item, ascending.
    by_item: Ragged,
}

impl TrainedPairs {
    /// The pairs of a set.
    pub fn of(set: &TrainingSet) -> Self {
        let mut by_user = Ragged::default();
        let mut users_of: Vec<Vec<u32>> = vec![Vec::new(); set.items.rows()];
        for user in 0..set.interactions.users() {
            let mut items: Vec<u32> = set
                .interactions
                .events(user)
                .filter(|e| set.roles[*e] == Role::Train)
                .map(|e| set.interactions.items[e])
                .collect();
            items.sort_unstable();
            items.dedup();
            items.iter().for_each(|item| users_of[*item as usize].push(user as u32));
            by_user.push_row(items);
        }
        let mut by_item = Ragged::default();
        users_of.into_iter().for_each(|users| by_item.push_row(users));
        Self { by_user, by_item }
    }

    /// Number of items, those that nobody took among them.
    pub fn items(&self) -> usize {
        self.by_item.rows()
    }

    /// The users of an item.
    pub fn users_of(&self, item: usize) -> &[u32] {
        self.by_item.row(item)
    }

    /// The items of a user.
    pub fn items_of(&self, user: u32) -> &[u32] {
        self.by_user.row(user as usize)
    }

    /// Gives `each` the items of some users of an item, that item among them, and says how many users these are: all, or
    /// 10,000 where there are more.
    pub fn taken_with(&self, item: usize, mut each: impl FnMut(u32)) -> usize {
        let users = self.users_of(item);
        for user in evenly(users, MOST_USERS) {
            self.items_of(*user).iter().for_each(|other| each(*other));
        }
        users.len().min(MOST_USERS)
    }
}
