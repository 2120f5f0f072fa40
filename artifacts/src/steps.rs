//! Cuts rows into steps of one size, whatever batches they arrive in.

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use parquet::errors::ParquetError;

/// Collects rows and hands them on in steps of a fixed number of rows.
pub(crate) struct Steps {
    rows: usize,
    /// The rows after the last whole step.
    waiting: Vec<RecordBatch>,
}

impl Steps {
    /// Steps of `rows` rows.
    pub fn of(rows: usize) -> Self {
        Self { rows, waiting: Vec::new() }
    }

    /// Rows of a step.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a batch, and calls `take` with each step that is now complete.
    pub fn push(
        &mut self,
        batch: RecordBatch,
        mut take: impl FnMut(&RecordBatch) -> Result<(), ParquetError>,
    ) -> Result<(), ParquetError> {
        let waiting = self.waiting.iter().map(RecordBatch::num_rows).sum::<usize>();
        // The first rows of the batch complete the step that waits.
        let mut at = if waiting == 0 { 0 } else { (self.rows - waiting).min(batch.num_rows()) };
        if at > 0 {
            self.waiting.push(batch.slice(0, at));
        }
        if waiting + at == self.rows
            && let Some(step) = self.rest()?
        {
            take(&step)?;
        }
        while batch.num_rows() - at >= self.rows {
            take(&batch.slice(at, self.rows))?;
            at += self.rows;
        }
        if at < batch.num_rows() {
            self.waiting.push(batch.slice(at, batch.num_rows() - at));
        }
        Ok(())
    }

    /// Takes the rows that wait, if there are any.
    pub fn rest(&mut self) -> Result<Option<RecordBatch>, ParquetError> {
        let waiting = std::mem::take(&mut self.waiting);
        let Some(first) = waiting.first() else { return Ok(None) };
        Ok(Some(concat_batches(&first.schema(), &waiting)?))
    }
}
