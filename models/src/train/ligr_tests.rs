//! Tests of LiGR blocks in training.

use super::sasrec_tests::{agrees_with_both_engines, model, set};
use super::tests::{
    attentive, config, gradient_agrees_with_differences, is_resumed_bit_for_bit, run, same_with_any_threads,
};
use super::tisasrec_tests::{PERSONAL, timed};
use super::*;
use crate::dssm::{AttentionConfig, DssmConfig};
use crate::examples::tests::planted;
use crate::hyper_connections::HyperConnections;
use crate::params::Parameters;
use crate::sasrec::SasrecConfig;
use crate::similarity::Similarity;
use crate::tower::encoder::NormOrder;
use crate::tower::ligr::BlockKind;

fn ligr(feed_forward_multiple: usize) -> SasrecConfig {
    let block = BlockKind::Ligr;
    SasrecConfig { norm: NormOrder::Pre, block, feed_forward_multiple, ..model(Similarity::Dot) }
}

/// As [`ligr`], with streams.
fn streaming() -> SasrecConfig {
    SasrecConfig { hyper_connections: Some(HyperConnections { streams: 3, ..HyperConnections::default() }), ..ligr(2) }
}

/// A sequence beside other features, which a transformer with LiGR blocks reduces.
fn beside_others() -> DssmConfig {
    let plain = attentive(NormOrder::Pre, 0.1);
    let attention = plain.attention.clone().unwrap_or_default();
    let attention = AttentionConfig { block: BlockKind::Ligr, feed_forward_multiple: 4, ..attention };
    DssmConfig { attention: Some(attention), ..plain }
}

#[test]
fn it_learns_which_item_follows_another_and_its_gates_leave_their_start() {
    let set = set(120);
    for settings in [ligr(1), ligr(4), streaming()] {
        let config =
            TrainConfig { loss: Loss::FullSoftmax, epochs: 25, learning_rate: 1e-2, batch_size: 48, ..config() };
        let dir = tempfile::tempdir().unwrap();
        let trained = run(&set, &settings, &config, Start::Fresh, dir.path(), &mut ()).unwrap();
        let found = trained.epochs[trained.best_epoch - 1].validation.as_ref().unwrap().values["ndcg@10"];
        assert!(found > 0.8, "{settings:?}: {found}");
        let start = Dssm::sasrec(&set, &settings, &config).unwrap();
        let end = checkpoint::read::<()>(&trained.checkpoint).unwrap().parameters;
        let gates = |parameters: &Parameters| -> Vec<(String, Vec<f32>)> {
            let gates = parameters.dense.iter().filter(|group| group.name.contains("_gate_"));
            gates.map(|group| (group.name.clone(), group.values.clone())).collect()
        };
        let (start, end) = (gates(start.parameters()), gates(&end));
        assert_eq!((start.len(), end.len()), (2 * 2 * 2, 2 * 2 * 2));
        assert!(start.iter().zip(&end).all(|(start, end)| start.0 == end.0 && start.1 != end.1));
        // They begin in the middle.
        let biases = start.iter().filter(|(name, _)| name.ends_with("bias"));
        assert!(biases.flat_map(|(_, values)| values).all(|x| *x == 0.0));
    }
}

#[test]
fn the_gradient_agrees_with_finite_differences() {
    let config = TrainConfig { loss: Loss::Mixed { uniform: 5 }, unknown_rate: 0.0, missing_rate: 0.0, ..config() };
    for set in [set(40), timed(40, 4, PERSONAL)] {
        for settings in [ligr(2), streaming()] {
            let settings = SasrecConfig { dropout: 0.0, temperature: 8.0, ..settings };
            gradient_agrees_with_differences(&set, || Dssm::sasrec(&set, &settings, &config).unwrap());
        }
    }
}

#[test]
fn towers_agree_with_training_in_both_engines_with_intervals_and_streams_and_beside_other_features() {
    for set in [set(90), timed(90, 4, PERSONAL)] {
        for settings in [ligr(4), streaming()] {
            agrees_with_both_engines(&set, &settings);
        }
    }
    let set = planted(90, 24, 3, 8);
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig { epochs: 2, learning_rate: 1e-2, ..config() };
    let trained = run(&set, &beside_others(), &config, Start::Fresh, dir.path(), &mut ()).unwrap();
    let path = dir.path().join("user.onnx");
    crate::onnx::export(&trained.user, &path, &std::collections::BTreeMap::new()).unwrap();
    let mut users = twotower_artifacts::CodeBatch::empty(&set.user_schema);
    let windows: Vec<Window> = (0..set.roles.len()).map(|event| set.window(event)).collect();
    crate::examples::assemble(&set, &windows, &mut users);
    crate::engine::verify(&path, &trained.user, &users, 1e-4).unwrap();
}

#[test]
fn it_is_resumed_bit_for_bit_and_does_not_depend_on_threads() {
    let set = set(100);
    for settings in [ligr(2), streaming()] {
        is_resumed_bit_for_bit(&set, &settings);
        same_with_any_threads(&set, &settings, vec![Loss::SampledSoftmax { negatives: 20 }]);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let set = set(20);
    let (users, items) = (&set.user_schema.fields, &set.item_schema.fields);
    ligr(8).check(users, items).unwrap();
    beside_others().check().unwrap();
    for norm in [NormOrder::Original, NormOrder::Paper, NormOrder::Post] {
        let error = SasrecConfig { norm, ..ligr(1) }.check(users, items).unwrap_err().to_string();
        let named = [format!("`{}`", norm.name()), "`model.norm`".into(), "`pre`".into(), "\"ligr\"".into()];
        assert!(named.iter().all(|part| error.contains(part)), "{error}");
        let attention = AttentionConfig { norm, ..beside_others().attention.unwrap() };
        let error = DssmConfig { attention: Some(attention), ..beside_others() }.check().unwrap_err().to_string();
        assert!(error.contains("`attention.norm`"), "{error}");
        // Wider feed-forward networks are for all orders of norms.
        let plain = SasrecConfig { norm, block: BlockKind::Transformer, ..ligr(4) };
        plain.check(users, items).unwrap();
    }
    for multiple in [0, 9] {
        let error = ligr(multiple).check(users, items).unwrap_err().to_string();
        assert!(error.contains("feed_forward_multiple") && error.contains("from 1 to 8"), "{error}");
    }
}

#[test]
fn the_size_of_a_training_counts_wider_networks_and_gates() {
    let set = set(20);
    let towers = [&set.user_schema, &set.item_schema];
    let config = TrainConfig { batch_size: 48, ..config() };
    let mut bytes = 0;
    for settings in [SasrecConfig { norm: NormOrder::Pre, ..model(Similarity::Dot) }, ligr(1), ligr(2), ligr(8)] {
        let model = Dssm::sasrec(&set, &settings, &config).unwrap();
        let Parameters { dense, tables } = model.parameters();
        let dense: usize = dense.iter().map(|group| group.values.len()).sum();
        let count = (dense + tables.iter().map(|table| table.values.len()).sum::<usize>()) as u128;
        let said = size(&settings.clone().into(), &config, towers, (set.items.rows(), set.roles.len()), set.known);
        // Layer norms are not counted, and biases as if each matrix was square.
        assert!((count * 95 / 100..=count * 105 / 100).contains(&said.parameters), "{} of {count}", said.parameters);
        assert!(said.bytes > bytes);
        bytes = said.bytes;
    }
}
