//! The nodes of attention that reads the time between elements ([`crate::tower::intervals`]).
//!
//! Logits of intervals are gathered from the products of queries with all rows of the table, `[N, heads, L, span + 1]`,
//! and weights are summed by interval before they are multiplied with rows, so nothing has a vector for each pair.

use super::graph::{GraphBuilder, int, ints, text};
use super::messages::code;
use crate::tower::encoder::Encoder;

/// What attention to intervals reads, the same in all blocks.
pub(super) struct IntervalNodes {
    /// The interval of each pair, int32 `[N, heads, L, L]`, and `[N, heads, 1, L]` for the queries of the last column.
    pairs: [String; 2],
    /// The rows that are added to keys, `[heads, dim / heads, span + 1]`.
    keys: String,
    /// The rows that are added to values, `[heads, span + 1, dim / heads]`.
    values: String,
    /// What is added to keys and values for the positions of elements, `[N L, 2 dim]`.
    positions: String,
    /// `[1]`, the number of intervals.
    intervals: String,
}

/// Where elements are, as far as attention to intervals needs to know.
pub(super) struct Elements<'a> {
    /// Their times, int32 `[N, L]`.
    pub times: &'a str,
    /// Their positions, int64 `[N, L]`.
    pub places: &'a str,
}

impl IntervalNodes {
    /// Adds the nodes that all blocks use. None for an encoder without intervals.
    pub fn of(g: &mut GraphBuilder, elements: &Elements<'_>, encoder: &Encoder<String>, dim: usize) -> Option<Self> {
        let tables = encoder.intervals.as_ref()?;
        let integer = |g: &mut GraphBuilder, value: i64| g.integer(value, code::INT64);
        let [any, one, two, heads, head_width] =
            [-1, 1, 2, encoder.heads as i64, (dim / encoder.heads) as i64].map(|value| integer(g, value));
        // Intervals of all pairs, those of padding included, which no query sees.
        let queries = g.node("Unsqueeze", &[elements.times, &two], vec![]);
        let keys = g.node("Unsqueeze", &[elements.times, &one], vec![]);
        let differences = g.node("Sub", &[&queries, &keys], vec![]);
        let distances = g.node("Abs", &[&differences], vec![]);
        let span = g.integer(tables.span as i64, code::INT32);
        let all = g.node("Min", &[&distances, &span], vec![]);
        let last = g.node("Gather", &[&all, &any], vec![int("axis", 1)]);
        let by_head = g.node("Concat", &[&one, &heads, &one, &one], vec![int("axis", 0)]);
        let pairs = [all, last].map(|pairs| {
            let pairs = g.node("Unsqueeze", &[&pairs, &one], vec![]);
            g.node("Expand", &[&pairs, &by_head], vec![])
        });
        let split = g.node("Concat", &[&any, &heads, &head_width], vec![int("axis", 0)]);
        let mut table = |table: &str, order: [i64; 3]| {
            let rows = g.node("Reshape", &[table, &split], vec![]);
            g.node("Transpose", &[&rows], vec![ints("perm", &order)])
        };
        let (keys, values) = (table(&tables.keys, [1, 2, 0]), table(&tables.values, [1, 0, 2]));
        let of_elements = [&encoder.positions, &tables.value_positions]
            .map(|positions| g.node("Gather", &[positions, elements.places], vec![int("axis", 0)]));
        let positions = g.node("Concat", &[&of_elements[0], &of_elements[1]], vec![int("axis", 2)]);
        let both = integer(g, 2 * dim as i64);
        let flat = g.node("Concat", &[&any, &both], vec![int("axis", 0)]);
        let positions = g.node("Reshape", &[&positions, &flat], vec![]);
        let intervals = integer(g, tables.span as i64 + 1);
        Some(Self { pairs, keys, values, positions, intervals })
    }

    /// Keys and values with the rows of positions, `[N L, 2 dim]`.
    pub fn placed(&self, g: &mut GraphBuilder, key_value: &str) -> String {
        g.node("Add", &[key_value, &self.positions], vec![])
    }

    /// Adds the logits of intervals to scores, given queries, `[N, heads, _, dim / heads]`, of the last column or of all.
    pub fn add_logits(&self, g: &mut GraphBuilder, query: &str, is_last: bool, scores: &str) -> String {
        let products = g.node("MatMul", &[query, &self.keys], vec![]);
        let pairs = &self.pairs[usize::from(is_last)];
        let logits = g.node("GatherElements", &[&products, pairs], vec![int("axis", 3)]);
        g.node("Add", &[scores, &logits], vec![])
    }

    /// Adds the weighted rows of intervals to means, given weights, `[N, heads, _, L]`, of the last column or of all.
    pub fn add_rows(&self, g: &mut GraphBuilder, weights: &str, is_last: bool, means: &str) -> String {
        let queries = g.node("Shape", &[weights], vec![int("end", 3)]);
        let shape = g.node("Concat", &[&queries, &self.intervals], vec![int("axis", 0)]);
        let zeros = g.node("ConstantOfShape", &[&shape], vec![]);
        let attributes = vec![int("axis", 3), text("reduction", "add")];
        let pairs = &self.pairs[usize::from(is_last)];
        let sums = g.node("ScatterElements", &[&zeros, pairs, weights], attributes);
        let rows = g.node("MatMul", &[&sums, &self.values], vec![]);
        g.node("Add", &[means, &rows], vec![])
    }
}
