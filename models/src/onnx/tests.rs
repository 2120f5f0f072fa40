//! Files written and read back, and files that are damaged.

use super::export::export_with_limit;
use super::read::decode;
use super::*;
use crate::engine::samples::{Draw, batch, every_shape, tower};
use crate::engine::{Engine, EngineKind, open, verify};
use crate::error::ModelError;
use crate::native::NativeEngine;
use crate::tower::{Layer, Pooling, Tower};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use twotower_artifacts::{ArtifactError, Category, FieldShape};

/// Every float of a tower, for comparisons that see the sign of zero and NaN.
fn bits(tower: &Tower) -> Vec<u32> {
    let mut all: Vec<f32> = tower.tables.values().flat_map(|t| t.data.clone()).collect();
    for layer in &tower.layers {
        match layer {
            Layer::Linear { weight, bias } => all.extend(weight.data.iter().chain(bias)),
            Layer::Prelu { slope } => all.extend(slope),
            Layer::Relu => {}
            Layer::L2Norm { eps } => all.push(*eps),
        }
    }
    for input in &tower.inputs {
        if let crate::tower::TowerInput::Pooled { pooling: Pooling::Position(logits), .. } = input {
            all.extend(logits);
        }
    }
    all.into_iter().map(f32::to_bits).collect()
}

fn field(kind: u32, i: usize, size: u32) -> FieldShape {
    let table = format!("t{}", i % 2);
    match kind {
        0 => FieldShape::Code { table, cardinality: 5 },
        1 => FieldShape::Bag { table, cardinality: 5, max_len: size },
        2 => FieldShape::Sequence { table, cardinality: 5, max_len: size },
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
            let logits = draw.floats(*size as usize);
            (name.as_str(), field(*kind, i, *size), weighted.then_some(Pooling::Position(logits)))
        });
        let fields = fields.collect();
        let mut tower = tower(draw, fields, 3, &widths);
        if let Layer::Linear { bias, .. } = &mut tower.layers[0] {
            bias[0] = f32::from_bits(special);
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

/// Where the golden model with tables beside it lies; with `TWOTOWER_WRITE_GOLDEN` set it is made anew.
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
        slopes.unwrap()[..2].copy_from_slice(&[steepest, -steepest]);
        export(&tower, &path, &BTreeMap::new()).unwrap();
        let rows = batch(&mut Draw::new(9), &tower.schema, 300);
        assert!(verify(&path, &tower, &rows, 1e-5).is_ok(), "slopes up to {steepest}");
        assert_eq!(bits(&read(&path).unwrap().0), bits(&tower));
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
            FieldShape::Sequence { table: "a".into(), cardinality: 4, max_len: 2 },
            Some(Pooling::Position(vec![0.0; 2])),
        ),
        ("c", FieldShape::Dense { width: 2 }, None),
        ("d", FieldShape::Code { table: "d".into(), cardinality: 3 }, None),
    ];
    let small = tower(draw, fields, 9, &[3, 2]);
    assert!(Crossed::of(&small).unwrap().is_some());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.onnx");
    export(&small, &path, &BTreeMap::new()).unwrap();
    let good = fs::read(&path).unwrap();
    let rows = batch(draw, &small.schema, 10);
    let try_bytes = |bytes: &[u8]| -> bool {
        let result = decode(&path, bytes.to_vec().into());
        let is_ok = result.is_ok();
        if let Ok((tower, _)) = result {
            // What passes the checks must run; its schema may have changed within them.
            let _ = Crossed::of(&tower).unwrap();
            let _ = NativeEngine::new(tower.into()).unwrap().embed(&rows, &mut Vec::new());
        }
        is_ok
    };
    assert!(try_bytes(&good));
    for end in 0..good.len() {
        assert!(!try_bytes(&good[..end]), "truncated to {end} of {} bytes", good.len());
    }
    for at in 0..good.len() {
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
