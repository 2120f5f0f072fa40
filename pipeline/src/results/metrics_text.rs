//! What a night did, in Prometheus' text form, for the textfile collector of node exporter.

use super::summary::Summary;
use crate::error::PipelineError;
use crate::run::details::CheckDetails;
use crate::run::dir::RunDir;
use crate::run::manifests::{details, require};
use crate::run::{Stage, files};
use crate::stages::Outcome;
use crate::stages::gates::verdict::Ruling;
use crate::watch::clock;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;
use twotower_artifacts::publish::publish_file;

/// A value of a label, in which what has a meaning there is escaped.
pub fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What one stage did.
#[derive(Debug, Default)]
struct StageFigures {
    seconds: f64,
    skipped: bool,
    rows: BTreeMap<String, u64>,
}

/// What a night has done so far.
#[derive(Debug, Default)]
pub struct NightMetrics {
    /// When it began, in seconds since 1970.
    began: u64,
    stages: BTreeMap<Stage, StageFigures>,
}

impl NightMetrics {
    /// A night that begins now.
    pub fn begin() -> Self {
        Self { began: clock::now(), stages: BTreeMap::new() }
    }

    /// Counts what a stage did, or one part of it.
    pub fn add(&mut self, stage: Stage, outcome: &Outcome) {
        let figures = self.stages.entry(stage).or_default();
        figures.skipped |= outcome.skipped;
        if !outcome.skipped {
            figures.seconds += outcome.manifest.seconds;
        }
        let parts = outcome.part().is_some();
        for (name, rows) in &outcome.manifest.rows {
            // Each part tells of the whole table.
            match parts && name != crate::run::names::rows::TABLE_ROWS {
                true => *figures.rows.entry(name.clone()).or_default() += rows,
                false => _ = figures.rows.insert(name.clone(), *rows),
            }
        }
    }

    /// Writes the file in one step: whoever reads it sees what it was, or what it is. A night that failed keeps the time of
    /// the last success that the file tells of.
    ///
    /// # Errors
    /// [`PipelineError::Artifact`] when it cannot be written.
    pub fn write(
        &self,
        path: &Path,
        run: &RunDir,
        exit_code: u8,
        summary: Option<&Summary>,
    ) -> Result<(), PipelineError> {
        let now = clock::now();
        let succeeded = match exit_code {
            0 => Some(now),
            _ => last_success(path),
        };
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.tell(&mut text, run, (now, exit_code, succeeded), summary);
        Ok(publish_file(path, |file| std::io::Write::write_all(file, text.as_bytes()))?)
    }

    fn tell(
        &self,
        out: &mut String,
        run: &RunDir,
        (now, exit_code, succeeded): (u64, u8, Option<u64>),
        summary: Option<&Summary>,
    ) -> fmt::Result {
        let gauge = |out: &mut String, name: &str, help: &str| {
            writeln!(out, "# HELP twotower_night_{name} {help}\n# TYPE twotower_night_{name} gauge")
        };
        gauge(out, "success", "Whether the last night ended well.")?;
        writeln!(out, "twotower_night_success {}", u8::from(exit_code == 0))?;
        gauge(out, "exit_code", "Exit code of the last night: 2 usage, 3 data, 4 mismatch, 5 gate.")?;
        writeln!(out, "twotower_night_exit_code {exit_code}")?;
        gauge(out, "end_timestamp_seconds", "When the last night ended.")?;
        writeln!(out, "twotower_night_end_timestamp_seconds {now}")?;
        gauge(out, "duration_seconds", "How long the last night took.")?;
        writeln!(out, "twotower_night_duration_seconds {}", now.saturating_sub(self.began))?;
        if let Some(at) = succeeded {
            gauge(out, "last_success_timestamp_seconds", "When a night ended well last.")?;
            writeln!(out, "{LAST_SUCCESS} {at}")?;
        }
        gauge(out, "run_info", "The run of the last night.")?;
        writeln!(out, "twotower_night_run_info{{run=\"{}\"}} 1", label(&run.name()))?;
        if !self.stages.is_empty() {
            gauge(out, "stage_seconds", "How long a stage worked; 0 where it was current.")?;
            for (stage, figures) in &self.stages {
                writeln!(out, "twotower_night_stage_seconds{{stage=\"{}\"}} {}", stage.name(), figures.seconds)?;
            }
            gauge(out, "stage_skipped", "Whether a stage, or a part of it, was current and skipped.")?;
            for (stage, figures) in &self.stages {
                let skipped = u8::from(figures.skipped);
                writeln!(out, "twotower_night_stage_skipped{{stage=\"{}\"}} {skipped}", stage.name())?;
            }
            gauge(out, "stage_rows", "Counts of a stage, by what it counts.")?;
            for (stage, figures) in &self.stages {
                for (what, rows) in &figures.rows {
                    let (stage, what) = (stage.name(), label(what));
                    writeln!(out, "twotower_night_stage_rows{{stage=\"{stage}\",rows=\"{what}\"}} {rows}")?;
                }
            }
        }
        self.tell_gates(out, run, &gauge)?;
        let Some(metrics) = summary.and_then(|summary| summary.metrics.as_ref()) else { return Ok(()) };
        gauge(out, "metric", "Metrics of the model and of baselines on the held-out interactions.")?;
        for (model, values) in &metrics.models {
            for (name, value) in values {
                let (model, name) = (label(model), label(name));
                writeln!(out, "twotower_night_metric{{model=\"{model}\",metric=\"{name}\"}} {value}")?;
            }
        }
        Ok(())
    }

    /// What the gates said of this night, if they were asked.
    fn tell_gates(
        &self,
        out: &mut String,
        run: &RunDir,
        gauge: &impl Fn(&mut String, &str, &str) -> fmt::Result,
    ) -> fmt::Result {
        let asked = require("run", &run.gates().join(files::gates::MANIFEST), "twotower publish");
        let told = asked.and_then(|manifest| details::<CheckDetails>("run", &manifest));
        let Some(details) = told.ok().filter(|told| told.checked_at.is_some_and(|at| at >= self.began)) else {
            return Ok(());
        };
        let Some(verdicts) = details.gates else { return Ok(()) };
        gauge(out, "gate_failed", "Whether a gate failed; only gates that had something to measure.")?;
        for verdict in &verdicts {
            let failed = match verdict.ruling {
                Ruling::Passed => 0,
                Ruling::Failed | Ruling::Accepted => 1,
                Ruling::NotApplicable | Ruling::Off => continue,
            };
            writeln!(out, "twotower_night_gate_failed{{gate=\"{}\"}} {failed}", verdict.gate)?;
        }
        gauge(out, "gate_accepted", "Whether a failed gate was accepted by the operator.")?;
        for verdict in verdicts.iter().filter(|verdict| matches!(verdict.ruling, Ruling::Failed | Ruling::Accepted)) {
            let accepted = u8::from(verdict.ruling == Ruling::Accepted);
            writeln!(out, "twotower_night_gate_accepted{{gate=\"{}\"}} {accepted}", verdict.gate)?;
        }
        Ok(())
    }
}

/// Name of the time of the last success, which a later night reads back.
const LAST_SUCCESS: &str = "twotower_night_last_success_timestamp_seconds";

/// The time of the last success that a file of an earlier night tells of.
fn last_success(path: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(LAST_SUCCESS)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_keeps_to_its_line_and_quotes() {
        assert_eq!(label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }

    #[test]
    fn the_last_success_outlives_a_night_that_failed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, run) = (dir.path().join("night.prom"), RunDir::new(dir.path().join("runs/a\"b")));
        let write = |code| NightMetrics::begin().write(&file, &run, code, None).unwrap();
        let text = || std::fs::read_to_string(&file).unwrap();
        write(1);
        assert!(text().contains("twotower_night_success 0\n") && last_success(&file).is_none(), "{}", text());
        write(0);
        let at = last_success(&file).unwrap();
        write(5);
        assert_eq!(last_success(&file), Some(at));
        assert!(text().contains("twotower_night_exit_code 5\n") && text().contains("run=\"a\\\"b\""), "{}", text());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
