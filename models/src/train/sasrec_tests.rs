//! Tests of SASRec in training.

use super::tests::same_with_any_threads;
use super::tests::{config, fresh, gradient_agrees_with_differences, is_resumed_bit_for_bit, run};
use super::*;
use crate::augment::{ContrastConfig, Representation};
use crate::examples::assemble;
use crate::examples::tests::planted;
use crate::hyper_connections::HyperConnections;
use crate::sasrec::SasrecConfig;
use crate::similarity::Similarity;
use crate::tower::encoder::NormOrder;
use std::collections::BTreeMap;
use twotower_artifacts::{CodeBatch, FieldShape, Side};

/// Users have nothing but a sequence, and items nothing but their id. Item i is followed by item i + 1.
pub(super) fn set(users: usize) -> TrainingSet {
    let mut set = planted(users, 40, 4, 9);
    let items = set.items.rows() as u32;
    for (event, item) in set.interactions.items.iter_mut().enumerate() {
        *item = ((event / 9 * 7 + event % 9) as u32) % items;
    }
    ids_alone(set)
}

/// Takes all fields away but the sequence of users and the id of items.
pub(super) fn ids_alone(mut set: TrainingSet) -> TrainingSet {
    for (schema, batch, kept) in [(&mut set.user_schema, &mut set.users, 1), (&mut set.item_schema, &mut set.items, 0)]
    {
        schema.fields = vec![schema.fields[kept].clone()];
        batch.columns = vec![batch.columns[kept].clone()];
    }
    set.check().unwrap();
    set
}

pub(super) fn model(similarity: Similarity) -> SasrecConfig {
    let temperature = match similarity {
        Similarity::Dot => 1.0,
        Similarity::Cosine => 0.1,
    };
    SasrecConfig { dim: 16, heads: 2, dropout: 0.05, similarity, temperature, ..SasrecConfig::default() }
}

/// Streams of both kinds, in both orders of norms that have some.
fn with_streams() -> [SasrecConfig; 2] {
    let of = |norm, settings| SasrecConfig { norm, hyper_connections: Some(settings), ..model(Similarity::Dot) };
    let lite = HyperConnections { streams: 3, lite: true, gate: 0.1, ..HyperConnections::default() };
    [of(NormOrder::Pre, HyperConnections::default()), of(NormOrder::Paper, lite)]
}

const SIMILARITIES: [Similarity; 2] = [Similarity::Dot, Similarity::Cosine];

#[test]
fn it_learns_which_item_follows_another() {
    let set = set(120);
    for similarity in SIMILARITIES {
        for loss in [
            Loss::FullSoftmax,
            Loss::SampledSoftmax { negatives: 20 },
            Loss::Bce { negatives: 1, sampler: SamplerKind::Uniform },
        ] {
            let config = TrainConfig { loss, epochs: 25, learning_rate: 1e-2, batch_size: 48, ..config() };
            let trained = fresh(&set, &model(similarity), &config);
            let found = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap().values["ndcg@10"];
            assert!(found > 0.8, "{similarity:?}, {loss:?}: {found}");
        }
    }
}

#[test]
fn with_streams_it_learns_which_item_follows_another_and_says_how_doubly_stochastic_they_are() {
    let set = set(120);
    for settings in with_streams() {
        let config =
            TrainConfig { loss: Loss::FullSoftmax, epochs: 25, learning_rate: 1e-2, batch_size: 48, ..config() };
        let dir = tempfile::tempdir().unwrap();
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let found = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap().values["ndcg@10"];
        assert!(found > 0.8, "{settings:?}: {found}");
        for epoch in &trained.epochs {
            let watched = epoch.terms.0.iter().find(|term| term.name == "sinkhorn_error");
            assert!(epoch.loss.is_finite() && (epoch.terms.total() - epoch.loss).abs() < 1e-9);
            match watched {
                None => assert!(settings.hyper_connections.unwrap().lite),
                Some(term) => assert!(term.weight == 0.0 && (0.0..0.1).contains(&term.value), "{term:?}"),
            }
        }
        // The streams have left their start.
        let start = Dssm::sasrec(&set, &settings, &config).unwrap();
        let end = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
        let of_streams = |name: &str| name.contains("_streams_");
        let groups = start.parameters().dense.iter().filter(|group| of_streams(&group.name));
        assert_eq!(groups.clone().count(), 2 * 2 * 3);
        for group in groups {
            let trained = end.dense.iter().find(|trained| trained.name == group.name).unwrap();
            assert_ne!(trained.values, group.values, "{}", group.name);
        }
    }
}

#[test]
fn the_gradient_with_streams_agrees_with_finite_differences() {
    let set = set(40);
    let config = TrainConfig { loss: Loss::Mixed { uniform: 5 }, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    for settings in with_streams() {
        let settings = SasrecConfig { dropout: 0.0, temperature: 8.0, ..settings };
        gradient_agrees_with_differences(&set, || Dssm::sasrec(&set, &settings, &config).unwrap());
    }
}

#[test]
fn streams_agree_between_training_and_both_engines() {
    with_streams().iter().for_each(|settings| agrees_with_both_engines(&set(90), settings));
}

/// Trains a model of 16 numbers that are compared by their inner product, and checks that its tower of users agrees with
/// it in both engines.
pub(super) fn agrees_with_both_engines(set: &TrainingSet, settings: &SasrecConfig) {
    // Histories of none to more than four events.
    let mut users = CodeBatch::empty(&set.user_schema);
    let windows: Vec<Window> = (0..set.roles.len()).map(|event| set.window(event)).collect();
    assemble(set, &windows, &mut users);
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 3, learning_rate: 1e-2, ..config() };
    let is_timed = set.user_schema.fields.iter().any(|field| field.shape.intervals().is_some());
    let kind = if is_timed { ModelConfig::Tisasrec } else { ModelConfig::Sasrec };
    let model = kind(settings.clone());
    let trained = run(set, &model, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
    let path = dir.path().join("user.onnx");
    crate::onnx::export(&trained.user, &path, &BTreeMap::new()).unwrap();
    crate::engine::verify(&path, &trained.user, &users, 1e-4).unwrap();
    let mut model = Dssm::sasrec(set, settings, &config).unwrap();
    *model.parameters_mut() = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
    let found = model.embed(Side::User, &users, &mut model.work()).unwrap().to_vec();
    let (tower, _) = model.towers();
    let expected = crate::native::embed(&tower, &users).unwrap().data;
    // The tower's vectors have unit length and one coordinate more, which is 0 for users.
    for (found, expected) in found.chunks_exact(16).zip(expected.chunks_exact(17)) {
        let length = found.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!(found.iter().zip(expected).all(|(a, b)| (a / length - b).abs() < 1e-5));
    }
}

#[test]
fn streams_that_make_no_sense_are_refused_by_name() {
    let set = set(20);
    let (users, items) = (&set.user_schema.fields, &set.item_schema.fields);
    let refused = |settings: &SasrecConfig| settings.check(users, items).unwrap_err().to_string();
    let [with, _] = with_streams();
    for norm in [NormOrder::Original, NormOrder::Post] {
        let error = refused(&SasrecConfig { norm, ..with.clone() });
        let named = [format!("`{}`", norm.name()), "`model.norm`".into(), "`paper` or `pre`".into()];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
    }
    let default = HyperConnections::default();
    for (settings, name) in [
        (HyperConnections { sinkhorn_rounds: 0, ..default }, "hyper_connections.sinkhorn_rounds"),
        (HyperConnections { streams: 5, lite: true, ..default }, "hyper_connections.streams"),
        (HyperConnections { gate: f32::NAN, ..default }, "hyper_connections.gate"),
    ] {
        let error = refused(&SasrecConfig { hyper_connections: Some(settings), ..with.clone() });
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_cosine_of_its_towers_is_the_score_of_the_model_up_to_a_factor_for_each_user() {
    let set = set(90);
    let config = TrainConfig { epochs: 2, learning_rate: 1e-2, ..config() };
    // Histories of none to more than four events.
    let mut users = CodeBatch::empty(&set.user_schema);
    let windows: Vec<Window> = (0..set.roles.len()).map(|event| set.window(event)).collect();
    assemble(&set, &windows, &mut users);
    for similarity in SIMILARITIES {
        let (settings, dir) = (model(similarity), tempfile::tempdir().unwrap());
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        for (side, tower, batch) in [(Side::User, &trained.user, &users), (Side::Item, &trained.item, &set.items)] {
            let path = dir.path().join(format!("{side}.onnx"));
            crate::onnx::export(tower, &path, &BTreeMap::new()).unwrap();
            crate::engine::verify(&path, tower, batch, 1e-4).unwrap();
            assert_eq!(tower.dim, ModelConfig::from(settings.clone()).dim());
        }
        let mut model = Dssm::sasrec(&set, &settings, &config).unwrap();
        *model.parameters_mut() = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
        let [user_scores, item_scores] = [(Side::User, &users), (Side::Item, &set.items)]
            .map(|(side, batch)| model.embed(side, batch, &mut model.work()).unwrap().to_vec());
        let [user_vectors, item_vectors] = [(&trained.user, &users), (&trained.item, &set.items)]
            .map(|(tower, batch)| crate::native::embed(tower, batch).unwrap().data);
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let (width, dim) = (model.dim(), trained.user.dim);
        for (user, vector) in user_scores.chunks_exact(width).zip(user_vectors.chunks_exact(dim)) {
            let pairs = item_scores.chunks_exact(width).zip(item_vectors.chunks_exact(dim));
            let pairs: Vec<_> = pairs.map(|(item, of_item)| (product(user, item), product(vector, of_item))).collect();
            let factor = pairs.iter().map(|(score, _)| score.abs()).fold(0.0, f64::max)
                / pairs.iter().map(|(_, cosine)| cosine.abs()).fold(1e-30, f64::max);
            for (score, cosine) in pairs {
                assert!(cosine.abs() <= 1.0 + 1e-6);
                assert!((score - factor * cosine).abs() < 1e-5 * (1.0 + score.abs()), "{score}, {cosine}, {factor}");
            }
        }
    }
}

#[test]
fn its_gradient_agrees_with_finite_differences() {
    let mut set = set(40);
    set.interactions.weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = 1.0 + (i % 3) as f32);
    for loss in [Loss::Mixed { uniform: 5 }, Loss::Bce { negatives: 1, sampler: SamplerKind::Uniform }] {
        let config = TrainConfig { loss, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
        for similarity in SIMILARITIES {
            let settings =
                SasrecConfig { dropout: 0.0, learn_temperature: true, temperature: 8.0, ..model(similarity) };
            gradient_agrees_with_differences(&set, || Dssm::sasrec(&set, &settings, &config).unwrap());
        }
    }
}

#[test]
fn it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    let set = set(100);
    is_resumed_bit_for_bit(&set, &SasrecConfig { learn_temperature: true, ..model(Similarity::Dot) });
    let losses =
        vec![Loss::SampledSoftmax { negatives: 20 }, Loss::Bce { negatives: 1, sampler: SamplerKind::Uniform }];
    same_with_any_threads(&set, &model(Similarity::Dot), losses);
    for settings in with_streams() {
        is_resumed_bit_for_bit(&set, &settings);
        same_with_any_threads(&set, &settings, vec![Loss::SampledSoftmax { negatives: 20 }]);
    }
}

#[test]
fn a_user_without_history_gets_what_first_events_taught() {
    // Nine in ten users begin with item 3.
    let mut set = set(100);
    for user in 0..100 {
        let first = set.interactions.events(user).start;
        set.interactions.items[first] = if user % 10 == 0 { 20 } else { 3 };
    }
    let config = TrainConfig { loss: Loss::FullSoftmax, epochs: 12, learning_rate: 1e-2, batch_size: 48, ..config() };
    for similarity in SIMILARITIES {
        let trained = fresh(&set, &model(similarity), &config);
        let mut users = CodeBatch::empty(&set.user_schema);
        assemble(&set, &[set.window(0)], &mut users);
        let user = crate::native::embed(&trained.user, &users).unwrap().data;
        let items = crate::native::embed(&trained.item, &set.items).unwrap().data;
        let score = |item: &[f32]| item.iter().zip(&user).map(|(a, b)| a * b).sum::<f32>();
        let scores: Vec<f32> = items.chunks_exact(user.len()).map(score).collect();
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
        assert_eq!(best, 3, "{similarity:?}: {scores:?}");
    }
}

#[test]
fn other_features_and_heads_that_do_not_divide_the_width_are_refused_by_name() {
    let whole = planted(20, 12, 3, 6);
    let settings = model(Similarity::Dot);
    let fields = |set: &TrainingSet| (set.user_schema.fields.clone(), set.item_schema.fields.clone());
    let refused =
        |settings: &SasrecConfig, users: &[_], items: &[_]| settings.check(users, items).unwrap_err().to_string();
    let (users, items) = fields(&whole);
    let error = refused(&settings, &users, &items);
    assert!(error.contains("`features.user`") && error.contains("found `city`, `recent`, `age`"), "{error}");
    let error = refused(&settings, &users[1..2], &items);
    assert!(error.contains("`features.item`") && error.contains("`table = \"item\"`"), "{error}");
    let mut other = items[0].clone();
    let FieldShape::Code { table, .. } = &mut other.shape else { panic!("an id is a code") };
    *table = "another".into();
    let error = refused(&settings, &users[1..2], &[other]);
    assert!(error.contains("`features.item`"), "{error}");
    settings.check(&users[1..2], &items[..1]).unwrap();
    let error = refused(&SasrecConfig { heads: 3, ..settings }, &users[1..2], &items[..1]);
    assert!(error.contains("`model.heads`") && error.contains("a divisor of 16"), "{error}");
}

fn contrasted(representation: Representation, similarity: Similarity) -> SasrecConfig {
    let contrast = ContrastConfig {
        representation,
        weight: 0.5,
        temperature: 0.5,
        similarity,
        crop: Some(0.6),
        mask: Some(0.5),
        reorder: Some(0.5),
        replace: Some(0.3),
    };
    SasrecConfig { contrast: Some(contrast), ..model(Similarity::Dot) }
}

#[test]
fn the_contrast_is_a_term_of_its_own_that_falls_and_its_gradient_agrees_with_finite_differences() {
    let set = set(60);
    for representation in [Representation::Last, Representation::Mean, Representation::Flatten] {
        for similarity in SIMILARITIES {
            let settings = SasrecConfig { dropout: 0.0, ..contrasted(representation, similarity) };
            let config = TrainConfig { unknown_rate: 0.0, missing_rate: 0.0, ..config() };
            gradient_agrees_with_differences(&set, || Dssm::sasrec(&set, &settings, &config).unwrap());
        }
        let config = TrainConfig { epochs: 8, learning_rate: 1e-2, batch_size: 120, patience: 0, ..config() };
        let trained = fresh(&set, &contrasted(representation, Similarity::Cosine), &config);
        let values = |epoch: &EpochReport| {
            let [next, contrast] = &epoch.terms.0[..] else { panic!("two terms") };
            assert_eq!((next.name.as_str(), contrast.name.as_str()), ("in_batch", "contrast"));
            assert!((epoch.loss - next.value - 0.5 * contrast.value).abs() < 1e-6);
            contrast.value
        };
        let (first, last) = (values(&trained.epochs[0]), values(&trained.epochs[7]));
        assert!(last < first, "{representation:?}: {first}, then {last}");
    }
}

#[test]
fn contrast_is_the_same_with_any_threads_and_after_a_stop() {
    let set = set(100);
    is_resumed_bit_for_bit(&set, &contrasted(Representation::Mean, Similarity::Cosine));
    same_with_any_threads(&set, &contrasted(Representation::Flatten, Similarity::Dot), vec![Loss::InBatch]);
}
