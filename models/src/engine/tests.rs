//! Tests all engines against the definitions, against each other, and on invalid input.

use super::samples::{
    Draw, batch, coalescing, encoding, every_shape, naive, normalised, rows_of, shaped, streaming, timed, timed_shaped,
    timed_streaming,
};
use super::*;
use crate::tower::encoder::{Encoder, NormOrder};
use crate::tower::ligr::{BlockKind, BlockShape};
use crate::tower::streams::{Mixing, StreamShape};
use crate::tower::{Input, Layer, Reduce};
use std::collections::BTreeMap;
use std::path::PathBuf;
use twotower_artifacts::{Category, Column, FieldShape, Intervals};

/// LiGR blocks with wide feed-forward networks.
const LIGR: BlockShape = BlockShape { kind: BlockKind::Ligr, feed_forward_multiple: 4 };

const KINDS: [EngineKind; 3] = [EngineKind::Native, EngineKind::NativeInt16, EngineKind::Ort];

fn exported(tower: &Tower) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user_tower.onnx");
    onnx::export(tower, &path, &BTreeMap::new()).unwrap();
    (dir, path)
}

fn run(engine: &mut dyn Engine, batch: &CodeBatch) -> Vec<f32> {
    let mut out = vec![f32::NAN];
    engine.embed(batch, &mut out).unwrap();
    assert_eq!(out.len(), 1 + batch.rows() * engine.dim());
    out.split_off(1)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn all_engines_equal_a_naive_f64_forward_pass() {
    let orders = [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post];
    let plain = [every_shape(0), every_shape(1), every_shape(2), normalised(3)];
    let encoders = orders.into_iter().flat_map(|order| [encoding(4, order), timed(4, order)]);
    let streams = [Mixing::Sinkhorn(20), Mixing::Permutations].map(|mixing| StreamShape { count: 4, mixing });
    let with_streams = [streaming(5, NormOrder::Pre, streams[0]), timed_streaming(6, NormOrder::Paper, streams[1])];
    let coalescing = [coalescing(7, false), coalescing(8, true)];
    let wide = BlockShape { feed_forward_multiple: 4, ..BlockShape::default() };
    let shaped =
        [shaped(9, wide), shaped(10, LIGR), timed_shaped(11, LIGR, None), timed_shaped(12, LIGR, Some(streams[0]))];
    let towers = plain.into_iter().chain(encoders).chain(with_streams).chain(coalescing).chain(shaped);
    for (seed, tower) in towers.enumerate().map(|(seed, tower)| (seed as u64, tower)) {
        let (_dir, path) = exported(&tower);
        let rows = batch(&mut Draw::new(seed + 100), &tower.schema, 600);
        let expected = naive(&tower, &rows);
        for kind in KINDS {
            let found = run(&mut *open(kind, &path).unwrap(), &rows);
            let worst = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            let room = if kind == EngineKind::NativeInt16 { 1e-3 } else { 1e-5 };
            assert!(found.len() == expected.len() && worst < room, "{kind}: {worst:e}");
        }
        assert!(verify(&path, &tower, &rows, 1e-5).unwrap() <= 1e-5);
    }
}

#[test]
fn onnx_runtime_crosses_small_code_fields_and_a_tower_of_nothing_else() {
    let draw = &mut Draw::new(21);
    let code = |table: &str, cardinality| FieldShape::Code { table: table.into(), cardinality };
    let fields = [("a", code("a", 6), None), ("b", code("b", 40), None), ("c", code("a", 6), None)];
    let names = ["k", "l", "m", "n"];
    let two = samples::tower(draw, names.map(|name| (name, code(name, 50), None)).to_vec(), 9, &[48, 8]);
    let alone = samples::tower(draw, fields.to_vec(), 9, &[20, 8]);
    let narrow = samples::tower(draw, fields[..2].to_vec(), 8, &[20, 8]);
    let linear = samples::tower(draw, fields.to_vec(), 9, &[20]);
    let mut without = every_shape(22);
    without.layers.insert(0, Layer::Relu);
    for (tower, crosses) in [(every_shape(22), 1), (two, 2), (alone, 1), (linear, 1), (narrow, 0), (without, 0)] {
        let (_dir, path) = exported(&tower);
        assert_eq!(onnx::CrossedGraph::of(&tower).unwrap().map_or(0, |crossed| crossed.crosses.len()), crosses);
        assert_eq!(OrtTower::open(&path).unwrap().is_crossed(), crosses > 0);
        let rows = batch(draw, &tower.schema, 600);
        let expected = naive(&tower, &rows);
        for engines in [OrtTower::open(&path).unwrap(), OrtTower::published(&path).unwrap()] {
            let found = run(&mut engines.engine().unwrap(), &rows);
            assert!(found.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5));
        }
        assert!(verify(&path, &tower, &rows, 1e-5).unwrap() <= 1e-5);
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_its_neighbours() {
    let streams = streaming(7, NormOrder::Pre, StreamShape { count: 4, mixing: Mixing::Sinkhorn(20) });
    let towers = [every_shape(7), encoding(7, NormOrder::Original), streams, timed(7, NormOrder::Original)];
    for tower in towers.into_iter().chain([coalescing(7, true), timed_shaped(7, LIGR, None)]) {
        rows_are_alone(&tower);
    }
}

fn rows_are_alone(tower: &Tower) {
    let (_dir, path) = exported(tower);
    let draw = &mut Draw::new(8);
    let all = batch(draw, &tower.schema, 700);
    for kind in KINDS {
        let mut engine = open(kind, &path).unwrap();
        let expected = run(&mut *engine, &all);
        let mut selections = vec![draw.shuffled(700), vec![699], vec![], vec![3; 257]];
        selections.extend((1..40).map(|n| draw.shuffled(700)[..n * n % 700].to_vec()));
        selections.extend((0..300).map(|row| vec![row]));
        for rows in selections {
            let found = run(&mut *engine, &rows_of(&tower.schema, &all, &rows));
            let expected: Vec<f32> =
                rows.iter().flat_map(|r| &expected[r * tower.dim..][..tower.dim]).copied().collect();
            assert_eq!(bits(&found), bits(&expected), "{kind}, {} rows", rows.len());
        }
    }
}

#[test]
fn the_batch_function_equals_the_engine_whatever_the_threads() {
    let tower = Arc::new(every_shape(9));
    let rows = batch(&mut Draw::new(10), &tower.schema, 1000);
    let expected = run(&mut NativeEngine::new(tower.clone()).unwrap(), &rows);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = pool.install(|| native::embed(&tower, &rows)).unwrap();
        assert_eq!(bits(&found.data), bits(&expected));
        assert_eq!((found.rows, found.cols), (1000, tower.dim));
    }
}

#[test]
fn a_row_without_elements_gets_a_finite_vector() {
    let mut tower = every_shape(11);
    let only_tags: Vec<usize> = vec![2];
    tower.schema.fields = only_tags.iter().map(|i| tower.schema.fields[*i].clone()).collect();
    tower.inputs = only_tags.iter().map(|i| tower.inputs[*i].clone()).collect();
    tower.tables.retain(|name, _| name == "tags");
    tower.layers = vec![Layer::L2Norm { eps: 1e-6 }];
    tower.dim = 16;
    let (_dir, path) = exported(&tower);
    let mut rows = CodeBatch::empty(&tower.schema);
    let Column::Ragged(ragged) = &mut rows.columns[0] else { unreachable!() };
    ragged.push_row([]);
    ragged.push_row([0, 0]);
    ragged.push_row([4]);
    for kind in KINDS {
        let found = run(&mut *open(kind, &path).unwrap(), &rows);
        assert!(found[..32].iter().all(|v| *v == 0.0), "{kind}");
        let norm: f32 = found[32..].iter().map(|v| v * v).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{kind}");
    }
}

#[test]
fn batches_that_do_not_fit_the_schema_are_refused_before_any_work() {
    let tower = every_shape(12);
    let (_dir, path) = exported(&tower);
    let good = batch(&mut Draw::new(13), &tower.schema, 5);
    let mut bad_code = good.clone();
    let Column::Code(codes) = &mut bad_code.columns[0] else { unreachable!() };
    codes[3] = 50;
    let mut torn = good.clone();
    let Column::Ragged(ragged) = &mut torn.columns[2] else { unreachable!() };
    ragged.offsets[2] = 1000;
    let mut missing = good.clone();
    missing.columns.pop();
    for kind in KINDS {
        let mut engine = open(kind, &path).unwrap();
        for (bad, words) in [
            (&bad_code, ["city", "code 50 at row 3"]),
            (&torn, ["tags", "do not follow"]),
            (&missing, ["5 columns", "expected 6"]),
        ] {
            let error = engine.embed(bad, &mut Vec::new()).unwrap_err();
            assert_eq!(error.category(), Category::Mismatch);
            let message = error.to_string();
            assert!(words.iter().all(|w| message.contains(w)), "{kind}: {message}");
        }
        engine.embed(&good, &mut Vec::new()).unwrap();
    }
}

#[test]
fn verification_refuses_a_file_of_another_tower_and_vectors_that_are_not_numbers() {
    let tower = every_shape(14);
    let rows = batch(&mut Draw::new(15), &tower.schema, 50);
    let mut other = tower.clone();
    let Layer::Linear { bias, .. } = &mut other.layers[0] else { unreachable!() };
    bias.data[0] += 0.1;
    let (_dir, path) = exported(&other);
    let error = verify(&path, &tower, &rows, 1e-4).unwrap_err();
    assert!(matches!(error, ModelError::EnginesDiffer { difference, .. } if difference > 1e-4), "{error}");
    assert_eq!(error.category(), Category::Gate);
    let Layer::Linear { bias, .. } = &mut other.layers[0] else { unreachable!() };
    bias.data[0] = f32::NAN;
    let (_dir, path) = exported(&other);
    assert!(matches!(verify(&path, &tower, &rows, 1e-4), Err(ModelError::EnginesDiffer { .. })));
    let none = CodeBatch::empty(&tower.schema);
    assert!(matches!(verify(&path, &tower, &none, 1e-4), Err(ModelError::Data { .. })));
}

#[test]
fn workers_share_nothing_that_changes_their_result() {
    let tower = every_shape(16);
    let (_dir, path) = exported(&tower);
    let rows = batch(&mut Draw::new(17), &tower.schema, 900);
    for kind in KINDS {
        let expected = bits(&run(&mut *open(kind, &path).unwrap(), &rows));
        std::thread::scope(|scope| {
            for mut engine in open_workers(kind, &path, 3).unwrap() {
                let (rows, expected) = (&rows, &expected);
                scope.spawn(move || assert_eq!(&bits(&run(&mut *engine, rows)), expected));
            }
        });
    }
}

#[test]
fn towers_whose_parts_do_not_fit_are_refused_by_name() {
    let good = every_shape(18);
    let break_it = |change: &dyn Fn(&mut Tower)| {
        let mut tower = good.clone();
        change(&mut tower);
        crate::tower::layout::check_tower(&tower).unwrap_err().to_string()
    };
    for (message, word) in [
        (break_it(&|t| t.dim = 5), "dimension is 5"),
        (break_it(&|t| t.inputs[0] = Input::Dense), "`city`"),
        (break_it(&|t| t.tables.get_mut("item").unwrap().rows = 3), "`item`"),
        (break_it(&|t| drop(t.tables.remove("tags"))), "`tags` is missing"),
        (break_it(&|t| t.schema.fields[1].name = "city".into()), "`city`"),
        (break_it(&|t| drop(t.layers.remove(0))), "layer 0"),
        (break_it(&|t| t.layers.push(Layer::L2Norm { eps: 0.0 })), "lower bound"),
        (break_it(&|t| t.layers.insert(1, normalised(18).layers.swap_remove(6))), "24 gains"),
        (break_it(&|t| t.layers.insert(0, coalescing(18, false).layers.swap_remove(0))), "a default of 12 values"),
        (break_it(&|t| t.inputs.clear()), "0 inputs"),
    ] {
        assert!(message.starts_with("user tower: ") && message.contains(word), "{message}");
    }
}

#[test]
fn integers_too_coarse_for_a_tower_are_an_error_of_its_first_rows() {
    let mut tower = every_shape(19);
    let rows = batch(&mut Draw::new(20), &tower.schema, 40);
    let mut out = Vec::new();
    let mut engine = NativeEngine::int16(Arc::new(tower.clone())).unwrap();
    engine.embed(&CodeBatch::empty(&tower.schema), &mut Vec::new()).unwrap();
    engine.embed(&rows, &mut out).unwrap();
    // One input of the second layer is far larger than the others, but has no influence on the result.
    let Layer::Linear { bias, .. } = &mut tower.layers[0] else { unreachable!() };
    bias.data[0] = 1e6;
    let Layer::Linear { weight, .. } = &mut tower.layers[2] else { unreachable!() };
    weight.data.iter_mut().step_by(weight.cols).for_each(|w| *w = 0.0);
    NativeEngine::new(Arc::new(tower.clone())).unwrap().embed(&rows, &mut out).unwrap();
    let mut engine = NativeEngine::int16(Arc::new(tower)).unwrap();
    let error = engine.clone().embed(&rows, &mut out).unwrap_err();
    assert!(error.to_string().contains("use `--engine native`"), "{error}");
    assert_eq!(error.category(), Category::Gate);
    engine.embed(&CodeBatch::empty(engine.schema()), &mut Vec::new()).unwrap();
    engine.embed(&rows, &mut out).unwrap_err();
}

#[test]
fn only_vectors_divided_by_a_norm_are_said_to_be_unit_rows() {
    let tower = every_shape(31);
    let rows = batch(&mut Draw::new(32), &tower.schema, 2 * native::TILE + 1);
    let norms = |tower: Tower| NativeEngine::new(Arc::new(tower)).unwrap().embed(&rows, &mut Vec::new()).unwrap();
    assert_eq!(norms(tower.clone()), Norms::Unit);
    let without = |layers: &[Layer]| Tower { layers: layers.to_vec(), ..tower.clone() };
    assert_eq!(norms(without(&tower.layers[..tower.layers.len() - 1])), Norms::Unknown);
    for value in [0.0, f32::NAN, f32::MAX] {
        let mut tower = tower.clone();
        let last = tower.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Linear { weight, bias } => Some((weight, bias)),
            _ => None,
        });
        let (weight, bias) = last.unwrap();
        weight.data.fill(0.0);
        bias.data.fill(value);
        assert_eq!(norms(tower), Norms::Unknown, "{value}");
    }
}

#[test]
fn engine_names_are_read_and_written_alike() {
    for kind in KINDS {
        assert_eq!(kind.to_string().parse::<EngineKind>().unwrap(), kind);
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
    let error = "onnx".parse::<EngineKind>().unwrap_err();
    assert_eq!(error.category(), Category::Usage);
    assert!(error.to_string().contains("`ort`, `native` or `native-int16`"));
}

#[test]
fn intervals_that_do_not_fit_together_and_names_that_are_taken_are_refused() {
    let good = timed(41, NormOrder::Post);
    crate::tower::layout::check_tower(&good).unwrap();
    let spoilt = |change: &dyn Fn(&mut Tower)| {
        let mut tower = good.clone();
        change(&mut tower);
        crate::tower::layout::check_tower(&tower).unwrap_err().to_string()
    };
    fn intervals(tower: &mut Tower) -> &mut Option<Intervals> {
        let FieldShape::Sequence { intervals, .. } = &mut tower.schema.fields[1].shape else { unreachable!() };
        intervals
    }
    fn encoder(tower: &mut Tower) -> &mut Encoder {
        let Input::Pooled { reduce: Reduce::Attention(encoder), .. } = &mut tower.inputs[1] else { unreachable!() };
        encoder
    }
    for (message, word) in [
        (spoilt(&|t| *intervals(t) = None), "no intervals in the field, its encoder reads intervals up to 20"),
        (spoilt(&|t| encoder(t).intervals = None), "its encoder reads no intervals"),
        (spoilt(&|t| intervals(t).as_mut().unwrap().span = 19), "intervals up to 19"),
        (spoilt(&|t| intervals(t).as_mut().unwrap().span = 1 << 20), "span 1048576, expected 1 to 16384"),
        (
            spoilt(&|t| encoder(t).intervals.as_mut().unwrap().keys.rows = 20),
            "interval_keys (20, 16), expected (21, 16)",
        ),
        (spoilt(&|t| t.inputs[1] = t.inputs[2].clone()), "its encoder reads no intervals"),
    ] {
        assert!(message.contains("`long`") && message.contains(word), "{message}");
    }
    let mut taken = good.clone();
    taken.schema.fields[0].name = "long/times".into();
    let dir = tempfile::tempdir().unwrap();
    let error = onnx::export(&taken, &dir.path().join("t.onnx"), &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("`long/times`") && error.contains("rename the feature"), "{error}");
    // Rows whose elements have no times are refused by every engine.
    let (_dir, path) = exported(&good);
    let mut rows = batch(&mut Draw::new(42), &good.schema, 5);
    let Column::Ragged(long) = &mut rows.columns[1] else { unreachable!() };
    long.times.pop();
    for kind in KINDS {
        let error = open(kind, &path).unwrap().embed(&rows, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("column `long` has") && error.contains("times of"), "{kind}: {error}");
    }
}

#[test]
fn blocks_that_do_not_fit_together_are_refused() {
    let good = shaped(42, LIGR);
    crate::tower::layout::check_tower(&good).unwrap();
    let spoilt = |change: &dyn Fn(&mut Encoder)| {
        let mut tower = good.clone();
        let Input::Pooled { reduce: Reduce::Attention(encoder), .. } = &mut tower.inputs[1] else { unreachable!() };
        change(encoder);
        crate::tower::layout::check_tower(&tower).unwrap_err().to_string()
    };
    for (message, word) in [
        (spoilt(&|e| e.block.kind = BlockKind::Transformer), "some parts have gates and others not"),
        (spoilt(&|e| e.blocks[1].gates = None), "some parts have gates and others not"),
        (spoilt(&|e| e.block.feed_forward_multiple = 3), "inner_weight (128, 16), expected (96, 16)"),
        (spoilt(&|e| e.block.feed_forward_multiple = usize::MAX), "expected 1 to 8 times"),
        (spoilt(&|e| e.blocks[0].outer.weight.cols = 16), "outer_weight (16, 16), expected (16, 64)"),
        (spoilt(&|e| e.blocks[0].gates.as_mut().unwrap().attention.bias.cols = 3), "attention_gate_bias (1, 3)"),
    ] {
        assert!(message.contains(word), "{message}");
    }
    let mut other = encoding(42, NormOrder::Post);
    let Input::Pooled { reduce: Reduce::Attention(encoder), .. } = &mut other.inputs[1] else { unreachable!() };
    encoder.block.kind = BlockKind::Ligr;
    let message = crate::tower::layout::check_tower(&other).unwrap_err().to_string();
    assert!(message.contains("Ligr beside the order of norms Post"), "{message}");
}
