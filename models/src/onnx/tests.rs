//! Writes files and reads them back, and tries damaged files.

use super::export::export_with_limit;
use super::graph::int;
use super::messages::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, code,
};
use super::*;
use crate::engine::samples::{
    Draw, batch, coalescing, encoder, encoding, every_shape, normalised, shaped, streaming, timed, timed_shaped, tower,
};
use crate::engine::{CROSS_LIMIT, Engine, EngineKind, open, verify};
use crate::error::ModelError;
use crate::native::NativeEngine;
use crate::tower::encoder::{EncoderShape, NormOrder};
use crate::tower::ligr::{BlockKind, BlockShape};
use crate::tower::streams::{Mixing, StreamShape};
use crate::tower::{Layer, Matrix, Reduce, Tower};
use proptest::prelude::*;
use prost::Message;
use std::collections::BTreeMap;
use std::fs;
use twotower_artifacts::{ArtifactError, Category, FieldShape, IntervalScale, Intervals};

/// Every float of a tower, for comparisons that see the sign of zero and NaN.
fn bits(tower: &Tower) -> Vec<u32> {
    let mut all: Vec<f32> = Vec::new();
    tower.map(|_, weight| all.extend(&weight.data));
    all.extend(tower.layers.iter().filter_map(|layer| match layer {
        Layer::LayerNorm { eps, .. } | Layer::L2Norm { eps } => Some(eps),
        Layer::Linear { .. } | Layer::Prelu { .. } | Layer::Relu | Layer::Coalesce { .. } => None,
    }));
    all.into_iter().map(f32::to_bits).collect()
}

fn field(kind: u32, i: usize, size: u32) -> FieldShape {
    let table = format!("t{}", i % 2);
    match kind {
        0 => FieldShape::Code { table, cardinality: 5 },
        1 => FieldShape::Bag { table, cardinality: 5, max_len: size },
        2 => FieldShape::Sequence { table, cardinality: 5, max_len: size, intervals: None },
        _ => FieldShape::Dense { width: size },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_tower_is_read_back_bit_for_bit(
        kinds in prop::collection::vec((0u32..4, 1u32..5, any::<bool>()), 1..6),
        names in prop::collection::hash_set("[ -~]{1,8}|/table/t0|vector|größe", 6..7),
        widths in prop::collection::vec(1usize..9, 1..4),
        seed: u64,
        special in any::<u32>(),
        inline in any::<bool>(),
    ) {
        let draw = &mut Draw::new(seed);
        let fields = kinds.iter().zip(&names).enumerate().map(|(i, ((kind, size, weighted), name))| {
            let logits = Matrix::vector(draw.floats(*size as usize));
            (name.as_str(), field(*kind, i, *size), weighted.then_some(Reduce::Position(logits)))
        });
        let fields = fields.collect();
        let mut tower = tower(draw, fields, 3, &widths);
        if let Layer::Linear { bias, .. } = &mut tower.layers[0] {
            bias.data[0] = f32::from_bits(special);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.onnx");
        let extra = BTreeMap::from([("training".to_string(), "abc é".to_string())]);
        match export_with_limit(&tower, &path, &extra, if inline { u64::MAX } else { 0 }) {
            Err(ModelError::Tower { reason, .. }) => prop_assert!(reason.contains("rename the feature"), "{}", reason),
            result => {
                result.unwrap();
                let (back, metadata) = read(&path).unwrap();
                prop_assert_eq!(bits(&back), bits(&tower));
                prop_assert_eq!(&back.schema, &tower.schema);
                prop_assert_eq!(&back.inputs, &tower.inputs);
                prop_assert_eq!(back.layers.len(), tower.layers.len());
                prop_assert_eq!(&metadata.schema, &tower.schema);
                prop_assert_eq!((metadata.dim, metadata.extra), (tower.dim, extra));
                prop_assert_eq!(metadata.data.is_some(), !inline && !tower.tables.is_empty());
            }
        }
    }
}

#[test]
fn the_same_tower_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.onnx", "b.onnx"].map(|name| {
        export(&every_shape(1), &dir.path().join(name), &BTreeMap::new()).unwrap();
        fs::read(dir.path().join(name)).unwrap()
    });
    assert_eq!(a, b);
}

#[test]
fn large_tables_stand_beside_the_model_and_must_belong_to_it() {
    let tower = every_shape(2);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("user_tower.onnx");
    export_with_limit(&tower, &path, &BTreeMap::new(), 0).unwrap();
    let rows = batch(&mut Draw::new(3), &tower.schema, 100);
    assert!(verify(&path, &tower, &rows, 1e-5).is_ok());
    let data = dir.path().join("user_tower.onnx.data");
    let mut bytes = fs::read(&data).unwrap();
    bytes[17] ^= 1;
    fs::write(&data, &bytes).unwrap();
    for kind in [EngineKind::Native, EngineKind::Ort] {
        let Err(error) = open(kind, &path) else { panic!("{kind} took another model's tables") };
        assert_eq!(error.category(), Category::Mismatch, "{error}");
    }
    fs::remove_file(&data).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("user_tower.onnx.data"));
}

/// The golden model with tables beside it. With `TWOTOWER_WRITE_GOLDEN` set, it is made anew.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/user_tower.onnx");

#[test]
fn a_golden_model_with_tables_beside_it_is_read_bit_for_bit() {
    let export = |path| export_with_limit(&every_shape(11), path, &BTreeMap::new(), 0).unwrap();
    if std::env::var_os("TWOTOWER_WRITE_GOLDEN").is_some() {
        export(std::path::Path::new(GOLDEN));
    }
    let dir = tempfile::tempdir().unwrap();
    export(&dir.path().join("user_tower.onnx"));
    for name in ["user_tower.onnx", "user_tower.onnx.data"] {
        let golden = std::path::Path::new(GOLDEN).with_file_name(name);
        assert!(fs::read(dir.path().join(name)).unwrap() == fs::read(golden).unwrap(), "{name} is written otherwise");
    }
    let (tower, metadata) = read(std::path::Path::new(GOLDEN)).unwrap();
    assert_eq!(bits(&tower), bits(&every_shape(11)));
    assert!(metadata.data.is_some());
}

#[test]
fn slopes_up_to_one_and_above_give_the_native_engines_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    for steepest in [1.0, 1.5] {
        let mut tower = every_shape(8);
        let slopes =
            tower.layers.iter_mut().find_map(|l| if let Layer::Prelu { slope } = l { Some(slope) } else { None });
        slopes.unwrap().data[..2].copy_from_slice(&[steepest, -steepest]);
        export(&tower, &path, &BTreeMap::new()).unwrap();
        let rows = batch(&mut Draw::new(9), &tower.schema, 300);
        assert!(verify(&path, &tower, &rows, 1e-5).is_ok(), "slopes up to {steepest}");
        assert_eq!(bits(&read(&path).unwrap().0), bits(&tower));
    }
}

#[test]
fn towers_with_later_parts_are_of_a_later_version_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    let orders = [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post];
    let encoders = orders.into_iter().flat_map(|order| [(encoding(6, order), b'3'), (timed(6, order), b'4')]);
    let streams = [Mixing::Sinkhorn(100), Mixing::Permutations].map(|mixing| StreamShape { count: 3, mixing });
    let streams = streams.map(|streams| (streaming(6, NormOrder::Pre, streams), b'4'));
    let ligr = BlockShape { kind: BlockKind::Ligr, feed_forward_multiple: 2 };
    let wide = BlockShape { feed_forward_multiple: 2, ..BlockShape::default() };
    let two = StreamShape { count: 2, mixing: Mixing::Permutations };
    let shaped = [shaped(6, wide), shaped(6, ligr), timed_shaped(6, ligr, None), timed_shaped(6, ligr, Some(two))];
    let shaped = shaped.map(|tower| (tower, b'6'));
    let plain = [(every_shape(6), b'1'), (normalised(6), b'2')];
    let coalescing = [(coalescing(6, false), b'5'), (coalescing(6, true), b'5')];
    for (tower, version) in plain.into_iter().chain(encoders).chain(streams).chain(coalescing).chain(shaped) {
        export(&tower, &path, &BTreeMap::new()).unwrap();
        assert_eq!(inspect(&path).unwrap().schema, tower.schema);
        assert_eq!(read(&path).unwrap().0, tower);
        let bytes = fs::read(&path).unwrap();
        let key = b"twotower.format_version\x12\x01";
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
        assert_eq!(bytes[at], version);
    }
}

#[test]
fn names_of_the_format_cannot_be_taken_by_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let extra = BTreeMap::from([("twotower.dim".to_string(), "3".to_string())]);
    let error = export(&every_shape(4), &dir.path().join("t.onnx"), &extra).unwrap_err();
    assert!(error.to_string().contains("twotower.dim"), "{error}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn a_newer_format_is_refused_by_version() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    export(&every_shape(5), &path, &BTreeMap::new()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let key = b"twotower.format_version\x12\x01";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    let mut newer = bytes.clone();
    newer[at] = b'9';
    fs::write(&path, newer).unwrap();
    for kind in [EngineKind::Native, EngineKind::Ort] {
        let Err(error) = open(kind, &path) else { panic!("{kind} read a newer format") };
        assert!(matches!(error, ModelError::Artifact(ArtifactError::Version { found: 9, .. })), "{error}");
    }
}

#[test]
fn other_files_are_refused_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    for content in [&b""[..], b"hello, world", &[0xff; 300], &[0x3a, 0xff, 0xff, 0xff, 0xff, 0x07, 0x2a]] {
        fs::write(&path, content).unwrap();
        for kind in [EngineKind::Native, EngineKind::Ort] {
            assert!(open(kind, &path).is_err(), "{kind}, {content:?}");
        }
        assert_eq!(read(&path).unwrap_err().category(), Category::Data);
    }
    for missing in [dir.path().join("none.onnx"), dir.path().to_path_buf()] {
        for kind in [EngineKind::Native, EngineKind::Ort] {
            let Err(error) = open(kind, &missing) else { panic!("{kind} opened {}", missing.display()) };
            assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let draw = &mut Draw::new(6);
    let fields = vec![
        ("a", FieldShape::Code { table: "a".into(), cardinality: 4 }, None),
        (
            "b",
            FieldShape::Sequence { table: "a".into(), cardinality: 4, max_len: 2, intervals: None },
            Some(Reduce::Position(Matrix::vector(vec![0.0; 2]))),
        ),
        ("c", FieldShape::Dense { width: 2 }, None),
        ("d", FieldShape::Code { table: "d".into(), cardinality: 3 }, None),
    ];
    let small = tower(draw, fields, 9, &[3, 2]);
    assert!(CrossedGraph::of(&small).unwrap().is_some());
    damage_never_panics(draw, &small, 1);
}

#[test]
fn damaged_files_with_an_encoder_never_panic() {
    let draw = &mut Draw::new(16);
    let two = StreamShape { count: 2, mixing: Mixing::Sinkhorn(2) };
    let days = Intervals { scale: IntervalScale::Day, span: 2 };
    let [plain, ligr] =
        [BlockKind::Transformer, BlockKind::Ligr].map(|kind| BlockShape { kind, ..BlockShape::default() });
    let shapes =
        [(plain, None, None, 5), (plain, Some(two), None, 29), (plain, None, Some(days), 5), (ligr, None, None, 5)];
    for (block, streams, intervals, step) in shapes {
        let span = intervals.map(|intervals| intervals.span);
        let shape = EncoderShape { blocks: 1, heads: 2, norm: NormOrder::Pre, block, streams, intervals: span };
        let reduce = Reduce::Attention(encoder(draw, shape, 2, 3));
        let sequence = FieldShape::Sequence { table: "a".into(), cardinality: 4, max_len: 3, intervals };
        let small = tower(draw, vec![("a", sequence, Some(reduce))], 2, &[2]);
        damage_never_panics(draw, &small, step);
    }
}

/// Truncates a tower's file at every `stride`-th byte, changes every `stride`-th byte, and damages it at random.
fn damage_never_panics(draw: &mut Draw, small: &Tower, stride: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    export(small, &path, &BTreeMap::new()).unwrap();
    let good = fs::read(&path).unwrap();
    let rows = batch(draw, &small.schema, 10);
    let try_bytes = |bytes: &[u8]| -> bool {
        fs::write(&path, bytes).unwrap();
        let result = read(&path);
        // Without reading the values of tables and weights, the outcome is the same.
        assert_eq!(inspect(&path).is_ok(), result.is_ok());
        let is_ok = result.is_ok();
        if let Ok((tower, _)) = result {
            // A file that passes the checks must run, although its schema may have changed.
            let _ = CrossedGraph::of(&tower).unwrap();
            let _ = NativeEngine::new(tower.into()).unwrap().embed(&rows, &mut Vec::new());
        }
        is_ok
    };
    assert!(try_bytes(&good));
    for end in (0..good.len()).step_by(stride) {
        assert!(!try_bytes(&good[..end]), "truncated to {end} of {} bytes", good.len());
    }
    for at in (0..good.len()).step_by(stride) {
        for value in [0xff, good[at] ^ 1, draw.byte()] {
            let mut bytes = good.clone();
            bytes[at] = value;
            try_bytes(&bytes);
        }
    }
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..1 + draw.below(6) {
            let at = draw.below(bytes.len());
            match draw.below(3) {
                0 => bytes[at] = draw.byte(),
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, draw.byte()),
            }
        }
        try_bytes(&bytes);
    }
}

/// The name of a change of a tower's file, and the change.
type Edit = (&'static str, fn(&mut ModelProto));

/// Changes of a tower's file, which ONNX Runtime might run or fail on.
fn edits() -> Vec<Edit> {
    fn graph(model: &mut ModelProto) -> &mut GraphProto {
        model.graph.as_mut().unwrap()
    }
    fn op<'m>(model: &'m mut ModelProto, op: &str) -> &'m mut NodeProto {
        graph(model).node.iter_mut().find(|n| n.op_type.as_deref() == Some(op)).unwrap()
    }
    fn tensor<'m>(model: &'m mut ModelProto, name: &str) -> &'m mut TensorProto {
        graph(model).initializer.iter_mut().find(|t| t.name.as_deref() == Some(name)).unwrap()
    }
    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto {
            domain: None,
            input: input.iter().map(ToString::to_string).collect(),
            output: vec![output.to_string()],
            name: Some(output.to_string()),
            op_type: Some(op.to_string()),
            attribute: vec![],
        }
    }
    fn ints(name: &str, values: &[i64]) -> TensorProto {
        TensorProto {
            dims: vec![values.len() as i64],
            data_type: Some(code::INT64),
            name: Some(name.to_string()),
            raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()),
            ..Default::default()
        }
    }
    vec![
        ("a constant for a vector", |m| {
            let g = graph(m);
            g.initializer.push(ints("/shape", &[512, 2]));
            g.node = vec![node("ConstantOfShape", &["/shape"], "vector")];
        }),
        ("gigabytes that are thrown away", |m| {
            graph(m).initializer.push(ints("/shape", &[1 << 20, 1500]));
            graph(m).node.push(node("ConstantOfShape", &["/shape"], "/huge"));
        }),
        ("one more node", |m| graph(m).node.push(node("Identity", &["vector"], "/more"))),
        ("a node less", |m| drop(graph(m).node.pop())),
        ("nodes in another order", |m| graph(m).node.swap(0, 1)),
        ("another operator", |m| op(m, "Div").op_type = Some("Mul".into())),
        ("an operator by its alias", |m| op(m, "Concat").op_type = Some("concat".into())),
        ("inputs swapped", |m| op(m, "Concat").input.swap(0, 1)),
        ("another bias", |m| op(m, "Gemm").input[2] = "/layer/1/slope".into()),
        ("no bias", |m| drop(op(m, "Gemm").input.pop())),
        ("a negative axis", |m| op(m, "Concat").attribute[0].i = Some(-1)),
        ("another axis", |m| op(m, "Gather").attribute[0].i = Some(1)),
        ("an attribute more", |m| op(m, "Gemm").attribute.push(int("transA", 0))),
        ("an attribute less", |m| op(m, "Gemm").attribute.clear()),
        ("an attribute of another type", |m| op(m, "Gemm").attribute[0].r#type = Some(1)),
        ("another constant", |m| tensor(m, "/constant/int32/0").raw_data = Some(vec![1, 0, 0, 0].into())),
        ("another shape", |m| tensor(m, "/layer/0/weight").dims.reverse()),
        ("a shape of one extent", |m| {
            let weight = tensor(m, "/layer/0/weight");
            weight.dims = vec![weight.dims.iter().product()];
        }),
        ("a negative extent", |m| tensor(m, "/layer/0/weight").dims.iter_mut().for_each(|d| *d = -*d)),
        ("integers for floats", |m| tensor(m, "/layer/0/weight").data_type = Some(code::INT32)),
        ("values in a file of the system", |m| {
            let weight = tensor(m, "/layer/0/weight");
            weight.raw_data = None;
            weight.data_location = Some(code::EXTERNAL);
            weight.external_data = vec![StringStringEntryProto::new("location", "/etc/passwd")];
        }),
        ("a place for values that are there", |m| {
            let place = StringStringEntryProto::new("location", "../other.data");
            tensor(m, "/layer/0/weight").external_data = vec![place];
        }),
        ("no values", |m| tensor(m, "/layer/0/bias").raw_data = None),
        ("half the values", |m| {
            let bias = tensor(m, "/layer/0/bias").raw_data.as_mut().unwrap();
            *bias = bias.slice(..bias.len() / 2);
        }),
        ("an initialiser more", |m| graph(m).initializer.push(ints("/more", &[1]))),
        ("an initialiser twice", |m| {
            let again = graph(m).initializer[0].clone();
            graph(m).initializer.push(again);
        }),
        ("an initialiser less", |m| drop(graph(m).initializer.remove(0))),
        ("initialisers in another order", |m| graph(m).initializer.swap(0, 1)),
        ("an input more", |m| {
            let again = graph(m).input[0].clone();
            graph(m).input.push(again);
        }),
        ("inputs in another order", |m| graph(m).input.swap(0, 1)),
        ("an input of another width", |m| {
            let input = graph(m).input.iter_mut().find(|i| i.name.as_deref() == Some("c")).unwrap();
            let shape = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
            shape.dim[1].dim_value = Some(3);
        }),
        ("an output more", |m| {
            let again = graph(m).output[0].clone();
            graph(m).output.push(again);
        }),
        ("an output of another name", |m| graph(m).output[0].name = Some("/Concat/10".into())),
        ("another name", |m| graph(m).name = Some("other".into())),
        ("an older operator set", |m| m.opset_import[0].version = Some(16)),
        ("operators of somebody's own", |m| {
            let domain = OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) };
            m.opset_import.push(domain);
        }),
        ("another version of the format", |m| m.ir_version = Some(9)),
        ("another producer", |m| m.producer_name = Some("pytorch".into())),
        ("a property twice", |m| {
            let again = m.metadata_props[0].clone();
            m.metadata_props.push(again);
        }),
        ("properties in another order", |m| m.metadata_props.swap(0, 1)),
    ]
}

/// A field of a message, by its number and content.
fn field_bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// Checks that all engines refuse the file as one of another tower.
fn assert_foreign(path: &std::path::Path, what: &str) {
    let refused = [inspect(path).err(), read(path).err()];
    let opened = [EngineKind::Native, EngineKind::NativeInt16, EngineKind::Ort].map(|kind| open(kind, path).err());
    for error in refused.into_iter().chain(opened) {
        let error = error.unwrap_or_else(|| panic!("{what}: taken"));
        assert_eq!(error.category(), Category::Mismatch, "{what}: {error}");
        assert!(error.to_string().contains("t.onnx"), "{what}: {error}");
    }
}

#[test]
fn a_graph_that_is_not_what_its_tower_needs_is_refused_at_every_size_and_by_every_engine() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    let pooled = FieldShape::Sequence { table: "a".into(), cardinality: 4, max_len: 2, intervals: None };
    let large = CROSS_LIMIT as u32 / 8 + 1000;
    for cardinality in [50, large] {
        let draw = &mut Draw::new(12);
        let fields = vec![
            ("a", FieldShape::Code { table: "a".into(), cardinality: 4 }, None),
            ("b", pooled.clone(), Some(Reduce::Position(Matrix::vector(vec![0.5, 0.25])))),
            ("c", FieldShape::Dense { width: 2 }, None),
            ("d", FieldShape::Code { table: "d".into(), cardinality }, None),
        ];
        let tower = tower(draw, fields, 2, &[3, 2]);
        export(&tower, &path, &BTreeMap::new()).unwrap();
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len() as u64 > CROSS_LIMIT, cardinality == large);
        assert!(verify(&path, &tower, &batch(draw, &tower.schema, 50), 1e-5).is_ok());
        let write = |what: &str, bytes: Vec<u8>| {
            assert!(bytes != good, "{what}: changes nothing");
            fs::write(&path, bytes).unwrap();
            assert_foreign(&path, what);
        };
        for (what, edit) in edits() {
            let mut model = ModelProto::decode(&good[..]).unwrap();
            edit(&mut model);
            write(what, model.encode_to_vec());
        }
        // The export has no messages for these parts of ONNX, and a reader of its messages ignores them.
        let more = |part: Vec<u8>| [&good[..], &part].concat();
        write("functions", more(field_bytes(25, b"")));
        write("a graph for training", more(field_bytes(20, b"")));
        write("a domain", more(field_bytes(4, b"x")));
        write("a note", more(field_bytes(6, b"x")));
        let node = NodeProto { op_type: Some("Identity".into()), ..Default::default() };
        let second = GraphProto { node: vec![node], ..Default::default() };
        write("a second graph, which counts as part of the first", more(field_bytes(7, &second.encode_to_vec())));
        for (what, number) in [("a note on the graph", 10), ("shapes of values", 13), ("sparse tensors", 15)] {
            write(what, more(field_bytes(7, &field_bytes(number, b""))));
        }
        let mut last = good.clone();
        last.push(0x40);
        last.push(1);
        write("a number that nobody knows", last);
    }
}

#[test]
fn other_values_of_parameters_make_another_tower_and_no_other_graph() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    for mut tower in [every_shape(8), every_shape(9)] {
        export(&tower, &path, &BTreeMap::from([("note".to_string(), "x".to_string())])).unwrap();
        let metadata = inspect(&path).unwrap();
        assert_eq!((metadata.schema, metadata.dim), (tower.schema.clone(), tower.dim));
        tower.tables.values_mut().for_each(|table| table.data.iter_mut().for_each(|v| *v = -*v));
        export(&tower, &path, &BTreeMap::new()).unwrap();
        assert_eq!(bits(&read(&path).unwrap().0), bits(&tower));
    }
}

#[test]
fn a_file_of_millions_of_empty_parts_is_refused_without_a_struct_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    export(&every_shape(5), &path, &BTreeMap::new()).unwrap();
    let good = fs::read(&path).unwrap();
    for number in [5, 1, 11] {
        let parts = field_bytes(number, b"").repeat(5_000_000);
        fs::write(&path, [&good[..], &field_bytes(7, &parts)].concat()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("more than"));
    }
    fs::write(&path, field_bytes(14, b"").repeat(5_000_000)).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("more than"));
}
