//! `twotower watch`.

use super::job::LimitOpts;
use super::report::{say_json_line, say_lines, table, utc};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::shard_progress::{ShardRecord, ShardState};
use twotower_pipeline::run::watched::{WatchedRun, WatchedStage, look_at};

/// Options of `watch`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower watch runs/2026-01-31
  twotower watch runs/2026-01-31 --once --json
Reads the run's folder alone, from any machine that has it. A part is done when
its manifest is there; it is lost when its process has ended without a word, or
was silent for two minutes on another machine. Parts not begun may be waiting in
a shard at work. It ends when the items of all users are there.")]
pub struct Opts {
    /// The run's folder.
    #[arg(default_value = "run", env = "TWOTOWER_RUN", value_name = "RUN")]
    run: PathBuf,
    /// Look once.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// Print JSON: a line for each look.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    let run = RunDir::existing("watch", &opts.run)?;
    let cancel = LimitOpts { memory: None, stall_timeout: "0".into() }.cancel()?;
    loop {
        let seen = look_at(&run);
        match opts.json {
            true => say_json_line(&json!(seen)),
            false => print(&seen),
        }
        if opts.once || seen.recalled {
            return Ok(());
        }
        let until = Instant::now() + Duration::from_secs(opts.interval);
        while Instant::now() < until {
            cancel.check("watch")?;
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn print(seen: &WatchedRun) {
    let left = seen.seconds_left.map_or(String::new(), |left| format!(", {} left at this rate", time(left)));
    say!("{} at {}{left}", seen.run, utc(seen.at));
    let rows: Vec<Vec<String>> = seen.stages.iter().map(row).collect();
    say_lines(table(
        &["stage", "parts", "done", "running", "failed", "lost", "missing", "rows", "rows/s", "left"],
        &rows,
    ));
    for stage in &seen.stages {
        stage.shards.iter().for_each(|record| say!("{}", line(stage, record, seen.at)));
        if stage.done > 0 && !stage.missing.is_empty() && stage.shards.is_empty() {
            say!("{}: missing: {}", stage.stage.name(), ranges(&stage.missing));
        }
    }
}

fn row(stage: &WatchedStage) -> Vec<String> {
    let of = |state: ShardState| stage.shards.iter().filter(|record| record.state == state).count();
    let [running, failed, lost] =
        [ShardState::Running, ShardState::Failed, ShardState::Lost].map(|state| number(of(state) as u64));
    let rows = if stage.rows == 0 { "-".to_string() } else { format!("{}/{}", stage.rows_done, stage.rows) };
    vec![
        stage.stage.name().to_string(),
        number(stage.parts.into()),
        number(stage.done.into()),
        running,
        failed,
        lost,
        number(stage.missing.len() as u64),
        rows,
        number(stage.rows_per_second.round() as u64),
        stage.seconds_left.map_or("-".to_string(), time),
    ]
}

fn number(of: u64) -> String {
    if of == 0 { "-".to_string() } else { of.to_string() }
}

fn line(stage: &WatchedStage, record: &ShardRecord, now: u64) -> String {
    let ShardRecord { shard, shards, rows_done, rows, host, pid, updated, rows_per_second, error, .. } = record;
    let ago = time(now.saturating_sub(*updated) as f64);
    let what = match record.state {
        ShardState::Running => {
            format!("running, {rows_done} of {rows} rows, {rows_per_second:.0}/s, process {pid} on {host}")
        }
        ShardState::Failed => format!("failed {ago} ago on {host}: {}", error.as_deref().unwrap_or("no reason given")),
        ShardState::Lost => format!("lost: process {pid} on {host} has ended or is silent, last word {ago} ago"),
    };
    format!("{} {shard}/{shards}: {what}", stage.stage.name())
}

/// Seconds as people say them.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Numbers in order, those that follow each other as ranges.
fn ranges(numbers: &[u32]) -> String {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => found.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    found.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_told_as_ranges_and_times_in_their_units() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2, 5, 7-8");
        assert_eq!(ranges(&[]), "");
        assert_eq!([59.6, 150.0, 7200.0].map(time), ["60 s", "2 min", "2.0 h"]);
    }
}
