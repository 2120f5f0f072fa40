//! The rows of a first job's tables that a run will set aside, and the share of them that the job must allow for it.

use super::{Guess, SAMPLE_ROWS, Sampled};
use crate::config::{EncodeConfig, InteractionTable};
use crate::error::PipelineError;
use crate::rows::bad_rows::{readable_ids, sift};
use crate::rows::columns::read_batches;
use crate::timeline::interactions::bad_rows;
use crate::watch::cancel::Cancel;
use std::collections::HashSet;
use twotower_artifacts::keyed::hash_id;
use twotower_encoders::init::counted;
use twotower_tables::id_kind;

impl Sampled {
    /// How many ids the table has, of which one may stand in several rows.
    pub fn distinct(&self, id: &str) -> Result<usize, PipelineError> {
        let repeats =
            self.columns.iter().any(|(sample, _)| sample.name == id && sample.missing_and_repeated() != (0, 0));
        if !repeats {
            return Ok(self.table.rows()? as usize);
        }
        let mut ids = HashSet::new();
        let kind = twotower_tables::id_kind(&self.table, id)?;
        let table = self.table.leniently();
        for batch in read_batches("init", &table, &[id.to_string()], 0..u64::MAX, &Cancel::default())? {
            let (good, _) = sift(&batch?, id, |rows| readable_ids(rows, id, kind))?;
            good.iter().for_each(|(_, some)| ids.extend(some.iter().map(hash_id)));
        }
        Ok(ids.len())
    }
}

/// What a run does with bad rows.
const SET_ASIDE: &str = "the run leaves these rows out and writes them to `quarantine.jsonl`";

/// The share of bad rows that the job must allow, if it is more than the usual one.
#[derive(Debug, Default)]
pub struct Allowed(Option<f64>);

impl Allowed {
    /// The share, as far as it is not the usual one.
    pub fn share(&self) -> Option<f64> {
        self.0
    }

    /// Allows so many bad rows of a sample; returns the end of a sentence that says so.
    fn allow(&mut self, bad: u64, rows: u64) -> String {
        let usual = EncodeConfig::default().max_bad_rows;
        if bad as f64 <= (rows as f64 * usual).floor() {
            return String::new();
        }
        // Twice as many as the sample shows, in thousandths.
        let share = ((2000.0 * bad as f64 / rows as f64).ceil() / 1000.0).clamp(usual, 1.0);
        self.0 = Some(self.0.map_or(share, |other: f64| other.max(share)));
        format!(", for which `encode.max_bad_rows` is {share}")
    }

    /// Says which ids of users or items are missing or stand twice, as far as the sample shows.
    pub fn ids(&mut self, table: &Sampled, id: &str, guesses: &mut Vec<Guess>) {
        let Some(sample) = table.columns.iter().map(|(sample, _)| sample).find(|sample| sample.name == id) else {
            return;
        };
        let ((missing, repeated), rows) = (sample.missing_and_repeated(), sample.rows);
        let repeats = ["repeats the id of an earlier row", "repeat the id of an earlier row"];
        let parts = [counted(missing, "has no id", "have no id"), counted(repeated, repeats[0], repeats[1])];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            return;
        }
        let allowed = self.allow(missing + repeated, rows);
        let reason = format!("of {rows} rows {}: {SET_ASIDE}{allowed}", parts.join(" and "));
        guesses.push(Guess { about: format!("{}.{id}", table.name), reason });
    }

    /// Says how many interactions cannot be used, as far as their first rows show.
    pub fn interactions(
        &mut self,
        table: &Sampled,
        spec: &InteractionTable,
        ids: [(&Sampled, &str); 2],
        guesses: &mut Vec<Guess>,
    ) {
        let [users, items] = ids.map(|(of, id)| id_kind(&of.table, id));
        let found = users.and_then(|users| Ok((users, items?))).map_err(PipelineError::from);
        let reason = match found.and_then(|kinds| bad_rows(&table.table, spec, kinds, SAMPLE_ROWS)) {
            Ok((rows, bad)) => {
                let Some(first) = bad.first() else { return };
                let count = bad.len() as u64;
                let allowed = self.allow(count, rows);
                format!("{count} of {rows} rows cannot be used, such as {first}: {SET_ASIDE}{allowed}")
            }
            // The job is written all the same: whoever checks it may know which column is the right one.
            Err(error) => format!("a run will refuse them, unless the job is mended: {error}"),
        };
        guesses.push(Guess { about: table.name.to_string(), reason });
    }
}
