//! Tests encoders against the definition in f64, and their gradients against finite differences of it.

use super::reference::outputs;
use super::*;
use crate::tower::Parameter;
use crate::tower::encoder::EncoderShape;
use crate::tower::ligr::BlockShape;
use crate::tower::streams::Mixing;
use twotower_artifacts::Ragged;

/// Every order of norms, intervals, streams and blocks of every kind, with the given numbers of blocks and heads.
fn shapes(blocks: usize, heads: usize) -> Vec<EncoderShape> {
    use NormOrder::{Original, Paper, Post, Pre};
    let plain = [Original, Paper, Pre, Post].map(|norm| (norm, None, None));
    let timed = [(Original, 9), (Paper, 40), (Pre, 1), (Post, 9)].map(|(norm, span)| (norm, None, Some(span)));
    let streams = [
        (Pre, 4, Mixing::Sinkhorn(20), None),
        (Paper, 3, Mixing::Sinkhorn(4), None),
        (Paper, 2, Mixing::Sinkhorn(20), Some(9)),
        (Pre, 4, Mixing::Permutations, None),
    ];
    let streams =
        streams.map(|(norm, count, mixing, intervals)| (norm, Some(StreamShape { count, mixing }), intervals));
    let block = BlockShape::default();
    let shape = |(norm, streams, intervals)| EncoderShape { blocks, heads, norm, block, streams, intervals };
    let first = plain.into_iter().chain(timed).chain(streams).map(shape);
    let wide = shape((Original, None, None));
    let wide = EncoderShape { block: BlockShape { feed_forward_multiple: 3, ..block }, ..wide };
    let four = StreamShape { count: 4, mixing: Mixing::Sinkhorn(20) };
    let ligr = |feed_forward_multiple, streams, intervals| EncoderShape {
        block: BlockShape { kind: BlockKind::Ligr, feed_forward_multiple },
        ..shape((Pre, streams, intervals))
    };
    let ligr = [ligr(1, None, None), ligr(4, None, Some(9)), ligr(2, Some(four), Some(9))];
    first.chain([wide]).chain(ligr).collect()
}

pub(super) const DIM: usize = 12;
pub(super) const MAX_LEN: usize = 90;
pub(super) const ROWS: usize = 40;

/// Groups of random weights, and where the encoder has them.
pub(super) struct Sample {
    pub groups: Encoder<usize>,
    pub dense: Vec<Vec<f32>>,
    table: Vec<f32>,
}

impl Sample {
    pub fn new(shape: EncoderShape) -> Self {
        let mut rng = Rng::at(shape.norm as u64 + 10, &[shape.blocks as u64, shape.heads as u64]);
        let mut dense: Vec<Vec<f32>> = Vec::new();
        let mut group = |parameter: Parameter| {
            let (rows, cols) = shape.extents(&parameter, DIM, MAX_LEN);
            let near = f32::from(parameter.is_gain());
            let spread = if parameter.rank == 2 { 0.5 } else { 0.3 };
            dense.push((0..rows * cols).map(|_| near + spread * rng.normal() as f32).collect());
            dense.len() - 1
        };
        let groups = shape.encoder();
        let groups = groups.try_map::<_, ()>(&mut |parameter, ()| Ok(group(parameter))).unwrap();
        let mut rng = Rng::at(3, &[]);
        let table = (0..ROWS * DIM).map(|_| rng.normal() as f32 * 0.3).collect();
        Self { groups, dense, table }
    }

    fn values(&self) -> Values<'_> {
        self.groups.map(|group| &self.dense[*group][..])
    }

    /// Outputs of all wanted elements, chunk by chunk.
    pub fn run(&self, packed: &PackedSequences, dropout: Option<Dropout>) -> (Vec<f32>, Vec<ChunkPass>) {
        let mut out = vec![0.0; packed.wanted.len() * DIM];
        let mut passes = Vec::new();
        for chunk in packed.chunks() {
            let mut pass = ChunkPass::default();
            let range = chunk.outputs.start * DIM..chunk.outputs.end * DIM;
            pass.forward(&self.values(), &self.table, packed, &chunk, dropout, &mut out[range]);
            passes.push(pass);
        }
        (out, passes)
    }
}

/// Sequences of these lengths, with random codes, and random times that ascend. The wanted elements are all, or the last
/// of each.
pub(super) fn packed(lengths: &[usize], all: bool) -> PackedSequences {
    let [mut rng, mut of_times] = [8, 9].map(|seed| Rng::at(seed, &[]));
    let mut packed = PackedSequences::default();
    packed.clear();
    for length in lengths {
        let first = packed.codes.len();
        packed.codes.extend((0..*length).map(|_| 1 + rng.below(ROWS - 1) as u32));
        let gaps = (0..*length).map(|_| [0, 1, 1, 2, 3, 20][of_times.below(6)]);
        packed.times.extend(gaps.scan(0, |time, gap| {
            *time += gap;
            Some(*time)
        }));
        packed.wanted.extend(if all { first..first + length } else { first + length - 1..first + length });
        packed.offsets.push(packed.codes.len());
        packed.wanted_offsets.push(packed.wanted.len());
    }
    packed
}

/// Rows of codes, with a time of each element that follows from its code.
fn timed(rows: &[&[u32]]) -> Ragged {
    let mut ragged = Ragged::default();
    for row in rows {
        ragged.push_row(row.iter().copied());
        ragged.times.extend(row.iter().map(|code| 2 * *code as i32));
    }
    ragged
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// The outputs of all wanted elements by the definition.
fn expected(groups: &Encoder<usize>, dense: &[Vec<f64>], table: &[f64], packed: &PackedSequences) -> Vec<f64> {
    let encoder = groups.map(|group| dense[*group].clone());
    let mut out = Vec::new();
    for (pair, wanted) in packed.offsets.windows(2).zip(packed.wanted_offsets.windows(2)) {
        let codes = &packed.codes[pair[0]..pair[1]];
        let rows: Vec<Vec<f64>> = codes.iter().map(|c| table[*c as usize * DIM..][..DIM].to_vec()).collect();
        let all = outputs(&encoder, &rows, &packed.times[pair[0]..pair[1]]);
        out.extend(packed.wanted[wanted[0]..wanted[1]].iter().flat_map(|element| all[element - pair[0]].clone()));
    }
    out
}

#[test]
fn outputs_equal_the_definition_in_f64_in_every_shape() {
    // Sequences of one element, of several blocks of queries, of several tiles, and of several chunks.
    let lengths = [1, 2, 31, 32, 33, 90, 7, 64, 65, 90, 90, 90, 90, 3];
    for (blocks, heads) in [(1, 1), (2, 3), (3, 2)] {
        for shape in shapes(blocks, heads) {
            let sample = Sample::new(shape);
            let dense: Vec<Vec<f64>> = sample.dense.iter().map(|values| wide(values)).collect();
            for all in [true, false] {
                let packed = packed(&lengths, all);
                assert!(packed.chunks().len() > 1);
                let (found, _) = sample.run(&packed, None);
                let expected = expected(&sample.groups, &dense, &wide(&sample.table), &packed);
                let worst = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                // Rounding of f32 over three blocks, with sums of 12 to 90 products of values up to 10, of which SwiGLU
                // multiplies two.
                let room = if shape.block.kind == BlockKind::Ligr { 1e-4 } else { 5e-5 };
                assert!(worst < room, "{shape:?}: {worst:e}");
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences_in_f64() {
    for shape in shapes(2, 3) {
        for all in [true, false] {
            let sample = Sample::new(shape);
            // The second block of queries of a sequence sees more than its own elements.
            let packed = packed(&[1, 5, 70, 3], all);
            let mut rng = Rng::at(21, &[]);
            let c: Vec<f32> = (0..packed.wanted.len() * DIM).map(|_| rng.normal() as f32 * 0.2).collect();
            let (_, mut passes) = sample.run(&packed, None);
            let mut scratch = Scratch::default();
            let mut dense: Vec<Vec<f32>> = sample.dense.iter().map(|values| vec![0.0; values.len()]).collect();
            let mut d_embeddings = vec![0.0; packed.codes.len() * DIM];
            for (pass, chunk) in passes.iter_mut().zip(packed.chunks()) {
                let gradients = EncoderGradients { groups: &sample.groups, dense: &mut dense, scratch: &mut scratch };
                let outputs = chunk.outputs.start * DIM..chunk.outputs.end * DIM;
                let elements = chunk.elements.start * DIM..chunk.elements.end * DIM;
                let d = &mut d_embeddings[elements];
                pass.backward(&sample.values(), (&packed, &chunk), None, &c[outputs], d, gradients);
            }
            let mut d_table = vec![0.0; sample.table.len()];
            for (code, d) in packed.codes.iter().zip(d_embeddings.chunks_exact(DIM)) {
                let row = &mut d_table[*code as usize * DIM..][..DIM];
                row.iter_mut().zip(d).for_each(|(to, d)| *to += (DIM as f32).sqrt() * d);
            }
            let mut values: Vec<Vec<f64>> = sample.dense.iter().map(|values| wide(values)).collect();
            values.push(wide(&sample.table));
            dense.push(d_table);
            for (group, found) in dense.iter().enumerate() {
                for _ in 0..if shape.streams.is_some() { 3 } else { 8 } {
                    let i = rng.below(found.len());
                    let mut loss = |delta: f64| {
                        values[group][i] += delta;
                        let (table, dense) = values.split_last().unwrap();
                        let out = expected(&sample.groups, dense, table, &packed);
                        values[group][i] -= delta;
                        out.iter().zip(&c).map(|(y, c)| y * f64::from(*c)).sum::<f64>()
                    };
                    let want = (loss(1e-6) - loss(-1e-6)) / 2e-6;
                    let found = f64::from(found[i]);
                    // Rounding of f32 over two blocks and 49 elements.
                    let room = 2e-4 * (1.0 + want.abs());
                    assert!((found - want).abs() < room, "{shape:?}, group {group}, {i}: {found}, {want}");
                }
            }
        }
    }
}

#[test]
fn with_dropout_the_gradient_is_that_of_the_forward_pass_with_the_same_draws() {
    for shape in shapes(2, 2) {
        let mut sample = Sample::new(shape);
        // All activations stay above 0, so that no difference is taken across their kink. SwiGLU has none.
        for block in sample.groups.blocks.iter().filter(|_| shape.block.kind == BlockKind::Transformer) {
            sample.dense[block.inner.bias].fill(9.0);
        }
        let packed = packed(&[4, 35], true);
        let dropout = Some(Dropout { rate: 0.3, key: 5 });
        let mut rng = Rng::at(22, &[]);
        let c: Vec<f32> = (0..packed.wanted.len() * DIM).map(|_| rng.normal() as f32 * 0.2).collect();
        let (first, mut passes) = sample.run(&packed, dropout);
        assert_ne!(first, sample.run(&packed, None).0);
        assert_ne!(first, sample.run(&packed, Some(Dropout { rate: 0.3, key: 6 })).0);
        let mut dense: Vec<Vec<f32>> = sample.dense.iter().map(|values| vec![0.0; values.len()]).collect();
        let mut d_embeddings = vec![0.0; packed.codes.len() * DIM];
        let chunk = &packed.chunks()[0];
        let mut scratch = Scratch::default();
        let gradients = EncoderGradients { groups: &sample.groups, dense: &mut dense, scratch: &mut scratch };
        passes[0].backward(&sample.values(), (&packed, chunk), dropout, &c, &mut d_embeddings, gradients);
        // A direction in which all weights move tells every gradient apart from a wrong one, and its derivative is
        // large beside the rounding of f32.
        let direction: Vec<Vec<f32>> =
            dense.iter().map(|values| values.iter().map(|_| rng.normal() as f32).collect()).collect();
        for group in 0..dense.len() {
            let inner = dense[group].iter().zip(&direction[group]).map(|(g, d)| f64::from(g * d)).sum::<f64>();
            let mut loss = |step: f32| {
                sample.dense[group].iter_mut().zip(&direction[group]).for_each(|(x, d)| *x += step * d);
                let out = sample.run(&packed, dropout).0;
                sample.dense[group].iter_mut().zip(&direction[group]).for_each(|(x, d)| *x -= step * d);
                out.iter().zip(&c).map(|(y, c)| f64::from(*y) * f64::from(*c)).sum::<f64>()
            };
            // Differences of fourth order over several steps. Short ones suffer from the rounding of f32 and long ones from
            // higher derivatives, so what two successive ones agree about most is taken.
            let steps = [0.35e-3f32, 0.7e-3, 1.4e-3, 2.8e-3, 5.6e-3];
            let differences = steps.map(|step| loss(step) - loss(-step));
            let quotient = |(pair, step): (&[f64], &f32)| (8.0 * pair[0] - pair[1]) / (12.0 * f64::from(*step));
            let quotients: Vec<f64> = differences.windows(2).zip(&steps).map(quotient).collect();
            let apart = |pair: &&[f64]| (pair[0] - pair[1]).abs();
            let agreed = quotients.windows(2).min_by(|a, b| apart(a).total_cmp(&apart(b))).unwrap();
            let want = (agreed[0] + agreed[1]) / 2.0;
            assert!((inner - want).abs() < 0.02 * (1.0 + want.abs()), "{shape:?}, group {group}: {inner}, {want}");
        }
    }
}

#[test]
fn later_elements_never_change_an_earlier_output() {
    for shape in shapes(2, 2) {
        let sample = Sample::new(shape);
        let before = packed(&[90], true);
        let (expected, _) = sample.run(&before, None);
        for changed in [89, 50, 32, 1] {
            let mut after = before.clone();
            after.codes[changed..].iter_mut().for_each(|code| *code = *code % (ROWS as u32 - 1) + 1);
            let (found, _) = sample.run(&after, None);
            assert_eq!(found[..changed * DIM], expected[..changed * DIM], "{shape:?}, {changed}");
            assert_ne!(found[changed * DIM..][..DIM], expected[changed * DIM..][..DIM]);
        }
    }
}

#[test]
fn an_elements_output_is_that_of_the_sequence_which_ends_with_it() {
    for shape in shapes(2, 2) {
        let sample = Sample::new(shape);
        let whole = packed(&[90], true);
        let (expected, _) = sample.run(&whole, None);
        for length in [1, 2, 63, 64, 65, 89, 90] {
            let (codes, times) = (whole.codes[..length].to_vec(), whole.times[..length].to_vec());
            let ended = PackedSequences { codes, times, ..packed(&[length], false) };
            let (found, _) = sample.run(&ended, None);
            let expected = &expected[(length - 1) * DIM..length * DIM];
            // Products of other shapes round differently.
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-5), "{shape:?}, {length}");
        }
    }
}

#[test]
fn the_bits_of_an_output_depend_on_its_sequence_alone() {
    for shape in shapes(2, 2) {
        let sample = Sample::new(shape);
        let lengths = [5, 90, 1, 40, 90, 90, 90, 90, 90, 90, 17];
        for all in [true, false] {
            let together = packed(&lengths, all);
            let (expected, _) = sample.run(&together, None);
            for sequence in 0..lengths.len() {
                let elements = together.offsets[sequence]..together.offsets[sequence + 1];
                let (codes, times) =
                    (together.codes[elements.clone()].to_vec(), together.times[elements.clone()].to_vec());
                let alone = PackedSequences { codes, times, ..packed(&[elements.len()], all) };
                let range = together.wanted_offsets[sequence] * DIM..together.wanted_offsets[sequence + 1] * DIM;
                assert_eq!(sample.run(&alone, None).0, expected[range], "{shape:?}, {sequence}");
            }
        }
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_how_many_are_multiplied_with_it() {
    let mut rng = Rng::at(8, &[]);
    let mut draw = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.normal() as f32).collect() };
    for (dim, output) in
        [(1, 1), (4, 4), (8, 16), (12, 12), (50, 100), (64, 64), (64, 128), (96, 96), (200, 400), (64, 512), (256, 64)]
    {
        let (rows, weight, bias) = (12 * TILE + 7, draw(output * dim), draw(output));
        let (x, map) = (draw(rows * dim), Affine { weight: &weight[..], bias: &bias[..] });
        let product = |x: &[f32]| {
            let mut y = vec![0.0; x.len() / dim * output];
            affine(&map, x, &mut y, &mut Tile::default());
            y
        };
        let all = product(&x);
        for count in [1, 2, 7, TILE - 1, TILE, TILE + 1, 3 * TILE, 5 * TILE + 20, 11 * TILE] {
            for first in [0, 1, TILE / 2, TILE] {
                let some = product(&x[first * dim..(first + count) * dim]);
                let same = some.iter().zip(&all[first * output..]).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{count} rows from row {first}, [{output}, {dim}]");
            }
        }
    }
}

#[test]
fn rows_that_continue_the_row_before_share_its_sequence() {
    let rows: [&[u32]; 9] =
        [&[], &[3], &[3, 4], &[0, 3, 4, 5, 6], &[3, 4, 5, 6], &[], &[3, 4, 5, 6, 7], &[4, 5, 6, 7, 8], &[5]];
    let ragged = timed(&rows);
    let mut together = PackedSequences::default();
    together.pack_together(&ragged, 5);
    assert_eq!(together.codes, [3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 5]);
    assert_eq!(together.times, [6, 8, 10, 12, 14, 8, 10, 12, 14, 16, 10]);
    assert_eq!(
        (together.offsets.as_slice(), together.wanted_offsets.as_slice()),
        (&[0, 5, 10, 11][..], &[0, 5 - 1, 5, 6][..])
    );
    assert_eq!(together.wanted, [0, 1, 3, 4, 9, 10]);
    assert_eq!(together.output_of, [NO_OUTPUT, 0, 1, 2, 2, NO_OUTPUT, 3, 4, 5]);
    let mut apart = PackedSequences::default();
    apart.pack(&ragged, 0..rows.len(), 5);
    for shape in shapes(2, 2) {
        let sample = Sample::new(shape);
        let (shared, single) = (sample.run(&together, None).0, sample.run(&apart, None).0);
        for (a, b) in together.output_of.iter().zip(&apart.output_of).filter(|(a, _)| **a != NO_OUTPUT) {
            let [a, b] = [(a, &shared), (b, &single)].map(|(output, values)| &values[*output as usize * DIM..][..DIM]);
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5), "{shape:?}");
        }
    }
}

#[test]
fn padding_on_either_side_and_elements_beyond_the_longest_change_nothing() {
    let rows: [&[u32]; 6] = [&[3, 4, 5], &[0, 0, 3, 4, 5], &[3, 4, 5, 0], &[0, 3, 0, 4, 5, 0], &[9, 8, 3, 4, 5], &[0]];
    let ragged = timed(&rows);
    let mut packed = PackedSequences::default();
    packed.pack(&ragged, 0..6, 3);
    assert_eq!(packed.output_of, [0, 1, 2, 3, 4, NO_OUTPUT]);
    assert_eq!(packed.codes, [3, 4, 5].repeat(5));
    assert_eq!(packed.times, [6, 8, 10].repeat(5));
    for shape in shapes(2, 1) {
        let (out, _) = Sample::new(shape).run(&packed, None);
        assert!(out.chunks_exact(DIM).all(|row| *row == out[..DIM]), "{shape:?}");
    }
    packed.pack(&ragged, 2..4, 2);
    assert_eq!((packed.codes.as_slice(), packed.offsets.as_slice()), (&[4, 5, 4, 5][..], &[0, 2, 4][..]));
}
