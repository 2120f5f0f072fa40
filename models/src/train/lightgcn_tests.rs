//! Tests of LightGCN in training.

use super::tests::{
    config, fresh, gradient_agrees_with_differences, is_resumed_bit_for_bit, run, same_with_any_threads,
};
use super::*;
use crate::examples::assemble;
use crate::examples::tests::planted;
use crate::graph::Graph;
use crate::lightgcn::transport::{self, Transport};
use crate::lightgcn::{
    Initialisation, Layer, LightgcnConfig, Logit, Sampling, TransportConfig, ViewsConfig, XsimgclConfig,
};
use crate::params::TableGradient;
use crate::rng::Rng;
use crate::similarity::Similarity;
use std::collections::{BTreeMap, BTreeSet};
use twotower_artifacts::schema::{FIRST_VALUE, UNKNOWN};
use twotower_artifacts::{CodeBatch, Column, FieldSchema, FieldShape, Side};

pub(super) const DIM: usize = 12;

/// Users with an id and their recent items, and items with an id. Every tenth user has no training event, and the last
/// user has an id that the vocabulary does not hold. Items from `items - 2` on have no event.
pub(super) fn set(users: usize, items: usize) -> TrainingSet {
    let mut set = planted(users, items, 4, 7);
    let codes = (0..users as u32).map(|user| if user as usize + 1 == users { UNKNOWN } else { user + FIRST_VALUE });
    let cardinality = users as u32 + FIRST_VALUE;
    let id = FieldShape::Code { table: "user".into(), cardinality };
    set.user_schema.fields = vec![FieldSchema { name: "id".into(), shape: id }, set.user_schema.fields[1].clone()];
    set.users.columns = vec![Column::Code(codes.collect()), set.users.columns[1].clone()];
    set.item_schema.fields.truncate(1);
    set.items.columns.truncate(1);
    for (event, item) in set.interactions.items.iter_mut().enumerate() {
        // Of the same taste.
        *item = if *item as usize + 2 >= items { *item - 4 } else { *item };
        if event / 7 % 10 == 9 && set.roles[event] == Role::Train {
            set.roles[event] = Role::Unused;
        }
    }
    set.check().unwrap();
    set
}

pub(super) fn model(similarity: Similarity) -> LightgcnConfig {
    let temperature = match similarity {
        Similarity::Dot => 1.0,
        Similarity::Cosine => 0.2,
    };
    LightgcnConfig { dim: DIM, layers: 2, similarity, temperature, ..LightgcnConfig::default() }
}

const SIMILARITIES: [Similarity; 2] = [Similarity::Dot, Similarity::Cosine];

fn losses() -> Vec<Loss> {
    vec![
        Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform },
        Loss::SampledSoftmax { negatives: 20 },
        Loss::FullSoftmax,
        Loss::InBatch,
        Loss::Bce { negatives: 2, sampler: SamplerKind::Uniform },
    ]
}

/// The distinct pairs of training events, of users and items that have ids of their own, by codes.
pub(super) fn pairs(set: &TrainingSet) -> BTreeSet<(u32, u32)> {
    let (Column::Code(users), Column::Code(items)) = (&set.users.columns[0], &set.items.columns[0]) else {
        unreachable!()
    };
    let events = (0..users.len()).flat_map(|user| set.interactions.events(user).map(move |event| (user, event)));
    let train = events.filter(|(_, event)| set.roles[*event] == Role::Train);
    let codes = train.map(|(user, event)| (users[user], items[set.interactions.items[event] as usize]));
    codes.filter(|(user, item)| *user >= FIRST_VALUE && *item >= FIRST_VALUE).collect()
}

/// All layers in f64 over a graph, of users and of items, by the definition: each is made of the one before by sums over
/// pairs. Beside them, the degrees of the nodes.
pub(super) fn layers_of(
    pairs: &BTreeSet<(u32, u32)>,
    tables: [&[f64]; 2],
    layers: usize,
) -> (Vec<[Vec<f64>; 2]>, [Vec<f64>; 2]) {
    let mut degrees = tables.map(|table| vec![0.0f64; table.len() / DIM]);
    for (user, item) in pairs {
        degrees[0][*user as usize] += 1.0;
        degrees[1][*item as usize] += 1.0;
    }
    let mut all = vec![tables.map(<[f64]>::to_vec)];
    for k in 0..layers {
        let mut next = tables.map(|table| vec![0.0; table.len()]);
        for (user, item) in pairs {
            let (user, item) = (*user as usize, *item as usize);
            let weight = 1.0 / (degrees[0][user] * degrees[1][item]).sqrt();
            for i in 0..DIM {
                next[0][user * DIM + i] += weight * all[k][1][item * DIM + i];
                next[1][item * DIM + i] += weight * all[k][0][user * DIM + i];
            }
        }
        all.push(next);
    }
    (all, degrees)
}

/// The mean of the layers that count, in f64, of users and of items. A node without edges keeps its share of the first.
pub(super) fn mean_of(all: &[[Vec<f64>; 2]], degrees: &[Vec<f64>; 2], first_counts: bool) -> [Vec<f64>; 2] {
    let counted = all.len() - usize::from(!first_counts);
    [0, 1].map(|side: usize| {
        let mean = |at: usize| {
            let skipped = usize::from(!first_counts && degrees[side][at / DIM] > 0.0);
            all[skipped..].iter().map(|layer| layer[side][at]).sum::<f64>() / counted as f64
        };
        (0..all[0][side].len()).map(mean).collect()
    })
}

/// The final vectors in f64, users first, by the definition.
pub(super) fn final_vectors(set: &TrainingSet, tables: [&[f64]; 2], settings: &LightgcnConfig) -> [Vec<f64>; 2] {
    let (all, degrees) = layers_of(&pairs(set), tables, settings.layers);
    mean_of(&all, &degrees, settings.counts_first_layer())
}

pub(super) fn wide(parameters: &Parameters) -> [Vec<f64>; 2] {
    [0, 1].map(|side| parameters.tables[side].values.iter().map(|x| f64::from(*x)).collect())
}

pub(super) fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn it_learns_planted_tastes_with_every_loss_similarity_and_sampling() {
    let set = set(160, 48);
    for (at, loss) in losses().into_iter().enumerate() {
        for similarity in SIMILARITIES {
            let (init, sampling) = match at % 2 {
                0 => (Initialisation::XavierUniform, Sampling::Pairs),
                _ => (Initialisation::Normal, Sampling::Users),
            };
            let settings = LightgcnConfig { init, sampling, ..model(similarity) };
            let config = TrainConfig { loss, epochs: 12, learning_rate: 2e-2, batch_size: 128, ..config() };
            let trained = fresh(&set, &settings, &config);
            let best = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap();
            // A quarter of the items is right for a user, so chance and popularity reach about 10 / 45.
            assert!(best.values["recall@10"] > 0.6, "{loss:?}, {similarity:?}: {:?}", best.values);
            for epoch in &trained.epochs {
                let names: Vec<(&str, f64)> = epoch.terms.0.iter().map(|t| (t.name.as_str(), t.weight)).collect();
                assert_eq!(names, [(loss.name(), 1.0), ("penalty", 1e-4)]);
                assert!((epoch.terms.total() - epoch.loss).abs() < 1e-9);
            }
        }
    }
}

#[test]
fn loss_and_gradient_agree_with_the_definition_and_its_differences_in_f64() {
    let mut set = set(40, 20);
    set.interactions.weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = 1.0 + (i % 3) as f32);
    let config = TrainConfig { loss: Loss::FullSoftmax, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    for (similarity, layers) in [(Similarity::Dot, 3), (Similarity::Cosine, 2), (Similarity::Dot, 0)] {
        let (penalty, temperature) = (0.3, 0.7);
        let settings =
            LightgcnConfig { layers, penalty, temperature, init: Initialisation::Normal, ..model(similarity) };
        let mut model = Lightgcn::new(&set, &settings, &config).unwrap();
        model.parameters_mut().tables.iter_mut().flat_map(|table| &mut table.values).for_each(|x| *x *= 8.0);
        let moment = Moment { seed: 3, epoch: 0, step: 0 };
        let windows: Vec<Window> =
            model.windows(&set, moment).iter().take(50).map(|number| model.window(&set, *number)).collect();
        let (Column::Code(users), Column::Code(items)) = (&set.users.columns[0], &set.items.columns[0]) else {
            unreachable!()
        };
        let event = |window: &Window| window.targets.start;
        let total: f64 = windows.iter().map(|window| f64::from(set.interactions.weights[event(window)])).sum();
        let oracle = |tables: &[Vec<f64>; 2]| -> (f64, f64) {
            let vectors = final_vectors(&set, [&tables[0], &tables[1]], &settings);
            let compared = vectors.map(|side| {
                let rows = side.chunks_exact(DIM).flat_map(|row| {
                    let norm = if similarity == Similarity::Dot { 1.0 } else { inner(row, row).sqrt() };
                    row.iter().map(move |x| x / norm)
                });
                rows.collect::<Vec<f64>>()
            });
            let (mut loss, mut squares) = (0.0, 0.0);
            for window in &windows {
                let (user, clicked) = (users[window.user as usize], set.interactions.items[event(window)] as usize);
                let row = |side: usize, code: u32| &compared[side][code as usize * DIM..][..DIM];
                let z = |code: u32| inner(row(0, user), row(1, code)) / f64::from(temperature);
                let sum: f64 = items.iter().map(|code| z(*code).exp()).sum();
                let share = f64::from(set.interactions.weights[event(window)]) / total;
                loss += share * (sum.ln() - z(items[clicked]));
                let first = |side: usize, code: u32| &tables[side][code as usize * DIM..][..DIM];
                for row in [first(0, user), first(1, items[clicked])] {
                    squares += inner(row, row) / 2.0 / windows.len() as f64;
                }
            }
            (loss, squares)
        };
        let mut gradients = model.gradients();
        let terms = model.learn(&set, &windows, moment, &mut model.work(), &mut gradients).unwrap();
        let mut tables = wide(model.parameters());
        let (loss, squares) = oracle(&tables);
        assert!((terms.0[0].value - loss).abs() < 1e-5 * (1.0 + loss), "{:?}, expected {loss}", terms.0[0]);
        assert!((terms.0[1].value - squares).abs() < 1e-5 * (1.0 + squares), "{:?}, expected {squares}", terms.0[1]);
        let value = |tables: &[Vec<f64>; 2]| {
            let (loss, squares) = oracle(tables);
            loss + penalty * squares
        };
        for side in 0..2 {
            let TableGradient::Whole(found) = &gradients.tables[side] else { panic!("all rows have a gradient") };
            let mut largest = 0.0f64;
            for at in (0..found.len()).step_by(3) {
                let kept = tables[side][at];
                tables[side][at] = kept + 1e-5;
                let plus = value(&tables);
                tables[side][at] = kept - 1e-5;
                let minus = value(&tables);
                tables[side][at] = kept;
                let want = (plus - minus) / 2e-5;
                largest = largest.max(want.abs());
                assert!((f64::from(found[at]) - want).abs() < 2e-6 + 1e-4 * want.abs(), "{side}, {at}: {want}");
            }
            assert!(largest > 1e-3, "the gradient is nearly zero everywhere");
        }
    }
}

#[test]
fn the_gradient_of_every_loss_agrees_with_finite_differences() {
    let set = set(40, 20);
    for loss in losses() {
        for similarity in SIMILARITIES {
            let config = TrainConfig { loss, ..config() };
            let settings =
                LightgcnConfig { learn_temperature: true, temperature: 0.5, penalty: 0.2, ..model(similarity) };
            gradient_agrees_with_differences(&set, || Lightgcn::new(&set, &settings, &config).unwrap());
        }
    }
}

/// The users' rows of `set` after all events, and before any.
fn rows_of_users(set: &TrainingSet) -> CodeBatch {
    let mut rows = CodeBatch::empty(&set.user_schema);
    let after = (0..set.users.rows()).map(|user| set.after_all(user));
    let before = (0..set.users.rows()).map(|user| {
        let start = set.interactions.events(user).start;
        Window { user: user as u32, targets: start..start, role: Role::Unused }
    });
    assemble(set, &after.chain(before).collect::<Vec<_>>(), &mut rows);
    rows
}

#[test]
fn both_engines_give_the_trained_vectors_the_mean_of_a_history_and_the_unknown_user() {
    let set = set(90, 24);
    let rows = rows_of_users(&set);
    let nodes: BTreeSet<u32> = pairs(&set).into_iter().map(|(user, _)| user).collect();
    let noisy = ViewsConfig::Xsimgcl(XsimgclConfig::default());
    for settings in [
        model(Similarity::Dot),
        model(Similarity::Cosine),
        // Noise is in training alone.
        LightgcnConfig { views: Some(noisy), ..model(Similarity::Dot) },
    ] {
        let (similarity, dir) = (settings.similarity, tempfile::tempdir().unwrap());
        let config = TrainConfig { epochs: 2, learning_rate: 2e-2, ..config() };
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let mut vectors = Vec::new();
        for (side, tower, batch) in [(Side::User, &trained.user, &rows), (Side::Item, &trained.item, &set.items)] {
            let path = dir.path().join(format!("{side}.onnx"));
            crate::onnx::export(tower, &path, &BTreeMap::new()).unwrap();
            assert_eq!(crate::onnx::read(&path).unwrap().0, *tower);
            crate::engine::verify(&path, tower, batch, 1e-4).unwrap();
            assert_eq!(tower.dim, ModelConfig::from(settings.clone()).dim());
            vectors.push(crate::native::embed(tower, batch).unwrap().data);
        }
        let parameters = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
        let tables = wide(&parameters);
        let finals = final_vectors(&set, [&tables[0], &tables[1]], &settings);
        let row = |side: usize, code: u32| &finals[side][code as usize * DIM..][..DIM];
        let (Column::Code(users), Column::Ragged(histories)) = (&rows.columns[0], &rows.columns[1]) else {
            unreachable!()
        };
        let mut kinds = [0; 3];
        for (r, (user, found)) in users.iter().zip(vectors[0].chunks_exact(trained.user.dim)).enumerate() {
            let history = histories.row(r);
            let expected: Vec<f64> = match (nodes.contains(user), history.len()) {
                (true, _) => row(0, *user).to_vec(),
                (false, 0) => row(0, UNKNOWN).to_vec(),
                (false, len) => {
                    let mean = |i: usize| history.iter().map(|item| row(1, *item)[i]).sum::<f64>() / len as f64;
                    (0..DIM).map(mean).collect()
                }
            };
            kinds[if nodes.contains(user) { 0 } else { 1 + usize::from(history.is_empty()) }] += 1;
            let norm = inner(&expected, &expected).sqrt();
            let close = found.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b / norm).abs() < 1e-4);
            assert!(close && (similarity == Similarity::Cosine || found[DIM] == 0.0), "user {r}");
        }
        assert!(kinds.iter().all(|count| *count > 5), "{kinds:?}");
        // Items are ranked by what scores them in training.
        let Column::Code(items) = &set.items.columns[0] else { unreachable!() };
        let longest = finals[1].chunks_exact(DIM).map(|row| inner(row, row).sqrt()).fold(0.0, f64::max);
        for (item, found) in items.iter().zip(vectors[1].chunks_exact(trained.item.dim)) {
            let norm = inner(row(1, *item), row(1, *item)).sqrt();
            let divisor = if similarity == Similarity::Dot { longest } else { norm };
            assert!(found.iter().zip(row(1, *item)).all(|(a, b)| (f64::from(*a) - b / divisor).abs() < 1e-4));
        }
    }
}

#[test]
fn without_a_sequence_a_user_without_a_node_is_the_unknown_user() {
    let mut set = set(60, 24);
    set.user_schema.fields.truncate(1);
    set.users.columns.truncate(1);
    let trained = fresh(&set, &model(Similarity::Dot), &TrainConfig { epochs: 1, ..config() });
    let vectors = crate::native::embed(&trained.user, &set.users).unwrap().data;
    let of = |user: usize| &vectors[user * trained.user.dim..][..trained.user.dim];
    // Users 9 and 19 have no training event, and user 59 has no id of his own.
    assert!(of(9) == of(59) && of(19) == of(59) && of(8) != of(59));
    assert_eq!(trained.user.tables.keys().collect::<Vec<_>>(), ["user"]);
}

#[test]
fn an_epoch_has_each_pair_once_or_as_many_pairs_of_uniformly_drawn_users() {
    let mut set = set(50, 24);
    // One user has far fewer training events than the others, and one has an item twice.
    for event in set.interactions.events(4).skip(1) {
        set.roles[event] = Role::Unused;
    }
    let twice = set.interactions.events(6).start;
    set.interactions.items[twice + 1] = set.interactions.items[twice];
    let (known, config) = (pairs(&set), config());
    let (Column::Code(users), Column::Code(items)) = (&set.users.columns[0], &set.items.columns[0]) else {
        unreachable!()
    };
    let drawn = |sampling: Sampling, epoch: usize| -> Vec<(u32, u32)> {
        let model = Lightgcn::new(&set, &LightgcnConfig { sampling, ..model(Similarity::Dot) }, &config).unwrap();
        let numbers = model.windows(&set, Moment { seed: 1, epoch, step: 0 });
        let windows = numbers.iter().map(|number| model.window(&set, *number));
        let code = |window: Window| (window.user, set.interactions.items[window.targets.start]);
        windows.map(code).map(|(user, item)| (users[user as usize], items[item as usize])).collect()
    };
    let once = drawn(Sampling::Pairs, 0);
    assert_eq!(once.len(), known.len());
    assert!(once.iter().copied().collect::<BTreeSet<_>>() == known && once != drawn(Sampling::Pairs, 1));
    let mut of_users = BTreeMap::<u32, usize>::new();
    let (mut number, mut different) = (0, BTreeSet::new());
    for epoch in 0..60 {
        let epoch = drawn(Sampling::Users, epoch);
        assert_eq!(epoch.len(), known.len());
        number += epoch.len();
        for pair in epoch {
            assert!(known.contains(&pair));
            different.insert(pair);
            *of_users.entry(pair.0).or_default() += 1;
        }
    }
    assert_eq!(different, known);
    let share = number as f64 / of_users.len() as f64;
    // Five standard deviations.
    assert!(of_users.values().all(|count| (*count as f64 - share).abs() < 5.0 * share.sqrt()), "{of_users:?}");
}

/// Users of whom each has five training events, and none an item twice.
pub(super) fn even() -> TrainingSet {
    let mut even = set(100, 48);
    for user in 0..100 {
        let groups = 4;
        for (at, event) in even.interactions.events(user).enumerate() {
            even.interactions.items[event] = ((at + user) % 11 * groups + user % groups) as u32;
            even.roles[event] = [Role::Train, Role::Validation, Role::Test][at.saturating_sub(4)];
        }
    }
    let Column::Code(users) = &mut even.users.columns[0] else { unreachable!() };
    users[99] = 99 + FIRST_VALUE;
    assert_eq!(pairs(&even).len(), 500);
    even
}

#[test]
fn it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    let even = even();
    is_resumed_bit_for_bit(&even, &LightgcnConfig { learn_temperature: true, ..model(Similarity::Dot) });
    is_resumed_bit_for_bit(&even, &LightgcnConfig { sampling: Sampling::Users, ..model(Similarity::Cosine) });
    same_with_any_threads(&set(300, 48), &model(Similarity::Cosine), losses());
}

#[test]
fn a_second_day_begins_with_the_vectors_of_the_first_and_new_ids_with_those_of_unknown_ones() {
    let (first, second) = (set(60, 24), set(75, 32));
    let (settings, dir) = (model(Similarity::Dot), tempfile::tempdir().unwrap());
    let config = TrainConfig { epochs: 6, learning_rate: 2e-2, ..config() };
    let yesterday = run(&first, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
    let parameters = checkpoint::read::<()>(&yesterday.checkpoint).unwrap().parameters;
    let mut model = Lightgcn::new(&second, &settings, &config).unwrap();
    let mut work = model.work();
    let before = model.embed(Side::Item, &second.items, &mut work).unwrap().to_vec();
    model.parameters_mut().warm_start(&parameters).unwrap();
    for (new, old) in model.parameters().tables.iter().zip(&parameters.tables) {
        assert_eq!(new.values[..old.values.len()], old.values);
        let added = new.values[old.values.len()..].chunks_exact(DIM);
        assert!(added.len() > 5 && added.into_iter().all(|row| row == old.row(UNKNOWN)));
    }
    // What was propagated before belongs to other parameters.
    let after = model.embed(Side::Item, &second.items, &mut work).unwrap().to_vec();
    assert_ne!(before, after);
    assert_eq!(after, model.embed(Side::Item, &second.items, &mut model.work()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let start = Start::From(yesterday.checkpoint.clone());
    let today = run(&second, &settings, &TrainConfig { epochs: 1, ..config }, start, dir.path(), &mut ()).unwrap();
    assert!(today.epochs[0].loss < yesterday.epochs[0].loss);
}

#[test]
fn other_features_and_settings_that_make_no_sense_are_refused_by_name() {
    let set = set(20, 12);
    let settings = model(Similarity::Dot);
    let (users, items) = (&set.user_schema.fields, &set.item_schema.fields);
    settings.check(users, items).unwrap();
    settings.check(&users[..1], items).unwrap();
    let refused = |users: &[_], items: &[_]| settings.check(users, items).unwrap_err().to_string();
    let turned = [users[1].clone(), users[0].clone()];
    let mut shared = users.clone();
    let FieldShape::Code { table, .. } = &mut shared[0].shape else { unreachable!() };
    *table = "item".into();
    for (error, setting) in [
        (refused(&users[1..], items), "`features.user`"),
        (refused(&turned, items), "`features.user`"),
        (refused(&shared, items), "`features.user`"),
        (refused(users, &users[1..]), "`features.item`"),
        (refused(users, &[]), "`features.item`"),
    ] {
        assert!(error.contains(setting) && error.contains("of kind `id`"), "{error}");
    }
    for (settings, name) in [
        (LightgcnConfig { layers: 17, ..settings.clone() }, "layers"),
        (LightgcnConfig { penalty: -1.0, ..settings.clone() }, "penalty"),
        (LightgcnConfig { temperature: f32::NAN, ..settings.clone() }, "temperature"),
    ] {
        assert!(settings.check(users, items).unwrap_err().to_string().contains(name));
    }
    let config = TrainConfig { embedding_weight_decay: 0.1, ..config() };
    let error = run(&set, &settings, &config, Start::Fresh, Path::new("nowhere"), &mut ()).unwrap_err().to_string();
    assert!(error.contains("`train.embedding_weight_decay`") && error.contains("`model.penalty`"), "{error}");
}

/// Layers that the contrast of subgraphs may read, of two.
const LAYERS: [Layer; 4] = [Layer::Final, Layer::Number(0), Layer::Number(1), Layer::Number(2)];

fn contrast(layer: Layer, logit: Logit) -> TransportConfig {
    TransportConfig { centres: 30, nodes: 6, layer, logit, ..TransportConfig::default() }
}

#[test]
fn with_xavier_initialisation_bpr_a_penalty_and_transport_training_ends_with_finite_terms() {
    let set = set(160, 48);
    for (layer, logit) in LAYERS.into_iter().zip([Logit::Exponential, Logit::Log].into_iter().cycle()) {
        let settings = LightgcnConfig {
            init: Initialisation::XavierUniform,
            transport: Some(contrast(layer, logit)),
            ..model(Similarity::Dot)
        };
        let loss = Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform };
        let config = TrainConfig { loss, epochs: 12, learning_rate: 2e-2, batch_size: 128, ..config() };
        let trained = fresh(&set, &settings, &config);
        for epoch in &trained.epochs {
            let terms: Vec<(&str, f64)> = epoch.terms.0.iter().map(|t| (t.name.as_str(), t.weight)).collect();
            assert_eq!(terms, [("bpr", 1.0), ("transport", 0.5), ("gromov", 0.5), ("penalty", 1e-4)]);
            assert!(epoch.terms.0.iter().all(|term| term.value.is_finite()) && epoch.loss.is_finite());
        }
        let of = |epoch: &EpochReport| epoch.terms.0.iter().skip(1).take(2).map(|term| term.value).sum::<f64>();
        let (first, last) = (of(&trained.epochs[0]), of(trained.epochs.last().unwrap()));
        assert!(last < first, "{layer:?}, {logit:?}: {first}, {last}");
        let best = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap();
        assert!(best.values["recall@10"] > 0.4, "{layer:?}, {logit:?}: {:?}", best.values);
    }
}

#[test]
fn the_gradient_of_the_contrast_reaches_the_first_layer_from_whichever_layer_it_reads() {
    let (set, config) = (set(40, 20), config());
    let moment = Moment { seed: 3, epoch: 0, step: 0 };
    let learn = |transport: Option<TransportConfig>| {
        let settings = LightgcnConfig { transport, ..model(Similarity::Dot) };
        let mut model = Lightgcn::new(&set, &settings, &config).unwrap();
        model.parameters_mut().tables.iter_mut().flat_map(|table| &mut table.values).for_each(|x| *x *= 8.0);
        let windows: Vec<Window> =
            model.windows(&set, moment).iter().take(50).map(|number| model.window(&set, *number)).collect();
        let mut gradients = model.gradients();
        model.learn(&set, &windows, moment, &mut model.work(), &mut gradients).unwrap();
        (model.parameters().clone(), gradients)
    };
    let (_, without) = learn(None);
    for layer in LAYERS {
        let settings = TransportConfig { weight: 3.0, gromov_weight: 5.0, ..contrast(layer, Logit::Log) };
        let (parameters, with) = learn(Some(settings.clone()));
        let of_layer = |tables: [&[f64]; 2]| match layer {
            Layer::Final => final_vectors(&set, tables, &model(Similarity::Dot)),
            Layer::Number(number) => layers_of(&pairs(&set), tables, number).0.swap_remove(number),
        };
        let tables = wide(&parameters);
        let read = of_layer([&tables[0], &tables[1]]).map(|side| side.iter().map(|x| *x as f32).collect::<Vec<f32>>());
        let edges: Vec<(u32, u32)> = pairs(&set).into_iter().collect();
        let graph = Graph::new([0, 1].map(|side| parameters.tables[side].rows), &edges);
        let mut d_read = read.each_ref().map(|side| vec![0.0; side.len()]);
        let mut dense = crate::params::zeros(&parameters);
        let contrast = Transport::new(&settings, DIM, &mut Parameters::default(), |_| Rng::at(0, &[]));
        contrast.learn(
            &parameters,
            (&graph, read.each_ref().map(|side| &side[..]), DIM),
            moment,
            &mut transport::Work::default(),
            &mut Terms::default(),
            (d_read.each_mut().map(|side| &mut side[..]), &mut dense),
        );
        let d_read = d_read.map(|side| side.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>());
        // The propagation is symmetric.
        let expected = of_layer([&d_read[0], &d_read[1]]).concat();
        let largest = expected.iter().map(|x| x.abs()).fold(0.0, f64::max);
        let of = |gradients: &Gradients| gradients.tables.iter().flat_map(|table| table.values().to_vec()).collect();
        let (with_tables, without_tables): (Vec<f32>, Vec<f32>) = (of(&with), of(&without));
        for ((with, without), expected) in with_tables.iter().zip(&without_tables).zip(&expected) {
            let found = f64::from(*with) - f64::from(*without);
            assert!((found - expected).abs() < 1e-3 * largest, "{layer:?}: {found}, expected {expected}");
        }
        assert!(largest > 1e-3, "{layer:?}: {largest}");
        for (found, expected) in with.dense.iter().flatten().zip(dense.iter().flatten()) {
            assert!(
                (found - expected).abs() < 1e-3 * (1.0 + expected.abs()),
                "{layer:?}: {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn with_the_contrast_too_it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    for layer in LAYERS {
        let transport = Some(contrast(layer, Logit::Exponential));
        let settings = LightgcnConfig { transport, ..model(Similarity::Dot) };
        if layer == Layer::Number(1) {
            is_resumed_bit_for_bit(&even(), &settings);
        }
        same_with_any_threads(&set(300, 48), &settings, vec![Loss::FullSoftmax]);
    }
    let layer = Layer::Number(3);
    let settings = LightgcnConfig { transport: Some(contrast(layer, Logit::Log)), ..model(Similarity::Dot) };
    let set = set(20, 12);
    let error = settings.check(&set.user_schema.fields, &set.item_schema.fields).unwrap_err().to_string();
    assert!(error.contains("`model.transport.layer`"), "{error}");
}
