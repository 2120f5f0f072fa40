//! The nodes of an encoder of a sequence ([`crate::tower::encoder`]).
//!
//! Vectors of elements are rows of `[N L, dim]`, padding included. Padding is never a key, so what it becomes itself
//! does not matter. The last block is computed for the last column alone.

use super::export::layer_norm;
use super::graph::{GraphBuilder, int, ints};
use super::intervals::{Elements, IntervalNodes};
use super::messages::code;
use super::streams::{Sublayer, collapse, expand};
use super::tensor_name;
use crate::tower::Place;
use crate::tower::encoder::{Affine, Block, Encoder, NORM_EPS, Norm, NormOrder};
use crate::tower::ligr::{BlockKind, BlockShape};
use crate::tower::streams::{BlockStreams, StreamShape};

/// A field with an encoder.
pub(super) struct EncodedField<'a> {
    /// Its input, int32 `[N, L]`.
    pub name: &'a str,
    /// Rows of its embedding table, `[N, L, dim]`.
    pub rows: &'a str,
    /// Whether an element is not padding, `[N, L]`.
    pub is_real: &'a str,
    /// The times of its elements, int32 `[N, L]`, which an encoder with intervals reads.
    pub times: &'a str,
}

/// Values that all blocks use.
struct Shared {
    /// `[-1, dim]`, a shape.
    flat: String,
    /// `[N, L, dim]`, a shape.
    rows: String,
    /// `[N, L, heads, dim / heads]` and `[N, 1, heads, dim / heads]`, shapes.
    heads: [String; 2],
    /// Which keys a query sees: `[N, 1, L, L]`, and `[N, 1, 1, L]` for those of the last column.
    seen: [String; 2],
    /// `[N, L, n dim]` and `[-1, n dim]`, shapes, if there are streams.
    streams: Option<[String; 2]>,
    dim: usize,
    head_dim: usize,
}

impl Shared {
    /// The rows of the last column, `[N, dim]`.
    fn last(&self, g: &mut GraphBuilder, x: &str) -> String {
        last(g, x, &self.rows, &self.flat)
    }

    /// The streams of the last column, `[N, n dim]`.
    fn last_streams(&self, g: &mut GraphBuilder, x: &str) -> String {
        match &self.streams {
            Some([rows, flat]) => last(g, x, rows, flat),
            None => self.last(g, x),
        }
    }
}

/// The rows of the last column, given the shapes of all columns and of one.
fn last(g: &mut GraphBuilder, x: &str, rows: &str, flat: &str) -> String {
    let rows = g.node("Reshape", &[x, rows], vec![]);
    let column = g.integer(-1, code::INT64);
    let last = g.node("Gather", &[&rows, &column], vec![int("axis", 1)]);
    g.node("Reshape", &[&last, flat], vec![])
}

/// A list of integers, of lists of integers.
fn concatenated(g: &mut GraphBuilder, parts: &[&str]) -> String {
    g.node("Concat", parts, vec![int("axis", 0)])
}

/// What an encoder makes of the newest elements, and of rows of padding: `[N, dim]`.
pub(super) fn encoder(g: &mut GraphBuilder, field: &EncodedField<'_>, encoder: &Encoder) -> String {
    let dim = encoder.positions.cols;
    let named = encoder.try_map::<_, std::convert::Infallible>(&mut |parameter, matrix| {
        let dims = [matrix.rows, matrix.cols];
        let name = tensor_name(Place::Reduce(field.name, parameter));
        Ok(g.floats(name, &dims[2 - parameter.rank..], matrix.data.iter().copied()))
    });
    let Ok(named) = named;
    let integer = |g: &mut GraphBuilder, value: i64| g.integer(value, code::INT64);
    let axis = integer(g, 1);
    // A query sees the columns up to its own.
    let shape = g.node("Shape", &[field.name], vec![]);
    let length = g.node("Shape", &[field.name], vec![int("start", 1)]);
    let [first, step] = [0, 1].map(|value| integer(g, value));
    let [first, length, step] = [&first, &length, &step].map(|value| g.node("Squeeze", &[value], vec![]));
    let columns = g.node("Range", &[&first, &length, &step], vec![]);
    let queries = g.node("Unsqueeze", &[&columns, &axis], vec![]);
    let causal = g.node("LessOrEqual", &[&columns, &queries], vec![]);
    let real = g.node("Unsqueeze", &[field.is_real, &axis], vec![]);
    let real = g.node("Unsqueeze", &[&real, &axis], vec![]);
    let seen = [g.node("And", &[&causal, &real], vec![]), real];
    let head_dim = dim / encoder.heads;
    let [any, one] = [-1, 1].map(|value| integer(g, value));
    let [width, heads, head_width] = [dim, encoder.heads, head_dim].map(|value| integer(g, value as i64));
    let streams = named.streams.map(|StreamShape { count, .. }| {
        let width = integer(g, (count * dim) as i64);
        [concatenated(g, &[&shape, &width]), concatenated(g, &[&any, &width])]
    });
    let shared = Shared {
        flat: concatenated(g, &[&any, &width]),
        rows: concatenated(g, &[&shape, &width]),
        heads: [concatenated(g, &[&shape, &heads, &head_width]), concatenated(g, &[&any, &one, &heads, &head_width])],
        seen,
        streams,
        dim,
        head_dim,
    };
    let scale = g.float((dim as f32).sqrt());
    let scaled = g.node("Mul", &[field.rows, &scale], vec![]);
    // Positions, counted from the oldest real element. Those of padding are -1, the last one, which is as good as any.
    let ones = g.node("Cast", &[field.is_real], vec![int("to", i64::from(code::INT64))]);
    let count = g.node("CumSum", &[&ones, &step], vec![]);
    let places = g.node("Sub", &[&count, &one], vec![]);
    let placed = match named.input_positions() {
        Some(positions) => {
            let positions = g.node("Gather", &[positions, &places], vec![int("axis", 0)]);
            g.node("Add", &[&scaled, &positions], vec![])
        }
        None => scaled,
    };
    let elements = Elements { times: field.times, places: &places };
    let intervals = IntervalNodes::of(g, &elements, &named, dim);
    let mut x = g.node("Reshape", &[&placed, &shared.flat], vec![]);
    if let Some(streams) = named.streams {
        x = expand(g, &x, streams);
    }
    for (b, block) in named.blocks.iter().enumerate() {
        let is_last = b + 1 == named.blocks.len();
        let (intervals, order, shape) = (intervals.as_ref(), named.order, named.block);
        let step = Step { shared: &shared, intervals, order, shape, is_last };
        x = match named.streams.zip(block.streams.as_ref()) {
            None => step.block(g, block, &x),
            Some(streams) => step.block_of_streams(g, block, streams, &x),
        };
    }
    if let Some(streams) = named.streams {
        x = collapse(g, &x, streams, dim);
    }
    if let Some(last) = &named.last {
        x = norm(g, last, &x);
    }
    let column = integer(g, -1);
    let any = g.node("Gather", &[field.is_real, &column], vec![int("axis", 1)]);
    g.node("Where", &[&any, &x, &named.empty], vec![])
}

fn norm(g: &mut GraphBuilder, norm: &Norm<String>, x: &str) -> String {
    let eps = g.float(NORM_EPS);
    layer_norm(g, x, &norm.gain, &norm.bias, &eps)
}

fn affine(g: &mut GraphBuilder, affine: &Affine<String>, x: &str) -> String {
    g.node("Gemm", &[x, &affine.weight, &affine.bias], vec![int("transB", 1)])
}

/// Some columns of a matrix.
fn columns(g: &mut GraphBuilder, x: &str, from: usize, count: usize) -> String {
    let axis = g.integer(1, code::INT64);
    let [start, end] = [from, from + count].map(|at| g.integer(at as i64, code::INT64));
    g.node("Slice", &[x, &start, &end, &axis], vec![])
}

/// What a sublayer made, multiplied by its gate, if it has one, which depends on what the sublayer reads.
fn gated(g: &mut GraphBuilder, gate: Option<&Affine<String>>, read: &str, made: String) -> String {
    let Some(gate) = gate else { return made };
    let logits = affine(g, gate, read);
    let gate = g.node("Sigmoid", &[&logits], vec![]);
    g.node("Mul", &[&gate, &made], vec![])
}

/// A block in a graph.
struct Step<'a> {
    shared: &'a Shared,
    /// What attention reads for the time between elements, if it reads that.
    intervals: Option<&'a IntervalNodes>,
    order: NormOrder,
    shape: BlockShape,
    /// Whether only the last column asks.
    is_last: bool,
}

impl Step<'_> {
    fn asking(&self, g: &mut GraphBuilder, x: &str) -> String {
        if self.is_last { self.shared.last(g, x) } else { x.to_string() }
    }

    fn block(&self, g: &mut GraphBuilder, block: &Block<String>, x: &str) -> String {
        let asking = self.asking(g, x);
        let (query_source, source) = match self.order {
            NormOrder::Original => (norm(g, &block.attention_norm, &asking), x.to_string()),
            NormOrder::Paper | NormOrder::Pre => {
                let source = norm(g, &block.attention_norm, x);
                (self.asking(g, &source), source)
            }
            NormOrder::Post => (asking.clone(), x.to_string()),
        };
        let attended = self.attend(g, block, &asking, &query_source, &source);
        let residual = if self.order == NormOrder::Original { &query_source } else { &asking };
        let sum = g.node("Add", &[&attended, residual], vec![]);
        let is_post = self.order == NormOrder::Post;
        let normal = norm(g, if is_post { &block.attention_norm } else { &block.feed_forward_norm }, &sum);
        let outer = self.feed_forward(g, block, &sum, &normal);
        let residual = if matches!(self.order, NormOrder::Paper | NormOrder::Pre) { &sum } else { &normal };
        let result = g.node("Add", &[&outer, residual], vec![]);
        if is_post { norm(g, &block.feed_forward_norm, &result) } else { result }
    }

    /// A block with streams in the place of residual connections.
    fn block_of_streams(
        &self,
        g: &mut GraphBuilder,
        block: &Block<String>,
        (shape, weights): (StreamShape, &BlockStreams<String>),
        x: &str,
    ) -> String {
        let dim = self.shared.dim;
        let [first, second] =
            [&weights.attention, &weights.feed_forward].map(|weights| Sublayer { shape, dim, weights });
        let normal = Sublayer::normal(g, x);
        let read = first.read(g, x, &normal);
        let source = norm(g, &block.attention_norm, &read);
        let query_source = self.asking(g, &source);
        let asking = if block.gates.is_some() { self.asking(g, &read) } else { read };
        let attended = self.attend(g, block, &asking, &query_source, &source);
        let x = if self.is_last {
            let (x, normal) = (self.shared.last_streams(g, x), self.shared.last_streams(g, &normal));
            first.write(g, &x, &normal, &attended)
        } else {
            first.write(g, x, &normal, &attended)
        };
        let normal = Sublayer::normal(g, &x);
        let read = second.read(g, &x, &normal);
        let source = norm(g, &block.feed_forward_norm, &read);
        let added = self.feed_forward(g, block, &read, &source);
        second.write(g, &x, &normal, &added)
    }

    /// What the feed-forward network adds, given what it reads before and after the layer norm.
    fn feed_forward(&self, g: &mut GraphBuilder, block: &Block<String>, read: &str, source: &str) -> String {
        let inner = affine(g, &block.inner, source);
        let inner = match self.shape.kind {
            BlockKind::Transformer => g.node("Relu", &[&inner], vec![]),
            BlockKind::Ligr => {
                let width = self.shape.inner_width(self.shared.dim);
                let [a, b] = [0, width].map(|from| columns(g, &inner, from, width));
                let share = g.node("Sigmoid", &[&a], vec![]);
                let silu = g.node("Mul", &[&a, &share], vec![]);
                g.node("Mul", &[&silu, &b], vec![])
            }
        };
        let made = affine(g, &block.outer, &inner);
        gated(g, block.gates.as_ref().map(|gates| &gates.feed_forward), read, made)
    }

    /// What attention adds, given what it reads before and after the layer norm: in the columns that ask, and in all.
    fn attend(
        &self,
        g: &mut GraphBuilder,
        block: &Block<String>,
        read: &str,
        query_source: &str,
        source: &str,
    ) -> String {
        let query = affine(g, &block.query, query_source);
        let mut key_value = affine(g, &block.key_value, source);
        if let Some(intervals) = self.intervals {
            key_value = intervals.placed(g, &key_value);
        }
        let attended = self.attention(g, &query, &key_value);
        let made = match &block.output {
            Some(output) => affine(g, output, &attended),
            None => attended,
        };
        gated(g, block.gates.as_ref().map(|gates| &gates.attention), read, made)
    }

    /// The weighted means of values, `[rows of the query, dim]`.
    fn attention(&self, g: &mut GraphBuilder, query: &str, key_value: &str) -> String {
        let Shared { flat, heads, seen, dim, head_dim, .. } = self.shared;
        let index = usize::from(self.is_last);
        let [key, value] = [0, *dim].map(|from| columns(g, key_value, from, *dim));
        let by_head = |g: &mut GraphBuilder, x: &str, shape: &str, order: [i64; 4]| {
            let split = g.node("Reshape", &[x, shape], vec![]);
            g.node("Transpose", &[&split], vec![ints("perm", &order)])
        };
        let query = by_head(g, query, &heads[index], [0, 2, 1, 3]);
        let key = by_head(g, &key, &heads[0], [0, 2, 3, 1]);
        let value = by_head(g, &value, &heads[0], [0, 2, 1, 3]);
        let mut scores = g.node("MatMul", &[&query, &key], vec![]);
        if let Some(intervals) = self.intervals {
            scores = intervals.add_logits(g, &query, self.is_last, &scores);
        }
        let scale = g.float(1.0 / (*head_dim as f32).sqrt());
        let scores = g.node("Mul", &[&scores, &scale], vec![]);
        let never = g.float(f32::MIN);
        let scores = g.node("Where", &[&seen[index], &scores, &never], vec![]);
        let weights = g.node("Softmax", &[&scores], vec![int("axis", 3)]);
        let mut means = g.node("MatMul", &[&weights, &value], vec![]);
        if let Some(intervals) = self.intervals {
            means = intervals.add_rows(g, &weights, self.is_last, &means);
        }
        let means = g.node("Transpose", &[&means], vec![ints("perm", &[0, 2, 1, 3])]);
        g.node("Reshape", &[&means, flat], vec![])
    }
}
