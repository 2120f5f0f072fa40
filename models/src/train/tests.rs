use super::*;
use crate::dssm::{AttentionConfig, DssmConfig, SequencePooling};
use crate::examples::assemble;
use crate::examples::tests::planted;
use crate::metrics::{Measure, MetricName};
use crate::params::TableGradient;
use crate::rng::Rng;
use crate::tower::encoder::NormOrder;
use crate::train::SamplerKind;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use twotower_artifacts::schema::{MISSING, PADDING, UNKNOWN};
use twotower_artifacts::{Category, CodeBatch, Column, FieldShape, Side};

fn model() -> DssmConfig {
    DssmConfig { embedding_dim: 8, hidden: vec![24, 12], pooling: SequencePooling::Position, ..DssmConfig::default() }
}

pub(super) fn config() -> TrainConfig {
    TrainConfig {
        epochs: 3,
        batch_size: 96,
        learning_rate: 5e-3,
        warmup_steps: 5,
        metric: MetricName { measure: Measure::Ndcg, k: 10 },
        ..TrainConfig::default()
    }
}

/// Settings of a model, of whichever kind.
pub(super) trait Settings: Clone + Into<ModelConfig> {}
impl<T: Clone + Into<ModelConfig>> Settings for T {}

pub(super) fn run(
    set: &TrainingSet,
    model: &impl Settings,
    config: &TrainConfig,
    start: Start,
    dir: &Path,
    observer: &mut (dyn Observer + Send),
) -> Result<TrainingResult, ModelError> {
    train(set, &model.clone().into(), config, start, dir, observer)
}

pub(super) fn fresh(set: &TrainingSet, model: &impl Settings, config: &TrainConfig) -> TrainingResult {
    let dir = tempfile::tempdir().unwrap();
    run(set, model, config, Start::Fresh, dir.path(), &mut ()).unwrap()
}

pub(super) fn bits(tower: &Tower) -> Vec<u32> {
    let mut bits = Vec::new();
    tower.map(|_, weight| bits.extend(weight.data.iter().map(|x| x.to_bits())));
    bits
}

/// Stops after a number of steps.
pub(super) struct StopAfter(pub usize);

impl Observer for StopAfter {
    fn on_step(&mut self, _: &StepReport) -> ControlFlow<()> {
        self.0 -= 1;
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn losses() -> Vec<Loss> {
    vec![
        Loss::InBatch,
        Loss::Mixed { uniform: 16 },
        Loss::SampledSoftmax { negatives: 20 },
        Loss::FullSoftmax,
        Loss::Gbce { negatives: 4, t: 0.75 },
        Loss::Bce { negatives: 4, sampler: SamplerKind::Uniform },
        Loss::Bpr { negatives: 4, sampler: SamplerKind::Popularity },
    ]
}

#[test]
fn every_loss_learns_planted_tastes_far_beyond_popularity() {
    let set = planted(160, 48, 4, 8);
    for loss in losses() {
        let trained = fresh(&set, &model(), &TrainConfig { loss, epochs: 8, learning_rate: 1e-2, ..config() });
        let best = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap();
        // A quarter of the items is right for a user, so chance and popularity reach about 10 / 45.
        assert!(best.values["recall@10"] > 0.6, "{loss:?}: {:?}", best.values);
        assert!(trained.epochs.iter().all(|epoch| epoch.loss.is_finite()));
    }
}

/// A model whose sequence has an encoder.
pub(super) fn attentive(norm: NormOrder, dropout: f32) -> DssmConfig {
    let attention = Some(AttentionConfig { heads: 2, norm, dropout, ..AttentionConfig::default() });
    DssmConfig { pooling: SequencePooling::Attention, attention, ..model() }
}

#[test]
fn encoders_of_every_order_of_norms_learn_which_item_follows_another() {
    // Item i is followed by item i + 1.
    let mut set = planted(120, 40, 4, 9);
    let (items, events) = (set.items.rows() as u32, set.interactions.len() / 120);
    for (event, item) in set.interactions.items.iter_mut().enumerate() {
        let (user, place) = ((event / events) as u32, (event % events) as u32);
        *item = (user * 7 + place) % items;
    }
    let recall = |model: &DssmConfig| {
        let config = TrainConfig { epochs: 12, learning_rate: 1e-2, batch_size: 48, ..config() };
        let trained = fresh(&set, model, &config);
        trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap().values["ndcg@10"]
    };
    for norm in [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post] {
        let found = recall(&attentive(norm, 0.05));
        assert!(found > 0.8, "{norm:?}: {found}");
    }
}

#[test]
fn trained_encoders_agree_with_their_towers_in_both_engines() {
    let set = planted(90, 24, 3, 8);
    let config = TrainConfig { epochs: 2, learning_rate: 1e-2, ..config() };
    for norm in [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post] {
        let dir = tempfile::tempdir().unwrap();
        let trained = run(&set, &attentive(norm, 0.2), &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let path = dir.path().join("user_tower.onnx");
        crate::onnx::export(&trained.user, &path, &BTreeMap::new()).unwrap();
        // Histories of none to more than four events.
        let mut users = CodeBatch::empty(&set.user_schema);
        let windows: Vec<Window> = (0..set.roles.len()).map(|event| set.window(event)).collect();
        assemble(&set, &windows, &mut users);
        crate::engine::verify(&path, &trained.user, &users, 1e-4).unwrap();
        // And with the training's own forward pass, from the checkpoint of the best epoch.
        let mut model = Dssm::new(&set, &attentive(norm, 0.2), &config).unwrap();
        *model.parameters_mut() = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
        let mut work = model.work();
        let found = model.embed(Side::User, &users, &mut work).unwrap();
        let expected = crate::native::embed(&trained.user, &users).unwrap().data;
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{norm:?}");
    }
}

#[test]
fn an_encoder_must_fit_its_table_and_is_not_set_up_in_vain() {
    let set = planted(20, 12, 3, 6);
    let three = AttentionConfig { heads: 3, ..AttentionConfig::default() };
    let mut model = DssmConfig { attention: Some(three), ..attentive(NormOrder::Pre, 0.0) };
    let refused = |model: &DssmConfig| Dssm::new(&set, model, &config()).err().unwrap().to_string();
    let error = refused(&model);
    assert!(error.contains("attention.heads") && error.contains("a divisor of 8"), "{error}");
    model.pooling = SequencePooling::Mean;
    let error = refused(&model);
    assert!(error.contains("`pooling = \"attention\"`") && error.contains("`pooling = \"mean\"`"), "{error}");
    model.pooling = SequencePooling::Attention;
    for attention in [
        AttentionConfig { blocks: 0, ..AttentionConfig::default() },
        AttentionConfig { heads: 0, ..AttentionConfig::default() },
        AttentionConfig { dropout: 1.0, ..AttentionConfig::default() },
    ] {
        let error = refused(&DssmConfig { attention: Some(attention), ..model.clone() });
        assert!(error.contains("attention."), "{error}");
    }
}

#[test]
fn what_acts_between_layers_is_refused_where_there_is_one() {
    let one = DssmConfig { hidden: vec![8], ..model() };
    one.check().unwrap();
    for (setting, config) in [
        ("dropout", DssmConfig { dropout: 0.1, ..one.clone() }),
        ("layer_norm", DssmConfig { layer_norm: true, ..one.clone() }),
    ] {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(&format!("`{setting}`")) && error.contains("`hidden` has one width"), "{error}");
        DssmConfig { hidden: vec![8, 8], ..config }.check().unwrap();
    }
}

#[test]
fn towers_do_not_depend_on_the_number_of_threads() {
    let set = planted(400, 48, 4, 8);
    let wide = DssmConfig { dropout: 0.2, learn_temperature: true, layer_norm: true, ..model() };
    same_with_any_threads(&set, &wide, losses());
    same_with_any_threads(&set, &attentive(NormOrder::Original, 0.2), vec![Loss::InBatch]);
}

pub(super) fn same_with_any_threads(set: &TrainingSet, wide: &impl Settings, losses: Vec<Loss>) {
    for loss in losses {
        let with = |threads| {
            // Batches have several tiles of every kernel.
            let config = TrainConfig { loss, threads, epochs: 1, batch_size: 700, ..config() };
            fresh(set, wide, &config)
        };
        let (one, two) = (with(1), with(2));
        assert_eq!(bits(&one.user), bits(&two.user), "{loss:?}");
        assert_eq!(bits(&one.item), bits(&two.item), "{loss:?}");
        assert_eq!(one.epochs, two.epochs);
    }
}

#[test]
fn a_stopped_and_resumed_run_equals_an_undisturbed_one_bit_for_bit() {
    let set = planted(100, 24, 3, 7);
    for model in [model(), attentive(NormOrder::Post, 0.1)] {
        let model = DssmConfig { dropout: 0.1, learn_temperature: true, ..model };
        is_resumed_bit_for_bit(&set, &model);
    }
}

pub(super) fn is_resumed_bit_for_bit(set: &TrainingSet, model: &impl Settings) {
    let config = config();
    let steps = (100usize * 5).div_ceil(config.batch_size);
    let undisturbed = fresh(set, model, &config);
    // Runs stop in the middle of the first epoch, at its last step, or twice in the second.
    for stops in [vec![2], vec![steps], vec![steps + 1, 2]] {
        let dir = tempfile::tempdir().unwrap();
        for after in stops {
            let stopped = run(set, model, &config, Start::Resume, dir.path(), &mut StopAfter(after));
            assert!(matches!(stopped, Err(ModelError::Stopped { .. })));
        }
        let resumed = run(set, model, &config, Start::Resume, dir.path(), &mut ()).unwrap();
        assert_eq!(bits(&resumed.user), bits(&undisturbed.user));
        assert_eq!(bits(&resumed.item), bits(&undisturbed.item));
        assert_eq!(resumed.epochs, undisturbed.epochs);
        // Resuming a finished run gives the same result again.
        let again = run(set, model, &config, Start::Resume, dir.path(), &mut StopAfter(1)).unwrap();
        assert_eq!(bits(&again.user), bits(&undisturbed.user));
    }
}

#[test]
fn a_killed_run_goes_on_from_its_checkpoint_within_the_epoch() {
    let set = planted(100, 24, 3, 7);
    let config = TrainConfig { checkpoint_steps: 2, ..config() };
    let dir = tempfile::tempdir().unwrap();
    struct Panics(usize);
    impl Observer for Panics {
        fn on_step(&mut self, _: &StepReport) -> ControlFlow<()> {
            self.0 -= 1;
            assert!(self.0 > 0, "killed");
            ControlFlow::Continue(())
        }
    }
    let mut observer = Panics(6 + 4);
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(&set, &model(), &config, Start::Resume, dir.path(), &mut observer)
    }));
    assert!(killed.is_err());
    let resumed = run(&set, &model(), &config, Start::Resume, dir.path(), &mut ()).unwrap();
    assert_eq!(bits(&resumed.user), bits(&fresh(&set, &model(), &config).user));
}

#[test]
fn a_finished_run_keeps_no_moments_and_resumes_to_the_same_towers() {
    let set = planted(30, 12, 3, 6);
    let dir = tempfile::tempdir().unwrap();
    let first = run(&set, &model(), &config(), Start::Fresh, dir.path(), &mut ()).unwrap();
    assert!(checkpoint::read::<()>(&last_path(dir.path())).unwrap().resume_state.is_none());
    let again = run(&set, &model(), &config(), Start::Resume, dir.path(), &mut ()).unwrap();
    assert_eq!(again, first);
}

#[test]
fn resuming_under_other_settings_or_data_is_refused_by_name() {
    let set = planted(60, 24, 3, 6);
    let dir = tempfile::tempdir().unwrap();
    let _ = run(&set, &model(), &config(), Start::Resume, dir.path(), &mut StopAfter(1));
    let slower = TrainConfig { learning_rate: 1e-4, ..config() };
    let error = run(&set, &model(), &slower, Start::Resume, dir.path(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("train.learning_rate") && error.category() == Category::Mismatch, "{error}");
    let mut other = set.clone();
    other.interactions.items[0] ^= 1;
    let error = run(&other, &model(), &config(), Start::Resume, dir.path(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("interactions"), "{error}");
}

#[test]
fn a_checkpoint_of_version_1_can_be_started_from_and_is_refused_in_the_midst_of_a_run() {
    let set = planted(60, 24, 3, 6);
    let today = tempfile::tempdir().unwrap();
    let trained = run(&set, &model(), &config(), Start::Fresh, today.path(), &mut ()).unwrap();
    let best = checkpoint::read::<()>(&trained.checkpoint).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = last_path(dir.path());
    let write = |optimiser: Option<Adam>| {
        // The report of one epoch: its number, loss, temperature and metrics.
        let epochs = vec![(1usize, 0.5f64, 0.05f64, None::<crate::metrics::Metrics>)];
        let progress = (1usize, 0usize, 0.0f64, epochs, 1usize, 0.25f64, optimiser.is_none());
        let first = (&best.run, &best.parameters, optimiser, progress);
        twotower_artifacts::codec::write_versioned(&path, "TTCKPT", 1, &first).unwrap();
    };
    write(None);
    let read = checkpoint::read::<()>(&path).unwrap();
    assert_eq!((&read.run, &read.parameters), (&best.run, &best.parameters));
    let (epoch, progress) = (&read.progress.epochs[0], &read.progress);
    assert_eq!((epoch.loss, epoch.temperature, progress.best_epoch, progress.finished), (0.5, Some(0.05), 1, true));
    let elsewhere = tempfile::tempdir().unwrap();
    let start = Start::From(path.clone());
    run(&set, &model(), &config(), start, elsewhere.path(), &mut ()).unwrap();
    write(Some(Adam::new(&best.parameters)));
    let error = run(&set, &model(), &config(), Start::Resume, dir.path(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("it is of version 1") && error.category() == Category::Mismatch, "{error}");
}

#[test]
fn unknown_and_missing_rows_are_trained_and_padding_is_not() {
    let set = planted(100, 24, 3, 7);
    let start = Dssm::new(&set, &model(), &config()).unwrap();
    let trained = fresh(&set, &model(), &TrainConfig { unknown_rate: 0.05, missing_rate: 0.05, ..config() });
    let before = start.parameters().tables.iter().find(|table| table.name == "item").unwrap();
    let after = &trained.item.tables["item"].data;
    let moved = |code: u32| after[code as usize * 8..][..8] != *before.row(code);
    assert!(moved(UNKNOWN) && moved(MISSING) && !moved(PADDING));
}

#[test]
fn features_of_one_vocabulary_share_one_table_across_towers() {
    let trained = fresh(&planted(60, 24, 3, 6), &model(), &TrainConfig { epochs: 1, ..config() });
    assert_eq!(trained.user.tables["item"], trained.item.tables["item"]);
    assert_eq!(trained.user.tables.keys().collect::<Vec<_>>(), ["city", "item"]);
}

#[test]
fn a_grown_vocabulary_starts_from_yesterdays_rows() {
    let set = planted(60, 24, 3, 6);
    let dir = tempfile::tempdir().unwrap();
    let yesterday = run(&set, &model(), &config(), Start::Fresh, dir.path(), &mut ()).unwrap();
    let mut grown = set.clone();
    for schema in [&mut grown.user_schema, &mut grown.item_schema] {
        schema.encoder = twotower_artifacts::Fingerprint::of(b"grown");
        for field in &mut schema.fields {
            match &mut field.shape {
                FieldShape::Code { table, cardinality } | FieldShape::Sequence { table, cardinality, .. }
                    if table == "item" =>
                {
                    *cardinality += 5
                }
                _ => {}
            }
        }
    }
    // With a tiny learning rate, the result shows where training starts.
    let still = TrainConfig { epochs: 1, learning_rate: 1e-30, weight_decay: 0.0, ..config() };
    let today = tempfile::tempdir().unwrap();
    let start = Start::From(yesterday.checkpoint.clone());
    let started = run(&grown, &model(), &still, start, today.path(), &mut ()).unwrap();
    let (old, new) = (&yesterday.item.tables["item"], &started.item.tables["item"]);
    assert_eq!(new.data[..old.data.len()], old.data);
    for row in new.data[old.data.len()..].chunks_exact(8) {
        assert_eq!(row, &old.data[UNKNOWN as usize * 8..][..8]);
    }
    assert_eq!(started.item.layers, yesterday.item.layers);
    let narrow = DssmConfig { hidden: vec![20, 12], ..model() };
    let start = Start::From(yesterday.checkpoint);
    let error = run(&grown, &narrow, &still, start, today.path(), &mut ()).unwrap_err();
    assert_eq!(error.category(), Category::Mismatch);
}

#[test]
fn training_stops_at_the_first_non_finite_loss_and_names_it() {
    let mut set = planted(60, 24, 3, 6);
    let Column::Dense { values, .. } = &mut set.users.columns[2] else { panic!("ages are dense") };
    values[31] = f32::NAN;
    let dir = tempfile::tempdir().unwrap();
    let error = run(&set, &model(), &config(), Start::Fresh, dir.path(), &mut ()).unwrap_err();
    let ModelError::NonFiniteLoss { term, epoch, step, first, end, .. } = &error else { panic!("{error}") };
    assert_eq!((term.as_str(), *epoch, end - first <= 96), ("in_batch", 1, true));
    assert_eq!(*first, (step - 1) * 96);
}

#[test]
fn early_stopping_keeps_the_best_epoch() {
    let set = planted(60, 24, 3, 6);
    // Nothing is learned, so no later epoch is better than the first.
    let still =
        TrainConfig { epochs: 9, patience: 2, min_epochs: 4, learning_rate: 1e-30, weight_decay: 0.0, ..config() };
    let trained = fresh(&set, &model(), &still);
    assert_eq!((trained.epochs.len(), trained.best_epoch), (4, 1));
    let forever = TrainConfig { patience: 0, epochs: 5, ..still };
    assert_eq!(fresh(&set, &model(), &forever).epochs.len(), 5);
}

#[test]
fn without_validation_events_the_last_epoch_is_kept() {
    let mut set = planted(60, 24, 3, 6);
    set.roles.iter_mut().filter(|role| **role == Role::Validation).for_each(|role| *role = Role::Train);
    let trained = fresh(&set, &model(), &config());
    assert_eq!((trained.best_epoch, trained.epochs.len()), (3, 3));
    assert!(trained.epochs.iter().all(|epoch| epoch.validation.is_none()));
}

/// The gradient of the whole model, temperature included, against central differences of the loss.
#[test]
fn the_whole_models_gradient_agrees_with_finite_differences() {
    let mut set = planted(40, 12, 3, 6);
    set.interactions.weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = 1.0 + (i % 3) as f32);
    let config = TrainConfig { loss: Loss::Mixed { uniform: 5 }, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    for model in [model(), attentive(NormOrder::Original, 0.0), attentive(NormOrder::Pre, 0.0)] {
        let dssm = DssmConfig { learn_temperature: true, temperature: 0.5, layer_norm: true, ..model };
        gradient_agrees_with_differences(&set, || Dssm::new(&set, &dssm, &config).unwrap());
    }
}

pub(super) fn gradient_agrees_with_differences<M: Model>(set: &TrainingSet, fresh: impl Fn() -> M) {
    // Embeddings have size 1, so that the step of a difference is small compared with activations.
    let build = || {
        let mut model = fresh();
        model.parameters_mut().tables.iter_mut().flat_map(|table| &mut table.values).for_each(|x| *x *= 20.0);
        // Activations of encoders stay above 0, so that no difference is taken across their kinks. Beside gates, there are
        // none.
        let dense = &mut model.parameters_mut().dense;
        if !dense.iter().any(|group| group.name.ends_with("gate_weight")) {
            let inner = dense.iter_mut().filter(|group| group.name.ends_with("inner_bias"));
            inner.for_each(|group| group.values.fill(9.0));
        }
        model
    };
    let model = build();
    let moment = Moment { seed: 3, epoch: 0, step: 0 };
    let mut numbers = model.windows(set, moment);
    numbers.sort_unstable();
    let windows: Vec<Window> = numbers.iter().take(60).map(|number| model.window(set, *number)).collect();
    let learn = |model: &M, gradients: &mut Gradients| {
        gradients.clear();
        model.learn(set, &windows, moment, &mut model.work(), gradients).unwrap().total()
    };
    let mut gradients = model.gradients();
    learn(&model, &mut gradients);

    let (mut moved, mut unused) = (build(), model.gradients());
    let mut difference = |change: &dyn Fn(&mut M, f32)| {
        let step = 2e-3f32;
        let mut at = |delta: f32| {
            change(&mut moved, delta);
            let value = learn(&moved, &mut unused);
            change(&mut moved, -delta);
            value
        };
        (at(step) - at(-step)) / (2.0 * step as f64)
    };
    let mut rng = Rng::at(4, &[]);
    // The tolerance covers rounding of f32 forward passes over a step of 2e-3, and kinks of PReLU within the step.
    let close = |got: f32, want: f64, what: &str| {
        assert!((got as f64 - want).abs() < 2e-3 + 0.05 * want.abs(), "{what}: {got}, differences say {want}");
    };
    for (g, gradient) in gradients.dense.iter().enumerate() {
        for _ in 0..6 {
            let i = rng.below(gradient.len());
            let want = difference(&|model, delta| model.parameters_mut().dense[g].values[i] += delta);
            close(gradient[i], want, &model.parameters().dense[g].name);
        }
    }
    for (t, gradient) in gradients.tables.iter().enumerate() {
        let dim = model.parameters().tables[t].dim;
        // Places in the table, each with its gradient: the largest ones, where most are small.
        let places: Vec<(usize, f32)> = match gradient {
            TableGradient::Rows(sparse) => {
                let rows = sparse.rows().iter().zip(sparse.values().chunks_exact(dim));
                rows.flat_map(|(row, values)| (*row as usize * dim..).zip(values.iter().copied())).collect()
            }
            TableGradient::Whole(values) => {
                let mut places: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
                places.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
                places.truncate(3 * dim);
                places
            }
        };
        for _ in 0..12 {
            let (at, found) = places[rng.below(places.len())];
            let want = difference(&|model, delta| model.parameters_mut().tables[t].values[at] += delta);
            close(found, want, &model.parameters().tables[t].name);
        }
    }
}
