//! Random towers and batches for tests, and a naive f64 forward pass as their oracle.

use crate::encoder::reference::outputs;
use crate::rng::Rng;
use crate::tower::encoder::{Encoder, EncoderShape, NormOrder};
use crate::tower::ligr::BlockShape;
use crate::tower::streams::StreamShape;
use crate::tower::{Input, Layer, Matrix, Reduce, Tower};
use std::collections::BTreeMap;
use twotower_artifacts::schema::PADDING;
use twotower_artifacts::{
    CodeBatch, Column, FieldSchema, FieldShape, Fingerprint, IntervalScale, Intervals, Side, TowerSchema,
};

/// Draws random test data from a seed.
pub struct Draw(Rng);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(Rng::at(seed, &[]))
    }

    pub fn byte(&mut self) -> u8 {
        self.0.bits() as u8
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// Floats uniform in [-1, 1).
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.0.uniform() * 2.0 - 1.0) as f32).collect()
    }

    pub fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, data: self.floats(rows * cols) }
    }

    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.0.shuffle(&mut order);
        order
    }
}

/// A tower over the given fields, with random weights, PReLU between the hidden layers, and an L2 norm at the end.
pub fn tower(draw: &mut Draw, fields: Vec<(&str, FieldShape, Option<Reduce>)>, emb: usize, widths: &[usize]) -> Tower {
    let mut tables = BTreeMap::new();
    let mut inputs = Vec::new();
    let mut schema = Vec::new();
    let mut width = 0;
    for (name, shape, reduce) in fields {
        if let Some((table, cardinality)) = shape.table() {
            tables.entry(table.to_string()).or_insert_with(|| draw.matrix(cardinality as usize, emb));
        }
        inputs.push(match (&shape, reduce) {
            (FieldShape::Dense { .. }, _) => Input::Dense,
            (FieldShape::Code { table, .. }, _) => Input::Embedding { table: table.clone() },
            (FieldShape::Bag { table, .. } | FieldShape::Sequence { table, .. }, reduce) => {
                Input::Pooled { table: table.clone(), reduce: reduce.unwrap_or(Reduce::Mean) }
            }
        });
        width += if let FieldShape::Dense { width } = &shape { *width as usize } else { emb };
        schema.push(FieldSchema { name: name.to_string(), shape });
    }
    let mut layers = Vec::new();
    for (i, out) in widths.iter().enumerate() {
        if i > 0 {
            layers.push(if i % 2 == 1 {
                Layer::Prelu { slope: Matrix::vector(draw.floats(width)) }
            } else {
                Layer::Relu
            });
        }
        let mut weight = draw.matrix(*out, width);
        weight.data.iter_mut().for_each(|w| *w /= (width as f32).sqrt());
        layers.push(Layer::Linear { weight, bias: Matrix::vector(draw.floats(*out)) });
        width = *out;
    }
    layers.push(Layer::L2Norm { eps: 1e-6 });
    let schema = TowerSchema { side: Side::User, encoder: Fingerprint::of(b"sample"), fields: schema };
    Tower { schema, inputs, tables, layers, dim: width, inner_product_scale: None }
}

/// A tower with a field of every shape and reduction. Two fields share the item table.
pub fn every_shape(seed: u64) -> Tower {
    let draw = &mut Draw::new(seed);
    let code = |table: &str, cardinality| FieldShape::Code { table: table.into(), cardinality };
    let logits = Matrix::vector(draw.floats(7));
    let fields = vec![
        ("city", code("city", 50), None),
        ("last", code("item", 40), None),
        ("tags", FieldShape::Bag { table: "tags".into(), cardinality: 9, max_len: 5 }, None),
        ("recent", FieldShape::Sequence { table: "item".into(), cardinality: 40, max_len: 12, intervals: None }, None),
        (
            "weighted",
            FieldShape::Sequence { table: "item".into(), cardinality: 40, max_len: 7, intervals: None },
            Some(Reduce::Position(logits)),
        ),
        ("vector", FieldShape::Dense { width: 6 }, None),
    ];
    tower(draw, fields, 16, &[48, 32, 24])
}

/// [`every_shape`] with two layer norms: after the first linear layer, and before the L2 norm.
pub fn normalised(seed: u64) -> Tower {
    let (mut tower, draw) = (every_shape(seed), &mut Draw::new(seed + 1000));
    let mut norm = |width: usize| {
        let [gain, bias] = [(); 2].map(|()| Matrix::vector(draw.floats(width)));
        Layer::LayerNorm { gain, bias, eps: 1e-5 }
    };
    tower.layers.insert(tower.layers.len() - 1, norm(24));
    tower.layers.insert(1, norm(48));
    tower
}

/// A tower of a code, the mean of a sequence and a default, of which the first that there is counts. The rows of a third
/// of the codes are zero. With `layers`, a linear layer follows.
pub fn coalescing(seed: u64, layers: bool) -> Tower {
    let draw = &mut Draw::new(seed);
    let sequence = FieldShape::Sequence { table: "item".into(), cardinality: 40, max_len: 4, intervals: None };
    let fields =
        vec![("user", FieldShape::Code { table: "user".into(), cardinality: 50 }, None), ("recent", sequence, None)];
    let mut tower = tower(draw, fields, 12, &[]);
    if let Some(users) = tower.tables.get_mut("user") {
        users.data.chunks_exact_mut(36).for_each(|rows| rows[..12].fill(0.0));
    }
    let default = Matrix::vector(draw.floats(12));
    tower.layers.insert(0, Layer::Coalesce { default });
    if layers {
        tower.layers.insert(1, Layer::Linear { weight: draw.matrix(13, 12), bias: Matrix::vector(draw.floats(13)) });
    }
    Tower { dim: if layers { 13 } else { 12 }, ..tower }
}

/// A random encoder of sequences of at most `max_len` elements of `dim` floats.
pub fn encoder(draw: &mut Draw, shape: EncoderShape, dim: usize, max_len: usize) -> Encoder {
    shape.encoder().map_parameters(|parameter| {
        let (rows, cols) = shape.extents(&parameter, dim, max_len);
        let mut matrix = draw.matrix(rows, cols);
        let scale = if parameter.rank == 2 { 0.5 } else { 0.3 };
        matrix.data.iter_mut().for_each(|x| *x = scale * *x + f32::from(parameter.is_gain()));
        matrix
    })
}

/// A tower with two sequences that have encoders of this order of norms, one of two blocks with heads and a shorter one
/// of one block, beside a code, a mean and floats.
pub fn encoding(seed: u64, norm: NormOrder) -> Tower {
    encoding_with(seed, (norm, BlockShape::default()), None, [None, None])
}

/// As [`encoding`], where both encoders read intervals, up to 20 and up to 3.
pub fn timed(seed: u64, norm: NormOrder) -> Tower {
    encoding_with(seed, (norm, BlockShape::default()), None, INTERVALS)
}

/// As [`encoding`], with streams in both encoders.
pub fn streaming(seed: u64, norm: NormOrder, streams: StreamShape) -> Tower {
    encoding_with(seed, (norm, BlockShape::default()), Some(streams), [None, None])
}

/// As [`streaming`], where both encoders read intervals too.
pub fn timed_streaming(seed: u64, norm: NormOrder, streams: StreamShape) -> Tower {
    encoding_with(seed, (norm, BlockShape::default()), Some(streams), INTERVALS)
}

/// As [`encoding`], with blocks of this shape in both encoders, in the order `pre`.
pub fn shaped(seed: u64, block: BlockShape) -> Tower {
    encoding_with(seed, (NormOrder::Pre, block), None, [None, None])
}

/// As [`shaped`], where both encoders read intervals, and have streams, if some are given.
pub fn timed_shaped(seed: u64, block: BlockShape, streams: Option<StreamShape>) -> Tower {
    encoding_with(seed, (NormOrder::Pre, block), streams, INTERVALS)
}

const INTERVALS: [Option<Intervals>; 2] = [
    Some(Intervals { scale: IntervalScale::Personal, span: 20 }),
    Some(Intervals { scale: IntervalScale::Hour, span: 3 }),
];

fn encoding_with(
    seed: u64,
    (norm, block): (NormOrder, BlockShape),
    streams: Option<StreamShape>,
    [of_long, of_short]: [Option<Intervals>; 2],
) -> Tower {
    let draw = &mut Draw::new(seed);
    let sequence_with =
        |max_len, intervals| FieldShape::Sequence { table: "item".into(), cardinality: 40, max_len, intervals };
    let sequence = |max_len| sequence_with(max_len, None);
    let shape = |blocks, heads, intervals: Option<Intervals>| EncoderShape {
        blocks,
        heads,
        norm,
        block,
        streams,
        intervals: intervals.map(|intervals| intervals.span),
    };
    let long = encoder(draw, shape(2, 4, of_long), 16, 40);
    let short = encoder(draw, shape(1, 1, of_short), 16, 3);
    let fields = vec![
        ("city", FieldShape::Code { table: "city".into(), cardinality: 50 }, None),
        ("long", sequence_with(40, of_long), Some(Reduce::Attention(long))),
        ("recent", sequence(12), None),
        ("short", sequence_with(3, of_short), Some(Reduce::Attention(short))),
        ("vector", FieldShape::Dense { width: 6 }, None),
    ];
    tower(draw, fields, 16, &[32, 24])
}

/// Random valid rows. Ragged rows have lengths from 0 to beyond the limit, and some have padding among their elements.
pub fn batch(draw: &mut Draw, schema: &TowerSchema, rows: usize) -> CodeBatch {
    let mut batch = CodeBatch::empty(schema);
    for (field, column) in schema.fields.iter().zip(&mut batch.columns) {
        for _ in 0..rows {
            match (&field.shape, &mut *column) {
                (FieldShape::Code { cardinality, .. }, Column::Code(codes)) => {
                    codes.push(draw.below(*cardinality as usize) as u32);
                }
                (
                    FieldShape::Bag { cardinality, max_len, .. } | FieldShape::Sequence { cardinality, max_len, .. },
                    Column::Ragged(ragged),
                ) => {
                    let len = draw.below(*max_len as usize + 3);
                    ragged.push_row((0..len).map(|_| draw.below(*cardinality as usize) as u32));
                    if field.shape.intervals().is_some() {
                        let gaps = (0..len).map(|_| [0, 1, 2, 7, 30][draw.below(5)]);
                        ragged.times.extend(gaps.scan(0, |time, gap| {
                            *time += gap;
                            Some(*time)
                        }));
                    }
                }
                (FieldShape::Dense { width }, Column::Dense { values, .. }) => {
                    values.extend(draw.floats(*width as usize));
                }
                _ => unreachable!("the batch was made from the schema"),
            }
        }
    }
    batch
}

/// Some rows of a batch.
pub fn rows_of(schema: &TowerSchema, batch: &CodeBatch, rows: &[usize]) -> CodeBatch {
    let mut some = CodeBatch::empty(schema);
    some.extend_from_rows(batch, rows.iter().copied());
    some
}

/// The forward pass in f64, a row at a time, as the layers are defined.
pub fn naive(tower: &Tower, batch: &CodeBatch) -> Vec<f64> {
    (0..batch.rows()).flat_map(|row| naive_row(tower, batch, row)).collect()
}

fn naive_row(tower: &Tower, batch: &CodeBatch, row: usize) -> Vec<f64> {
    let embedding = |table: &str, code: u32| -> Vec<f64> {
        let table = &tower.tables[table];
        let start = code as usize * table.cols;
        table.data[start..start + table.cols].iter().map(|v| f64::from(*v)).collect()
    };
    let mut x: Vec<f64> = Vec::new();
    for ((field, input), column) in tower.schema.fields.iter().zip(&tower.inputs).zip(&batch.columns) {
        match (input, column) {
            (Input::Embedding { table }, Column::Code(codes)) => x.extend(embedding(table, codes[row])),
            (Input::Dense, Column::Dense { width, values }) => {
                x.extend(values[row * width..][..*width].iter().map(|v| f64::from(*v)));
            }
            (Input::Pooled { table, reduce }, Column::Ragged(ragged)) => {
                let (FieldShape::Bag { max_len, .. } | FieldShape::Sequence { max_len, .. }) = &field.shape else {
                    unreachable!("pooled fields are ragged")
                };
                let real: Vec<usize> = (0..ragged.row(row).len()).filter(|i| ragged.row(row)[*i] != PADDING).collect();
                let kept = &real[real.len().saturating_sub(*max_len as usize)..];
                let codes: Vec<u32> = kept.iter().rev().map(|i| ragged.row(row)[*i]).collect();
                let times: Vec<i32> = kept.iter().filter_map(|i| ragged.row_times(row).get(*i).copied()).collect();
                if let Reduce::Attention(encoder) = reduce {
                    let rows: Vec<Vec<f64>> = codes.iter().rev().map(|code| embedding(table, *code)).collect();
                    let encoder = encoder.map(|weight| weight.data.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
                    let newest =
                        rows.len().checked_sub(1).map(|newest| outputs(&encoder, &rows, &times)[newest].clone());
                    x.extend(newest.unwrap_or(encoder.empty));
                    continue;
                }
                let weight = |position: usize| match reduce {
                    Reduce::Mean => 1.0,
                    Reduce::Position(logits) => f64::from(logits.data[position]).exp(),
                    Reduce::Attention(_) => unreachable!("an encoder is no weighted mean"),
                };
                let total: f64 = (0..codes.len()).map(weight).sum();
                let mut pooled = vec![0.0; tower.tables[table].cols];
                for (i, code) in codes.iter().enumerate() {
                    pooled.iter_mut().zip(embedding(table, *code)).for_each(|(p, e)| *p += weight(i) / total * e);
                }
                x.extend(pooled);
            }
            _ => unreachable!("the batch was made from the tower's schema"),
        }
    }
    for layer in &tower.layers {
        match layer {
            Layer::Linear { weight, bias } => {
                let product = |o: usize| -> f64 {
                    weight.data[o * weight.cols..][..weight.cols].iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum()
                };
                x = (0..weight.rows).map(|o| product(o) + f64::from(bias.data[o])).collect();
            }
            Layer::Prelu { slope } => {
                x.iter_mut().zip(&slope.data).for_each(|(v, s)| *v = v.max(0.0) + f64::from(*s) * v.min(0.0));
            }
            Layer::Relu => x.iter_mut().for_each(|v| *v = v.max(0.0)),
            Layer::LayerNorm { gain, bias, eps } => {
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
                let inverse = 1.0 / (variance + f64::from(*eps)).sqrt();
                let weights = gain.data.iter().zip(&bias.data);
                x.iter_mut()
                    .zip(weights)
                    .for_each(|(v, (g, b))| *v = (*v - mean) * inverse * f64::from(*g) + f64::from(*b));
            }
            Layer::Coalesce { default } => {
                let default: Vec<f64> = default.data.iter().map(|x| f64::from(*x)).collect();
                let mut parts = x.chunks_exact(default.len());
                x = parts.find(|part| part.iter().any(|x| *x != 0.0)).map_or(default, <[f64]>::to_vec);
            }
            Layer::L2Norm { eps } => {
                let norm = x.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(*eps));
                x.iter_mut().for_each(|v| *v /= norm);
            }
        }
    }
    x
}
