//! Raw rows of users or items as the stages after `encode-features` read them: without those in quarantine.

use crate::error::PipelineError;
use crate::rows::quarantine::Quarantine;
use crate::run::names::{inputs, tables};
use crate::stages::encoded::EncoderFolder;
use std::ops::Range;
use twotower_artifacts::{Fingerprint, Side};
use twotower_tables::{ReadOptions, Table, TableBatch, TableSpec};

/// A table of raw rows, some of which may be left out.
pub struct Source {
    table: Table,
    rows: u64,
    /// Whether it is the side's table that was encoded.
    is_encoded: bool,
    quarantine: Quarantine,
}

impl Source {
    /// A table of a side's rows. If it is the one that `encode-features` has read, the rows that it put into quarantine
    /// are left out; in any other table a row that cannot be used is an error.
    ///
    /// # Errors
    /// A table that cannot be read or has no rows; a damaged quarantine.
    pub fn open(encoded: &EncoderFolder, side: Side, spec: &TableSpec) -> Result<Self, PipelineError> {
        let mut table = Table::open(tables::of(side), spec)?;
        let mut quarantine = Quarantine::default();
        let is_encoded = encoded.manifest.inputs.get(tables::of(side)) == Some(&table.fingerprint());
        if is_encoded {
            quarantine = Quarantine::load(&encoded.dir, &encoded.manifest, side)?;
            table = table.leniently();
        }
        let rows = table.require_rows()?;
        Ok(Self { table, rows, is_encoded, quarantine })
    }

    /// Rows of the table.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether its rows are those that were encoded.
    pub fn is_encoded(&self) -> bool {
        self.is_encoded
    }

    /// Names and fingerprints of what is read.
    pub fn inputs(&self) -> impl Iterator<Item = (&'static str, Fingerprint)> {
        let quarantine = self.quarantine.fingerprint().map(|fingerprint| (inputs::QUARANTINE, fingerprint));
        [(inputs::TABLE, self.table.fingerprint())].into_iter().chain(quarantine)
    }

    /// Streams all rows but those that are left out.
    ///
    /// # Errors
    /// As [`Table::read_within`].
    pub fn read(
        &self,
        options: ReadOptions<'_>,
        batch_bytes: usize,
    ) -> Result<impl Iterator<Item = Result<TableBatch, PipelineError>> + Send + use<>, PipelineError> {
        Ok(self.quarantine.filter(self.table.read_within(options, batch_bytes)?))
    }

    /// As [`Quarantine::account`], for this table.
    ///
    /// # Errors
    /// As [`Quarantine::account`].
    pub fn account(&self, range: &Range<u64>, written: u64) -> Result<u64, PipelineError> {
        self.quarantine.account(range, written).map_err(|e| e.within(self.table.name()))
    }
}
