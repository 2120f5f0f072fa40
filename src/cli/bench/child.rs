//! A process of this same program: its answer, its wall time, and what it took of memory and CPU.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::watch::cancel::Cancel;

/// How exactly the end of a process is known.
const STEP: Duration = Duration::from_millis(2);
/// Its memory is looked at every so many steps.
const STEPS_PER_LOOK: u32 = 10;
/// Ticks of the kernel's CPU times, per second: the same on all of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process answered and took.
#[derive(Debug)]
pub struct Finished {
    /// What it printed, as JSON: an object, or one for each part.
    pub answers: Vec<serde_json::Value>,
    /// Wall time from start to end.
    pub wall: Duration,
    /// User and system time of all its threads; none where the system does not tell.
    pub cpu_seconds: Option<f64>,
    /// Largest resident set, in MiB; none where the system does not tell.
    pub peak_rss_mib: Option<f64>,
}

/// Runs this program with `words`, which must succeed and print JSON. Its output goes to files in `dir`.
///
/// # Errors
/// The process's own error, in its category; [`PipelineError::Interrupted`] when `cancel` was raised.
pub fn run(words: &[String], dir: &Path, cancel: &Cancel) -> Result<Finished, PipelineError> {
    let program = std::env::current_exe().map_err(PipelineError::io("find", "this program"))?;
    let (out, log) = (dir.join("stdout.txt"), dir.join("stderr.txt"));
    let create = |path: &Path| File::create(path).map_err(PipelineError::io("create", path));
    let ticks = ticks_of_children();
    let started = Instant::now();
    let mut child = Command::new(&program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(create(&out)?)
        .stderr(create(&log)?)
        .spawn()
        .map_err(PipelineError::io("start", &program))?;
    let (status, peak_rss_mib) = watch(&mut child, cancel).map_err(PipelineError::io("wait for", &program))?;
    let wall = started.elapsed();
    cancel.check("bench")?;
    let read = |path: &Path| std::fs::read_to_string(path).map_err(PipelineError::io("read", path));
    if !status.success() {
        return Err(failure(words, status, &read(&log)?));
    }
    let text = read(&out)?;
    let answers = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<Vec<_>, _>>();
    let answers = answers.map_err(|e| {
        PipelineError::Data(format!("bench: `twotower {}` printed no JSON ({e}): {text}", words.join(" ")))
    })?;
    let ticks = ticks.zip(ticks_of_children()).map(|(before, after)| after - before);
    let cpu_seconds = ticks.map(|ticks| ticks as f64 / TICKS_PER_SECOND);
    Ok(Finished { answers, wall, cpu_seconds, peak_rss_mib })
}

/// Waits for the end of a process, looking at its memory; ends it when `cancel` is raised.
fn watch(child: &mut Child, cancel: &Cancel) -> std::io::Result<(ExitStatus, Option<f64>)> {
    let mut peak: Option<f64> = None;
    for step in 0u32.. {
        if step.is_multiple_of(STEPS_PER_LOOK) {
            // The kernel's high-water mark never falls, so the last look is the largest.
            peak = high_water_mib(child.id()).or(peak);
        }
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        if cancel.is_stopped() {
            child.kill()?;
        }
        std::thread::sleep(STEP);
    }
    Ok((child.wait()?, peak))
}

/// The error of a process, in the category that its exit code says.
fn failure(words: &[String], status: ExitStatus, log: &str) -> PipelineError {
    let said = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or(log.trim());
    let message = format!("bench: `twotower {}` ended with {status}: {said}", words.join(" "));
    match status.code() {
        Some(2) => PipelineError::Usage(message),
        Some(4) => PipelineError::Mismatch(message),
        Some(5) => PipelineError::Gate(message),
        _ => PipelineError::Data(message),
    }
}

/// `VmHWM` of a process that has not ended.
fn high_water_mib(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}

/// User and system time of all children waited for so far, in ticks.
fn ticks_of_children() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may hold anything; cutime and cstime are fields 16 and 17.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ticks(16)? + ticks(17)?)
}
