//! Finds the rows that can be reached along links.

use crate::search::Eligibility;

/// The rows reached so far, and those of them whose links are not followed yet.
pub(crate) struct Reach {
    /// The rows reached.
    pub rows: Eligibility,
    open: Vec<u32>,
}

impl Reach {
    /// Starts with only `entry` reached.
    pub fn from(entry: u32, count: usize) -> Self {
        let mut reach = Self { rows: Eligibility::filter(count, |_| false), open: Vec::new() };
        reach.visit(entry);
        reach
    }

    /// Marks a row as reached.
    pub fn visit(&mut self, row: u32) {
        if self.rows.insert(row) {
            self.open.push(row);
        }
    }

    /// Marks the links of all reached rows as not followed, for another layer.
    pub fn reopen(&mut self) {
        self.open = (0..self.rows.count() as u32).filter(|row| self.rows.holds(*row)).collect();
    }

    /// Follows all links.
    pub fn spread<'a>(&mut self, links: impl Fn(u32) -> &'a [u32]) {
        while let Some(row) = self.open.pop() {
            links(row).iter().for_each(|to| self.visit(*to));
        }
    }

    /// The rows that are not reached, in order.
    pub fn missed(&self) -> Vec<u32> {
        (0..self.rows.count() as u32).filter(|row| !self.rows.holds(*row)).collect()
    }
}
