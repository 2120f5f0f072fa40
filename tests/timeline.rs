//! What a user did yesterday counts in tonight's vectors and results, whether or not he ever trained.

mod fixture;

use fixture::results::{histories, recalled, vectors};
use fixture::sheet::Sheet;
use fixture::{Job, interactions, item_id, user_id};
use std::collections::BTreeMap;

/// Users whom the first day does not name, by row of the users table.
const NEW: [usize; 2] = [5, 90];
/// A user of both days whose second day differs.
const ACTIVE: usize = 40;

/// Events of some users.
fn events_of(events: &mut Sheet, keep: impl Fn(i64) -> bool) {
    let users = events.ints("user_id").clone();
    *events = events.take((0..users.len()).filter(|row| keep(users[*row].unwrap())));
}

fn add(events: &mut Sheet, user: usize, items: &[usize]) {
    for (at, item) in items.iter().enumerate() {
        events.ints("user_id").push(Some(user_id(user)));
        events.ints("item_id").push(Some(item_id(*item)));
        events.ints("ts").push(Some(1_703_000_000 + at as i64));
    }
}

/// A job whose first day was trained, in `runs/day1`, and whose interactions are then those of the second.
fn two_days(name: &str) -> (Job, Sheet) {
    let job = Job::new(name);
    job.native();
    job.one_epoch();
    let mut first = interactions();
    events_of(&mut first, |user| !NEW.iter().any(|new| user_id(*new) == user));
    first.write_parquet(&job.path("interactions.parquet"));
    job.ok("run --run runs/day1 --quiet --accept metric");
    let mut second = first;
    NEW.iter().for_each(|user| add(&mut second, *user, &[3, 17, 8]));
    add(&mut second, ACTIVE, &[11, 12]);
    second.write_parquet(&job.path("interactions.parquet"));
    (job, second)
}

const NIGHT: &str = "--update-from runs/day1 --no-train --quiet --accept history --accept metric --accept drift --accept lists --accept overlap";

fn by_user(job: &Job, run: &str) -> BTreeMap<String, Vec<f32>> {
    let dir = job.path(&format!("{run}/vectors/user"));
    vectors(&dir).into_iter().map(|(id, vector)| (id.to_string(), vector)).collect()
}

#[test]
fn a_night_without_training_knows_what_users_did_since_and_those_who_never_trained() {
    let (job, second) = two_days("timeline-night");
    job.ok(&format!("run --run runs/day2 {NIGHT}"));
    let (before, after) = (by_user(&job, "runs/day1"), by_user(&job, "runs/day2"));
    assert_eq!(before.len(), after.len());
    let changed: Vec<&String> = before.keys().filter(|user| before[*user] != after[*user]).collect();
    let mut expected: Vec<String> = NEW.iter().chain([&ACTIVE]).map(|user| user_id(*user).to_string()).collect();
    expected.sort();
    assert_eq!(changed, expected.iter().collect::<Vec<_>>());
    // Fused, in shards and all at once, users get the same items, and none that they have had.
    job.ok(&format!("run --run runs/fused --fused {NIGHT}"));
    assert!(recalled(&job.path("runs/fused/recall")) == recalled(&job.path("runs/day2/recall")));
    for shard in ["0/3", "1/3", "2/3"] {
        job.ok(&format!("recall --run runs/fused --fused --shard {shard} --force --quiet"));
    }
    let lists = recalled(&job.path("runs/fused/recall"));
    assert!(lists == recalled(&job.path("runs/day2/recall")));
    let found = histories(&job.path("runs/day2"));
    for (row, user) in NEW.iter().chain([&ACTIVE]).map(|user| (*user as u64, user_id(*user))) {
        let at = found.rows.binary_search(&row).unwrap();
        let newest = *found.times[found.events(at)].last().unwrap();
        assert!(newest >= 1_703_000_001, "user {user}: {newest}");
    }
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (users, items) = (second.clone().ints("user_id").clone(), second.clone().ints("item_id").clone());
    for (user, item) in users.iter().zip(items) {
        seen.entry(user.unwrap().to_string()).or_default().push(item.unwrap().to_string());
    }
    for (user, list) in &lists {
        let Some(had) = seen.get(&user.to_string()) else { continue };
        let again: Vec<_> = list.iter().filter(|(item, _)| had.contains(&item.to_string())).collect();
        assert!(again.is_empty(), "user {user} gets {again:?} again");
    }
}

#[test]
fn rows_of_another_table_get_the_histories_of_their_users() {
    let (job, _) = two_days("timeline-other");
    job.ok(&format!("run --run runs/day2 {NIGHT}"));
    let expected = by_user(&job, "runs/day2");
    // Another order, some users only, and one whom nobody knows.
    let mut some = fixture::users().take([90usize, 3, 40, 5]);
    some = some.take([2usize, 0, 3, 1]);
    some.write_parquet(&job.path("some.parquet"));
    job.ok("infer --run runs/day2 --side user --table some.parquet --output some --quiet");
    let found: Vec<(String, Vec<f32>)> =
        vectors(&job.path("some/vectors")).into_iter().map(|(id, vector)| (id.to_string(), vector)).collect();
    assert_eq!(found.len(), 4);
    for (user, vector) in found {
        assert!(expected[&user] == vector, "user {user}");
    }
}
