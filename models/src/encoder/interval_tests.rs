//! Tests of encoders that read the time between elements, beside those that all encoders pass.

use super::tests::{DIM, MAX_LEN, Sample, packed};
use super::*;
use crate::tower::encoder::{EncoderShape, NormOrder};
use crate::tower::ligr::BlockShape;
use twotower_artifacts::Ragged;

const ORDERS: [NormOrder; 4] = [NormOrder::Original, NormOrder::Paper, NormOrder::Pre, NormOrder::Post];
const SPAN: u32 = 9;

/// A random encoder of `blocks` blocks of `heads` heads that reads intervals.
fn reading(norm: NormOrder, span: u32, blocks: usize, heads: usize) -> Sample {
    let block = BlockShape::default();
    Sample::new(EncoderShape { blocks, heads, norm, block, streams: None, intervals: Some(span) })
}

/// The largest difference between values.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn with_all_intervals_equal_it_is_the_encoder_whose_keys_and_values_have_one_row_added() {
    for order in ORDERS {
        let mut sample = reading(order, SPAN, 2, 2);
        let mut together = packed(&[1, 7, 40, 90], true);
        together.times.fill(5);
        let (found, _) = sample.run(&together, None);
        // The row of interval 0 goes to the biases of values. Added to keys, it adds the same to all logits of a query,
        // which changes nothing. So no table of intervals is left.
        let tables = sample.groups.intervals.clone().unwrap();
        let row = sample.dense[tables.values][..DIM].to_vec();
        for table in [tables.keys, tables.values] {
            sample.dense[table].fill(0.0);
        }
        for block in &sample.groups.blocks {
            let biases = &mut sample.dense[block.key_value.bias][DIM..];
            biases.iter_mut().zip(&row).for_each(|(bias, x)| *bias += x);
        }
        let (expected, _) = sample.run(&together, None);
        // Rounding of f32 over two blocks.
        assert!(difference(&found, &expected) < 2e-5, "{order:?}: {:e}", difference(&found, &expected));
        // With other times, it is not.
        let spread = packed(&[1, 7, 40, 90], true);
        assert!(difference(&reading(order, SPAN, 2, 2).run(&spread, None).0, &expected) > 1e-2, "{order:?}");
    }
}

#[test]
fn later_times_never_change_an_earlier_output_and_their_origin_changes_nothing() {
    for order in ORDERS {
        let sample = reading(order, 60, 2, 2);
        let before = packed(&[MAX_LEN], true);
        let (expected, _) = sample.run(&before, None);
        for changed in [MAX_LEN - 1, 50, 32, 1] {
            let mut after = before.clone();
            after.times[changed..].iter_mut().for_each(|time| *time += 3);
            let (found, _) = sample.run(&after, None);
            // Products over other intervals round differently.
            let (earlier, later) = found.split_at(changed * DIM);
            assert!(difference(earlier, &expected[..changed * DIM]) < 2e-5, "{order:?}, {changed}");
            assert!(difference(later, &expected[changed * DIM..]) > 1e-4, "{order:?}, {changed}");
        }
        let mut moved = before.clone();
        moved.times.iter_mut().for_each(|time| *time += 1000);
        assert_eq!(sample.run(&moved, None).0, expected, "{order:?}");
    }
}

#[test]
fn gaps_beyond_the_span_are_all_alike_and_shorter_ones_are_not() {
    let sample = reading(NormOrder::Original, SPAN, 2, 1);
    let output = |gap: i32| {
        let mut two = packed(&[2], false);
        two.times = vec![0, gap];
        sample.run(&two, None).0
    };
    let longest = output(SPAN as i32);
    for gap in [SPAN as i32 + 1, 1000, i32::MAX] {
        assert_eq!(output(gap), longest);
    }
    for gap in 0..SPAN as i32 {
        assert!(difference(&output(gap), &longest) > 1e-3, "{gap}");
    }
}

#[test]
fn a_row_continues_the_row_before_only_with_the_same_times() {
    let rows: [(&[u32], &[i32]); 6] = [
        (&[3, 4], &[0, 2]),
        (&[3, 4, 5], &[0, 2, 3]),
        // A shorter gap came, by which all are counted anew.
        (&[3, 4, 5, 6], &[0, 4, 6, 7]),
        (&[3, 4, 5, 6], &[0, 4, 6, 7]),
        (&[3, 4, 5, 6, 7], &[0, 4, 6, 7, 9]),
        (&[3, 4, 5, 6, 7], &[0, 4, 6, 7, 8]),
    ];
    let mut ragged = Ragged::default();
    for (codes, times) in rows {
        ragged.push_row(codes.iter().copied());
        ragged.times.extend(times);
    }
    let mut together = PackedSequences::default();
    together.pack_together(&ragged, 5);
    assert_eq!(
        (together.offsets.as_slice(), together.output_of.as_slice()),
        (&[0, 3, 8, 13][..], &[0, 1, 2, 2, 3, 4][..])
    );
    assert_eq!(together.times, [0, 2, 3, 0, 4, 6, 7, 9, 0, 4, 6, 7, 8]);
    let mut apart = PackedSequences::default();
    apart.pack(&ragged, 0..rows.len(), 5);
    let sample = reading(NormOrder::Post, SPAN, 2, 2);
    let (shared, single) = (sample.run(&together, None).0, sample.run(&apart, None).0);
    for (a, b) in together.output_of.iter().zip(&apart.output_of) {
        let [a, b] = [(a, &shared), (b, &single)].map(|(output, values)| &values[*output as usize * DIM..][..DIM]);
        assert!(difference(a, b) < 2e-5);
    }
}
