//! The part of an encoder that reads the time between elements (TiSASRec; Li, Wang and McAuley, WSDM 2020, sections 3.2
//! to 3.4).
//!
//! The interval R of elements a and b is the difference of their times on a scale ([`twotower_artifacts::Intervals`]),
//! cut to a span. With queries q, keys k and values v of a block, p the row of an element's position, and r that of an
//! interval, the weight of b for a is the softmax over b of `q_a (k_b + p^K_b + r^K_R) / √d`, and the result the mean of
//! `v_b + p^V_b + r^V_R` by these weights. All blocks share the tables p and r; positions are not added to the input.
//!
//! Departures from the paper: an interval is the difference of two rounded times, as in the authors' code, where the
//! paper's text rounds the difference; d is the width of a head, as in the authors' code; the personal scale is that of
//! the history which the tower is given, and not of all that the user ever did, so that a vector depends on the history
//! alone, and training at a position gives what the tower gives to the history that ends there; dropout of the tables
//! is drawn for their rows once in a chunk of some hundred elements, and not for each pair of elements anew.

use super::Parameter;
use super::encoder::MapWeight;

/// Tables that are added to keys and values. The positions that are added to keys are those of the encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct IntervalTables<W = super::Matrix> {
    /// The longest interval.
    pub span: usize,
    /// `[max_len, dim]`, the oldest element's first: what is added to values.
    pub value_positions: W,
    /// `[span + 1, dim]`, by interval: what is added to keys.
    pub keys: W,
    /// `[span + 1, dim]`, by interval: what is added to values.
    pub values: W,
}

/// The positions that are added to values.
const VALUE_POSITIONS: &str = "value_positions";
/// The intervals that are added to keys.
const KEYS: &str = "interval_keys";
/// The intervals that are added to values.
const VALUES: &str = "interval_values";

impl<W> IntervalTables<W> {
    /// The same tables with their weights mapped.
    ///
    /// # Errors
    /// The first error of `map`.
    pub(super) fn try_map<'a, V, E>(&'a self, map: MapWeight<'_, 'a, W, V, E>) -> Result<IntervalTables<V>, E> {
        let table = |name| Parameter { name, rank: 2, block: None };
        Ok(IntervalTables {
            span: self.span,
            value_positions: map(table(VALUE_POSITIONS), &self.value_positions)?,
            keys: map(table(KEYS), &self.keys)?,
            values: map(table(VALUES), &self.values)?,
        })
    }
}

/// The number of rows of a table of this name, if it is one of these tables.
pub(super) fn rows(name: &str, max_len: usize, span: Option<u32>) -> Option<usize> {
    match name {
        VALUE_POSITIONS => Some(max_len),
        KEYS | VALUES => Some(span.map_or(0, |span| span as usize + 1)),
        _ => None,
    }
}
