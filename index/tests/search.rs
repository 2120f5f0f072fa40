//! Compares both indexes with plain f64 search.

mod oracle;

use oracle::{Rng, assert_answer, build, build_with, clustered, naive, random, recall_at};
use proptest::prelude::*;
use twotower_artifacts::{Category, Ragged};
use twotower_index::{
    BuildStep, Eligibility, Exclusions, IndexConfig, IndexError, IndexKind, ItemIndex, ItemVectors, Neighbours,
    Request, noisy_queries,
};

const KINDS: [IndexKind; 2] = [IndexKind::Exact, IndexKind::Hnsw];

fn plain<'a>(queries: &'a [f32], k: usize, eligible: &'a Eligibility) -> Request<'a> {
    Request { queries, k, exclude: Exclusions::none(), eligible }
}

fn search(index: &dyn ItemIndex, request: &Request<'_>) -> Neighbours {
    let mut found = Neighbours::default();
    index.search(request, &mut found).unwrap();
    found
}

#[test]
fn exact_search_equals_plain_f64_search() {
    for (count, dim, queries, k) in
        [(1, 3, 2, 5), (7, 1, 5, 3), (130, 5, 129, 10), (2000, 64, 40, 50), (5000, 33, 9, 700), (4100, 17, 3, 5000)]
    {
        let (items, queries) = (random(count, dim, 1), random(queries, dim, 2));
        let (index, _) = build(IndexKind::Exact, dim, &items);
        let found = search(&*index, &plain(&queries, k, &Eligibility::all(count)));
        for (q, query) in queries.chunks_exact(dim).enumerate() {
            let expected = naive(&items, query, k, |_| true);
            assert_eq!(expected.len(), k.min(count));
            assert_answer(&found, q, &expected, &format!("{count} items of {dim}, k {k}"));
        }
    }
}

#[test]
fn orthogonal_opposite_and_identical_vectors_give_0_minus_1_and_1() {
    let items = [0.6, 0.8, 0.0, -0.6, -0.8, 0.0, 0.0, 0.0, 1.0, 0.6, 0.8, 0.0];
    for kind in KINDS {
        let (index, _) = build(kind, 3, &items);
        let found = search(&*index, &plain(&items[..3], 10, &Eligibility::all(4)));
        assert_eq!(found.rows(0), [0, 3, 2, 1], "{kind}");
        assert_eq!(
            found.scores(0).iter().map(|s| s.to_bits()).collect::<Vec<_>>(),
            [1.0f32, 1.0, 0.0, -1.0].map(f32::to_bits)
        );
    }
}

#[test]
fn an_answer_has_the_same_bits_in_every_batch_and_on_every_number_of_threads() {
    // There are 30 directions, each 100 times with differences of a few units in the last place, so near ties abound.
    let (dim, count) = (24, 3000);
    let base = random(30, dim, 5);
    let mut rng = Rng::new(6);
    let items: Vec<f32> = (0..count)
        .flat_map(|i| base[i % 30 * dim..][..dim].to_vec())
        .map(|v| if rng.uniform() > 0.5 { v } else { f32::from_bits(v.to_bits() + rng.below(3) as u32) })
        .collect();
    let queries = [random(150, dim, 7), base.clone(), items[..97 * dim].to_vec()].concat();
    for kind in KINDS {
        let (index, _) = build(kind, dim, &items);
        let eligible = Eligibility::all(count);
        let whole = search(&*index, &plain(&queries, 50, &eligible));
        for (first, len) in [(0, 1), (3, 1), (147, 130), (200, 7), (100, 128), (276, 1)] {
            let part = search(&*index, &plain(&queries[first * dim..(first + len) * dim], 50, &eligible));
            for q in 0..len {
                assert_eq!(part.rows(q), whole.rows(first + q), "{kind}, batch {first}+{len}");
                assert_eq!(part.scores(q), whole.scores(first + q), "{kind}, batch {first}+{len}");
            }
        }
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut found = Neighbours::default();
            pool.install(|| index.search_parallel(&plain(&queries, 50, &eligible), &mut found)).unwrap();
            assert_eq!(found, whole, "{kind}, {threads} threads");
        }
    }
}

#[test]
fn identical_items_come_in_row_order() {
    let items = random(1, 16, 9).repeat(10_000);
    let (index, _) = build(IndexKind::Exact, 16, &items);
    let found = search(&*index, &plain(&random(3, 16, 10), 50, &Eligibility::all(10_000)));
    for q in 0..3 {
        assert!(found.rows(q).iter().copied().eq(0..50));
        assert!(found.scores(q).windows(2).all(|w| w[0] == w[1]));
    }
}

#[test]
fn hnsw_recalls_at_its_default_settings_and_leaves_nothing_unreachable() {
    let items = clustered(5000, 64, 50, 11);
    let (index, report) = build(IndexKind::Hnsw, 64, &items);
    assert_eq!(report.kind, IndexKind::Hnsw);
    assert!(report.recall.as_ref().unwrap().mean >= 0.99, "{report:?}");
    assert!(index.image().unreachable().is_empty());
    // Other queries than those the width was chosen on.
    let queries = noisy_queries(index.dim(), index.image().vectors(), 300, 12345);
    let recall = recall_at(&*index, &queries, 50);
    assert!(recall >= 0.99, "{recall}");
}

#[test]
fn hnsw_of_few_or_equal_items_answers_exactly() {
    for count in 1..=10 {
        for items in [random(count, 8, 3), random(1, 8, 3).repeat(count)] {
            let (index, _) = build(IndexKind::Hnsw, 8, &items);
            assert!(index.image().unreachable().is_empty());
            let query = random(1, 8, 4);
            let found = search(&*index, &plain(&query, 5, &Eligibility::all(count)));
            assert_answer(&found, 0, &naive(&items, &query, 5, |_| true), &format!("{count} items"));
        }
    }
}

#[test]
fn a_deny_list_that_leaves_only_k_items_leaves_every_query_k_items() {
    let items = clustered(4000, 16, 20, 21);
    let eligible = Eligibility::filter(4000, |row| row % 400 == 7);
    assert_eq!(eligible.eligible(), 10);
    for kind in KINDS {
        let (index, _) = build(kind, 16, &items);
        let queries = random(20, 16, 22);
        let found = search(&*index, &plain(&queries, 10, &eligible));
        for (q, query) in queries.chunks_exact(16).enumerate() {
            let expected = naive(&items, query, 10, |row| row % 400 == 7);
            assert_eq!(expected.len(), 10);
            assert_answer(&found, q, &expected, &kind.to_string());
        }
    }
}

#[test]
fn a_query_excluded_from_nearly_everything_gets_what_is_left() {
    let items = clustered(4000, 16, 20, 31);
    let mut lists = Ragged::default();
    lists.push_row((0..4000).filter(|row| row % 1000 != 3));
    lists.push_row([]);
    lists.push_row(0..4000);
    lists.push_row([5, 5, 5, 6]);
    let queries = items[5 * 16..6 * 16].repeat(4);
    let eligible = Eligibility::filter(4000, |row| row != 1003);
    for kind in KINDS {
        let (index, _) = build(kind, 16, &items);
        let request = Request { queries: &queries, k: 30, exclude: Exclusions::new(&lists), eligible: &eligible };
        let found = search(&*index, &request);
        let mut rows = found.rows(0).to_vec();
        rows.sort_unstable();
        assert_eq!(rows, [3, 2003, 3003], "{kind}");
        assert_eq!(found.rows(1)[0], 5, "{kind}");
        assert_eq!(found.rows(1).len(), 30, "{kind}");
        assert!(found.rows(2).is_empty(), "{kind}");
        assert!(found.rows(3).len() == 30 && !found.rows(3).contains(&5) && !found.rows(3).contains(&6), "{kind}");
    }
}

#[test]
fn excluding_what_hnsw_found_still_gives_k_others_with_high_recall() {
    let items = clustered(6000, 32, 30, 41);
    let (index, _) = build(IndexKind::Hnsw, 32, &items);
    let all = Eligibility::all(6000);
    let queries = noisy_queries(index.dim(), index.image().vectors(), 100, 77);
    let first = search(&*index, &plain(&queries, 40, &all));
    let mut lists = Ragged::default();
    for q in 0..100 {
        let mut rows = first.rows(q).to_vec();
        rows.sort_unstable();
        lists.push_row(rows);
    }
    let request = Request { queries: &queries, k: 40, exclude: Exclusions::new(&lists), eligible: &all };
    let second = search(&*index, &request);
    let mut hits = 0;
    for (q, query) in queries.chunks_exact(32).enumerate() {
        assert_eq!(second.rows(q).len(), 40);
        let expected = naive(&items, query, 40, |row| lists.row(q).binary_search(&row).is_err());
        hits += expected.iter().filter(|(row, _)| second.rows(q).contains(row)).count();
    }
    assert!(hits >= 3960, "{hits} of 4000");
}

#[test]
fn bad_requests_are_refused_with_their_cause() {
    let (index, _) = build(IndexKind::Exact, 2, &[1.0, 0.0, 0.0, 1.0]);
    let all = Eligibility::all(2);
    let mut out = Neighbours::default();
    let mut refusal = |request: &Request<'_>| index.search_parallel(request, &mut out).unwrap_err();
    let query = [1.0f32, 0.0];
    let error = refusal(&plain(&query, 0, &all));
    assert_eq!((error.category(), error.to_string().contains("top-k is 0")), (Category::Usage, true));
    assert!(matches!(refusal(&plain(&[1.0, 0.0, 0.0], 1, &all)), IndexError::Shape { values: 3, .. }));
    assert!(matches!(refusal(&plain(&[1.0, 0.0, f32::NAN, 0.0], 1, &all)), IndexError::NotFinite { row: 1, .. }));
    assert!(matches!(refusal(&plain(&[1.0, 0.0, 0.0, 0.0], 1, &all)), IndexError::NotUnit { row: 1, .. }));
    assert!(matches!(refusal(&plain(&query, 1, &Eligibility::all(3))), IndexError::EligibilitySize { .. }));
    for rows in [vec![1, 0], vec![0, 2]] {
        let mut lists = Ragged::default();
        lists.push_row(rows);
        let request = Request { exclude: Exclusions::new(&lists), ..plain(&query, 1, &all) };
        assert!(matches!(refusal(&request), IndexError::Exclusion { query: 0, .. }));
        lists.push_row([]);
        let request = Request { exclude: Exclusions::new(&lists), ..plain(&query, 1, &all) };
        assert!(matches!(refusal(&request), IndexError::ExclusionCount { queries: 1, found: 2 }));
    }
}

#[test]
fn a_build_below_the_required_recall_fails_as_a_gate() {
    let items = random(3000, 64, 51);
    let config =
        IndexConfig { kind: IndexKind::Hnsw, m: 2, ef_construction: 4, ef_search: Some(50), ..IndexConfig::default() };
    let vectors = ItemVectors::new(64, items).unwrap();
    let error = build_with(&config, vectors, &mut |_| std::ops::ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, IndexError::RecallTooLow { measured, .. } if measured < 0.98), "{error}");
    assert_eq!(error.category(), Category::Gate);
}

#[test]
fn the_width_chosen_suffices_and_one_an_eighth_narrower_was_measured_not_to() {
    let vectors = ItemVectors::new(64, random(4000, 64, 71)).unwrap();
    let config = IndexConfig { kind: IndexKind::Hnsw, m: 8, ef_construction: 40, ..IndexConfig::default() };
    let mut measured = Vec::new();
    let mut watch = |step| {
        if let BuildStep::Measured { ef_search, recall } = step {
            measured.push((ef_search, recall));
        }
        std::ops::ControlFlow::Continue(())
    };
    let (index, report) = build_with(&config, vectors, &mut watch).unwrap();
    let chosen = report.ef_search.unwrap();
    assert!(
        chosen > 64 && measured.contains(&(chosen, report.recall.as_ref().unwrap().mean)),
        "{report:?} {measured:?}"
    );
    assert!(report.recall.as_ref().unwrap().mean >= config.target_recall);
    let narrower = measured.iter().filter(|m| m.0 < chosen).max_by_key(|m| m.0).unwrap();
    assert!(narrower.1 < config.target_recall && chosen - narrower.0 <= chosen / 8, "{chosen} {measured:?}");
    assert_eq!((index.manifest().ef_search, &index.manifest().measured), (report.ef_search, &report.recall));
}

#[test]
fn auto_says_what_it_chose_and_why_and_an_observer_can_stop_it() {
    let vectors = ItemVectors::new(8, random(600, 8, 61)).unwrap();
    let mut go = |_| std::ops::ControlFlow::Continue(());
    let (_, report) = twotower_index::build(&IndexConfig::default(), vectors.clone(), None, &mut go).unwrap();
    assert_eq!((report.kind, report.recall), (IndexKind::Exact, None));
    assert!(report.reason.contains("600") && report.reason.contains("100000"), "{}", report.reason);
    let config = IndexConfig { auto_threshold: 500, ..IndexConfig::default() };
    // With so few items exact search is faster, which the measurement of the graph shows.
    let (index, report) = build_with(&config, vectors.clone(), &mut go).unwrap();
    assert_eq!(
        (report.kind, index.manifest().kind, index.manifest().recall),
        (IndexKind::Exact, IndexKind::Exact, None)
    );
    assert!(report.reason.contains("so exact search serves") && report.warning.is_some(), "{report:?}");
    assert_eq!(index.manifest().reason, report.reason);
    let hnsw = IndexConfig { kind: IndexKind::Hnsw, ..config.clone() };
    let (index, report) = build_with(&hnsw, vectors.clone(), &mut go).unwrap();
    assert_eq!((report.kind, index.manifest().kind), (IndexKind::Hnsw, IndexKind::Hnsw));
    assert!(report.reason.contains("the configuration asks for hnsw; but"), "{}", report.reason);
    let mut stop = |_| std::ops::ControlFlow::Break(());
    let error = build_with(&config, vectors, &mut stop).unwrap_err();
    assert!(matches!(error, IndexError::Stopped));
}

/// Items in a narrow cone, and users at a distance `apart` from them, as two towers make them.
fn cone(count: usize, users: usize, dim: usize, apart: f32, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut items = random(count, dim, seed);
    items.chunks_exact_mut(dim).for_each(|row| row[0] += 1.0);
    let mut queries = random(users, dim, seed + 1);
    queries.chunks_exact_mut(dim).for_each(|row| row[1] += apart);
    (oracle::normalised(items, dim), oracle::normalised(queries, dim))
}

#[test]
fn the_recall_stated_is_that_of_the_given_users_with_their_exclusions_by_plain_search() {
    let (dim, count, users, k) = (16, 6000, 300, 20);
    let (items, queries) = cone(count, users, dim, 1.0, 81);
    let eligible = Eligibility::filter(count, |row| row % 7 != 0);
    let mut rng = Rng::new(82);
    let mut lists = Ragged::default();
    for user in 0..users {
        // One user has seen everything, one all but three items.
        let seen = match user {
            0 => (0..count as u32).collect(),
            1 => (3..count as u32).collect(),
            _ => (0..count as u32).filter(|_| rng.below(100) < user % 4).collect::<Vec<_>>(),
        };
        lists.push_row(seen);
    }
    let sample = Request { queries: &queries, k, exclude: Exclusions::new(&lists), eligible: &eligible };
    let config = IndexConfig {
        kind: IndexKind::Hnsw,
        m: 4,
        ef_construction: 20,
        ef_search: Some(40),
        min_index_recall: 0.0,
        ..IndexConfig::default()
    };
    let vectors = ItemVectors::new(dim, items.clone()).unwrap();
    let mut go = |_| std::ops::ControlFlow::Continue(());
    let (index, report) = twotower_index::build(&config, vectors.clone(), Some(&sample), &mut go).unwrap();
    let mut found = Neighbours::default();
    index.search(&sample, &mut found).unwrap();
    let mut recalls = Vec::new();
    for (q, query) in queries.chunks_exact(dim).enumerate() {
        let expected = naive(&items, query, k, |row| row % 7 != 0 && lists.row(q).binary_search(&row).is_err());
        let hits = expected.iter().filter(|(row, _)| found.rows(q).contains(row)).count();
        recalls.extend((!expected.is_empty()).then(|| hits as f64 / expected.len() as f64));
    }
    let stated = report.recall.unwrap();
    let mean = recalls.iter().sum::<f64>() / recalls.len() as f64;
    recalls.sort_by(f64::total_cmp);
    assert_eq!((stated.users, stated.k, recalls.len()), (users - 1, k, users - 1));
    assert!((stated.mean - mean).abs() < 1e-3 && (stated.min - recalls[0]).abs() < 1e-3, "{stated} {mean}");
    assert!(mean < 0.97 && stated.p5 < stated.median, "too easy to tell: {stated}");
    assert_eq!((index.manifest().recall, index.manifest().measured.as_ref()), (Some(stated.mean), Some(&stated)));
    // Neither another number of threads nor a second measurement changes the result.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (again, report) = pool.install(|| twotower_index::measure_again(&config, index, &sample, &mut go)).unwrap();
    assert_eq!((report.recall.as_ref(), again.manifest().measured.as_ref()), (Some(&stated), Some(&stated)));
}

#[test]
fn users_whom_a_graph_serves_badly_get_a_wider_search_or_exact_search_and_are_told_which() {
    let (dim, count) = (64, 4000);
    let (items, queries) = cone(count, 400, dim, 2.0, 91);
    let vectors = ItemVectors::new(dim, items).unwrap();
    let all = Eligibility::all(count);
    let sample = plain(&queries, 50, &all);
    let built = |config: &IndexConfig, sample: Option<&Request<'_>>| {
        twotower_index::build(config, vectors.clone(), sample, &mut |_| std::ops::ControlFlow::Continue(()))
    };
    let hnsw = IndexConfig { kind: IndexKind::Hnsw, m: 12, ef_construction: 60, ..IndexConfig::default() };
    let loose = IndexConfig { ef_search: Some(48), min_index_recall: 0.0, ..hnsw.clone() };
    let easy = noisy_queries(dim, vectors.data(), 400, 5);
    let easy = plain(&easy, 50, &all);
    let [for_items, for_users] = [&easy, &sample].map(|sample| built(&loose, Some(sample)).unwrap().1.recall.unwrap());
    assert!(for_items.mean > for_users.mean + 0.02, "{for_items} {for_users}");
    // To give users the recall that items have with this width, the search has to be wider.
    let wider = IndexConfig { target_recall: for_items.mean, min_index_recall: 0.0, ..hnsw.clone() };
    let [for_items, for_users] = [&easy, &sample].map(|sample| built(&wider, Some(sample)).unwrap().1);
    assert!(for_users.recall.as_ref().unwrap().mean >= wider.target_recall, "{for_users:?}");
    assert!(for_users.ef_search > for_items.ef_search, "{for_users:?} {for_items:?}");
    // A configured width is measured too, and refused if it is too narrow.
    let narrow = IndexConfig { ef_search: Some(10), ..hnsw.clone() };
    let error = built(&narrow, Some(&sample)).unwrap_err();
    assert!(matches!(error, IndexError::RecallTooLow { users: 400, depth: 50, .. }), "{error}");
    let auto = IndexConfig { kind: IndexKind::Auto, auto_threshold: 100, ..narrow };
    let (index, report) = built(&auto, Some(&sample)).unwrap();
    assert_eq!((index.manifest().kind, index.manifest().ef_search), (IndexKind::Exact, None));
    assert!(index.manifest().reason.contains("over 400 users"), "{}", report.reason);
    assert!(matches!(built(&hnsw, None), Err(IndexError::NoSample)));
    // Without users to measure on, no recall is claimed.
    let nobody = plain(&[], 50, &all);
    let (_, report) = built(&hnsw, Some(&nobody)).unwrap();
    assert_eq!(report.recall.unwrap().users, 0);
    assert!(report.warning.unwrap().contains("no user of the sample"));
    assert_eq!(built(&auto, Some(&nobody)).unwrap().1.kind, IndexKind::Exact);
}

#[test]
fn indexes_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + ?Sized>() {}
    shared::<dyn ItemIndex>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, rng_seed: proptest::test_runner::RngSeed::Fixed(8), ..ProptestConfig::default() })]

    #[test]
    fn exclusions_and_eligibility_hold_as_in_plain_search(
        count in 1usize..400, dim in 1usize..20, k in 1usize..60, queries in 1usize..6,
        modulus in 1u32..9, excluded_share in 0usize..100, seed in 0u64..1000,
    ) {
        let (items, asked) = (random(count, dim, seed), random(queries, dim, seed + 1));
        let eligible = Eligibility::filter(count, |row| row.is_multiple_of(modulus));
        let mut rng = Rng::new(seed + 2);
        let mut lists = Ragged::default();
        for _ in 0..queries {
            lists.push_row((0..count as u32).filter(|_| rng.below(100) < excluded_share).collect::<Vec<_>>());
        }
        let request = Request { queries: &asked, k, exclude: Exclusions::new(&lists), eligible: &eligible };
        for kind in KINDS {
            let (index, _) = build(kind, dim, &items);
            let found = search(&*index, &request);
            for (q, query) in asked.chunks_exact(dim).enumerate() {
                let allowed = |row: u32| row.is_multiple_of(modulus) && lists.row(q).binary_search(&row).is_err();
                let expected = naive(&items, query, k, allowed);
                // With so few items, a graph of default width leaves the search to exact search.
                assert_answer(&found, q, &expected, &format!("{kind}, {count} items"));
                prop_assert!(found.rows(q).iter().all(|row| allowed(*row)));
            }
        }
    }
}
