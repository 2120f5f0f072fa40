//! A telecom-like data set of any size: users, items and the interactions of 5% of the users.
//!
//! Interactions are drawn from `softmax(popularity + taste * u . v)`. The latent vectors u and v are sums of
//! vectors of the feature values, numeric parts and an individual part. So features predict interactions, and the
//! best possible recall is known ([`RecallCeiling`]).
//!
//! Everything is drawn in chunks of 65,536 users. Each column of each chunk has a generator of its
//! own, started from (seed, column, chunk), so the bytes do not depend on the number of threads, and
//! memory (about 20 MiB a thread) does not depend on the number of users. Two data sets of one seed
//! and catalogue agree on the users they share.
//!
//! ```text
//! DIR/users/part-00000.parquet …         about 1M rows a file, row groups of 131,072
//! DIR/interactions/part-00000.parquet …  user_id, product_id, ts; the buyers of the same part of users
//! DIR/items.parquet
//! DIR/meta.json                          settings and report; written last
//! ```

mod catalogue;
mod choice;
mod columns;
mod elementary;
mod error;
mod folder;
mod oracle;
mod parts;
mod population;
mod random;

pub use error::SynthError;
pub use folder::read_report;
pub use oracle::RecallCeiling;

use arrow_array::{ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use catalogue::Catalogue;
use columns::{dictionary, dictionary_type};
use oracle::{EVALUATED_CHUNKS, Observations};
use parts::PartWriter;
use population::{CHUNK, Population};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// New users of a day, as a share of the users of day 0.
const GROWTH_PERCENT: u64 = 1;

/// What to generate. `threads` and `force` do not change the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynthConfig {
    /// Users of day 0, 1 to 900 million.
    pub users: u64,
    /// Items, 1 to 1 million. Time grows with buyers times items.
    pub items: u32,
    /// The same seed gives the same bytes, on every machine.
    pub seed: u64,
    /// Day of the users table, 0 to 10. Each day adds 1% of new users at the end, and turns 1% of
    /// each categorical column to null and 1% of those with many values to values that day 0 does
    /// not have. Interactions of day 0's users stay as they are.
    pub day: u32,
    /// Chunks of 65,536 users per file, 1 to 64.
    pub chunks_per_file: u32,
    /// Worker threads. 0 is one per core.
    #[serde(skip)]
    pub threads: usize,
    /// Whether the folder's content is replaced.
    #[serde(skip)]
    pub force: bool,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self { users: 200_000, items: 2000, seed: 1, day: 0, chunks_per_file: 16, threads: 0, force: false }
    }
}

impl SynthConfig {
    fn check(&self) -> Result<(), SynthError> {
        for (field, found, least, most) in [
            ("users", self.users, 1, 900_000_000),
            ("items", u64::from(self.items), 1, 1_000_000),
            ("day", u64::from(self.day), 0, 10),
            ("chunks_per_file", u64::from(self.chunks_per_file), 1, 64),
            ("threads", self.threads as u64, 0, 1024),
        ] {
            if !(least..=most).contains(&found) {
                return Err(SynthError::OutOfRange { field, found, least, most });
            }
        }
        Ok(())
    }

    /// Users of the chosen day.
    fn users_of_day(&self) -> u64 {
        self.users + self.users * u64::from(self.day) * GROWTH_PERCENT / 100
    }
}

/// The report of a generated data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SynthReport {
    /// Rows of the users table.
    pub users: u64,
    /// Rows of the items table.
    pub items: u64,
    /// Rows of the interactions table.
    pub interactions: u64,
    /// Bytes of all Parquet files.
    pub bytes: u64,
    /// The recall that a model can reach, and that of popularity.
    pub ceiling: RecallCeiling,
    /// Whether a complete data set of the same settings was found and nothing was written.
    #[serde(skip)]
    pub reused: bool,
}

/// What the generation of all parts shares.
struct Generator<'a> {
    config: &'a SynthConfig,
    dir: &'a Path,
    catalogue: Catalogue,
    population: Population,
}

/// The sums of one part, which are merged in the order of parts.
#[derive(Default)]
struct PartSums {
    interactions: u64,
    bytes: u64,
    observations: Observations,
}

/// Generates the data set, or reuses a complete one of the same settings; see the crate's page for the files.
///
/// `progress` is called with the number of users written so far, from any thread, never two at once.
/// Every file appears under its name only when it is complete, and `meta.json` after all others.
///
/// # Memory
/// About 20 MiB a thread, plus 300 bytes an item.
///
/// # Errors
/// [`SynthError::OutOfRange`] for a size, [`SynthError::Occupied`] when the folder holds something
/// else and `force` is off, and failing I/O.
pub fn generate(
    config: &SynthConfig,
    dir: &Path,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<SynthReport, SynthError> {
    config.check()?;
    if !config.force
        && let Some(report) = folder::find_complete(dir, config)?
    {
        tracing::info!(dir = %dir.display(), "reusing the synthetic data of the same settings");
        return Ok(SynthReport { reused: true, ..report });
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(config.threads)
        .build()
        .map_err(|source| SynthError::Threads { threads: config.threads, source })?;
    folder::begin(dir, config)?;
    let report = pool.install(|| write_tables(config, dir, progress))?;
    folder::finish(dir, config, &report)?;
    Ok(report)
}

fn write_tables(
    config: &SynthConfig,
    dir: &Path,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<SynthReport, SynthError> {
    let generator = Generator {
        config,
        dir,
        catalogue: Catalogue::new(config.seed, config.items as usize),
        population: Population::new(config.seed, config.day),
    };
    let users = config.users_of_day();
    let mut items = PartWriter::create(&dir.join(folder::ITEMS), Catalogue::schema())?;
    items.write(generator.catalogue.columns.clone())?;
    let mut bytes = items.finish()?;

    let progress = Mutex::new((0u64, progress));
    let written = |rows: u64| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.0 += rows;
        let total = progress.0;
        (progress.1)(total);
    };
    let parts = users.div_ceil(CHUNK * u64::from(config.chunks_per_file)) as u32;
    // Threads take one part at a time, since with runs of parts a thread would be idle at the end.
    let sums: Vec<PartSums> = (0..parts)
        .into_par_iter()
        .with_max_len(1)
        .map(|part| generator.write_part(u64::from(part), &written))
        .collect::<Result<_, _>>()?;

    let mut total = PartSums::default();
    for part in sums {
        total.interactions += part.interactions;
        total.bytes += part.bytes;
        total.observations.merge(part.observations);
    }
    bytes += total.bytes;
    Ok(SynthReport {
        users,
        items: u64::from(config.items),
        interactions: total.interactions,
        bytes,
        ceiling: total.observations.finish(),
        reused: false,
    })
}

fn interactions_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("product_id", dictionary_type(), false),
        Field::new("ts", DataType::Int64, false),
    ]))
}

impl Generator<'_> {
    fn write_part(&self, part: u64, written: &(impl Fn(u64) + Sync)) -> Result<PartSums, SynthError> {
        let chunks_per_file = u64::from(self.config.chunks_per_file);
        let rows_of_day = self.config.users_of_day();
        let chunks = rows_of_day.div_ceil(CHUNK).min((part + 1) * chunks_per_file);
        let [users_path, interactions_path] = folder::TABLES.map(|table| folder::part(self.dir, table, part));
        let mut users_part = PartWriter::create(&users_path, Population::schema())?;
        let mut interactions_part = PartWriter::create(&interactions_path, interactions_schema())?;
        let mut sums = PartSums::default();
        for chunk in part * chunks_per_file..chunks {
            let rows = CHUNK.min(rows_of_day - chunk * CHUNK);
            self.write_chunk(chunk, rows as usize, &mut users_part, &mut interactions_part, &mut sums)?;
            written(rows);
        }
        sums.bytes = users_part.finish()? + interactions_part.finish()?;
        Ok(sums)
    }

    fn write_chunk(
        &self,
        chunk: u64,
        rows: usize,
        users_part: &mut PartWriter,
        interactions_part: &mut PartWriter,
        sums: &mut PartSums,
    ) -> Result<(), SynthError> {
        let mut users = self.population.draw(chunk, rows);
        let buyers = choice::buyers(self.config.seed, chunk, rows);
        let latents = self.population.latents(chunk, &users, &buyers);
        let observations = &mut sums.observations;
        let choices = choice::choose(self.config.seed, chunk, &self.catalogue, &buyers, &latents, |weights, items| {
            if chunk < EVALUATED_CHUNKS {
                observations.observe(weights, items);
            }
        });
        // Drift comes after the choices, so that they do not depend on the day.
        self.population.drift(chunk, &mut users);
        let columns = self.population.columns(chunk, &users);
        let ids = columns[0].as_any().downcast_ref::<StringArray>();
        let ids = ids.expect("the first column holds the user ids");
        let buyer_ids = choices.users.iter().map(|row| ids.value(*row as usize));
        let items: Vec<i32> = choices.items.iter().map(|item| *item as i32).collect();
        let interactions: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(buyer_ids)),
            dictionary(&items, &self.catalogue.ids),
            Arc::new(Int64Array::from(choices.times)),
        ];
        sums.interactions += choices.items.len() as u64;
        users_part.write(columns)?;
        interactions_part.write(interactions)
    }
}
