//! What is reported of a stage: medians of its runs, as JSON and as a row of a table.

use super::stages::{Shape, Stage, Task};
use serde_json::{Value, json};
use std::time::Duration;

/// One run of a stage.
#[derive(Debug, Clone)]
pub struct Run {
    /// Rows worked on, each pass counted.
    pub rows: u64,
    /// Wall time of the whole process, or of the loop alone for a bare loop.
    pub seconds: f64,
    /// Time of all threads; only of a whole process.
    pub cpu_seconds: Option<f64>,
    /// Largest resident set of the process, in MiB.
    pub peak_rss_mib: Option<f64>,
    /// Bytes read.
    pub bytes: Option<u64>,
    /// Floating point operations, of a loop that counts its own.
    pub flops: Option<f64>,
    /// Threads, of a loop that chooses its own.
    pub threads: Option<u64>,
}

/// The runs of a stage.
#[derive(Debug, Default)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// Adds a run.
    pub fn push(&mut self, run: Run) {
        self.0.push(run);
    }

    /// Time of all runs.
    pub fn total(&self) -> Duration {
        Duration::from_secs_f64(self.0.iter().map(|run| run.seconds).sum())
    }
}

/// Header of the table.
pub const COLUMNS: [&str; 10] =
    ["stage", "engine", "rows", "seconds", "rows/s", "GFLOP/s", "of peak", "MiB/s", "of read", "RSS MiB"];

/// The figures of one stage and engine.
#[derive(Debug)]
pub struct Figures {
    stage: &'static str,
    engine: Option<&'static str>,
    repeats: usize,
    rows: u64,
    seconds: f64,
    rows_per_s: f64,
    cpu_seconds: Option<f64>,
    gflops: Option<f64>,
    peak_fraction: Option<f64>,
    bytes_per_s: Option<f64>,
    bandwidth_fraction: Option<f64>,
    peak_rss_mib: Option<f64>,
    threads: Option<u64>,
}

impl Figures {
    /// The figures of all stages that were measured, in order, held against the machine's peaks among them.
    pub fn of<'a>(measured: impl Iterator<Item = (&'a Task, &'a Runs)>, shape: &Shape) -> Vec<Self> {
        let measured = measured.filter(|(_, runs)| !runs.0.is_empty());
        let mut all: Vec<Self> = measured.map(|(task, runs)| Self::of_stage(task, &runs.0, shape)).collect();
        let yardstick = |name: &str, value: fn(&Self) -> Option<f64>| {
            all.iter().find(|figures| figures.stage == name).and_then(value)
        };
        let peak = yardstick(Stage::SGEMM, |f| f.gflops);
        let bandwidth = yardstick(Stage::READ, |f| f.bytes_per_s);
        for figures in &mut all {
            figures.peak_fraction = figures.gflops.zip(peak).map(|(value, peak)| value / peak);
            figures.bandwidth_fraction = figures.bytes_per_s.zip(bandwidth).map(|(value, peak)| value / peak);
        }
        all
    }

    fn of_stage(task: &Task, runs: &[Run], shape: &Shape) -> Self {
        let over = |value: &dyn Fn(&Run) -> Option<f64>| median(runs.iter().filter_map(value).collect());
        let per_row = (task.stage.flops)(shape);
        let flops = |run: &Run| run.flops.or((per_row > 0.0).then_some(per_row * run.rows as f64));
        Self {
            stage: task.stage.name,
            engine: task.stage.per_engine.then_some(task.engine),
            repeats: runs.len(),
            rows: runs[0].rows,
            seconds: over(&|run| Some(run.seconds)).unwrap_or(0.0),
            rows_per_s: over(&|run| Some(run.rows as f64 / run.seconds)).unwrap_or(0.0),
            cpu_seconds: over(&|run| run.cpu_seconds),
            gflops: over(&|run| Some(flops(run)? / run.seconds / 1e9)),
            peak_fraction: None,
            bytes_per_s: over(&|run| Some(run.bytes? as f64 / run.seconds)),
            bandwidth_fraction: None,
            peak_rss_mib: over(&|run| run.peak_rss_mib),
            threads: runs[0].threads,
        }
    }

    /// One JSON object; null where a figure does not apply.
    pub fn json(&self) -> Value {
        json!({
            "stage": self.stage,
            "engine": self.engine,
            "rows": self.rows,
            "seconds": self.seconds,
            "rows_per_s": self.rows_per_s,
            "gflops": self.gflops,
            "peak_fraction": self.peak_fraction,
            "bytes_per_s": self.bytes_per_s,
            "bandwidth_fraction": self.bandwidth_fraction,
            "peak_rss_mib": self.peak_rss_mib,
            "cpu_seconds": self.cpu_seconds,
            "threads": self.threads,
            "repeats": self.repeats,
        })
    }

    /// A row under [`COLUMNS`].
    pub fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        let percent = |value: Option<f64>| value.map_or("-".into(), |v| format!("{:.0}%", v * 100.0));
        vec![
            self.stage.to_string(),
            self.engine.unwrap_or("-").to_string(),
            self.rows.to_string(),
            format!("{:.3}", self.seconds),
            format!("{:.0}", self.rows_per_s),
            number(self.gflops, 1),
            percent(self.peak_fraction),
            number(self.bytes_per_s.map(|b| b / f64::from(1 << 20)), 1),
            percent(self.bandwidth_fraction),
            number(self.peak_rss_mib, 0),
        ]
    }
}

/// The middle value, or the mean of the two in the middle; none where there is no value.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
