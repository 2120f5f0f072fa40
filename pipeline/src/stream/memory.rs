//! The memory budget, and how wide a stream can be within it.
//!
//! A stage states what it holds whatever the number of rows (`Needs`); what is left of the budget
//! is dealt to the batches in flight. Nothing of this enters a stage's key: results do not depend on it.

use crate::config::allocation::Allocation;
use crate::error::PipelineError;
use crate::stream::Width;
use std::path::{Path, PathBuf};

/// One mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// Program, shared libraries, stacks of threads, and what the allocator keeps for itself.
const PROCESS: u64 = 72 * MIB;
/// Batches begin at multiples of this many rows, so that pages of output files do too, whatever the budget.
const ROW_STEP: usize = 1024;
/// Batches in flight beside two for each worker, where batches can be as large as wanted. They keep the workers busy
/// while the writer writes a row group.
const WAITING: usize = 5;
/// Raw bytes a batch of [`ROW_STEP`] rows gets at the least.
const LEAST_RAW: u64 = MIB;

/// Parses `512MiB`, `2GiB`, `1.5G`, `800M` (units are powers of 1,024) or a number of bytes, for an option.
///
/// # Errors
/// [`PipelineError::Usage`] for anything else, and for less than 1 MiB.
pub fn parse_size(option: &str, text: &str) -> Result<u64, PipelineError> {
    let refuse =
        || PipelineError::usage(format!("{option} {text}: expected a size of at least 1 MiB, such as 512MiB or 2GiB"));
    let digits = text.trim().find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.trim().len());
    let (number, unit) = text.trim().split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 1.0,
        "k" => 1024.0,
        "m" => 1024.0 * 1024.0,
        "g" => 1024.0 * 1024.0 * 1024.0,
        "t" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(refuse()),
    };
    let bytes = number.parse::<f64>().map_err(|_| refuse())? * unit;
    if bytes < MIB as f64 || bytes > u64::MAX as f64 {
        return Err(refuse());
    }
    Ok(bytes as u64)
}

/// The most memory a stage may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    bytes: u64,
}

impl Memory {
    /// A budget of `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Parses a size, as [`parse_size`] does.
    ///
    /// # Errors
    /// As [`parse_size`].
    pub fn parse(text: &str) -> Result<Self, PipelineError> {
        parse_size("--memory", text).map(Self::new)
    }

    /// A quarter of the memory there is.
    pub fn detect() -> Self {
        Self { bytes: (Self::there_is() / 4).max(MIB) }
    }

    /// The memory there is, in bytes: the machine's, or less where a control group limits this process or Slurm gave it
    /// less.
    pub(crate) fn there_is() -> u64 {
        let machine = read("/proc/meminfo").and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
            Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
        });
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let limit = groups.lines().filter_map(|line| group_limit(Path::new("/sys/fs/cgroup"), line)).min();
        let given = Allocation::of_process().memory;
        [machine, limit, given].into_iter().flatten().min().unwrap_or(2048 * MIB)
    }

    /// What each of [`Needs::growing`] may take, in bytes.
    pub(crate) fn quarter(self) -> u64 {
        self.bytes / 4
    }

    /// The budget in bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }

    /// How wide a stream can be: at most `workers` workers and `rows` rows a batch, fewer where memory is short.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] saying what is held and the smallest budget that is enough.
    pub(crate) fn plan(self, needs: &Needs, workers: usize, rows: usize) -> Result<Plan, PipelineError> {
        let fixed = needs.fixed();
        let quarters = needs.growing.len() as u64;
        let wanted = rows.max(1);
        let step = ROW_STEP.min(wanted);
        let least_batch = needs.least_batch(rows);
        let dealt = |workers: usize, waiting: usize| {
            let in_flight = workers * 2 + waiting;
            let held = fixed + quarters * self.quarter() + needs.per_worker * workers as u64;
            let share = self.bytes.saturating_sub(held) / in_flight as u64;
            // Half of it is for the raw rows, half for what is made from them.
            let fitting = (share / 2 / needs.per_row.max(1)).min(wanted as u64) as usize;
            let batch_rows = if fitting < step { step } else { fitting / step * step };
            let batch_bytes = share.saturating_sub(needs.per_row * batch_rows as u64).min(share / 2).max(LEAST_RAW);
            let plan = Plan {
                width: Width { workers, in_flight },
                batch_rows,
                batch_bytes: usize::try_from(batch_bytes).unwrap_or(usize::MAX),
            };
            (share >= least_batch).then_some(plan)
        };
        for workers in (1..=workers.max(1)).rev() {
            let whole = |plan: &Plan| plan.batch_rows == wanted / step * step;
            if let Some(plan) = dealt(workers, WAITING).filter(whole).or_else(|| dealt(workers, 1)) {
                return Ok(plan);
            }
        }
        Err(PipelineError::Usage(format!(
            "{}: a budget of {} is too small; it needs at least {} ({}); give --memory that much",
            needs.stage,
            in_mib(self.bytes),
            in_mib(needs.least(rows)),
            needs.parts(rows),
        )))
    }

    /// Checks that what a stage holds fits, which is no stream.
    ///
    /// # Errors
    /// As [`Memory::plan`].
    pub(crate) fn require(self, needs: &Needs) -> Result<(), PipelineError> {
        self.plan(needs, 1, 1).map(|_| ())
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&in_mib(self.bytes))
    }
}

/// A size as people read it.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

/// A budget, in whole MiB, rounded up.
fn in_mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// What a streaming stage holds, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    /// The stage.
    pub stage: &'static str,
    /// What it holds once, by name.
    pub held: Vec<(&'static str, u64)>,
    /// What grows with the data, each up to a quarter of the budget, by name; at most three.
    pub growing: Vec<&'static str>,
    /// What each worker holds.
    pub per_worker: u64,
    /// What one row of a batch takes beside its raw form: codes, vectors, results.
    pub per_row: u64,
}

impl Needs {
    /// The needs of a stage that is no stream, or of a stream before what it takes for workers and rows is added.
    pub fn held(stage: &'static str, held: Vec<(&'static str, u64)>) -> Self {
        Self { stage, held, growing: Vec::new(), per_worker: 0, per_row: 0 }
    }

    /// The same, where reading from object stores holds some bytes.
    pub fn with_stores(mut self, bytes: u64) -> Self {
        self.held.extend((bytes > 0).then_some(("what is read ahead from object stores", bytes)));
        self
    }

    /// The smallest budget that is enough for batches of at most `rows` rows.
    pub fn least(&self, rows: usize) -> u64 {
        // Everything else has to fit into what the quarters leave.
        let quarters = self.growing.len() as u64;
        ((self.fixed() + self.per_worker + 3 * self.least_batch(rows)) * 4).div_ceil(4 - quarters)
    }

    fn fixed(&self) -> u64 {
        PROCESS + self.held.iter().map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn least_batch(&self, rows: usize) -> u64 {
        self.per_row * ROW_STEP.min(rows.max(1)) as u64 + LEAST_RAW
    }

    /// What the smallest budget consists of.
    fn parts(&self, rows: usize) -> String {
        let held = std::iter::once(("the program", PROCESS))
            .chain(self.held.iter().copied())
            .chain([("each worker", self.per_worker)])
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(what, bytes)| format!("{what} {}", in_mib(bytes)))
            .chain(self.growing.iter().map(|what| format!("{what} a quarter of it")));
        format!("{}, and three batches of {}", held.collect::<Vec<_>>().join(", "), in_mib(self.least_batch(rows)))
    }
}

/// A stream that fits its budget.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Workers and batches in flight.
    pub width: Width,
    /// The most rows of a batch.
    pub batch_rows: usize,
    /// The most raw bytes of a batch, unless one row alone is larger.
    pub batch_bytes: usize,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The least memory limit on the way from the control group of a line of `/proc/self/cgroup` up to the root.
fn group_limit(mount: &Path, line: &str) -> Option<u64> {
    let (is_v2, groups) = groups(mount, line, "memory")?;
    let file = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
    groups.iter().filter_map(|dir| read(dir.join(file))?.trim().parse::<u64>().ok()).min()
}

/// Folders of the control groups of a line of `/proc/self/cgroup`, from the process's own up to the root, and
/// whether they are of version 2; none for a line of version 1 without the controller.
pub(crate) fn groups(mount: &Path, line: &str, controller: &str) -> Option<(bool, Vec<PathBuf>)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, group) = rest.split_once(':')?;
    let root = match controllers {
        "" => mount.to_path_buf(),
        names if names.split(',').any(|name| name == controller) => mount.join(controller),
        _ => return None,
    };
    let own = root.join(group.trim_start_matches('/'));
    // Inside a container the path may be the host's: the mount itself then is the group.
    let groups = own.ancestors().take_while(|dir| dir.starts_with(&root));
    Some((controllers.is_empty(), groups.map(Path::to_path_buf).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024_and_nonsense_is_refused() {
        for (text, mib) in [("512MiB", 512), ("2GiB", 2048), ("1.5g", 1536), (" 800M ", 800), ("1048576", 1)] {
            assert_eq!(Memory::parse(text).unwrap().bytes(), mib * MIB, "{text}");
        }
        for text in ["", "MiB", "-1G", "12 parsecs", "10K", "1e9G"] {
            assert_eq!(Memory::parse(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn the_limit_of_the_nearest_group_and_its_parents_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("memory/a/memory.limit_in_bytes", "2000000\n");
        write("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("x/memory.max", "max\n");
        write("memory.max", "77\n");
        assert_eq!(group_limit(dir.path(), "4:memory:/a/b"), Some(2_000_000));
        assert_eq!(group_limit(dir.path(), "0::/x"), Some(77));
        assert_eq!(group_limit(dir.path(), "1:cpu:/"), None);
    }

    #[test]
    fn a_plan_stays_within_its_budget_and_a_budget_too_small_is_refused_with_the_one_that_does() {
        for quarters in [vec![], vec!["counts"], vec!["counts", "rows"], vec!["counts", "rows", "more"]] {
            stays_within(Needs {
                stage: "infer",
                held: vec![("item vectors", 10 * MIB)],
                growing: quarters,
                per_worker: 30 * MIB,
                per_row: 1500,
            });
        }
    }

    fn stays_within(needs: Needs) {
        for mib in (100..4000).step_by(37) {
            match Memory::new(mib * MIB).plan(&needs, 8, 8192) {
                Ok(plan) => {
                    let batches =
                        plan.width.in_flight as u64 * (plan.batch_bytes as u64 + plan.batch_rows as u64 * 1500);
                    let quarters = needs.growing.len() as u64 * mib * MIB / 4;
                    let held = PROCESS + 10 * MIB + quarters + 30 * MIB * plan.width.workers as u64;
                    assert!(held + batches <= mib * MIB, "{mib}: {plan:?}");
                    assert!(plan.batch_rows % ROW_STEP == 0 && plan.batch_rows <= 8192);
                }
                Err(error) => {
                    let message = error.to_string();
                    assert_eq!(error.exit_code(), 2);
                    let words: Vec<&str> = message.split_whitespace().collect();
                    let at = words.iter().position(|w| *w == "least").unwrap();
                    let enough: u64 = words[at + 1].parse().unwrap();
                    assert!(enough > mib, "{message}");
                    assert_eq!(Memory::new(enough * MIB).plan(&needs, 8, 8192).unwrap().width.workers, 1);
                }
            }
        }
        assert_eq!(Memory::new(8192 * MIB).plan(&needs, 2, 300).unwrap().batch_rows, 300);
    }
}
