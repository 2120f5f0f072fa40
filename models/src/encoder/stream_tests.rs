//! Tests of hyper-connections: their mixtures, and what they are without any.

use super::mixtures::Mixtures;
use super::reference::sinkhorn;
use super::tests::{Sample, packed};
use super::*;
use crate::tower::encoder::EncoderShape;
use crate::tower::ligr::BlockShape;
use crate::tower::streams::{BlockStreams, Mixing};

/// Random logits of a tile, `[count count, TILE]`, of the given deviation.
fn logits(count: usize, deviation: f64, seed: u64) -> Vec<f32> {
    let mut rng = Rng::at(seed, &[count as u64]);
    (0..count * count * TILE).map(|_| (rng.normal() * deviation) as f32).collect()
}

fn of_element(tile: &[f32], element: usize) -> Vec<f64> {
    tile.iter().skip(element).step_by(TILE).map(|x| f64::from(*x)).collect()
}

fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|at| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum()).collect()
}

/// The largest singular value of a matrix, by powers of its square.
fn spectral_norm(m: &[f64], n: usize) -> f64 {
    let transposed: Vec<f64> = (0..n * n).map(|at| m[at % n * n + at / n]).collect();
    let square = product(&transposed, m, n);
    let mut v = vec![1.0; n];
    let mut norm = 0.0;
    for _ in 0..200 {
        let next: Vec<f64> = (0..n).map(|i| (0..n).map(|j| square[i * n + j] * v[j]).sum()).collect();
        norm = next.iter().map(|x| x * x).sum::<f64>().sqrt();
        v = next.iter().map(|x| x / norm).collect();
    }
    norm.sqrt()
}

#[test]
fn mixtures_are_doubly_stochastic_and_products_of_them_do_not_grow() {
    for count in 1..=4 {
        let twenty = StreamShape { count, mixing: Mixing::Sinkhorn(20) };
        let mut together: Option<Vec<f64>> = None;
        let mut worst_column = 0.0f64;
        for seed in 0..32 {
            let logits = logits(count, 1.0, seed);
            let mut out = vec![f32::NAN; count * count * TILE];
            let error = Mixtures::of(twenty).forward(&logits, &mut out, TILE);
            let mut worst = 0.0f64;
            for element in 0..TILE {
                let (m, l) = (of_element(&out, element), of_element(&logits, element));
                let expected = sinkhorn(&l, count, 20);
                // Rounding of forty divisions in f32.
                assert!(m.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 5e-6));
                assert!(m.iter().all(|x| *x >= 0.0));
                for i in 0..count {
                    let row: f64 = m[i * count..(i + 1) * count].iter().sum();
                    let column: f64 = m.iter().skip(i).step_by(count).sum();
                    assert!((row - 1.0).abs() < 1e-6, "{row}");
                    worst = worst.max((column - 1.0).abs());
                }
                if element < 2 {
                    let last = together.take();
                    together = Some(last.map_or(m.clone(), |last| product(&m, &last, count)));
                }
            }
            assert!((worst - f64::from(error)).abs() < 1e-6, "{worst:e}, {error:e}");
            worst_column = worst_column.max(worst);
        }
        // The worst of 48 · 32 matrices. Fewer streams converge more slowly: 2 of them are up to 3e-3 off.
        assert!(worst_column < if count == 4 { 1e-3 } else { 1e-2 }, "{count} streams: {worst_column:e}");
        let norm = spectral_norm(&together.unwrap(), count);
        assert!(norm < 1.01, "{count} streams: {norm}");
    }
}

#[test]
fn mixtures_of_permutations_are_doubly_stochastic_whatever_their_logits() {
    for count in 1..5 {
        let shape = StreamShape { count, mixing: Mixing::Permutations };
        let mut rng = Rng::at(4, &[count as u64]);
        let logits: Vec<f32> = (0..shape.mixed() * TILE).map(|_| (rng.normal() * 30.0) as f32).collect();
        let mut out = vec![f32::NAN; count * count * TILE];
        Mixtures::of(shape).forward(&logits, &mut out, TILE);
        for element in 0..TILE {
            let m = of_element(&out, element);
            for i in 0..count {
                let row: f64 = m[i * count..(i + 1) * count].iter().sum();
                let column: f64 = m.iter().skip(i).step_by(count).sum();
                assert!((row - 1.0).abs() < 1e-6 && (column - 1.0).abs() < 1e-6, "{row}, {column}");
            }
        }
    }
}

#[test]
fn the_gradient_through_all_rounds_agrees_with_finite_differences_in_f64() {
    for (count, rounds, deviation) in
        [(1, 20, 1.0), (2, 1, 1.0), (3, 20, 2.0), (4, 20, 1.0), (4, 100, 4.0), (4, 7, 2.0)]
    {
        let logits = logits(count, deviation, 7);
        let mut rng = Rng::at(9, &[]);
        let c: Vec<f32> = (0..count * count * TILE).map(|_| rng.normal() as f32).collect();
        let mut found = vec![f32::NAN; logits.len()];
        let mixing = Mixing::Sinkhorn(rounds);
        Mixtures::of(StreamShape { count, mixing }).backward(&logits, &c, &mut found);
        for element in [0, 7, 8, TILE - 1] {
            let (mut l, c) = (of_element(&logits, element), of_element(&c, element));
            for (i, found) in of_element(&found, element).into_iter().enumerate() {
                let mut loss = |delta: f64| {
                    l[i] += delta;
                    let m = sinkhorn(&l, count, rounds);
                    l[i] -= delta;
                    m.iter().zip(&c).map(|(m, c)| m * c).sum::<f64>()
                };
                let want = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((found - want).abs() < 2e-5, "{count}, {rounds}, {element}, {i}: {found}, {want}");
            }
        }
    }
}

#[test]
fn logits_beyond_all_reason_give_numbers_and_gradients() {
    for count in 1..=4 {
        for rounds in [1, 20, 100] {
            let logits = logits(count, 300.0, 3);
            let mixtures = Mixtures::of(StreamShape { count, mixing: Mixing::Sinkhorn(rounds) });
            let (mut out, mut d) = (vec![0.0; logits.len()], vec![f32::NAN; logits.len()]);
            let error = mixtures.forward(&logits, &mut out, TILE);
            assert!(error.is_finite() && out.iter().all(|x| (0.0..1.001).contains(x)));
            mixtures.backward(&logits, &vec![1.5; logits.len()], &mut d);
            assert!(d.iter().all(|x| x.is_finite()), "{count}, {rounds}");
        }
    }
}

#[test]
fn one_stream_that_is_read_and_written_as_it_is_equals_the_plain_residual() {
    let packed = packed(&[1, 40, 90, 3], true);
    let ligr = BlockShape { kind: BlockKind::Ligr, feed_forward_multiple: 2 };
    let plain = BlockShape::default();
    for (norm, block) in [(NormOrder::Paper, plain), (NormOrder::Pre, plain), (NormOrder::Pre, ligr)] {
        for mixing in [Mixing::Sinkhorn(20), Mixing::Permutations] {
            let plain = EncoderShape { blocks: 3, heads: 2, norm, block, streams: None, intervals: None };
            let sample = Sample::new(plain);
            let shape = EncoderShape { streams: Some(StreamShape { count: 1, mixing }), ..plain };
            let mut streams = Sample::new(shape);
            let mut own = sample.dense.iter();
            let groups = streams.groups.clone();
            let of_streams: Vec<usize> = groups
                .blocks
                .iter()
                .flat_map(|block| {
                    let BlockStreams { attention, feed_forward } = block.streams.as_ref().unwrap();
                    [attention, feed_forward].map(|part| {
                        streams.dense[part.weight].fill(0.0);
                        // σ(30) is 1, 2 σ(0) is 1.
                        streams.dense[part.bias].copy_from_slice(&[30.0, 0.0, 0.5]);
                        [part.weight, part.bias, part.gates]
                    })
                })
                .flatten()
                .collect();
            for (group, values) in streams.dense.iter_mut().enumerate() {
                if !of_streams.contains(&group) {
                    values.copy_from_slice(own.next().unwrap());
                }
            }
            assert!(own.next().is_none());
            let (expected, found) = (sample.run(&packed, None).0, streams.run(&packed, None).0);
            assert_eq!(found, expected, "{plain:?}, {mixing:?}");
        }
    }
}

#[test]
fn the_error_of_a_pass_is_that_of_its_worst_mixture() {
    let shape = |rounds| EncoderShape {
        blocks: 2,
        heads: 1,
        norm: NormOrder::Pre,
        block: BlockShape::default(),
        streams: Some(StreamShape { count: 4, mixing: Mixing::Sinkhorn(rounds) }),
        intervals: None,
    };
    let packed = packed(&[60, 7], true);
    let error = |rounds| Sample::new(shape(rounds)).run(&packed, None).1[0].stream_error();
    let errors = [1, 5, 20, 60].map(error);
    assert!(errors.windows(2).all(|pair| pair[1] < pair[0]), "{errors:?}");
    assert!(errors[0] > 1e-2 && errors[3] < 1e-4, "{errors:?}");
}
