//! What the kernel says in `/proc` about this process's threads and about other processes; nothing where there is no
//! `/proc`.

use std::path::Path;

/// A thread as the kernel sees it.
pub struct Thread {
    /// Its number; that of the main thread is the process's.
    pub tid: u32,
    /// Its name, of at most 15 bytes.
    pub name: String,
    /// What it does there, in words.
    pub state: String,
}

/// System calls on an open file, by their numbers.
#[cfg(target_arch = "x86_64")]
const CALLS: [(u64, &str); 11] = [
    (0, "read"),
    (1, "write"),
    (8, "lseek"),
    (17, "pread"),
    (18, "pwrite"),
    (19, "readv"),
    (20, "writev"),
    (73, "flock"),
    (74, "fsync"),
    (75, "fdatasync"),
    (277, "sync_file_range"),
];
/// System calls on an open file, by their numbers.
#[cfg(target_arch = "aarch64")]
const CALLS: [(u64, &str); 11] = [
    (32, "flock"),
    (62, "lseek"),
    (63, "read"),
    (64, "write"),
    (65, "readv"),
    (66, "writev"),
    (67, "pread"),
    (68, "pwrite"),
    (82, "fsync"),
    (83, "fdatasync"),
    (84, "sync_file_range"),
];
/// System calls on an open file, by their numbers.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CALLS: [(u64, &str); 0] = [];

/// The number of the calling thread; 0 if unknown.
pub fn tid() -> u32 {
    let link = std::fs::read_link("/proc/thread-self");
    link.ok().and_then(|path| path.file_name()?.to_str()?.parse().ok()).unwrap_or(0)
}

/// Processor time used by all threads but the calling one, in clock ticks.
pub fn cpu_of_others() -> Option<u64> {
    // Rounding may let a part look larger than the whole.
    Some(cpu("/proc/self/stat")?.saturating_sub(cpu("/proc/thread-self/stat")?))
}

/// Processor time used by a process of this machine, in clock ticks; none for one that has ended.
pub fn cpu_of(pid: u32) -> Option<u64> {
    cpu(&format!("/proc/{pid}/stat"))
}

/// Signals that this process ignores: signal `n` is bit `n - 1`. None where the kernel does not tell.
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The state letter of a process of this machine; none for one that has ended.
pub fn state(pid: u32) -> Option<char> {
    after_name(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.first()?.chars().next()
}

/// User and system time of a `stat` file.
fn cpu(path: &str) -> Option<u64> {
    let fields = after_name(&std::fs::read_to_string(path).ok()?)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// The fields of a `stat` file from the state on: the name before it is in parentheses and may hold anything.
fn after_name(stat: &str) -> Option<Vec<String>> {
    Some(stat.rsplit_once(") ")?.1.split_ascii_whitespace().map(String::from).collect())
}

/// All threads but the calling one, the main thread first.
pub fn threads() -> Vec<Thread> {
    let Ok(folder) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let numbers = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = tid();
    let mut threads: Vec<Thread> = numbers.filter(|number| *number != own).map(thread).collect();
    threads.sort_by_key(|thread| (thread.tid != std::process::id(), thread.tid));
    threads
}

fn thread(tid: u32) -> Thread {
    let dir = Path::new("/proc/self/task").join(tid.to_string());
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_string();
    let state = match after_name(&read("stat")).and_then(|fields| fields.into_iter().next()).as_deref() {
        Some("R") => "running".to_string(),
        Some("S") => "sleeping".to_string(),
        Some("D") => "waiting for a device".to_string(),
        Some("T" | "t") => "stopped".to_string(),
        Some(letter) => format!("state {letter}"),
        None => "ended".to_string(),
    };
    let (place, call) = (read("wchan"), read("syscall"));
    let place = if place.is_empty() || place == "0" { String::new() } else { format!(" in {place}") };
    Thread { tid, name: read("comm"), state: format!("{state}{place}{}", describe(&call)) }
}

/// A system call and the file it is on, from a line of numbers: the call's, in decimal, and its arguments.
fn describe(line: &str) -> String {
    let mut numbers = line.split_ascii_whitespace();
    let Some(number) = numbers.next().and_then(|n| n.parse::<u64>().ok()) else { return String::new() };
    let Some((_, name)) = CALLS.iter().find(|(call, _)| *call == number) else {
        return format!(", system call {number}");
    };
    let fd = numbers.next().and_then(|n| u64::from_str_radix(n.trim_start_matches("0x"), 16).ok());
    let file = fd.and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    format!(", system call {name}{}", file.map_or(String::new(), |file| format!(" on {}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_call_on_a_file_is_told_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("users.csv")).unwrap();
        for (number, name) in CALLS {
            let said = describe(&format!("{number} {:#x} 0x0 0x0", file.as_raw_fd()));
            assert!(said.contains(name) && said.ends_with("users.csv"), "{said}");
        }
        assert_eq!(describe("4000 0x1"), ", system call 4000");
        assert_eq!(describe("running"), "");
    }

    #[test]
    fn threads_are_found_by_their_names_and_work_is_seen() {
        let (before, stop) = (cpu_of_others().unwrap(), std::sync::atomic::AtomicBool::new(false));
        let running = || !stop.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("odd ) name".into());
            let busy = builder.spawn_scoped(scope, || while running() {}).unwrap();
            let started = std::time::Instant::now();
            while cpu_of_others().unwrap() < before + 5 {
                assert!(started.elapsed().as_secs() < 60, "no processor time is seen");
            }
            assert!(threads().iter().any(|thread| thread.name == "odd ) name" && thread.state.contains("running")));
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            busy.join().unwrap();
        });
        assert!(threads().iter().all(|thread| thread.tid != tid()));
    }
}
