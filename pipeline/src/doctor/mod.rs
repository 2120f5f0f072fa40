//! `doctor`: whether a machine is fit for the night, and what to do where it is not.
//!
//! Every check looks at the machine itself: it opens the tables, loads the library, writes into the folder.

mod columns;
mod disk;
mod index;
mod machine;
mod zone;

use crate::config::{Config, Override};
use crate::run::RunOptions;
use crate::run::forecast::forecast;
use crate::run::names::tables::{INTERACTIONS, ITEMS, USERS};
use crate::stream::memory::{Memory, mib};
use crate::watch::clock;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use twotower_artifacts::Side;
use twotower_models::engine::{EngineKind, library};
use twotower_tables::{Table, TableSpec};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// The night may go well; look at it.
    Warning,
    /// The night will fail, or its result will not be what it seems.
    Problem,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Problem => "problem",
        })
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check.
    pub check: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing.
    pub advice: String,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, found: found.into(), advice: String::new() }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, status: Status::Warning, found: found.into(), advice: advice.into() }
    }

    fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, status: Status::Problem, found: found.into(), advice: advice.into() }
    }
}

/// What a machine is checked for.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// The job's file.
    pub config: PathBuf,
    /// Settings that differ from it.
    pub overrides: Vec<Override>,
    /// The run's folder, which need not exist yet.
    pub run: PathBuf,
    /// The budget of memory, where one is given.
    pub memory: Option<Memory>,
}

/// Runs all checks; those that need the job are left out when it cannot be read.
pub fn doctor(options: &DoctorOptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let config = match Config::load(&options.config, &options.overrides) {
        Ok(config) => {
            findings.push(Finding::ok("job", options.config.display().to_string()));
            Some(config)
        }
        Err(error) => {
            findings.push(Finding::problem(
                "job",
                error.to_string(),
                "correct it, or name another file with --config; what depends on it was not checked",
            ));
            None
        }
    };
    let near = disk::existing(&options.run);
    if let Some(config) = &config {
        findings.push(runtime(config.infer.engine));
        let tables = tables(config, &mut findings);
        findings.extend(columns::columns(config));
        findings.extend(index::index(config, tables.map(|rows| rows.items), &options.run));
        findings.push(disk::space(&near, tables.map(|rows| disk::estimate(config, &rows))));
    }
    findings.push(disk::folder(&near));
    findings.push(machine::memory(options.memory));
    if let Some(config) = &config
        // Tables that cannot be read are named above.
        && let Ok(least) = forecast(config, None, RunOptions::default().stages(config))
    {
        findings.push(machine::stages(options.memory, &least));
    }
    findings.push(machine::threads(config.as_ref()));
    findings.push(machine::open_files());
    findings.push(zone::zone());
    findings.push(clock(config.as_ref(), SystemTime::now()));
    findings
}

/// ONNX Runtime's library, for jobs that use it.
fn runtime(engine: EngineKind) -> Finding {
    const CHECK: &str = "onnx runtime";
    let needed = format!("needs 1.{} or newer", library::MIN_MINOR);
    match (engine, library::locate()) {
        (EngineKind::Native | EngineKind::NativeInt16, _) => {
            Finding::ok(CHECK, format!("not needed: the engine is `{engine}`"))
        }
        (EngineKind::Ort, Ok(found)) => {
            Finding::ok(CHECK, format!("version {} ({needed}), {}", found.version, found.path.display()))
        }
        (EngineKind::Ort, Err(error)) => Finding::problem(
            CHECK,
            error.to_string(),
            "run scripts/onnxruntime.sh, set ORT_DYLIB_PATH, or set `infer.engine = \"native\"`",
        ),
    }
}

/// Rows of the job's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rows {
    users: u64,
    items: u64,
    interactions: u64,
}

/// Opens every table of the job and counts its rows; the counts if all three raw tables have some.
fn tables(config: &Config, findings: &mut Vec<Finding>) -> Option<Rows> {
    let recall = &config.recall;
    let lists = [
        ("recall.allow", recall.allow.as_ref().map(|list| &list.source)),
        ("recall.deny", recall.deny.as_ref().map(|list| &list.source)),
        ("recall.exclusions", recall.exclusions.as_ref().map(|list| &list.source)),
    ];
    for (name, source) in lists {
        if let Some(source) = source {
            table(name, source, findings);
        }
    }
    let users = table(USERS, &config.table(Side::User).source, findings);
    let items = table(ITEMS, &config.table(Side::Item).source, findings);
    let interactions = table(INTERACTIONS, &config.tables.interactions.source, findings);
    Some(Rows { users: users?, items: items?, interactions: interactions? })
}

fn table(name: &'static str, source: &TableSpec, findings: &mut Vec<Finding>) -> Option<u64> {
    const CHECK: &str = "table";
    match Table::open(name, source).and_then(|table| Ok((table.rows()?, table))) {
        Ok((0, _)) => {
            let found = format!("{name}: no rows in {}", source.pattern());
            findings.push(Finding::problem(CHECK, found, "look at the job that writes it"));
            None
        }
        Ok((rows, table)) => {
            let (files, size, skipped) = (table.paths().len(), mib(table.bytes()), table.skipped());
            let skipped = if skipped > 0 { format!(", {skipped} skipped by name") } else { String::new() };
            findings.push(Finding::ok(CHECK, format!("{name}: {rows} rows in {files} files, {size}{skipped}")));
            Some(rows)
        }
        Err(error) => {
            findings.push(Finding::problem(CHECK, format!("{name}: {error}"), "look at the job that writes it"));
            None
        }
    }
}

/// The clock against the date of this program's release and the tables' times of change.
fn clock(config: Option<&Config>, now: SystemTime) -> Finding {
    const CHECK: &str = "clock";
    /// 1 January 2026: no night of this program lies before it.
    const RELEASED: u64 = 1_767_225_600;
    let seconds = clock::seconds(now);
    let set = "set the clock, by NTP say: `timedatectl set-ntp true`";
    if seconds < RELEASED {
        return Finding::problem(
            CHECK,
            format!("{seconds} s since 1970, which lies before this program was made"),
            set,
        );
    }
    let sources = config.map(|c| [&c.tables.users.source, &c.tables.items.source, &c.tables.interactions.source]);
    let open = sources.into_iter().flatten().filter_map(|source| Table::open("clock", source).ok());
    let changed = open.flat_map(|table| table.paths().map(Path::to_path_buf).collect::<Vec<_>>()).filter_map(|path| {
        let time = std::fs::metadata(&path).ok()?.modified().ok()?;
        Some((time, path))
    });
    match changed.max() {
        Some((time, path)) if time > now + Duration::from_secs(3600) => {
            let ahead = time.duration_since(now).map_or(0, |ahead| ahead.as_secs() / 3600);
            Finding::warning(CHECK, format!("{} was changed {ahead} hours from now", path.display()), set)
        }
        _ => Finding::ok(CHECK, "no table was changed later than now"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_release_is_a_problem() {
        assert_eq!(clock(None, SystemTime::UNIX_EPOCH).status, Status::Problem);
        assert_eq!(clock(None, SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)).status, Status::Ok);
    }
}
