//! Operators on several values a row.

use super::super::graph::{GraphBuilder, int};
use super::super::messages::code;
use super::scalars::{floor_div, select, to, whole};
use twotower_artifacts::schema::MISSING;
use twotower_artifacts::{Intervals, TickUnit};

/// A scalar of int64, `[]`.
fn scalar(g: &mut GraphBuilder, value: i64) -> String {
    g.constant(code::INT64, &[], value.to_le_bytes().to_vec())
}

/// The first `max_len` codes of each row that are not missing, as int32 `[N, L + 1]`; of a row that `is_null`, `[N, 1]`,
/// marks, one missing code. `is_there` says which of them count.
pub(super) fn kept(g: &mut GraphBuilder, codes: &str, is_there: Option<&str>, is_null: &str, max_len: u32) -> String {
    let missing = whole(g, i64::from(MISSING));
    let zero = whole(g, 0);
    let is_missing = g.node("Equal", &[codes, &missing], vec![]);
    let mut is_real = g.node("Not", &[&is_missing], vec![]);
    if let Some(is_there) = is_there {
        is_real = g.node("And", &[&is_real, is_there], vec![]);
    }
    let counted = to(g, &is_real, code::INT64);
    let axis = scalar(g, 1);
    let rank = g.node("CumSum", &[&counted, &axis], vec![]);
    let most = whole(g, i64::from(max_len));
    let is_early = g.node("LessOrEqual", &[&rank, &most], vec![]);
    let is_kept = g.node("And", &[&is_real, &is_early], vec![]);
    let codes = select(g, &is_kept, codes, &zero);
    // A column more, so that there is one at least.
    let of_null = select(g, is_null, &missing, &zero);
    let codes = g.node("Concat", &[&codes, &of_null], vec![int("axis", 1)]);
    to(g, &codes, code::INT32)
}

/// The newest elements of rows, in columns that end with the newest.
pub(super) struct History {
    /// Codes, int64 `[N, W]`, zero where there is none.
    pub codes: String,
    /// The column of each among the elements of its row, int64 `[N, W]`, 0 where there is none.
    columns: String,
    /// Which are there, `[N, W]`.
    is_there: String,
    /// Number of elements, int64 `[N, 1]`.
    length: String,
    /// `[1]`, the number of columns.
    width: String,
}

/// The newest `max_len` of codes `[N, L]`, of which `length`, `[N]`, are there.
pub(super) fn history(g: &mut GraphBuilder, codes: &str, length: &str, max_len: u32) -> History {
    let (zero, one, most) = (whole(g, 0), whole(g, 1), whole(g, i64::from(max_len)));
    let length = g.node("Unsqueeze", &[length, &one], vec![]);
    let columns = g.node("Shape", &[codes], vec![int("start", 1)]);
    let width = g.node("Min", &[&columns, &most], vec![]);
    let width = g.node("Max", &[&width, &one], vec![]);
    let last = g.node("Squeeze", &[&width], vec![]);
    let first = g.node("Neg", &[&last], vec![]);
    let (end, step) = (scalar(g, 0), scalar(g, 1));
    let before_end = g.node("Range", &[&first, &end, &step], vec![]);
    let columns = g.node("Add", &[&length, &before_end], vec![]);
    let is_there = g.node("GreaterOrEqual", &[&columns, &zero], vec![]);
    let columns = g.node("Max", &[&columns, &zero], vec![]);
    let codes = gathered(g, codes, &columns, &length);
    let codes = select(g, &is_there, &codes, &zero);
    History { codes, columns, is_there, length, width }
}

/// The elements at some columns. Rows get a column more, so that there is one at least.
fn gathered(g: &mut GraphBuilder, rows: &str, columns: &str, length: &str) -> String {
    let zeros = g.node("Sub", &[length, length], vec![]);
    let rows = g.node("Concat", &[rows, &zeros], vec![int("axis", 1)]);
    g.node("GatherElements", &[&rows, columns], vec![int("axis", 1)])
}

impl History {
    /// The times on the scale of intervals, as [`Intervals::scale`] gives them, int32 `[N, W]`. `times` are `[N, L]`.
    pub fn times(&self, g: &mut GraphBuilder, times: &str, intervals: Intervals, unit: TickUnit) -> String {
        let times = gathered(g, times, &self.columns, &self.length);
        let since_first = match intervals.scale.seconds() {
            Some(seconds) => floor_div(g, &times, seconds * unit.per_second()),
            None => self.gaps_since_first(g, &times),
        };
        let gaps = self.gaps(g, &since_first);
        let span = whole(g, i64::from(intervals.span));
        let gaps = g.node("Min", &[&gaps, &span], vec![]);
        let zeros = g.node("Sub", &[&self.length, &self.length], vec![]);
        let gaps = g.node("Concat", &[&zeros, &gaps], vec![int("axis", 1)]);
        let axis = scalar(g, 1);
        let scaled = g.node("CumSum", &[&gaps, &axis], vec![]);
        to(g, &scaled, code::INT32)
    }

    /// The differences of successive elements, `[N, W - 1]`, 0 where there is one element or none.
    fn gaps(&self, g: &mut GraphBuilder, x: &str) -> String {
        let (zero, one, axis) = (whole(g, 0), whole(g, 1), whole(g, 1));
        let before_last = whole(g, -1);
        let end = whole(g, i64::MAX);
        let later = g.node("Slice", &[x, &one, &end, &axis], vec![]);
        let earlier = g.node("Slice", &[x, &zero, &before_last, &axis], vec![]);
        let gaps = g.node("Sub", &[&later, &earlier], vec![]);
        let is_there = g.node("Slice", &[&self.is_there, &zero, &before_last, &axis], vec![]);
        select(g, &is_there, &gaps, &zero)
    }

    /// The number of shortest gaps since the oldest element, rounded to the nearest, halves up.
    fn gaps_since_first(&self, g: &mut GraphBuilder, times: &str) -> String {
        let (zero, one, axis) = (whole(g, 0), whole(g, 1), whole(g, 1));
        let never = whole(g, i64::MAX);
        let gaps = self.gaps(g, times);
        let is_gap = g.node("Greater", &[&gaps, &zero], vec![]);
        let gaps = select(g, &is_gap, &gaps, &never);
        // A column more, so that there is one at least.
        let zeros = g.node("Sub", &[&self.length, &self.length], vec![]);
        let nevers = g.node("Add", &[&zeros, &never], vec![]);
        let gaps = g.node("Concat", &[&gaps, &nevers], vec![int("axis", 1)]);
        let gap = g.node("ReduceMin", &[&gaps, &axis], vec![int("keepdims", 1)]);
        let is_none = g.node("Equal", &[&gap, &never], vec![]);
        let gap = select(g, &is_none, &one, &gap);
        // The oldest stands as many columns before the end as there are elements.
        let first = g.node("Sub", &[&self.width, &self.length], vec![]);
        let first = g.node("Max", &[&first, &zero], vec![]);
        let last = g.node("Sub", &[&self.width, &one], vec![]);
        let first = g.node("Min", &[&first, &last], vec![]);
        let oldest = g.node("GatherElements", &[times, &first], vec![int("axis", 1)]);
        let since = g.node("Sub", &[times, &oldest], vec![]);
        let count = g.node("Div", &[&since, &gap], vec![]);
        let whole_gaps = g.node("Mul", &[&count, &gap], vec![]);
        let rest = g.node("Sub", &[&since, &whole_gaps], vec![]);
        let missing = g.node("Sub", &[&gap, &rest], vec![]);
        let is_up = g.node("GreaterOrEqual", &[&rest, &missing], vec![]);
        let up = to(g, &is_up, code::INT64);
        g.node("Add", &[&count, &up], vec![])
    }
}
