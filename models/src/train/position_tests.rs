//! Tests of training at every position against training on one example for each training event.

use super::tests::{attentive, config};
use super::*;
use crate::examples::tests::planted;
use crate::examples::{Known, assemble};
use crate::params::TableGradient;
use crate::tower::encoder::NormOrder;
use twotower_artifacts::{CodeBatch, Column, FieldShape, Side};

const START: Moment = Moment { seed: 3, epoch: 0, step: 0 };

/// Users of 14 events. The longest sequences hold all of them, or `longest`.
fn set(longest: u32) -> TrainingSet {
    let mut set = planted(30, 24, 3, 14);
    let FieldShape::Sequence { max_len, .. } = &mut set.user_schema.fields[1].shape else { panic!("a sequence") };
    *max_len = longest;
    set.interactions.weights.iter_mut().enumerate().for_each(|(i, weight)| *weight = 1.0 + (i % 3) as f32);
    set
}

pub(super) fn undropped(loss: Loss) -> TrainConfig {
    TrainConfig { loss, unknown_rate: 0.0, missing_rate: 0.0, ..config() }
}

/// The loss of some windows, and all gradients, with those of tables by row.
pub(super) fn learned(model: &Dssm, set: &TrainingSet, windows: &[Window]) -> (f64, Vec<Vec<f32>>) {
    let mut gradients = model.gradients();
    let terms = model.learn(set, windows, START, &mut model.work(), &mut gradients).unwrap();
    let tables = gradients.tables.iter().zip(&model.parameters().tables).map(|(gradient, table)| {
        let TableGradient::Rows(sparse) = gradient else { panic!("a step touches few rows") };
        let mut whole = vec![0.0; table.values.len()];
        for (row, values) in sparse.rows().iter().zip(sparse.values().chunks_exact(table.dim)) {
            whole[*row as usize * table.dim..][..table.dim].copy_from_slice(values);
        }
        whole
    });
    let all = tables.chain(gradients.dense.iter().cloned()).collect();
    (terms.total(), all)
}

/// All windows of an epoch, in the order of users and time.
pub(super) fn windows(model: &Dssm, set: &TrainingSet) -> Vec<Window> {
    let mut numbers = model.windows(set, START);
    numbers.sort_unstable();
    numbers.iter().map(|number| model.window(set, *number)).collect()
}

#[test]
fn it_equals_training_on_a_prefix_for_each_target_without_dropout() {
    let set = set(14);
    for norm in [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post] {
        for loss in [Loss::InBatch, Loss::Mixed { uniform: 9 }, Loss::FullSoftmax] {
            let mut model = Dssm::new(&set, &attentive(norm, 0.0), &undropped(loss)).unwrap();
            let by_position = windows(&model, &set);
            assert_eq!(by_position.len(), 30);
            let (found, gradients) = learned(&model, &set, &by_position);
            // One example for each training event. Newest first, none continues the one before it.
            model.positions = None;
            let mut examples = windows(&model, &set);
            assert_eq!(examples.len(), 30 * 12);
            examples.reverse();
            let (expected, by_example) = learned(&model, &set, &examples);
            assert!((found - expected).abs() < 1e-5, "{norm:?}, {loss:?}: {found}, {expected}");
            for (group, (found, expected)) in gradients.iter().zip(&by_example).enumerate() {
                let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                let worst = found.iter().zip(expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                // Sums in another order.
                assert!(worst <= 1e-5 + 1e-4 * largest, "{norm:?}, {loss:?}, group {group}: {worst:e} of {largest:e}");
            }
        }
    }
}

#[test]
fn a_later_item_never_changes_the_output_at_an_earlier_position() {
    let set = set(14);
    let model = Dssm::new(&set, &attentive(NormOrder::Post, 0.2), &undropped(Loss::InBatch)).unwrap();
    let positions = model.positions.unwrap();
    let outputs = |set: &TrainingSet| {
        let windows = [model.window(set, 11)];
        let [mut whole, mut rows] = [(); 2].map(|()| CodeBatch::empty(&set.user_schema));
        positions.assemble(set, &windows, &mut whole);
        positions.spread(set, &windows, &whole, &mut rows);
        model.embed(Side::User, &rows, &mut model.work()).unwrap().to_vec()
    };
    let (before, dim) = (outputs(&set), model.dim());
    assert_eq!(before.len(), 12 * dim);
    for changed in [1, 5, 10] {
        let mut other = set.clone();
        let item = &mut other.interactions.items[changed];
        *item = (*item + 1) % 24;
        let after = outputs(&other);
        // The vector at a position is that before the event of the position.
        assert_eq!(after[..(changed + 1) * dim], before[..(changed + 1) * dim], "{changed}");
        assert_ne!(after[(changed + 1) * dim..][..dim], before[(changed + 1) * dim..][..dim], "{changed}");
    }
}

#[test]
fn a_batch_has_its_number_of_targets_and_an_epoch_has_all() {
    struct Examples(Vec<usize>);
    impl Observer for Examples {
        fn on_step(&mut self, report: &StepReport) -> std::ops::ControlFlow<()> {
            let all = 30 * 12;
            assert_eq!((report.steps, report.examples == all), (8, report.step == 8));
            self.0.push(report.examples);
            std::ops::ControlFlow::Continue(())
        }
    }
    let (set, dir) = (set(5), tempfile::tempdir().unwrap());
    let config = TrainConfig { batch_size: 48, epochs: 2, ..config() };
    let mut examples = Examples(Vec::new());
    let model = ModelConfig::Dssm(attentive(NormOrder::Original, 0.1));
    train(&set, &model, &config, Start::Fresh, dir.path(), &mut examples).unwrap();
    // Windows have at most 6 targets.
    let counts = examples.0[..8].iter().scan(0, |before, all| Some(all - std::mem::replace(before, *all)));
    assert!(counts.take(7).all(|count| (43..54).contains(&count)), "{:?}", examples.0);
}

#[test]
fn with_a_random_split_each_training_event_is_an_example_with_all_that_is_known() {
    let mut set = set(14);
    set.known = Known::Training;
    let model = Dssm::new(&set, &attentive(NormOrder::Original, 0.0), &undropped(Loss::InBatch)).unwrap();
    assert_eq!(model.positions, None);
    let windows = windows(&model, &set);
    assert_eq!(windows.len(), 30 * 12);
    let mut rows = CodeBatch::empty(&set.user_schema);
    assemble(&set, &windows, &mut rows);
    let Column::Ragged(recent) = &rows.columns[1] else { panic!("sequences are ragged") };
    assert!((0..recent.rows()).all(|row| recent.row(row).len() == 11));
}
