//! Intervals in attention ([`crate::tower::intervals`]).
//!
//! A block of queries has the intervals of its pairs once, and reads the rows of these alone. The products of queries
//! and rows are gathered for each pair, and weights are summed by interval before they are multiplied with rows. So
//! nothing has a vector for each pair.

use super::attention::Block;
use super::packed::Places;
use super::{Chunk, Dropout, PackedSequences, Values};
use crate::lanes::add;
use crate::layers::dropout;
use crate::matmul::{Operand, Target, matmul, matmul_into};
use crate::rng::Rng;
use crate::tower::encoder::Encoder;
use crate::tower::intervals::IntervalTables;
use std::ops::Range;

/// The times of a chunk's elements, and the tables as they are after dropout. It is reused between steps.
#[derive(Debug, Default)]
pub(super) struct ChunkIntervals {
    times: Vec<i32>,
    /// Positions of keys and of values, intervals of keys and of values; empty without dropout.
    dropped: [Vec<f32>; 4],
}

/// The tables of an encoder with intervals: positions of keys and of values, intervals of keys and of values.
fn tables<'e, W>(encoder: &'e Encoder<W>, own: &'e IntervalTables<W>) -> [&'e W; 4] {
    [&encoder.positions, &own.value_positions, &own.keys, &own.values]
}

/// The random numbers by which rows of a table are dropped.
fn noise(dropout: Dropout, table: usize) -> Rng {
    Rng::at(dropout.key, &[u64::MAX, table as u64])
}

impl ChunkIntervals {
    /// Takes the times of a chunk, and draws what is dropped of the tables. Nothing for an encoder without intervals.
    pub fn prepare(&mut self, encoder: &Values<'_>, packed: &PackedSequences, chunk: &Chunk, dropped: Option<Dropout>) {
        self.times.clear();
        self.dropped.iter_mut().for_each(Vec::clear);
        let Some(own) = &encoder.intervals else { return };
        self.times.extend_from_slice(&packed.times[chunk.elements.clone()]);
        let Some(Dropout { rate, .. }) = dropped else { return };
        for (t, (table, to)) in tables(encoder, own).into_iter().zip(&mut self.dropped).enumerate() {
            to.resize(table.len(), 0.0);
            dropout(table, rate, dropped.map(|dropped| noise(dropped, t)), to);
        }
    }

    /// `[elements]` times on the scale of intervals.
    pub fn times(&self) -> &[i32] {
        &self.times
    }

    /// The encoder with its tables after dropout.
    pub fn dropped<'a>(&'a self, encoder: &Values<'a>) -> Values<'a> {
        let mut encoder = encoder.clone();
        let [positions, value_positions, keys, values] = self.dropped.each_ref().map(|table| &table[..]);
        if let Some(own) = encoder.intervals.as_mut().filter(|_| !positions.is_empty()) {
            encoder.positions = positions;
            *own = IntervalTables { span: own.span, value_positions, keys, values };
        }
        encoder
    }
}

/// Gradients of the tables after dropout: positions of keys and of values, intervals of keys and of values.
pub(super) struct TableGradients([Vec<f32>; 4]);

impl TableGradients {
    /// Zeros; none for an encoder without intervals.
    pub fn of(encoder: &Values<'_>) -> Option<Self> {
        let own = encoder.intervals.as_ref()?;
        Some(Self(tables(encoder, own).map(|table| vec![0.0; table.len()])))
    }

    /// Adds the gradients of positions, given those of keys and values, `[elements, 2 dim]`.
    pub fn add_positions(&mut self, places: &Places, dim: usize, d_key_value: &[f32]) {
        let [keys, values, ..] = &mut self.0;
        for (element, place) in places.all.places.iter().enumerate() {
            let (d_key, d_value) = d_key_value[element * 2 * dim..][..2 * dim].split_at(dim);
            add(&mut keys[place * dim..][..dim], d_key);
            add(&mut values[place * dim..][..dim], d_value);
        }
    }

    /// The gradients of the intervals of keys and of values.
    pub fn intervals(&mut self) -> [&mut [f32]; 2] {
        let [_, _, keys, values] = &mut self.0;
        [keys, values]
    }

    /// Adds them to the gradients of the tables before dropout.
    pub fn finish(self, groups: &Encoder<usize>, dropped: Option<Dropout>, dense: &mut [Vec<f32>]) {
        let Some(own) = &groups.intervals else { return };
        let mut unmasked = Vec::new();
        for (t, (group, d)) in tables(groups, own).into_iter().zip(self.0).enumerate() {
            unmasked.resize(d.len(), 0.0);
            let rate = dropped.map_or(0.0, |dropped| dropped.rate);
            dropout(&d, rate, dropped.map(|dropped| noise(dropped, t)), &mut unmasked);
            add(&mut dense[*group], &unmasked);
        }
    }
}

/// Adds the rows of positions to keys and values, `[elements, 2 dim]`.
pub(super) fn add_positions(encoder: &Values<'_>, places: &Places, dim: usize, key_value: &mut [f32]) {
    let Some(own) = &encoder.intervals else { return };
    for (element, place) in places.all.places.iter().enumerate() {
        let (key, value) = key_value[element * 2 * dim..][..2 * dim].split_at_mut(dim);
        add(key, &encoder.positions[place * dim..][..dim]);
        add(value, &own.value_positions[place * dim..][..dim]);
    }
}

/// What attention reads for the time between elements.
#[derive(Clone, Copy)]
pub(super) struct Timed<'a> {
    /// `[elements]` times on the scale of intervals.
    pub times: &'a [i32],
    /// The longest interval.
    pub span: u32,
    /// `[span + 1, dim]`, added to keys.
    pub keys: &'a [f32],
    /// `[span + 1, dim]`, added to values.
    pub values: &'a [f32],
}

impl<'a> Timed<'a> {
    /// None for an encoder without intervals.
    pub fn of(encoder: &Values<'a>, times: &'a [i32]) -> Option<Self> {
        let IntervalTables { span, keys, values, .. } = encoder.intervals.as_ref()?;
        Some(Self { times, span: *span as u32, keys, values })
    }
}

/// Some columns of the rows of a table.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    /// `[rows, dim]`.
    pub table: &'a [f32],
    /// Width of a row.
    pub dim: usize,
    /// The first of the columns.
    pub start: usize,
    /// Their number.
    pub width: usize,
}

impl Columns<'_> {
    fn of(&self, row: u32) -> Range<usize> {
        let start = row as usize * self.dim + self.start;
        start..start + self.width
    }
}

/// The intervals of a block of queries, and memory to compute with them. It is reused between blocks.
#[derive(Default)]
pub(super) struct BlockIntervals {
    /// `[queries, keys]` the place among `used` of the interval of each pair, 0 for keys that a query does not see.
    slots: Vec<u32>,
    /// The intervals that occur, each once.
    used: Vec<u32>,
    /// `[span + 1]` 1 more than the place among `used` of each interval that occurs, 0 for others.
    slot_of: Vec<u32>,
    /// `[used, width]` the rows of a table that are read.
    rows: Vec<f32>,
    /// `[queries, used]`.
    by_interval: Vec<f32>,
}

impl BlockIntervals {
    /// Finds the intervals of a block.
    pub fn find(&mut self, timed: &Timed<'_>, block: &Block<'_>) {
        let Self { slots, used, slot_of, .. } = self;
        used.drain(..).for_each(|interval| slot_of[interval as usize] = 0);
        slot_of.resize(timed.span as usize + 1, 0);
        slots.clear();
        let times = &timed.times[block.keys.clone()];
        for (query, place) in block.seen.iter().enumerate() {
            let own = times[*place];
            slots.extend(times[..=*place].iter().map(|time| {
                let interval = own.abs_diff(*time).min(timed.span);
                let slot = &mut slot_of[interval as usize];
                if *slot == 0 {
                    used.push(interval);
                    *slot = used.len() as u32;
                }
                *slot - 1
            }));
            slots.resize((query + 1) * times.len(), 0);
        }
    }

    fn gather(&mut self, columns: Columns<'_>) {
        self.rows.clear();
        self.used.iter().for_each(|interval| self.rows.extend_from_slice(&columns.table[columns.of(*interval)]));
    }

    /// Adds `scale` times the inner product of each query, a row of `x`, with the row of each pair's interval to `out`,
    /// `[queries, keys]`.
    pub fn add_products(&mut self, x: Operand<'_>, columns: Columns<'_>, scale: f32, queries: usize, out: &mut [f32]) {
        self.gather(columns);
        let Self { slots, used, rows, by_interval, .. } = self;
        by_interval.resize(queries * used.len(), 0.0);
        matmul(by_interval, false, scale, x, Operand::rows_of(rows, columns.width).transposed());
        let keys = out.len() / queries;
        let of_queries = by_interval.chunks_exact(used.len()).zip(slots.chunks_exact(keys));
        for (out, (products, slots)) in out.chunks_exact_mut(keys).zip(of_queries) {
            out.iter_mut().zip(slots).for_each(|(out, slot)| *out += products[*slot as usize]);
        }
    }

    /// Sums weights of pairs, `[queries, keys]`, by interval.
    fn sum(&mut self, weights: &[f32], queries: usize) {
        let Self { slots, used, by_interval, .. } = self;
        by_interval.clear();
        by_interval.resize(queries * used.len(), 0.0);
        let keys = weights.len() / queries;
        let of_queries = weights.chunks_exact(keys).zip(slots.chunks_exact(keys));
        for (sums, (weights, slots)) in by_interval.chunks_exact_mut(used.len()).zip(of_queries) {
            weights.iter().zip(slots).for_each(|(weight, slot)| sums[*slot as usize] += weight);
        }
    }

    /// Adds the rows of intervals, weighted by those of pairs, `[queries, keys]`, and by `scale`, to `out`, `[queries,
    /// width]`.
    pub fn add_rows(&mut self, weights: &[f32], columns: Columns<'_>, scale: f32, queries: usize, out: Target<'_>) {
        self.sum(weights, queries);
        self.gather(columns);
        let sums = Operand::rows_of(&self.by_interval, self.used.len());
        matmul_into(out, true, scale, sums, Operand::rows_of(&self.rows, columns.width));
    }

    /// Adds the gradient of the rows of a table, given weights of pairs and what is weighted, the rows of `x`. The
    /// columns are those of the gradient.
    pub fn add_gradient(
        &mut self,
        weights: &[f32],
        x: Operand<'_>,
        columns: Columns<'_>,
        scale: f32,
        to: &mut [f32],
        queries: usize,
    ) {
        self.sum(weights, queries);
        let Self { used, rows, by_interval, .. } = self;
        rows.resize(used.len() * columns.width, 0.0);
        matmul(rows, false, scale, Operand::rows_of(by_interval, used.len()).transposed(), x);
        for (interval, d) in used.iter().zip(rows.chunks_exact(columns.width)) {
            add(&mut to[columns.of(*interval)], d);
        }
    }
}
