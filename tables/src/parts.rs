//! Parts of a table, for threads that work on a part each.

use crate::error::TableError;
use crate::reader::TableReader;
use crate::table::TableBatch;

/// A stretch of rows; iterating over it gives its batches in order.
pub struct TablePart(Rows);

enum Rows {
    /// Read by whoever iterates.
    Unread(Box<TableReader>),
    /// Read already.
    Read(std::vec::IntoIter<TableBatch>),
}

impl Iterator for TablePart {
    type Item = Result<TableBatch, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Rows::Unread(reader) => reader.next(),
            Rows::Read(batches) => batches.next().map(Ok),
        }
    }
}

impl From<Vec<TableBatch>> for TablePart {
    /// A part of rows that are held already.
    fn from(batches: Vec<TableBatch>) -> Self {
        Self(Rows::Read(batches.into_iter()))
    }
}

/// Stream of [`crate::Table::parts`].
pub struct TableParts {
    reader: TableReader,
    part_rows: u64,
    /// Whether the rows must be read one after another.
    in_order: bool,
}

impl TableParts {
    pub(crate) fn new(reader: TableReader, part_rows: u64, in_order: bool) -> Self {
        Self { reader, part_rows, in_order }
    }
}

impl Iterator for TableParts {
    type Item = Result<TablePart, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.in_order {
            return Some(self.reader.next()?.map(|batch| vec![batch].into()));
        }
        let rows = &mut self.reader.rows;
        if rows.start >= rows.end {
            return None;
        }
        // The last parts are half as large, so that threads run out of work at about the same time.
        let is_last = rows.end - rows.start <= 2 * self.part_rows;
        let part_rows = if is_last { self.part_rows.div_ceil(2) } else { self.part_rows };
        let end = rows.end.min(rows.start.saturating_add(part_rows));
        let part = rows.start..end;
        rows.start = end;
        Some(Ok(TablePart(Rows::Unread(Box::new(self.reader.of_rows(part))))))
    }
}
