//! How results are printed.

use serde_json::{Value, json};
use std::io::Write;
use twotower_pipeline::stage::Outcome;

/// Writes a line to standard output. Use `say!`.
pub fn say(line: std::fmt::Arguments<'_>) {
    write_out(|out| writeln!(out, "{line}"));
}

/// Writes to standard output; a reader that has gone away (`| head`) ends the process quietly.
pub fn write_out(write: impl FnOnce(&mut std::io::StdoutLock<'static>) -> std::io::Result<()>) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            eprintln!("error: write to standard output: {error}");
        }
        std::process::exit(if error.kind() == std::io::ErrorKind::BrokenPipe { 0 } else { 1 });
    }
}

/// The most memory that this process has held since it began, or since this was asked last, in MiB.
pub fn take_peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    // Where the kernel does not let it be reset, the next stage reports the larger of both.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    Some((kib / 1024.0).round())
}

/// One stage's result as a JSON object, with the most memory it held.
pub fn outcome_json(stage: &str, outcome: &Outcome, peak_rss_mib: Option<f64>) -> Value {
    json!({
        "stage": stage,
        "shard": outcome.part().map(|shard| shard.to_string()),
        "skipped": outcome.skipped,
        "rows": outcome.manifest.rows,
        "seconds": outcome.manifest.seconds,
        "peak_rss_mib": peak_rss_mib,
        "fingerprint": outcome.manifest.fingerprint,
        "warnings": outcome.manifest.warnings,
        "details": outcome.manifest.details,
    })
}

/// Prints one stage's result on standard output: JSON, or a line of rows and seconds.
pub fn print_outcome(stage: &str, outcome: &Outcome, as_json: bool) {
    if as_json {
        say!("{}", outcome_json(stage, outcome, take_peak_rss_mib()));
        return;
    }
    let rows: Vec<String> = outcome.manifest.rows.iter().map(|(name, n)| format!("{n} {name}")).collect();
    let how =
        if outcome.skipped { "current, skipped".to_string() } else { format!("{:.1} s", outcome.manifest.seconds) };
    let stage = outcome.part().map_or(stage.to_string(), |shard| format!("{stage} {shard}"));
    let peak = take_peak_rss_mib().map_or(String::new(), |mib| format!(", at most {mib} MiB"));
    say!("{stage}: {} ({how}{peak})", rows.join(", "));
}

/// A table with right-aligned numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].chars().count()).chain([header[c].chars().count()]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<&str>| -> String {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, width))| if c == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        cells.join("  ").trim_end().to_string()
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text.push('\n');
        text.push_str(&line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// A time in seconds since 1970 as `2026-01-31 03:12`, in UTC.
pub fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days from civil, reversed (Howard Hinnant): eras of 400 years that begin on 1 March.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_told_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_199, "2024-02-29 23:59"),
            (1_767_225_600, "2026-01-01 00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
