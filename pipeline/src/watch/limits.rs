//! Limits that the system sets this process: what to do where one is reached, and threads that it can start.

use crate::config::allocation::cores;
use crate::error::PipelineError;
use std::sync::OnceLock;

/// What to do about the limit that an error's text tells of; none where it tells of none.
pub fn advice(error: &str) -> Option<String> {
    let code = error.rsplit_once("(os error ")?.1.split(')').next()?.parse::<i32>().ok()?;
    match code {
        libc::EMFILE => {
            let (now, most) = of_process("Max open files");
            Some(format!(
                "this process may have {now} files open at once: raise that, up to {most}, with `ulimit -n` or LimitNOFILE= of its service"
            ))
        }
        libc::ENFILE => Some("the whole machine has as many files open as it may: raise `sysctl fs.file-max`".into()),
        libc::EFBIG => {
            let (now, _) = of_process("Max file size");
            Some(format!(
                "a file of this process may have {now} bytes: raise that with `ulimit -f` or LimitFSIZE= of its service, or write to a file system that takes larger files"
            ))
        }
        libc::EAGAIN => {
            let (now, _) = of_process("Max processes");
            Some(format!(
                "its user may have {now} processes and threads: raise that with `ulimit -u`, LimitNPROC= or TasksMax= of its service, or pids.max of its control group; or use fewer threads (RAYON_NUM_THREADS, POLARS_MAX_THREADS, `infer.workers`, `train.threads`)"
            ))
        }
        libc::ENOMEM => {
            let (now, _) = of_process("Max address space");
            Some(format!("this process may map {now} bytes of memory: raise that with `ulimit -v`, or free memory"))
        }
        _ => None,
    }
}

/// `/proc/self/limits` as it was when this was first called: where no more files can be opened, it is too late.
pub(crate) fn limits() -> &'static str {
    static LIMITS: OnceLock<String> = OnceLock::new();
    LIMITS.get_or_init(|| std::fs::read_to_string("/proc/self/limits").unwrap_or_default())
}

/// A limit of this process by its name in `/proc/self/limits`: what holds now, and the most it can be raised to.
fn of_process(name: &str) -> (String, String) {
    let line = limits().lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut columns = line.split_ascii_whitespace().map(String::from);
    let mut next = || columns.next().unwrap_or_else(|| "a limited number of".into());
    (next(), next())
}

/// Variables that libraries read a number of threads from, and the least of each: they end the process where they
/// find no number, or one that is too large.
const THREADS: [(&str, usize); 4] = [
    ("RAYON_NUM_THREADS", 0),
    ("POLARS_MAX_THREADS", 1),
    ("POLARS_ASYNC_THREAD_COUNT", 1),
    ("POLARS_MAX_BLOCKING_THREAD_COUNT", 1),
];
/// The most threads that one of them may ask for.
const MOST_THREADS: usize = 1024;
/// Threads that polars starts for each that it is allowed: a pool, an executor and a runtime. And some more.
const POLARS: (usize, usize) = (3, 8);

/// Files that polars opens for itself and for a query.
const OPEN_FILES: usize = 16;

/// Starts the pool that the stages share.
///
/// # Errors
/// [`PipelineError::Usage`] for a variable that asks for no number of threads, or too many; [`PipelineError::Io`]
/// when they cannot be started.
pub fn start_threads() -> Result<(), PipelineError> {
    for (name, least) in THREADS {
        let Some(value) = std::env::var_os(name) else { continue };
        let number = value.to_str().and_then(|text| text.parse::<usize>().ok());
        if !number.is_some_and(|n| (least..=MOST_THREADS).contains(&n)) {
            let value = value.to_string_lossy();
            return Err(PipelineError::usage(format!("{name}={value}: expected {least} to {MOST_THREADS} threads")));
        }
    }
    let failed = |error: rayon::ThreadPoolBuildError| {
        // The system's error is the one that says why.
        let system = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
        let system = system.and_then(std::io::Error::raw_os_error).map(std::io::Error::from_raw_os_error);
        PipelineError::io("start the threads of", "this process")(
            system.unwrap_or_else(|| std::io::Error::other(error)),
        )
    };
    // 0 leaves the number to RAYON_NUM_THREADS.
    let threads = if std::env::var_os("RAYON_NUM_THREADS").is_some() { 0 } else { cores() };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(failed)
}

/// Checks that polars can start the threads and open the files that its queries need: it ends the process where it
/// cannot.
///
/// # Errors
/// [`PipelineError::Io`] with the system's error.
pub(crate) fn check_query_room() -> Result<(), PipelineError> {
    let given = std::env::var("POLARS_MAX_THREADS").ok().and_then(|text| text.parse::<usize>().ok());
    let each = given.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (times, more) = POLARS;
    let query = "a query of the interactions";
    can_open(OPEN_FILES).map_err(PipelineError::io("open what is needed for", query))?;
    can_start(each * times + more).map_err(PipelineError::io("start the threads of", query))
}

/// Opens `count` files at once, beside those that are open, and closes them.
///
/// # Errors
/// The system's, from the first that could not be opened.
pub(crate) fn can_open(count: usize) -> std::io::Result<()> {
    limits();
    let opened: std::io::Result<Vec<_>> = (0..count).map(|_| std::fs::File::open("/dev/null")).collect();
    opened.map(drop)
}

/// Starts `count` threads at once, beside those that run, and ends them.
fn can_start(count: usize) -> std::io::Result<()> {
    // They wait until their ends of the channels are gone.
    let mut threads = Vec::with_capacity(count);
    let mut started = Ok(());
    while threads.len() < count && started.is_ok() {
        let (open, closed) = std::sync::mpsc::channel::<()>();
        match std::thread::Builder::new().name("probe".into()).spawn(move || _ = closed.recv()) {
            Ok(thread) => threads.push((thread, open)),
            Err(error) => started = Err(error),
        }
    }
    let (threads, gates): (Vec<_>, Vec<_>) = threads.into_iter().unzip();
    drop(gates);
    threads.into_iter().for_each(|thread| _ = thread.join());
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_on_limits_and_on_nothing_else() {
        for (code, says) in
            [(24, "ulimit -n"), (27, "ulimit -f"), (11, "ulimit -u"), (12, "ulimit -v"), (23, "file-max")]
        {
            let error = std::io::Error::from_raw_os_error(code);
            let advice = advice(&format!("read users.csv: {error}; and so on")).unwrap();
            assert!(advice.contains(says), "{code}: {advice}");
        }
        for code in [2, 5, 13, 28] {
            assert_eq!(advice(&std::io::Error::from_raw_os_error(code).to_string()), None, "{code}");
        }
        assert_eq!(advice("no error of the system"), None);
        assert_eq!(advice("(os error "), None);
    }

    #[test]
    fn threads_are_tried_and_gone_afterwards() {
        can_start(50).unwrap();
        check_query_room().unwrap();
        assert!(crate::watch::stall::kernel::threads().iter().filter(|thread| thread.name == "probe").count() < 50);
    }
}
