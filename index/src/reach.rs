//! What can be reached from where along links.

use crate::search::Eligibility;

/// Rows reached so far, and those whose links were not followed yet.
pub(crate) struct Reach {
    /// The rows reached.
    pub rows: Eligibility,
    open: Vec<u32>,
}

impl Reach {
    /// Only `entry` is reached.
    pub fn from(entry: u32, count: usize) -> Self {
        let mut reach = Self { rows: Eligibility::filter(count, |_| false), open: Vec::new() };
        reach.visit(entry);
        reach
    }

    /// Reaches a row.
    pub fn visit(&mut self, row: u32) {
        if self.rows.insert(row) {
            self.open.push(row);
        }
    }

    /// Makes links of all rows reached so far to be followed, as on entering another layer.
    pub fn reopen(&mut self) {
        self.open = (0..self.rows.count() as u32).filter(|row| self.rows.holds(*row)).collect();
    }

    /// Follows links until none is left.
    pub fn spread<'a>(&mut self, links: impl Fn(u32) -> &'a [u32]) {
        while let Some(row) = self.open.pop() {
            links(row).iter().for_each(|to| self.visit(*to));
        }
    }

    /// Rows not reached, in order.
    pub fn missed(&self) -> Vec<u32> {
        (0..self.rows.count() as u32).filter(|row| !self.rows.holds(*row)).collect()
    }
}
