//! Tests of LightGCN whose items begin with texts.

use super::lightgcn_tests::{DIM, even, final_vectors, inner, model, pairs, set, wide};
use super::tests::{config, is_resumed_bit_for_bit, run, same_with_any_threads};
use super::*;
use crate::lightgcn::{Initialisation, LightgcnConfig, State, TextConfig, TextMode};
use crate::metrics::{RankTask, rank};
use crate::params::TableGradient;
use crate::rng::Rng;
use crate::similarity::Similarity;
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Ragged};

const MODES: [TextMode; 3] = [TextMode::Frozen, TextMode::Trainable, TextMode::Residual];
const SIMILARITIES: [Similarity; 2] = [Similarity::Dot, Similarity::Cosine];
/// An item whose text is missing.
const WITHOUT: usize = 13;

/// Gives items texts of `width` numbers, which are alike for items of a taste.
fn with_texts(mut set: TrainingSet, width: usize) -> TrainingSet {
    let items = set.items.rows();
    let mut rng = Rng::at(21, &[]);
    let tastes: Vec<f64> = (0..4 * width).map(|_| rng.normal()).collect();
    let mut values = Vec::new();
    for item in 0..items {
        let text: Vec<f64> = (0..width).map(|i| tastes[item % 4 * width + i] + 0.3 * rng.normal()).collect();
        let norm = inner(&text, &text).sqrt();
        match item {
            WITHOUT => values.extend(std::iter::repeat_n(0.0, width).chain([1.0])),
            _ => values.extend(text.iter().map(|x| (x / norm) as f32).chain([0.0])),
        }
    }
    let shape = FieldShape::Dense { width: width as u32 + 1 };
    set.item_schema.fields.push(FieldSchema { name: "text".into(), shape });
    set.items.columns.push(Column::Dense { width: width + 1, values });
    set.check().unwrap();
    set
}

/// The texts of items and their flags.
fn texts(set: &TrainingSet) -> Vec<(Vec<f64>, bool)> {
    let Column::Dense { width, values } = &set.items.columns[1] else { unreachable!() };
    let rows = values.chunks_exact(*width).map(|row| row.split_last().unwrap());
    rows.map(|(flag, text)| (text.iter().map(|x| f64::from(*x)).collect(), *flag == 0.0)).collect()
}

fn settings(mode: TextMode, similarity: Similarity) -> LightgcnConfig {
    let text = TextConfig { item_rate: 1.0, ..TextConfig::of(mode) };
    LightgcnConfig { text: Some(text), ..model(similarity) }
}

fn dense<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a [f32]> {
    parameters.dense.iter().find(|group| group.name == name).map(|group| &group.values[..])
}

/// α of parameters, which is 1 and 0 in the modes that have none.
fn share(parameters: &Parameters, mode: TextMode) -> f64 {
    match mode {
        TextMode::Frozen => 1.0,
        TextMode::Trainable => 0.0,
        TextMode::Residual => f64::from(dense(parameters, "text_share").unwrap()[0]),
    }
}

/// `P t` of a text, in f64.
fn projected(projection: &[f64], text: &[f64]) -> Vec<f64> {
    projection.chunks_exact(text.len()).map(|axis| inner(axis, text)).collect()
}

/// The first layer in f64, by the definition. Items without edges are made of the projection `of_cold`.
fn first_layer(
    set: &TrainingSet,
    tables: &[Vec<f64>; 2],
    [projection, of_cold]: [&[f64]; 2],
    share: f64,
) -> [Vec<f64>; 2] {
    let Column::Code(codes) = &set.items.columns[0] else { unreachable!() };
    let connected: BTreeSet<u32> = pairs(set).into_iter().map(|(_, item)| item).collect();
    let [users, mut items] = tables.clone();
    for (code, (text, has_text)) in codes.iter().zip(texts(set)) {
        if !has_text || *code < FIRST_VALUE {
            continue;
        }
        let is_connected = connected.contains(code);
        let (share, projection) = if is_connected { (share, projection) } else { (1.0, of_cold) };
        let row = &mut items[*code as usize * DIM..][..DIM];
        row.iter_mut().zip(projected(projection, &text)).for_each(|(e, text)| *e = share * text + (1.0 - share) * *e);
    }
    [users, items]
}

/// The final vectors of parameters in f64.
fn finals_of(set: &TrainingSet, settings: &LightgcnConfig, parameters: &Parameters) -> [Vec<f64>; 2] {
    let projection: Vec<f64> = dense(parameters, "text_projection").unwrap().iter().map(|x| f64::from(*x)).collect();
    let share = share(parameters, settings.text.as_ref().unwrap().mode);
    let [users, items] = first_layer(set, &wide(parameters), [&projection, &projection], share);
    final_vectors(set, [&users, &items], settings)
}

#[test]
fn gradients_of_users_items_and_the_projection_agree_with_differences_of_the_definition_in_f64() {
    let config = TrainConfig { loss: Loss::FullSoftmax, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    let tried =
        MODES.into_iter().zip([DIM + 9, DIM, 7]).flat_map(|(mode, width)| [(mode, width, 0.0), (mode, width, 0.3)]);
    for (mode, width, new_rate) in tried {
        let set = with_texts(set(40, 20), width);
        for similarity in SIMILARITIES {
            let mut base = settings(mode, similarity);
            base.text.as_mut().unwrap().new_rate = new_rate;
            let penalty = 0.3;
            let settings = LightgcnConfig { penalty, temperature: 0.7, init: Initialisation::Normal, ..base };
            let mut model = Lightgcn::new(&set, &settings, &config).unwrap();
            model.parameters_mut().tables.iter_mut().flat_map(|table| &mut table.values).for_each(|x| *x *= 8.0);
            model.parameters_mut().dense[0].values.iter_mut().for_each(|x| *x *= 5.0);
            let moment = Moment { seed: 3, epoch: 0, step: 0 };
            model.begin_epoch(&set, moment).unwrap();
            let numbers = model.windows(&set, moment);
            let windows: Vec<Window> = numbers.iter().take(50).map(|number| model.window(&set, *number)).collect();
            let (Column::Code(users), Column::Code(items)) = (&set.users.columns[0], &set.items.columns[0]) else {
                unreachable!()
            };
            let share = share(model.parameters(), mode);
            let projection = dense(model.parameters(), "text_projection").unwrap();
            let projection: Vec<f64> = projection.iter().map(|x| f64::from(*x)).collect();
            let mut moved = (wide(model.parameters()), projection.clone());
            let connected: BTreeSet<u32> = pairs(&set).into_iter().map(|(_, item)| item).collect();
            let of_items = texts(&set);
            let mut as_new = BTreeMap::new();
            moment.of_step(31).each_hit(new_rate, items.len(), |at| {
                if connected.contains(&items[at]) && of_items[at].1 {
                    as_new.insert(items[at], &of_items[at].0);
                }
            });
            assert_eq!(as_new.is_empty(), new_rate == 0.0);
            let oracle = |(tables, now): &([Vec<f64>; 2], Vec<f64>)| -> f64 {
                // What has no edges is no reason to move the projection.
                let first = first_layer(&set, tables, [now, &projection], share);
                let vectors = final_vectors(&set, [&first[0], &first[1]], &settings);
                let row = |side: usize, code: u32| {
                    let row = match as_new.get(&code).filter(|_| side == 1) {
                        Some(text) => projected(now, text).iter().map(|x| x / 3.0).collect::<Vec<f64>>(),
                        None => vectors[side][code as usize * DIM..][..DIM].to_vec(),
                    };
                    let norm = if similarity == Similarity::Dot { 1.0 } else { inner(&row, &row).sqrt() };
                    row.iter().map(|x| x / norm).collect::<Vec<f64>>()
                };
                let (mut loss, mut squares) = (0.0, 0.0);
                for window in &windows {
                    let clicked = items[set.interactions.items[window.targets.start] as usize];
                    let user = users[window.user as usize];
                    let z = |code: u32| inner(&row(0, user), &row(1, code)) / 0.7;
                    loss += items.iter().map(|code| z(*code).exp()).sum::<f64>().ln() - z(clicked);
                    for (side, code) in [(0, user), (1, clicked)] {
                        let e = &first[side][code as usize * DIM..][..DIM];
                        squares += inner(e, e) / 2.0;
                    }
                }
                (loss + penalty * squares) / windows.len() as f64
            };
            let mut gradients = model.gradients();
            let terms = model.learn(&set, &windows, moment, &mut model.work(), &mut gradients).unwrap();
            let value = oracle(&moved);
            assert!((terms.total() - value).abs() < 1e-5 * (1.0 + value), "{mode:?}: {}, {value}", terms.total());
            let [TableGradient::Whole(d_users), TableGradient::Whole(d_items)] = &gradients.tables[..] else {
                panic!("all rows have a gradient")
            };
            let of_projection = &gradients.dense[0];
            for (which, found) in [d_users, d_items, of_projection].into_iter().enumerate() {
                let mut largest = 0.0f64;
                for at in (0..found.len()).step_by(5) {
                    // A vector that is no part of an item without edges is none of what is trained.
                    let mut change = |delta: f64| {
                        let ([users, items], projection) = &mut moved;
                        [users, items, projection][which][at] += delta;
                        let value = oracle(&moved);
                        let ([users, items], projection) = &mut moved;
                        [users, items, projection][which][at] -= delta;
                        value
                    };
                    let want = (change(1e-5) - change(-1e-5)) / 2e-5;
                    largest = largest.max(want.abs());
                    let is_close = (f64::from(found[at]) - want).abs() < 2e-6 + 1e-4 * want.abs();
                    assert!(is_close, "{mode:?}, {similarity:?}, {which}, {at}: {}, expected {want}", found[at]);
                }
                // Where items have vectors of their own, only those that are treated as new ones teach the projection.
                let learns = (which, mode) != (2, TextMode::Trainable) || new_rate > 0.0;
                assert_eq!(largest > 1e-3, learns, "{mode:?}, {which}: {largest}");
            }
        }
    }
}

#[test]
fn fresh_texts_are_as_long_as_other_rows_and_lie_as_they_did() {
    for width in [DIM + 20, DIM, 5] {
        let set = with_texts(set(40, 40), width);
        let model = Lightgcn::new(&set, &settings(TextMode::Frozen, Similarity::Dot), &config()).unwrap();
        let plain = Lightgcn::new(&with_ids_alone(&set), &self::model(Similarity::Dot), &config()).unwrap();
        assert_eq!(model.parameters().tables, plain.parameters().tables);
        let projection: Vec<f64> = model.parameters().dense[0].values.iter().map(|x| f64::from(*x)).collect();
        let texts: Vec<Vec<f64>> = texts(&set).into_iter().filter(|text| text.1).map(|text| text.0).collect();
        let made: Vec<Vec<f64>> = texts.iter().map(|text| projected(&projection, text)).collect();
        let mean_square = |rows: &[Vec<f64>]| rows.iter().map(|row| inner(row, row)).sum::<f64>() / rows.len() as f64;
        let rows: Vec<Vec<f64>> = wide(plain.parameters())[1].chunks_exact(DIM).map(<[f64]>::to_vec).collect();
        let ratio = (mean_square(&made) / mean_square(&rows)).sqrt();
        assert!((ratio - 1.0).abs() < 1e-4, "{width}: {ratio}");
        let cosine = |a: &[f64], b: &[f64]| inner(a, b) / (inner(a, a) * inner(b, b)).sqrt();
        for at in 1..texts.len() {
            let [before, after] = [&texts, &made].map(|of| cosine(&of[at - 1], &of[at]));
            // Four tastes lie in four directions, and their noise in all.
            let tolerance = if width > DIM { 0.25 } else { 1e-5 };
            assert!((before - after).abs() < tolerance, "{width}, {at}: {before}, {after}");
        }
    }
}

/// The same set without texts.
fn with_ids_alone(set: &TrainingSet) -> TrainingSet {
    let mut set = set.clone();
    set.item_schema.fields.truncate(1);
    set.items.columns.truncate(1);
    set
}

#[test]
fn the_share_of_texts_falls_by_epoch_is_that_of_the_kept_epoch_and_goes_on_where_a_run_begins_with_another() {
    let set = with_texts(set(90, 24), 20);
    let mut settings = settings(TextMode::Residual, Similarity::Cosine);
    let text = settings.text.as_mut().unwrap();
    (text.share, text.share_step) = (Some(0.5), Some(0.2));
    let (config, dir) = (TrainConfig { epochs: 5, learning_rate: 1e-2, ..config() }, tempfile::tempdir().unwrap());
    let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
    let shares = |trained: &TrainingResult| -> Vec<f64> {
        let of = |epoch: &EpochReport| epoch.terms.0.iter().find(|term| term.name == "text_share").unwrap().value;
        trained.epochs.iter().map(of).collect()
    };
    let close = |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(&shares(&trained), &[0.5, 0.3, 0.1, 0.0, 0.0]), "{:?}", shares(&trained));
    // An earlier epoch is kept as well: the vectors of its towers are made with its share.
    for epochs in [trained.best_epoch, 2] {
        let dir = tempfile::tempdir().unwrap();
        let config = TrainConfig { epochs: 5.min(epochs), ..config.clone() };
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let parameters = checkpoint::read::<State>(&trained.checkpoint).unwrap().parameters;
        let expected = [0.5, 0.3, 0.1, 0.0, 0.0][trained.best_epoch - 1];
        assert!((share(&parameters, TextMode::Residual) - expected).abs() < 1e-6);
        let finals = finals_of(&set, &settings, &parameters);
        let found = crate::native::embed(&trained.item, &set.items).unwrap();
        let Column::Code(items) = &set.items.columns[0] else { unreachable!() };
        for (code, found) in items.iter().zip(found.data.chunks_exact(DIM)) {
            let row = &finals[1][*code as usize * DIM..][..DIM];
            let norm = inner(row, row).sqrt();
            assert!(found.iter().zip(row).all(|(a, b)| (f64::from(*a) - b / norm).abs() < 1e-5), "item {code}");
        }
        let next = tempfile::tempdir().unwrap();
        let start = Start::From(trained.checkpoint.clone());
        let again = run(&set, &settings, &TrainConfig { epochs: 2, ..config }, start, next.path(), &mut ()).unwrap();
        assert!(close(&shares(&again), &[expected, (expected - 0.2).max(0.0)]), "{:?}", shares(&again));
    }
}

#[test]
fn it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    for mode in MODES {
        let mut settings = settings(mode, Similarity::Dot);
        settings.text.as_mut().unwrap().items_from_epoch = 1;
        is_resumed_bit_for_bit(&with_texts(even(), 30), &settings);
        let set = with_texts(set(300, 48), 30);
        same_with_any_threads(&set, &settings, vec![Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform }]);
    }
}

#[test]
fn items_and_the_projection_stay_before_their_epoch_and_move_at_their_rate() {
    let set = with_texts(set(60, 24), 20);
    for mode in MODES {
        let trained = |from_epoch: usize, rate: f64, epochs: usize| {
            let mut settings = settings(mode, Similarity::Dot);
            settings.text = Some(TextConfig { items_from_epoch: from_epoch, item_rate: rate, ..TextConfig::of(mode) });
            let config = TrainConfig { epochs, unknown_rate: 0.0, warmup_steps: 0, ..config() };
            let fresh = Lightgcn::new(&set, &settings, &config).unwrap().parameters().clone();
            let dir = tempfile::tempdir().unwrap();
            run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
            (fresh, checkpoint::read::<State>(&dir.path().join("last.ckpt")).unwrap().parameters)
        };
        let projection = |parameters: &Parameters| dense(parameters, "text_projection").unwrap().to_vec();
        for (fresh, after) in [trained(2, 0.3, 2), trained(0, 0.0, 1)] {
            assert_eq!(after.tables[1], fresh.tables[1], "{mode:?}");
            assert_eq!(projection(&after), projection(&fresh), "{mode:?}");
            assert_ne!(after.tables[0], fresh.tables[0]);
        }
        let (fresh, after) = trained(1, 0.3, 2);
        let items_move = after.tables[1] != fresh.tables[1];
        // Of items with a text, frozen ones have nothing but the projection.
        assert!(items_move, "{mode:?}");
        assert_ne!(projection(&after), projection(&fresh), "{mode:?}");
        let row = |of: &Parameters, item: usize| of.tables[1].row(item as u32 + FIRST_VALUE).to_vec();
        for item in 0..24 {
            let moves = row(&after, item) != row(&fresh, item);
            let cold = item >= 22;
            assert_eq!(moves, item == WITHOUT || mode != TextMode::Frozen && !cold, "{mode:?}, item {item}");
        }
    }
}

#[test]
fn items_without_events_are_found_by_their_texts_and_by_chance_without() {
    // All events of the first eight items, two of each taste, test.
    let mut set = set(160, 48);
    for (event, item) in set.interactions.items.iter().enumerate() {
        match (set.roles[event], *item < 8) {
            (Role::Train, true) => set.roles[event] = Role::Test,
            (Role::Test | Role::Validation, false) => set.roles[event] = Role::Train,
            _ => {}
        }
    }
    set.known = crate::examples::Known::Training;
    let set = with_texts(set, 30);
    let recall = |set: &TrainingSet, settings: &LightgcnConfig| {
        let dir = tempfile::tempdir().unwrap();
        let loss = Loss::SampledSoftmax { negatives: 20 };
        let config = TrainConfig { loss, epochs: 15, learning_rate: 1e-2, batch_size: 128, ..config() };
        let trained = run(set, settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let [users, items] = [(&trained.user, &rows_after_all(set)), (&trained.item, &set.items)]
            .map(|(tower, batch)| crate::native::embed(tower, batch).unwrap());
        let (mut excluded, mut relevant) = (Ragged::default(), Ragged::default());
        for user in 0..set.users.rows() {
            excluded.push_row(set.known_items(&set.after_all(user)));
            relevant.push_row([0, 4].map(|first| (first + user % 4) as u32));
        }
        let task = RankTask {
            items: set.items.rows(),
            excluded: &excluded,
            relevant: &relevant,
            candidates: None,
            ks: &[10],
            popularity: &[],
        };
        rank(&users, &items, &task).unwrap().values["recall@10"]
    };
    let without = recall(&with_ids_alone(&set), &model(Similarity::Cosine));
    for mode in MODES {
        let with = recall(&set, &settings(mode, Similarity::Cosine));
        assert!(with > 0.7 && without < 0.4, "{mode:?}: {with} with texts, {without} without");
    }
}

/// The users' rows after all events.
fn rows_after_all(set: &TrainingSet) -> CodeBatch {
    let mut rows = CodeBatch::empty(&set.user_schema);
    let windows: Vec<Window> = (0..set.users.rows()).map(|user| set.after_all(user)).collect();
    crate::examples::assemble(set, &windows, &mut rows);
    rows
}

#[test]
fn new_items_get_what_their_texts_say_in_both_engines_and_known_ones_their_own_vectors() {
    for (mode, similarity) in MODES.into_iter().flat_map(|mode| SIMILARITIES.map(|similarity| (mode, similarity))) {
        let set = with_texts(set(90, 24), if mode == TextMode::Frozen { 7 } else { 20 });
        let (settings, dir) = (settings(mode, similarity), tempfile::tempdir().unwrap());
        let config = TrainConfig { epochs: 2, learning_rate: 2e-2, ..config() };
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let path = dir.path().join("item.onnx");
        crate::onnx::export(&trained.item, &path, &BTreeMap::new()).unwrap();
        assert_eq!(crate::onnx::read(&path).unwrap().0, trained.item);
        // Known items with other texts, new items with those of known ones, and a new one without any.
        let mut others = set.items.clone();
        let Column::Dense { values, .. } = &mut others.columns[1] else { unreachable!() };
        values.iter_mut().for_each(|x| *x = 0.5 - *x);
        let mut new = set.items.clone();
        new.columns[0] = Column::Code(vec![UNKNOWN; 24]);
        let [own, same, new] = [&set.items, &others, &new].map(|batch| {
            crate::engine::verify(&path, &trained.item, batch, 1e-4).unwrap();
            crate::native::embed(&trained.item, batch).unwrap().data
        });
        assert_eq!(own, same);
        let parameters = checkpoint::read::<State>(&trained.checkpoint).unwrap().parameters;
        let finals = finals_of(&set, &settings, &parameters);
        let projection: Vec<f64> = parameters.dense[0].values.iter().map(|x| f64::from(*x)).collect();
        let longest = finals[1].chunks_exact(DIM).map(|row| inner(row, row).sqrt()).fold(0.0, f64::max);
        let close = |found: &[f32], expected: &[f64], tolerance: f64| {
            found.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < tolerance)
        };
        let of = |vector: &[f64]| -> Vec<f64> {
            let divisor = if similarity == Similarity::Dot { longest } else { inner(vector, vector).sqrt() };
            vector.iter().map(|x| x / divisor).collect()
        };
        let width = trained.item.dim;
        let with_text = texts(&set).into_iter().filter(|text| text.1).map(|text| projected(&projection, &text.0));
        let squares: Vec<f64> = with_text.map(|row| inner(&row, &row) / 9.0).collect();
        let mean_square = squares.iter().sum::<f64>() / squares.len() as f64;
        for (item, (text, has_text)) in texts(&set).into_iter().enumerate() {
            let row = |code: usize| &finals[1][code * DIM..][..DIM];
            assert!(close(&own[item * width..][..DIM], &of(row(item + FIRST_VALUE as usize)), 1e-4), "item {item}");
            let found = &new[item * width..][..DIM];
            if !has_text {
                assert!(close(found, &of(row(UNKNOWN as usize)), 1e-5), "{mode:?}, {similarity:?}");
                continue;
            }
            let expected: Vec<f64> = projected(&projection, &text).iter().map(|x| x / 3.0).collect();
            let factor = match similarity {
                // The tower does not know the length of a new item, but nearly.
                Similarity::Dot => longest / (longest * longest + inner(&expected, &expected) - mean_square).sqrt(),
                Similarity::Cosine => 1.0,
            };
            assert!((factor - 1.0).abs() < 0.2, "{mode:?}: {factor}");
            let scaled: Vec<f64> = of(&expected).iter().map(|x| x * factor).collect();
            assert!(close(found, &scaled, 1e-4), "{mode:?}, {similarity:?}, new item {item}");
            // One that was known, but nobody took, was the same.
            if item >= 22 {
                assert!(close(&own[item * width..][..DIM], &of(&expected), 1e-4), "{mode:?}, {similarity:?}, {item}");
            }
        }
    }
}

#[test]
fn on_a_second_day_new_items_begin_with_their_texts() {
    let (first, second) = (with_texts(set(60, 24), 20), with_texts(set(75, 32), 20));
    for mode in MODES {
        let (settings, dir) = (settings(mode, Similarity::Dot), tempfile::tempdir().unwrap());
        let config = TrainConfig { epochs: 3, learning_rate: 2e-2, ..config() };
        let yesterday = run(&first, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let earlier = checkpoint::read::<State>(&yesterday.checkpoint).unwrap().parameters;
        let mut model = Lightgcn::new(&second, &settings, &config).unwrap();
        model.warm_start(&earlier).unwrap();
        let after = model.parameters();
        assert_eq!(after.dense, earlier.dense);
        let old = earlier.tables[1].values.len();
        assert_eq!(after.tables[1].values[..old], earlier.tables[1].values);
        let projection: Vec<f64> = after.dense[0].values.iter().map(|x| f64::from(*x)).collect();
        for (item, (text, _)) in texts(&second).into_iter().enumerate().skip(24) {
            let (row, made) = (after.tables[1].row(item as u32 + FIRST_VALUE), projected(&projection, &text));
            let is_made = row.iter().zip(&made).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5);
            assert_eq!(is_made, mode != TextMode::Frozen, "{mode:?}, item {item}");
        }
        // A model without texts has other parameters.
        let error = Lightgcn::new(&with_ids_alone(&second), &self::model(Similarity::Dot), &config)
            .and_then(|mut plain| plain.warm_start(&earlier))
            .unwrap_err();
        assert!(error.to_string().contains("`text_projection`"), "{error}");
    }
}

#[test]
fn what_is_watched_has_a_name_and_no_weight_and_frozen_texts_lie_as_they_did() {
    let set = with_texts(set(160, 48), 30);
    let of = |mode: TextMode, item_rate: f64| {
        let mut settings = settings(mode, Similarity::Cosine);
        settings.text.as_mut().unwrap().item_rate = item_rate;
        let config = TrainConfig { epochs: 4, learning_rate: 2e-2, loss: Loss::InBatch, ..config() };
        let dir = tempfile::tempdir().unwrap();
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let watched = |epoch: &EpochReport| -> BTreeMap<String, f64> {
            let terms = epoch.terms.0.iter().filter(|term| term.weight == 0.0);
            terms.map(|term| (term.name.clone(), term.value)).collect()
        };
        trained.epochs.iter().map(watched).collect::<Vec<_>>()
    };
    let always =
        ["item_cosine_deviation", "item_cosine_mean", "item_gradient_norm", "text_correlation", "user_gradient_norm"];
    for mode in MODES {
        let epochs = of(mode, 1.0);
        for (at, epoch) in epochs.iter().enumerate() {
            let names: Vec<&str> = epoch.keys().map(String::as_str).filter(|name| *name != "text_share").collect();
            assert_eq!(names, always);
            assert_eq!(epoch.contains_key("text_share"), mode == TextMode::Residual);
            assert!(epoch["user_gradient_norm"] > 0.0 && epoch["item_gradient_norm"] > 0.0, "{mode:?}: {epoch:?}");
            assert!(epoch["item_cosine_mean"].abs() <= 1.0 && epoch["item_cosine_deviation"] > 0.0);
            // Final vectors add those of users, who like items of one taste, which texts tell apart.
            assert!(epoch["text_correlation"] > if at == 0 { 0.3 } else { 0.2 }, "{mode:?}, {at}: {epoch:?}");
        }
    }
    let mut without_layers = settings(TextMode::Frozen, Similarity::Cosine);
    without_layers.layers = 0;
    let model = Lightgcn::new(&set, &without_layers, &config()).unwrap();
    let mut begun = model;
    begun.begin_epoch(&set, Moment { seed: 1, epoch: 0, step: 0 }).unwrap();
    let kept: BTreeMap<&str, f64> = begun.state().geometry.unwrap().watched().into_iter().collect();
    assert!(kept["text_correlation"] > 0.95, "{kept:?}");
}

#[test]
fn texts_without_the_section_the_section_without_texts_and_settings_of_other_modes_are_refused() {
    let set = with_texts(set(20, 12), 8);
    let (users, items) = (&set.user_schema.fields[..], &set.item_schema.fields[..]);
    let good = settings(TextMode::Residual, Similarity::Dot);
    good.check(users, items).unwrap();
    let says = |settings: &LightgcnConfig, items: &[FieldSchema], words: &[&str]| {
        let error = settings.check(users, items).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(&good, &items[..1], &["`model.text`", "kind `vector`", "remove the section", "none"]);
    says(&model(Similarity::Dot), items, &["`features.item`", "`text`", "[model.text]", "remove it"]);
    let mut number = items.to_vec();
    number[1].shape = FieldShape::Dense { width: 2 };
    says(&good, &number, &["`features.item`", "of kind `vector`"]);
    says(&good, &[items, &items[1..]].concat(), &["`model.text`", "a feature of kind `vector`", "`text`, `text`"]);
    for mode in [TextMode::Frozen, TextMode::Trainable] {
        for text in [
            TextConfig { share: Some(0.5), ..TextConfig::of(mode) },
            TextConfig { share_step: Some(0.1), ..TextConfig::of(mode) },
        ] {
            let settings = LightgcnConfig { text: Some(text), ..good.clone() };
            says(&settings, items, &["`model.text.share", "\"residual\""]);
        }
    }
    let wide = TextConfig { share: Some(1.5), ..TextConfig::of(TextMode::Residual) };
    says(&LightgcnConfig { text: Some(wide), ..good.clone() }, items, &["text.share"]);
    // A file of other ids has no text for any item.
    let mut strange = set.clone();
    let Column::Dense { width, values } = &mut strange.items.columns[1] else { unreachable!() };
    values.chunks_exact_mut(*width).for_each(|row| {
        row.fill(0.0);
        row[row.len() - 1] = 1.0;
    });
    let error = Lightgcn::new(&strange, &good, &config()).err().unwrap();
    assert!(error.to_string().contains("`model.text`") && error.to_string().contains("`file_id`"), "{error}");
}
