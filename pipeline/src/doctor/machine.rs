//! Memory, threads and open files: what the machine has, and what the job and the control group make of it.

use super::Finding;
use crate::config::Config;
use crate::config::allocation::{Allocation, cores};
use crate::run::forecast::{self, LeastMemory};
use crate::stream::memory::mib;
use crate::stream::memory::{MIB, Memory, groups};
use std::path::Path;

/// A budget below this leaves a stream narrow.
const COMFORTABLE: u64 = 256 * MIB;
/// Files that a stage has open at a time: the partitions of what it sorts, 256 at the most, and room to spare.
const OPEN_FILES: u64 = 512;

/// The budget of memory against what there is.
pub fn memory(given: Option<Memory>) -> Finding {
    const CHECK: &str = "memory";
    let there_is = Memory::there_is();
    let budget = given.unwrap_or_else(Memory::detect);
    let how = if given.is_some() { "given" } else { "a quarter of it" };
    let of_task = Allocation::of_process().memory.is_some_and(|memory| memory == there_is);
    let whose = if of_task { "given to this task by Slurm" } else { "for this process" };
    let found = format!("{} {whose}, stages may use {budget} ({how})", mib(there_is));
    match budget.bytes() {
        bytes if bytes > there_is => Finding::problem(
            CHECK,
            found,
            "give less with --memory, or raise the limit of the control group or of the task",
        ),
        bytes if bytes < COMFORTABLE => Finding::warning(
            CHECK,
            format!("{found}: stages may have to work with fewer threads, or refuse"),
            format!("give --memory {} or more; see docs/MEMORY.md", Memory::new(COMFORTABLE)),
        ),
        _ => Finding::ok(CHECK, found),
    }
}

/// The budget of memory against what the stages of a night need.
pub fn stages(given: Option<Memory>, least: &[LeastMemory]) -> Finding {
    const CHECK: &str = "memory of stages";
    let (enough, all) = forecast::total(least);
    let found = format!("at least: {all}");
    match given.unwrap_or_else(Memory::detect).bytes() < enough.bytes() {
        true => Finding::problem(CHECK, found, format!("give --memory {enough} or more; see docs/MEMORY.md")),
        false => Finding::ok(CHECK, found),
    }
}

/// Threads that the job asks for against what this process may run on.
pub fn threads(config: Option<&Config>) -> Finding {
    const CHECK: &str = "threads";
    let usable = cores();
    let lines = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quota = lines.lines().filter_map(|line| quota(Path::new("/sys/fs/cgroup"), line)).min_by(f64::total_cmp);
    let limit = quota.map_or("no quota".to_string(), |cpus| format!("a quota of {cpus:.2} CPUs"));
    let given = Allocation::of_process().cpus.map_or("", |_| ", by Slurm's variables");
    let found = format!("{usable} usable{given}, {limit}");
    let asked = config.map_or(0, |config| config.infer.workers.max(config.train.threads));
    if asked > usable {
        return Finding::warning(
            CHECK,
            format!("{found}; the job asks for {asked}"),
            "set `infer.workers` and `train.threads` to 0, or raise the quota: more threads than cores are slower",
        );
    }
    match quota {
        Some(cpus) if cpus < 1.0 => Finding::warning(
            CHECK,
            found,
            "raise the quota: with less than one CPU every stage is stopped again and again",
        ),
        _ => Finding::ok(CHECK, found),
    }
}

/// The least CPU quota on the way from the control group of a line of `/proc/self/cgroup` up to the root.
fn quota(mount: &Path, line: &str) -> Option<f64> {
    let (is_v2, groups) = groups(mount, line, "cpu")?;
    let number = |path: &Path| std::fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
    let of = |dir: &Path| {
        let (quota, period) = if is_v2 {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
        } else {
            (number(&dir.join("cpu.cfs_quota_us"))?, number(&dir.join("cpu.cfs_period_us"))?)
        };
        // Version 1 says -1 for none.
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    groups.iter().filter_map(|dir| of(dir)).min_by(f64::total_cmp)
}

/// The limit on open files.
pub fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    match soft_limit(&limits) {
        Some(limit) if limit < OPEN_FILES => Finding::problem(
            CHECK,
            format!("at most {limit}"),
            format!("raise the limit to {OPEN_FILES} or more: `ulimit -n`, or LimitNOFILE of the service"),
        ),
        Some(limit) => Finding::ok(CHECK, format!("at most {limit}")),
        None => Finding::ok(CHECK, "no limit"),
    }
}

/// The soft limit on open files of a `/proc/self/limits`, if there is one.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_of_both_versions_and_of_parents_count() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/cpu.max", "150000 100000\n");
        write("a/b/cpu.max", "max 100000\n");
        assert_eq!(quota(dir.path(), "0::/a/b"), Some(1.5));
        assert_eq!(quota(dir.path(), "0::/x"), None);
        write("cpu/cpu.cfs_quota_us", "-1\n");
        write("cpu/cpu.cfs_period_us", "100000\n");
        write("cpu/j/cpu.cfs_quota_us", "50000\n");
        write("cpu/j/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota(dir.path(), "3:cpu,cpuacct:/j"), Some(0.5));
        assert_eq!(quota(dir.path(), "3:cpu,cpuacct:/"), None);
    }

    #[test]
    fn the_soft_limit_is_read() {
        assert_eq!(
            soft_limit("Limit  Soft\nMax open files            1024                 4096   files\n"),
            Some(1024)
        );
        assert_eq!(soft_limit("Max open files            unlimited            unlimited  files\n"), None);
    }
}
