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
//!
//! With [`Layout::Exported`] the tables are CSV files as the systems of such a company export them, spoilt rows
//! included; there, 30% of the users have interactions.

mod catalogue;
mod choice;
mod columns;
mod elementary;
mod error;
mod exported;
mod folder;
mod oracle;
mod parts;
mod population;
mod random;
mod tables;

pub use error::SynthError;
pub use folder::read_report;
pub use oracle::RecallCeiling;

use catalogue::Catalogue;
use oracle::{EVALUATED_CHUNKS, Observations};
use population::{CHUNK, Population};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tables::{Part, Rows, World};

/// New users of a day, as a share of the users of day 0.
const GROWTH_PERCENT: u64 = 1;

/// The form of the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Parquet, clean.
    #[default]
    Parquet,
    /// CSV in GBK with Chinese column names, dates in two spellings, amounts with separators and currency signs, ids
    /// with leading zeros, and some rows without an id or twice.
    Exported,
}

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
    /// The form of the tables.
    #[serde(default)]
    pub layout: Layout,
    /// Worker threads. 0 is one per core.
    #[serde(skip)]
    pub threads: usize,
    /// Whether the folder's content is replaced.
    #[serde(skip)]
    pub force: bool,
}

impl Default for SynthConfig {
    fn default() -> Self {
        Self {
            users: 200_000,
            items: 2000,
            seed: 1,
            day: 0,
            chunks_per_file: 16,
            layout: Layout::Parquet,
            threads: 0,
            force: false,
        }
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
    /// Bytes of all tables.
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
    world: World,
}

/// The sums of one part, which are merged in the order of parts.
#[derive(Default)]
struct PartSums {
    rows: Rows,
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
    let world = World {
        seed: config.seed,
        layout: config.layout,
        catalogue: Catalogue::new(config.seed, config.items as usize),
        population: Population::new(config.seed, config.day),
    };
    let (items, mut bytes) = tables::write_items(&world, dir)?;
    let generator = Generator { config, dir, world };

    let progress = Mutex::new((0u64, progress));
    let written = |rows: u64| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.0 += rows;
        let total = progress.0;
        (progress.1)(total);
    };
    let parts = config.users_of_day().div_ceil(CHUNK * u64::from(config.chunks_per_file)) as u32;
    // Threads take one part at a time, since with runs of parts a thread would be idle at the end.
    let sums: Vec<PartSums> = (0..parts)
        .into_par_iter()
        .with_max_len(1)
        .map(|part| generator.write_part(u64::from(part), &written))
        .collect::<Result<_, _>>()?;

    let mut total = PartSums::default();
    for part in sums {
        total.rows.users += part.rows.users;
        total.rows.interactions += part.rows.interactions;
        total.bytes += part.bytes;
        total.observations.merge(part.observations);
    }
    bytes += total.bytes;
    Ok(SynthReport {
        users: total.rows.users,
        items,
        interactions: total.rows.interactions,
        bytes,
        ceiling: total.observations.finish(),
        reused: false,
    })
}

impl Generator<'_> {
    fn write_part(&self, part: u64, written: &(impl Fn(u64) + Sync)) -> Result<PartSums, SynthError> {
        let chunks_per_file = u64::from(self.config.chunks_per_file);
        let rows_of_day = self.config.users_of_day();
        let chunks = rows_of_day.div_ceil(CHUNK).min((part + 1) * chunks_per_file);
        let mut files = Part::create(&self.world, self.dir, part)?;
        let mut sums = PartSums::default();
        for chunk in part * chunks_per_file..chunks {
            let rows = CHUNK.min(rows_of_day - chunk * CHUNK);
            self.write_chunk(chunk, rows as usize, &mut files, &mut sums)?;
            written(rows);
        }
        sums.bytes = files.finish()?;
        Ok(sums)
    }

    fn write_chunk(&self, chunk: u64, rows: usize, files: &mut Part, sums: &mut PartSums) -> Result<(), SynthError> {
        let World { seed, layout, catalogue, population } = &self.world;
        let mut users = population.draw(chunk, rows);
        let buyers = choice::buyers(*seed, chunk, rows, layout.buyers());
        let latents = population.latents(chunk, &users, &buyers);
        let observations = &mut sums.observations;
        let choices = choice::choose(*seed, chunk, catalogue, &buyers, &latents, |weights, items| {
            if chunk < EVALUATED_CHUNKS {
                observations.observe(weights, items);
            }
        });
        // Drift comes after the choices, so that they do not depend on the day.
        population.drift(chunk, &mut users);
        let written = files.write(&self.world, chunk, &users, &choices)?;
        sums.rows.users += written.users;
        sums.rows.interactions += written.interactions;
        Ok(())
    }
}
