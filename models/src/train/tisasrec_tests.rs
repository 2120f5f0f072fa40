//! Tests of TiSASRec in training.

use super::position_tests::{learned, undropped, windows};
use super::sasrec_tests::{ids_alone, model, set};
use super::tests::{
    config, fresh, gradient_agrees_with_differences, is_resumed_bit_for_bit, run, same_with_any_threads,
};
use super::*;
use crate::examples::assemble;
use crate::examples::tests::planted;
use crate::metrics::{Measure, MetricName};
use crate::rng::Rng;
use crate::similarity::Similarity;
use std::collections::BTreeMap;
use twotower_artifacts::{CodeBatch, Column, FieldShape, IntervalScale, Intervals, TickUnit};

pub(super) const PERSONAL: Intervals = Intervals { scale: IntervalScale::Personal, span: 12 };
const HOURS: Intervals = Intervals { scale: IntervalScale::Hour, span: 12 };

/// Gives the sequence of users intervals, or none.
fn with_intervals(mut set: TrainingSet, given: Option<Intervals>) -> TrainingSet {
    let FieldShape::Sequence { intervals, .. } = &mut set.user_schema.fields[0].shape else { panic!("a sequence") };
    *intervals = given;
    set
}

/// Users with a sequence of `longest` items and nothing else, whose gaps are some minutes or hours.
pub(super) fn timed(users: usize, longest: u32, intervals: Intervals) -> TrainingSet {
    let mut set = with_intervals(set(users), Some(intervals));
    let FieldShape::Sequence { max_len, .. } = &mut set.user_schema.fields[0].shape else { panic!("a sequence") };
    *max_len = longest;
    let mut rng = Rng::at(31, &[]);
    for user in 0..users {
        let mut time = 1_700_000_000_000;
        for event in set.interactions.events(user) {
            time += [0, 1, 7, 40, 90, 500][rng.below(6)] * 60_000;
            set.interactions.times[event] = time;
        }
    }
    set.interactions.unit = Some(TickUnit::Millisecond);
    set.check().unwrap();
    set
}

fn tisasrec(similarity: Similarity) -> ModelConfig {
    ModelConfig::Tisasrec(model(similarity))
}

/// The places of a ring, and the items at each.
const PLACES: usize = 12;
const GAPS: usize = 8;

/// A user takes an item at each place of the ring, from his first place on. Which one of [`GAPS`] follows from the gap
/// between the two events before, and from nothing else. Gaps are random multiples of an hour or, with `own`, of a unit
/// that is each user's own, and his first gap.
fn gaps_tell(intervals: Intervals, own: bool) -> TrainingSet {
    let users = 400;
    let mut set = with_intervals(ids_alone(planted(users, PLACES * GAPS, 4, 9)), Some(intervals));
    let mut rng = Rng::at(32, &[]);
    for user in 0..users {
        let unit = if own { 10_000 + rng.below(1_000_000) as i64 } else { 3_600_000 };
        let (mut time, mut before) = (1_700_000_000_000 + rng.below(1000) as i64 * 60_000, 0);
        let first = rng.below(PLACES);
        for (place, event) in set.interactions.events(user).enumerate() {
            let gap = if place < 2 { 0 } else { rng.below(GAPS) };
            time += (gap + 1) as i64 * unit;
            set.interactions.items[event] = ((first + place) % PLACES * GAPS + before) as u32;
            set.interactions.times[event] = time;
            before = gap;
        }
    }
    let FieldShape::Sequence { max_len, .. } = &mut set.user_schema.fields[0].shape else { panic!("a sequence") };
    *max_len = 8;
    set.interactions.unit = Some(TickUnit::Millisecond);
    set
}

#[test]
fn where_only_the_gap_tells_the_next_item_it_wins_by_far_over_sasrec() {
    let metric = MetricName { measure: Measure::Ndcg, k: 1 };
    let config =
        TrainConfig { loss: Loss::FullSoftmax, epochs: 40, learning_rate: 1e-2, batch_size: 64, metric, ..config() };
    let first = |set: &TrainingSet, model: &ModelConfig| {
        let trained = fresh(set, model, &config);
        trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap().values["ndcg@1"]
    };
    for (intervals, own) in [(HOURS, false), (PERSONAL, true)] {
        let set = gaps_tell(intervals, own);
        let found = first(&set, &tisasrec(Similarity::Dot));
        // Items alone tell the place, where each of 8 items is as likely.
        let blind = first(&with_intervals(set, None), &ModelConfig::Sasrec(model(Similarity::Dot)));
        println!("{intervals:?}: {found}, SASRec {blind}");
        assert!(found > 0.7 && blind < 0.3, "{intervals:?}: {found}, SASRec {blind}");
    }
}

#[test]
fn training_at_every_position_is_training_on_the_history_before_each_target() {
    for intervals in [PERSONAL, HOURS] {
        // Sequences hold all events of a user, so that each has one window.
        let set = timed(30, 9, intervals);
        for loss in [Loss::InBatch, Loss::FullSoftmax] {
            let settings = crate::sasrec::SasrecConfig { dropout: 0.0, ..model(Similarity::Dot) };
            let mut model = Dssm::sasrec(&set, &settings, &undropped(loss)).unwrap();
            let (found, gradients) = learned(&model, &set, &windows(&model, &set));
            model.positions = None;
            let mut examples = windows(&model, &set);
            assert_eq!(examples.len(), 30 * 7);
            // Newest first, none continues the one before it.
            examples.reverse();
            let (expected, by_example) = learned(&model, &set, &examples);
            assert!((found - expected).abs() < 1e-5, "{intervals:?}, {loss:?}: {found}, {expected}");
            for (group, (found, expected)) in gradients.iter().zip(&by_example).enumerate() {
                let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                let worst = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                // Sums in another order.
                assert!(worst <= 1e-5 + 1e-4 * largest, "{intervals:?}, {loss:?}, group {group}: {worst:e}");
            }
        }
    }
}

#[test]
fn its_gradient_agrees_with_finite_differences() {
    for intervals in [PERSONAL, HOURS] {
        let set = timed(40, 4, intervals);
        for loss in [Loss::Mixed { uniform: 5 }, Loss::Bce { negatives: 1, sampler: SamplerKind::Uniform }] {
            let config = TrainConfig { loss, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
            let settings = crate::sasrec::SasrecConfig { dropout: 0.0, temperature: 8.0, ..model(Similarity::Dot) };
            gradient_agrees_with_differences(&set, || Dssm::sasrec(&set, &settings, &config).unwrap());
        }
    }
}

#[test]
fn its_towers_agree_with_training_in_both_engines() {
    let set = timed(90, 4, PERSONAL);
    let config = TrainConfig { epochs: 2, learning_rate: 1e-2, ..config() };
    let dir = tempfile::tempdir().unwrap();
    let trained = run(&set, &tisasrec(Similarity::Cosine), &config, Start::Fresh, dir.path(), &mut ()).unwrap();
    // Histories of none to more than four events.
    let mut users = CodeBatch::empty(&set.user_schema);
    let windows: Vec<Window> = (0..set.roles.len()).map(|event| set.window(event)).collect();
    assemble(&set, &windows, &mut users);
    let path = dir.path().join("user_tower.onnx");
    crate::onnx::export(&trained.user, &path, &BTreeMap::new()).unwrap();
    crate::engine::verify(&path, &trained.user, &users, 1e-4).unwrap();
    // And with the training's own forward pass, from the checkpoint of the best epoch.
    let mut model = Dssm::sasrec(&set, &model(Similarity::Cosine), &config).unwrap();
    *model.parameters_mut() = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
    let vectors = crate::native::embed(&trained.user, &users).unwrap().data;
    let mut work = model.work();
    let found = model.embed(twotower_artifacts::Side::User, &users, &mut work).unwrap();
    assert_eq!(found.len(), vectors.len());
    assert!(found.iter().zip(&vectors).all(|(a, b)| (a - b).abs() < 1e-4));
    // Times matter to the vectors.
    let Column::Ragged(recent) = &mut users.columns[0] else { panic!("sequences are ragged") };
    recent.times.iter_mut().for_each(|time| *time *= 3);
    let others = crate::native::embed(&trained.user, &users).unwrap().data;
    assert!(others.iter().zip(&vectors).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[test]
fn it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    let set = timed(100, 4, PERSONAL);
    is_resumed_bit_for_bit(&set, &tisasrec(Similarity::Dot));
    same_with_any_threads(&set, &tisasrec(Similarity::Dot), vec![Loss::SampledSoftmax { negatives: 20 }]);
}

#[test]
fn sequences_without_intervals_and_models_that_do_not_read_them_are_refused_by_name() {
    let set = timed(20, 4, HOURS);
    let plain = with_intervals(set.clone(), None);
    let check = |model: &ModelConfig, set: &TrainingSet| {
        let checked = model.check(&set.user_schema.fields, &set.item_schema.fields);
        checked.map_err(|error| error.to_string())
    };
    let sasrec = ModelConfig::Sasrec(model(Similarity::Dot));
    check(&tisasrec(Similarity::Dot), &set).unwrap();
    check(&sasrec, &plain).unwrap();
    let error = check(&tisasrec(Similarity::Dot), &plain).unwrap_err();
    assert!(error.contains("`intervals = \"hour\"`") && error.contains("`recent` without"), "{error}");
    for blind in [sasrec, crate::dssm::DssmConfig::default().into()] {
        let error = check(&blind, &set).unwrap_err();
        assert!(error.contains("`intervals` of `recent`") && error.contains("`kind = \"tisasrec\"`"), "{error}");
    }
    check(&super::tests::attentive(crate::tower::encoder::NormOrder::Post, 0.1).into(), &set).unwrap();
    // Times whose unit is not known are no clock.
    let mut order = set;
    order.interactions.unit = None;
    let error = order.check().unwrap_err().to_string();
    assert!(error.contains("sequence `recent` has intervals"), "{error}");
}
