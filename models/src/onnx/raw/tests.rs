//! Every kind of tower behind fields that are encoded already, with its tables inside and outside of the file, and fields
//! whose names do not fit.

use super::*;
use crate::engine::RawEngine;
use crate::engine::samples::{
    Draw, batch, coalescing, encoding, every_shape, normalised, shaped, streaming, timed, timed_shaped,
};
use crate::native;
use crate::onnx::export_with_limit;
use crate::tower::Tower;
use crate::tower::encoder::NormOrder;
use crate::tower::ligr::{BlockKind, BlockShape};
use crate::tower::streams::{Mixing, StreamShape};
use twotower_artifacts::raw::{RawKeys, RawRule, encoded_tensors};

fn encoded(tower: &Tower) -> Vec<RawField> {
    tower.schema.fields.iter().map(|field| RawField { field: field.clone(), rule: RawRule::Encoded }).collect()
}

#[test]
fn every_tower_keeps_its_vectors_in_the_newer_set_of_operators() {
    let ligr = BlockShape { kind: BlockKind::Ligr, feed_forward_multiple: 2 };
    let streams = [Mixing::Sinkhorn(5), Mixing::Permutations].map(|mixing| StreamShape { count: 3, mixing });
    let towers = [
        every_shape(0),
        normalised(1),
        encoding(2, NormOrder::Post),
        timed(3, NormOrder::Original),
        streaming(4, NormOrder::Pre, streams[0]),
        streaming(5, NormOrder::Pre, streams[1]),
        coalescing(6, true),
        shaped(7, ligr),
        timed_shaped(8, ligr, None),
    ];
    for (seed, tower) in (0..).zip(&towers) {
        let rows = batch(&mut Draw::new(seed + 50), &tower.schema, 40);
        let expected = native::embed(tower, &rows).unwrap().data;
        let inputs: Vec<_> = tower
            .schema
            .fields
            .iter()
            .zip(&rows.columns)
            .flat_map(|(field, column)| encoded_tensors(field, column))
            .collect();
        for limit in [0, 1 << 30] {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("tower.onnx"), dir.path().join("other/raw.onnx"));
            export_with_limit(tower, &from, &BTreeMap::new(), limit).unwrap();
            export_raw(&from, &encoded(tower), &to, &BTreeMap::new()).unwrap();
            assert_eq!(to.with_file_name("raw.onnx.data").exists(), dir.path().join("tower.onnx.data").exists());
            let found = RawEngine::open(&to).unwrap().embed(&inputs).unwrap();
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == expected.len() && worst <= 1e-5, "tower {seed}: {worst:e}");
        }
    }
}

#[test]
fn fields_of_another_tower_and_names_that_stand_twice_are_refused() {
    let tower = every_shape(0);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("tower.onnx"), dir.path().join("raw.onnx"));
    crate::onnx::export(&tower, &from, &BTreeMap::new()).unwrap();
    let mut fields = encoded(&tower);
    fields.pop();
    let error = export_raw(&from, &fields, &to, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("not the tower's"), "{error}");
    let mut tower = tower;
    tower.schema.fields[1].name = format!("{}/missing", tower.schema.fields[0].name);
    crate::onnx::export(&tower, &from, &BTreeMap::new()).unwrap();
    let mut fields = encoded(&tower);
    fields[0].rule = RawRule::Lookup(RawKeys::Integer(vec![(1, 3)]));
    let error = export_raw(&from, &fields, &to, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("/missing`; rename the feature"), "{error}");
    assert!(!to.exists());
}
