//! The baselines against plain computations on small sets.

use super::super::questions::tests::training_set;
use super::*;
use crate::config::Ranking;
use crate::config::split::SplitConfig;
use twotower_models::rng::Rng;

/// Users with items drawn from a catalogue, those of low numbers more often; the last item is nobody's.
fn users(users: usize, items: usize) -> Vec<Vec<u32>> {
    let mut rng = Rng::at(11, &[]);
    let mut draw = |most: usize| rng.below(most);
    (0..users)
        .map(|_| {
            let events = 3 + draw(9);
            (0..events)
                .map(|_| {
                    let below = 1 + draw(items - 1);
                    draw(below) as u32
                })
                .collect()
        })
        .collect()
}

/// Does `work` with the baselines of the users.
fn with_baselines<T>(
    users: &[Vec<u32>],
    items: usize,
    ranking: Ranking,
    config: &EvaluateConfig,
    work: impl FnOnce(&Baselines) -> T,
) -> T {
    let users: Vec<&[u32]> = users.iter().map(Vec::as_slice).collect();
    let set = training_set(&users, items, &SplitConfig::default());
    let questions = Questions::new(&set, ranking, 0, 1);
    let candidates = questions.candidates(&set, ranking, 1);
    let counts = set.training_counts();
    let task = RankTask {
        items,
        excluded: &questions.excluded,
        relevant: &questions.relevant,
        candidates: candidates.as_ref(),
        ks: &[10],
        popularity: &counts,
    };
    work(&Baselines::new(&set, &questions, &task, config, &Cancel::default()))
}

/// `[users][items]` which user took which item in training: all but the last two events.
fn taken(users: &[Vec<u32>], items: usize) -> Vec<Vec<f64>> {
    let row = |events: &Vec<u32>| {
        let mut row = vec![0.0; items];
        events[..events.len() - 2].iter().for_each(|item| row[*item as usize] = 1.0);
        row
    };
    users.iter().map(row).collect()
}

/// `XᵀX`.
fn gram(taken: &[Vec<f64>], items: usize) -> Vec<Vec<f64>> {
    let entry = |i: usize, j: usize| taken.iter().map(|row| row[i] * row[j]).sum();
    (0..items).map(|i| (0..items).map(|j| entry(i, j)).collect()).collect()
}

/// By Gauss and Jordan.
fn inverse(mut a: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = a.len();
    a.iter_mut().enumerate().for_each(|(i, row)| row.extend((0..n).map(|j| f64::from(u8::from(i == j)))));
    for pivot in 0..n {
        let by = a[pivot][pivot];
        a[pivot].iter_mut().for_each(|x| *x /= by);
        for i in (0..n).filter(|i| *i != pivot) {
            let (factor, row) = (a[i][pivot], a[pivot].clone());
            a[i].iter_mut().zip(&row).for_each(|(x, y)| *x -= factor * y);
        }
    }
    a.into_iter().map(|row| row[n..].to_vec()).collect()
}

#[test]
fn item_cf_adds_the_similarities_of_a_dense_computation() {
    let (items, most) = (40, 5);
    let users = users(60, items);
    let gram = gram(&taken(&users, items), items);
    let cosine = |i: usize, j: usize| gram[i][j] / (gram[i][i] * gram[j][j]).sqrt();
    // The neighbours that an item keeps: the most similar, and among equals the first.
    let kept = |i: usize| {
        let mut near: Vec<(usize, f64)> =
            (0..items).filter(|j| *j != i && gram[i][*j] > 0.0).map(|j| (j, cosine(i, j))).collect();
        near.sort_by(|a, b| (b.1 as f32).total_cmp(&(a.1 as f32)).then(a.0.cmp(&b.0)));
        near.truncate(most);
        near
    };
    let config = EvaluateConfig { item_cf_neighbours: most, ..EvaluateConfig::default() };
    with_baselines(&users, items, Ranking::Full, &config, |baselines| {
        let (cancel, pairs) = (Cancel::default(), TrainedPairs::of(baselines.set));
        let found = ItemCf::fit(&pairs, most, &cancel).unwrap();
        let (mut scores, mut full) = (vec![9.0; items], 0);
        for events in &users {
            let mut history = events[..events.len() - 1].to_vec();
            history.sort_unstable();
            history.dedup();
            let mut expected = vec![0.0; items];
            for item in &history {
                let near = kept(*item as usize);
                full += usize::from(near.len() == most);
                near.into_iter().for_each(|(j, similarity)| expected[j] += similarity);
            }
            found.score(&history, &baselines.popularity, &mut scores);
            for (item, (score, expected)) in scores.iter().zip(&expected).enumerate() {
                // What popularity adds to order equals is at most 1e-6.
                assert!((f64::from(*score) - expected).abs() < 3e-6, "item {item}: {score}, expected {expected}");
            }
        }
        assert!(full > users.len(), "neighbours are cut off: {full}");
    });
}

#[test]
fn ease_has_the_weights_of_a_dense_computation() {
    let (items, lambda) = (40, 3.0);
    let users = users(60, items);
    let mut gram = gram(&taken(&users, items), items);
    (0..items).for_each(|i| gram[i][i] += lambda);
    let p = inverse(gram);
    with_baselines(&users, items, Ranking::Full, &EvaluateConfig::default(), |baselines| {
        let pairs = TrainedPairs::of(baselines.set);
        let found = Ease::fit(&pairs, lambda, &Cancel::default()).unwrap();
        let (mut scores, mut largest) = (vec![9.0; items], 0f64);
        for history in [&[0u32][..], &[1, 5, 7], &[39], &(0..40).collect::<Vec<u32>>()] {
            found.score(history, &mut scores);
            for (j, score) in scores.iter().enumerate() {
                let weight = |i: usize| if i == j { 0.0 } else { -p[i][j] / p[j][j] };
                let expected: f64 = history.iter().map(|i| weight(*i as usize)).sum();
                assert!((f64::from(*score) - expected).abs() < 1e-5, "{history:?}, item {j}: {score}, not {expected}");
                largest = largest.max(expected.abs());
            }
        }
        assert!(largest > 0.1, "{largest}");
        let error = Ease::fit(&pairs, 1e-320, &Cancel::default()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("evaluate.ease_lambda"), "{error}");
    });
}

#[test]
fn an_inverse_of_several_blocks_times_its_matrix_is_the_identity() {
    let (n, mut rng) = (300, Rng::at(5, &[]));
    let x: Vec<f64> = (0..2 * n * n).map(|_| rng.normal()).collect();
    let product = |i: usize, j: usize| (0..2 * n).map(|k| x[k * n + i] * x[k * n + j]).sum::<f64>();
    let matrix: Vec<f64> =
        (0..n * n).map(|at| product(at / n, at % n) + if at / n == at % n { 10.0 } else { 0.0 }).collect();
    let found = ease::inverse(matrix.clone(), n, &Cancel::default()).unwrap().unwrap();
    let entry = |i: usize, j: usize| found[i.min(j) * n + i.max(j)];
    for i in 0..n {
        for j in 0..n {
            let sum: f64 = (0..n).map(|k| matrix[i * n + k] * entry(k, j)).sum();
            assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-9, "{i} {j}: {sum}");
        }
    }
    assert!(ease::inverse(vec![1.0, 2.0, 2.0, 1.0], 2, &Cancel::default()).unwrap().is_none());
}

#[test]
fn ease_is_left_out_of_a_large_catalogue_with_a_word() {
    let users = users(60, 40);
    for (most, is_measured) in [(39, false), (40, true)] {
        let config = EvaluateConfig { ease_max_items: most, ..EvaluateConfig::default() };
        with_baselines(&users, 40, Ranking::Full, &config, |baselines| {
            match baselines.measure(Baseline::Ease).unwrap() {
                Ok(metrics) => assert!(is_measured && metrics.values["coverage@10"] > 0.0),
                Err(reason) => {
                    assert!(
                        !is_measured && reason.starts_with("40 items are more than `evaluate.ease_max_items` = 39")
                    );
                }
            }
        });
    }
}

#[test]
fn collaborative_baselines_find_what_users_of_one_taste_take() {
    // Two tastes of ten items each, of which a user takes seven; the last one is to be found among the four left.
    let mut rng = Rng::at(3, &[]);
    let mut user = |taste: u32| {
        let mut items: Vec<u32> = (0..10).map(|item| 2 * item + taste).collect();
        rng.shuffle(&mut items);
        items.truncate(7);
        items
    };
    let users: Vec<Vec<u32>> = (0..80).map(|at| user(at % 2)).collect();
    let hits = |baseline: Baseline| {
        with_baselines(&users, 21, Ranking::Full, &EvaluateConfig::default(), |baselines| {
            // Of the 15 items that a user has not had, ten are listed.
            baselines.measure(baseline).unwrap().unwrap().values["ndcg@10"]
        })
    };
    let popularity = hits(Baseline::Popularity);
    for baseline in [Baseline::ItemToItem, Baseline::ItemCf, Baseline::Ease] {
        let found = hits(baseline);
        assert!(found > 0.5 && found > popularity + 0.1, "{}: {found}, popularity {popularity}", baseline.name());
    }
}

#[test]
fn baselines_under_the_paper_protocol_have_the_ranks_that_counting_gives() {
    let users = users(60, 40);
    let config = EvaluateConfig::default();
    let (candidates, found) = with_baselines(&users, 40, Ranking::SampledPaper, &config, |baselines| {
        let found = baselines.measure(Baseline::Popularity).unwrap().unwrap().values;
        (baselines.task.candidates.unwrap().clone(), found)
    });
    let (mut hits, mut gains) = (0.0, 0.0);
    for (user, events) in users.iter().enumerate() {
        let (trained, test) = (&events[..events.len() - 2], events[events.len() - 1]);
        let drawn = candidates.row(user);
        assert!(drawn.len() == 100 && drawn.iter().all(|item| !trained.contains(item)));
        let score =
            |item: u32| users.iter().map(|e| e[..e.len() - 2].iter().filter(|i| **i == item).count()).sum::<usize>();
        let ahead = drawn.iter().filter(|item| score(**item) >= score(test)).count();
        if ahead < 10 {
            hits += 1.0;
            gains += 1.0 / ((ahead + 2) as f64).log2();
        }
    }
    assert!(hits > 3.0 && hits < users.len() as f64, "{hits}");
    for (name, sum) in [("hit@10", hits), ("ndcg@10", gains)] {
        assert!((found[name] - sum / users.len() as f64).abs() < 1e-12, "{name}: {}", found[name]);
    }
}
