//! The timeline of a run: its manifest, its file, and the histories of the rows of a table of users.

use crate::error::PipelineError;
use crate::rows::columns::{BATCH_BYTES, BATCH_ROWS};
use crate::rows::source::Source;
use crate::run::details::TimelineDetails;
use crate::run::files::encoders as files;
use crate::run::manifests::{details, require};
use crate::timeline::builder::{EventRow, TimelineBuilder};
use crate::watch::cancel::Cancel;
use std::path::Path;
use twotower_artifacts::{
    ArtifactError, Clock, Detail, Fingerprint, Histories, Id, IdKind, Ids, Manifest, Timeline, TimelineInfo,
};
use twotower_tables::{ReadOptions, id_column_as};

/// A timeline whose users stand at the rows of a table.
#[derive(Debug)]
pub struct RunTimeline {
    timeline: Timeline,
    /// Fingerprint of the run's timeline. It stays the same when the users are brought to the rows of another table.
    fingerprint: Fingerprint,
    details: TimelineDetails,
}

/// The manifest of the timeline in an encoder folder.
///
/// # Errors
/// [`PipelineError::MissingInput`] where there is none, as in runs of earlier versions.
pub fn manifest(stage: &'static str, encoders: &Path) -> Result<Manifest, PipelineError> {
    require(stage, &encoders.join(files::TIMELINE_MANIFEST), "twotower encode-features")
}

impl RunTimeline {
    /// Opens the timeline in an encoder folder.
    ///
    /// # Errors
    /// A missing or damaged file; one that its manifest does not speak of.
    pub fn open(stage: &'static str, encoders: &Path) -> Result<Self, PipelineError> {
        let (manifest, path) = (manifest(stage, encoders)?, encoders.join(files::TIMELINE));
        let encoded = require(stage, &encoders.join(files::MANIFEST), "twotower encode-features")?;
        let timeline = Timeline::open(&path)?;
        let differs = |from: &str, expected: String, found: String| ArtifactError::Mismatch {
            what: path.display().to_string(),
            expected_from: format!("{from} names"),
            expected,
            found_from: "there is".into(),
            found,
            advice: "run `twotower encode-features --force`".into(),
        };
        if *timeline.fingerprint() != manifest.fingerprint {
            let (expected, found) = (manifest.fingerprint.to_string(), timeline.fingerprint().to_string());
            return Err(differs(files::TIMELINE_MANIFEST, expected, found).into());
        }
        // The encoded tables beside it must have been made from the same interactions.
        let hash = |manifest: &Manifest| {
            let entry = manifest.files.iter().find(|file| file.path == files::TIMELINE);
            entry.map_or("no timeline".to_string(), |file| file.blake3.clone())
        };
        if hash(&encoded) != hash(&manifest) {
            return Err(differs(files::MANIFEST, hash(&encoded), hash(&manifest)).into());
        }
        let details = details(stage, &manifest)?;
        Ok(Self { timeline, fingerprint: manifest.fingerprint, details })
    }

    /// The timeline.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Fingerprint of the run's timeline.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What its manifest says.
    pub fn details(&self) -> &TimelineDetails {
        &self.details
    }

    /// The same histories at the rows of another table, which has `rows` rows. `ids` gives it in stretches, each by its
    /// first row and its ids. The file lies in `dir`, without a name.
    ///
    /// # Errors
    /// Those of `ids`; I/O; a signal.
    pub fn at_rows_of(
        self,
        ids: impl Iterator<Item = Result<(u64, Ids), PipelineError>>,
        rows: u64,
        dir: &Path,
        stage: &'static str,
        cancel: &Cancel,
    ) -> Result<Self, PipelineError> {
        let info = self.timeline.info();
        let mut builder = TimelineBuilder::new(dir, self.timeline.events());
        let (mut found, mut position) = (Histories::default(), 0);
        for block in self.timeline.blocks() {
            cancel.check(stage)?;
            self.timeline.read(block, Detail::All, &mut found)?;
            for user in 0..found.len() {
                for event in found.events(user) {
                    let (item, time, weight) = (Some(found.items[event]), found.times[event], found.weights[event]);
                    let time = if info.clock == Clock::Order { 0 } else { time };
                    builder.add_event(&EventRow { user: found.identities[user], item, time, position, weight })?;
                    position += 1;
                }
            }
        }
        for stretch in ids {
            let (first, ids) = stretch?;
            for (id, row) in ids.iter().zip(first..) {
                builder.add_user(info.key.identity(id), row)?;
            }
        }
        let info = TimelineInfo { table_rows: rows, ..info.clone() };
        let timeline = builder.finish_unnamed(dir, info, || cancel.check(stage))?;
        Ok(Self { timeline, ..self })
    }

    /// As [`RunTimeline::at_rows_of`], for the rows of a source.
    ///
    /// # Errors
    /// As [`RunTimeline::at_rows_of`].
    pub fn at_rows(
        self,
        source: &Source,
        (id, kind): (&str, IdKind),
        dir: &Path,
        stage: &'static str,
        cancel: &Cancel,
    ) -> Result<Self, PipelineError> {
        let columns = [id.to_string()];
        let read = ReadOptions { columns: &columns, rows: 0..source.rows(), batch_rows: BATCH_ROWS };
        let batches = source.read(read, BATCH_BYTES)?.map(|batch| {
            let batch = batch?;
            Ok((batch.first_row, id_column_as(&batch, id, kind)?))
        });
        self.at_rows_of(batches, source.rows(), dir, stage, cancel)
    }

    /// Looks for the user at a row among histories that were read.
    ///
    /// # Errors
    /// [`PipelineError::Mismatch`] where another user stands there.
    pub fn find(&self, found: &Histories, row: u64, id: Id<'_>) -> Result<Option<usize>, PipelineError> {
        found.find(row, id, &self.timeline.info().key).map_err(|row| {
            PipelineError::Mismatch(format!(
                "{}: row {row} is not of the user `{id}`, who stands there in the table; run `twotower encode-features --force`",
                self.timeline.path().display()
            ))
        })
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> u64 {
        self.timeline.bytes()
    }
}
