//! Tests of the terms that LightGCN adds to its main one.

use super::lightgcn_tests::{DIM, even, inner, layers_of, mean_of, model, pairs, set, wide};
use super::tests::{
    config, fresh, gradient_agrees_with_differences, is_resumed_bit_for_bit, run, same_with_any_threads,
};
use super::*;
use crate::lightgcn::{
    Initialisation, LightgcnConfig, NclConfig, PenaltyForm, Prototypes, SglConfig, SimgclConfig, State, ViewsConfig,
    XsimgclConfig,
};
use crate::params::TableGradient;
use crate::rng::Rng;
use crate::similarity::Similarity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use twotower_artifacts::Column;

fn xsimgcl(eps: f32, layer: usize) -> ViewsConfig {
    ViewsConfig::Xsimgcl(XsimgclConfig { weight: 0.3, temperature: 0.4, eps, layer })
}

fn simgcl(eps: f32) -> ViewsConfig {
    ViewsConfig::Simgcl(SimgclConfig { weight: 0.4, temperature: 0.5, eps })
}

fn sgl() -> ViewsConfig {
    ViewsConfig::Sgl(SglConfig { weight: 0.2, temperature: 0.3, drop: 0.3 })
}

fn ncl() -> NclConfig {
    NclConfig {
        temperature: 0.5,
        structure_weight: 0.02,
        hops: 1,
        alpha: 0.7,
        prototype_weight: 0.03,
        clusters: 6,
        from_epoch: 0,
    }
}

/// Every kind of view, alone and with the other terms.
fn settings() -> Vec<LightgcnConfig> {
    let base = LightgcnConfig { penalty: 0.0, init: Initialisation::Normal, ..model(Similarity::Dot) };
    vec![
        LightgcnConfig { views: Some(xsimgcl(0.0, 1)), ..base.clone() },
        LightgcnConfig { views: Some(xsimgcl(0.0, 3)), layers: 3, first_layer_counts: Some(true), ..base.clone() },
        LightgcnConfig { views: Some(simgcl(0.0)), ..base.clone() },
        LightgcnConfig { views: Some(sgl()), ..base.clone() },
        LightgcnConfig { ncl: Some(ncl()), penalty: 0.2, penalty_form: PenaltyForm::Norms, ..base.clone() },
        LightgcnConfig {
            views: Some(xsimgcl(0.0, 2)),
            ncl: Some(NclConfig { hops: 2, ..ncl() }),
            layers: 4,
            similarity: Similarity::Cosine,
            ..base
        },
    ]
}

/// Vectors of width `DIM` in f64, by rows.
fn row(of: &[f64], row: u32) -> &[f64] {
    &of[row as usize * DIM..][..DIM]
}

/// The loss of an anchor whose positive is one of the candidates, by the definition.
fn info_nce(anchor: &[f64], candidates: &[&[f64]], positive: &[f64], temperature: f32) -> f64 {
    let cosine = |other: &[f64]| inner(anchor, other) / (inner(anchor, anchor) * inner(other, other)).sqrt();
    let score = |other: &[f64]| cosine(other) / f64::from(temperature);
    candidates.iter().map(|candidate| score(candidate).exp()).sum::<f64>().ln() - score(positive)
}

/// The terms beside the main one in f64, without their weights, by their definitions.
fn definition(
    (set, settings, state, moment): (&TrainingSet, &LightgcnConfig, &State, Moment),
    batch: &[Vec<u32>; 2],
    tables: &[Vec<f64>; 2],
) -> BTreeMap<&'static str, f64> {
    let edges = pairs(set);
    let views = |pairs: &BTreeSet<(u32, u32)>| {
        let (all, degrees) = layers_of(pairs, [&tables[0], &tables[1]], settings.layers);
        let mean = mean_of(&all, &degrees, settings.counts_first_layer());
        (all, degrees, mean)
    };
    let (all, degrees, mean) = views(&edges);
    let distinct = batch.each_ref().map(|side| side.iter().copied().collect::<BTreeSet<u32>>());
    let mut terms = BTreeMap::new();
    if let Some(config) = &settings.views {
        let (one, two, temperature) = match config {
            ViewsConfig::Xsimgcl(x) => (mean.clone(), all[x.layer].clone(), x.temperature),
            ViewsConfig::Simgcl(x) => (mean.clone(), mean.clone(), x.temperature),
            ViewsConfig::Sgl(x) => {
                let key = moment.of_epoch(24).bits();
                let [one, two] = [0, 1].map(|view| {
                    let mut left: Vec<Option<(u32, u32)>> = edges.iter().copied().map(Some).collect();
                    Rng::at(key, &[view]).each_hit(x.drop, left.len(), |edge| left[edge] = None);
                    let left = left.into_iter().flatten().collect::<BTreeSet<_>>();
                    assert!(left.len() < edges.len());
                    views(&left).2
                });
                (one, two, x.temperature)
            }
        };
        let value = |side: usize| {
            let candidates: Vec<&[f64]> = distinct[side].iter().map(|node| row(&two[side], *node)).collect();
            let anchors = distinct[side].iter().zip(&candidates);
            let all = anchors.map(|(node, own)| info_nce(row(&one[side], *node), &candidates, own, temperature));
            all.sum::<f64>() / candidates.len() as f64
        };
        terms.insert("views", value(0) + value(1));
    }
    if let (Some(config), Some(prototypes)) = (&settings.ncl, &state.prototypes) {
        let (mut structure, mut of_clusters) = (0.0, 0.0);
        for (side, factor) in [(0, 1.0), (1, config.alpha)] {
            let connected: Vec<u32> =
                (0..degrees[side].len() as u32).filter(|node| degrees[side][*node as usize] > 0.0).collect();
            let own: Vec<&[f64]> = connected.iter().map(|node| row(&tables[side], *node)).collect();
            let Prototypes { centres, of } = &prototypes[side];
            let centres: Vec<f64> = centres.iter().map(|x| f64::from(*x)).collect();
            let centres: Vec<&[f64]> = centres.chunks_exact(DIM).collect();
            for node in &batch[side] {
                let place = connected.binary_search(node).unwrap();
                let around = row(&all[2 * config.hops][side], *node);
                structure += factor * info_nce(around, &own, own[place], config.temperature);
                let centre = centres[of[place] as usize];
                of_clusters += info_nce(own[place], &centres, centre, config.temperature);
            }
        }
        terms.insert("structure", structure);
        terms.insert("prototypes", of_clusters);
    }
    if settings.penalty > 0.0 {
        // With the softmax over all items, none is drawn.
        let squares =
            |side: usize| batch[side].iter().map(|node| row(&tables[side], *node)).map(|e| inner(e, e)).sum::<f64>();
        terms.insert("penalty", (squares(0).sqrt() + squares(1).sqrt()) / batch[0].len() as f64);
    }
    terms
}

/// A model with large vectors, in the state of an epoch, and some windows of it.
fn begun(set: &TrainingSet, settings: &LightgcnConfig, moment: Moment) -> (Lightgcn, Vec<Window>) {
    let config = TrainConfig { loss: Loss::FullSoftmax, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    let mut model = Lightgcn::new(set, settings, &config).unwrap();
    model.parameters_mut().tables.iter_mut().flat_map(|table| &mut table.values).for_each(|x| *x *= 8.0);
    model.begin_epoch(set, moment).unwrap();
    let numbers = model.windows(set, Moment { epoch: 0, ..moment });
    let windows = numbers.iter().take(50).map(|number| model.window(set, *number)).collect();
    (model, windows)
}

fn learned(set: &TrainingSet, (model, windows): &(Lightgcn, Vec<Window>), moment: Moment) -> (Terms, Gradients) {
    let mut gradients = model.gradients();
    let terms = model.learn(set, windows, moment, &mut model.work(), &mut gradients).unwrap();
    (terms, gradients)
}

#[test]
fn every_term_and_its_gradient_agree_with_the_definition_and_its_differences_in_f64() {
    let set = set(40, 20);
    let (Column::Code(users), Column::Code(items)) = (&set.users.columns[0], &set.items.columns[0]) else {
        unreachable!()
    };
    let moment = Moment { seed: 3, epoch: 1, step: 2 };
    for settings in settings() {
        let run = begun(&set, &settings, moment);
        let batch = [
            run.1.iter().map(|window| users[window.user as usize]).collect::<Vec<u32>>(),
            run.1.iter().map(|window| items[set.interactions.items[window.targets.start] as usize]).collect(),
        ];
        let (terms, gradients) = learned(&set, &run, moment);
        // What the terms add to the gradient of the main one.
        let first_layer_counts = Some(settings.counts_first_layer());
        let alone = LightgcnConfig { views: None, ncl: None, penalty: 0.0, first_layer_counts, ..settings.clone() };
        let (_, main) = learned(&set, &begun(&set, &alone, moment), moment);
        let mut tables = wide(run.0.parameters());
        let of = |tables: &[Vec<f64>; 2]| definition((&set, &settings, run.0.state(), moment), &batch, tables);
        let expected = of(&tables);
        assert!(!expected.is_empty());
        let weights: BTreeMap<&str, f64> = terms.0.iter().map(|term| (term.name.as_str(), term.weight)).collect();
        for (name, value) in &expected {
            let found = terms.0.iter().find(|term| term.name == *name).unwrap();
            assert!((found.value - value).abs() < 2e-5 * (1.0 + value), "{settings:?}: {found:?}, expected {value}");
        }
        let total = |tables: &[Vec<f64>; 2]| of(tables).iter().map(|(name, value)| weights[name] * value).sum::<f64>();
        let mut largest = 0.0f64;
        for side in 0..2 {
            let (TableGradient::Whole(all), TableGradient::Whole(main)) = (&gradients.tables[side], &main.tables[side])
            else {
                panic!("all rows have a gradient")
            };
            for at in (0..all.len()).step_by(7) {
                let kept = tables[side][at];
                let mut value = |delta: f64| {
                    tables[side][at] = kept + delta;
                    let value = total(&tables);
                    tables[side][at] = kept;
                    value
                };
                let want = (value(1e-5) - value(-1e-5)) / 2e-5;
                let found = f64::from(all[at]) - f64::from(main[at]);
                largest = largest.max(want.abs());
                assert!((found - want).abs() < 5e-6 + 1e-4 * want.abs(), "{settings:?}, {side}, {at}: {found}, {want}");
            }
        }
        assert!(largest > 1e-3, "the gradient is nearly zero everywhere: {settings:?}");
    }
}

#[test]
fn gradients_agree_with_finite_differences_with_noise_drawn_items_and_dropped_ids() {
    let set = set(40, 20);
    let loss = Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform };
    let config = TrainConfig { loss, unknown_rate: 0.1, ..config() };
    for views in [xsimgcl(0.2, 1), simgcl(0.1), sgl()] {
        let settings = LightgcnConfig {
            views: Some(views),
            ncl: Some(NclConfig { prototype_weight: 0.0, structure_weight: 1e-3, ..ncl() }),
            penalty: 0.2,
            penalty_form: PenaltyForm::Norms,
            ..model(Similarity::Dot)
        };
        gradient_agrees_with_differences(&set, || Lightgcn::new(&set, &settings, &config).unwrap());
    }
}

#[test]
fn noise_differs_between_steps_and_dropped_edges_between_epochs_and_both_are_functions_of_the_seed() {
    let set = set(40, 20);
    let at = |epoch: usize, step: usize| Moment { seed: 3, epoch, step };
    for (views, by_step, by_epoch) in [
        (xsimgcl(0.2, 1), true, true),
        (simgcl(0.2), true, true),
        (xsimgcl(0.0, 1), false, false),
        (sgl(), false, true),
    ] {
        let settings = LightgcnConfig { views: Some(views), ..model(Similarity::Dot) };
        let run = begun(&set, &settings, at(0, 0));
        // The same working memory for all steps.
        let mut work = run.0.work();
        let mut value = |moment: Moment| {
            let terms = run.0.learn(&set, &run.1, moment, &mut work, &mut run.0.gradients()).unwrap();
            terms.0.iter().find(|term| term.name == "views").unwrap().value
        };
        let first = value(at(0, 0));
        assert_eq!(first != value(at(0, 1)), by_step, "{settings:?}");
        assert_eq!(first != value(at(1, 0)), by_epoch, "{settings:?}");
        assert_eq!(first, value(at(0, 0)));
        assert_eq!(first != value(Moment { seed: 4, ..at(0, 0) }), by_step, "{settings:?}");
    }
}

#[test]
fn it_learns_with_every_term_and_each_is_told_by_name() {
    let set = set(160, 48);
    let loss = Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform };
    let config = TrainConfig { loss, epochs: 12, learning_rate: 2e-2, batch_size: 128, ..config() };
    let small = NclConfig { structure_weight: 1e-4, prototype_weight: 1e-4, from_epoch: 2, ..ncl() };
    let sgl = ViewsConfig::Sgl(SglConfig { weight: 0.02, ..SglConfig::default() });
    let views = [Some(ViewsConfig::Xsimgcl(XsimgclConfig::default())), Some(sgl), None];
    for (views, ncl) in views.into_iter().zip([None, Some(small.clone()), Some(small)]) {
        let settings = LightgcnConfig { views, ncl, ..model(Similarity::Dot) };
        let trained = fresh(&set, &settings, &config);
        let best = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap();
        assert!(best.values["recall@10"] > 0.6, "{settings:?}: {:?}", best.values);
        for epoch in &trained.epochs {
            let names: Vec<&str> = epoch.terms.0.iter().map(|term| term.name.as_str()).collect();
            let mut expected = vec!["bpr"];
            expected.extend(settings.views.iter().map(|_| "views"));
            expected.extend(settings.ncl.iter().map(|_| "structure"));
            // Epochs are counted from 1 in reports.
            expected.extend(settings.ncl.iter().filter(|ncl| epoch.epoch > ncl.from_epoch).map(|_| "prototypes"));
            expected.push("penalty");
            assert_eq!(names, expected);
            assert!((epoch.terms.total() - epoch.loss).abs() < 1e-9);
        }
    }
}

#[test]
fn it_is_resumed_bit_for_bit_with_clusters_of_the_checkpoint_and_does_not_depend_on_threads() {
    let even = even();
    // Runs stop within the second epoch, whose clusters are those of its beginning.
    let ncl = NclConfig { from_epoch: 1, ..ncl() };
    for views in [xsimgcl(0.2, 1), sgl()] {
        let settings = LightgcnConfig { views: Some(views), ncl: Some(ncl.clone()), ..model(Similarity::Dot) };
        is_resumed_bit_for_bit(&even, &settings);
    }
    let losses = vec![Loss::Bpr { negatives: 1, sampler: SamplerKind::Uniform }, Loss::FullSoftmax];
    let ncl = NclConfig { from_epoch: 0, clusters: 100, ..ncl };
    let settings = LightgcnConfig { views: Some(simgcl(0.1)), ncl: Some(ncl), ..model(Similarity::Cosine) };
    same_with_any_threads(&set(300, 48), &settings, losses);
}

/// Keeps the messages of warnings.
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 = format!("{value:?}");
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn clusters_are_at_most_as_many_as_nodes_with_edges_and_a_warning_says_so() {
    let (set, moment) = (set(40, 20), Moment { seed: 1, epoch: 0, step: 0 });
    let settings = LightgcnConfig { ncl: Some(NclConfig { clusters: 30, ..ncl() }), ..model(Similarity::Dot) };
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let run = tracing::subscriber::with_default(Warnings(warnings.clone()), || begun(&set, &settings, moment));
    let [users, items] = run.0.state().prototypes.as_ref().unwrap();
    let connected: BTreeSet<u32> = pairs(&set).into_iter().map(|(_, item)| item).collect();
    assert_eq!((users.centres.len(), items.centres.len()), (30 * DIM, connected.len() * DIM));
    assert!(connected.len() < 20 && items.of.iter().copied().collect::<BTreeSet<u32>>().len() == connected.len());
    let said = warnings.lock().unwrap().clone();
    let number = format!("only {} items have training events", connected.len());
    assert!(said.len() == 1 && said[0].contains("`model.ncl.clusters` = 30") && said[0].contains(&number), "{said:?}");
    // Without prototypes, nothing is clustered, and nothing said.
    warnings.lock().unwrap().clear();
    let none = NclConfig { clusters: 30, prototype_weight: 0.0, ..ncl() };
    let settings = LightgcnConfig { ncl: Some(none), ..settings };
    let run = tracing::subscriber::with_default(Warnings(warnings.clone()), || begun(&set, &settings, moment));
    assert!(run.0.state().prototypes.is_none() && warnings.lock().unwrap().is_empty());
    // Clusters of the seed and the epoch.
    let of = |epoch: usize| {
        let settings = LightgcnConfig { ncl: Some(ncl()), ..model(Similarity::Dot) };
        begun(&set, &settings, Moment { epoch, ..moment }).0.state().clone()
    };
    assert!(of(0) == of(0) && of(0) != of(1));
}

#[test]
fn layers_that_there_are_not_are_refused_by_name() {
    let set = set(20, 12);
    let two = LightgcnConfig { layers: 2, ..model(Similarity::Dot) };
    let hops = |hops| Some(NclConfig { hops, ..ncl() });
    for (settings, name) in [
        (LightgcnConfig { views: Some(xsimgcl(0.1, 3)), ..two.clone() }, "`model.views.layer`"),
        (LightgcnConfig { views: Some(sgl()), layers: 0, ..two.clone() }, "`model.layers`"),
        (LightgcnConfig { first_layer_counts: Some(false), layers: 0, ..two.clone() }, "`model.first_layer_counts`"),
        (LightgcnConfig { ncl: hops(2), ..two.clone() }, "`model.ncl.hops`"),
        (LightgcnConfig { ncl: Some(NclConfig { clusters: 0, ..ncl() }), ..two.clone() }, "ncl.clusters"),
        (LightgcnConfig { views: Some(simgcl(f32::NAN)), ..two.clone() }, "views.eps"),
    ] {
        let error = settings.check(&set.user_schema.fields, &set.item_schema.fields).unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    let fits = LightgcnConfig { views: Some(xsimgcl(0.1, 2)), ncl: hops(1), ..two };
    fits.check(&set.user_schema.fields, &set.item_schema.fields).unwrap();
    // And a run says so before anything else.
    let config = TrainConfig { epochs: 1, ..config() };
    let broken = LightgcnConfig { ncl: hops(2), ..fits };
    let error = run(&set, &broken, &config, Start::Fresh, Path::new("nowhere"), &mut ()).unwrap_err().to_string();
    assert!(error.contains("`model.ncl.hops`"), "{error}");
}
