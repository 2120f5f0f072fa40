//! The users on whom the recall of a graph is measured: some rows of the users table, embedded, and the items that
//! these users must not get.
//!
//! Which rows follows from the table's size and a seed alone, and they are embedded anew even where vectors of users
//! are stored. So every shard, on whatever machine and in whatever order, measures the same users.

use super::users::RawUsers;
use crate::config::RecallSettings;
use crate::error::PipelineError;
use crate::stages::Context;
use crate::timeline::exclusions::{Exclusion, Lookup, MatchCounts};
use std::ops::Range;
use twotower_artifacts::Ragged;
use twotower_index::{Eligibility, Exclusions, Request};
use twotower_models::rng::Rng;

/// Rows of a block. They lie side by side in the table, so that all of them cost little more to read than one.
const BLOCK_ROWS: u64 = 32;
/// Blocks with fewer rows between them are read in one go: passing over these rows costs as much as reading them.
const GAP: u64 = 8192;

/// Some users of the table.
pub struct SampledUsers {
    /// `[users, dim]`, unit rows.
    vectors: Vec<f32>,
    /// Items that each of them must not get.
    excluded: Ragged,
}

impl SampledUsers {
    /// Reads and embeds about `index.sample_queries` users: blocks of rows spread over the whole table, without those
    /// in quarantine.
    ///
    /// # Errors
    /// Those of reading and embedding rows, of looking up exclusions; a budget of memory that is too small; a signal.
    pub fn draw(
        context: &Context<RecallSettings>,
        users: &RawUsers,
        exclusion: &Exclusion,
    ) -> Result<Self, PipelineError> {
        let RawUsers { embedding, source } = users;
        let config = &context.config.index;
        let chosen = chosen_rows(source.rows(), config.sample_queries as u64, config.seed);
        let plan = context.plan(&embedding.needs("recall"))?;
        let mut sampled = Self { vectors: Vec::new(), excluded: Ragged { offsets: vec![0], ..Ragged::default() } };
        let (mut worker, mut lookup) = (embedding.worker(1)?, Lookup::default());
        for blocks in chosen.chunk_by(|a, b| b.start - a.end < GAP) {
            let rows = blocks[0].start..blocks[blocks.len() - 1].end;
            for batch in embedding.read(source, rows, &plan)? {
                context.cancel.check("recall")?;
                let batch = batch?;
                let first = batch.first_row;
                let inside = |row: u64| row.clamp(first, first + batch.batch.num_rows() as u64) - first;
                for block in blocks {
                    let rows = inside(block.start) as usize..inside(block.end) as usize;
                    if rows.is_empty() {
                        continue;
                    }
                    let embedded = worker.embed(&batch.slice(rows))?;
                    let excluded = &mut sampled.excluded;
                    exclusion.extend(
                        &embedded.ids,
                        &embedded.rows,
                        excluded,
                        &mut MatchCounts::default(),
                        &mut lookup,
                    )?;
                    sampled.vectors.extend_from_slice(&embedded.vectors);
                }
            }
        }
        drop(worker);
        // The stage opens one for each of its workers.
        embedding.close_engines();
        Ok(sampled)
    }

    /// The search that the stage makes for these users.
    pub fn request<'a>(&'a self, k: usize, eligible: &'a Eligibility) -> Request<'a> {
        Request { queries: &self.vectors, k, exclude: Exclusions::new(&self.excluded), eligible }
    }
}

/// About `wanted` of `rows` rows, ascending, or all rows where there are no more. The table is cut into equal
/// stretches, and one block is taken from each.
fn chosen_rows(rows: u64, wanted: u64, seed: u64) -> Vec<Range<u64>> {
    if rows <= wanted {
        return std::iter::once(0..rows).collect();
    }
    let blocks = wanted.div_ceil(BLOCK_ROWS);
    let block = |number: u64| {
        let start = |number: u64| (u128::from(rows) * u128::from(number) / u128::from(blocks)) as u64;
        let stretch = start(number)..start(number + 1);
        let length = BLOCK_ROWS.min(wanted).min(stretch.end - stretch.start);
        let room = stretch.end - stretch.start - length;
        let first = stretch.start + Rng::at(seed, &[number]).below(room as usize + 1) as u64;
        first..first + length
    };
    (0..blocks).map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_rows_are_spread_over_the_table_and_follow_from_its_size_and_the_seed() {
        for (rows, wanted) in
            [(0, 10), (5, 10), (10, 10), (11, 10), (40, 33), (4097, 4096), (20_000, 4096), (150_000_000, 4096)]
        {
            let chosen = chosen_rows(rows, wanted, 17);
            let count: u64 = chosen.iter().map(|block| block.end - block.start).sum();
            assert!(
                count >= rows.min(wanted) * 3 / 4 && count < wanted + BLOCK_ROWS,
                "{count} of {rows}, wanted {wanted}"
            );
            assert!(chosen.iter().all(|block| block.end <= rows), "{rows}, {wanted}: {chosen:?}");
            assert!(chosen.windows(2).all(|pair| pair[0].end <= pair[1].start), "{rows}, {wanted}: {chosen:?}");
            let longest = chosen.windows(2).map(|pair| pair[1].start - pair[0].end).max().unwrap_or(0);
            assert!(longest <= 2 * rows.div_ceil(wanted.div_ceil(BLOCK_ROWS)), "{rows}, {wanted}: {longest}");
            assert_eq!(chosen, chosen_rows(rows, wanted, 17));
        }
        assert_ne!(chosen_rows(20_000, 4096, 17), chosen_rows(20_000, 4096, 18));
    }
}
