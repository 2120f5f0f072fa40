//! A library that is loaded before a program (LD_PRELOAD) and makes one of its durable calls fail.
//!
//! Durable calls are those of the C library that change what a disk holds: opening for writing, writing, syncing,
//! renaming, linking, removing, making folders. Those that concern names or files below one folder are counted
//! from 1. Not a part of the product, and not a test by itself: tests compile it with `rustc --crate-type cdylib`.
//!
//! | Variable | |
//! |---|---|
//! | `FAULT_DIR` | The folder, absolute and without links. |
//! | `FAULT_LOG` | A file outside of it that gets a line for each call: its name, a tab, its path. |
//! | `FAULT_AT` | The call at which something happens; 0 = none, calls are only counted. |
//! | `FAULT_ACTION` | What happens, see [`Action`]. |
//! | `FAULT_NO_LOCKS` | If set, `flock` fails, as on a file system without locks. |
//! | `FAULT_SILENT` | End of the path of a file that falls silent: a read of it waits for ever, as on a pipe whose other end writes nothing. |
//! | `FAULT_THREADS` | The most threads there can be at once beside the first; no further one can be started. |
//! | `FAULT_SILENT_AT` | The read of it, counted from 1, from which on it does. |

use std::ffi::{c_char, c_int, c_long, c_uint, c_void, CStr};
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::OnceLock;

/// What happens at the chosen call.
#[derive(Clone, Copy, PartialEq)]
enum Action {
    /// The process is killed before the call.
    KillBefore,
    /// The process is killed after the call.
    KillAfter,
    /// The call fails: no space left.
    NoSpace,
    /// The call fails: input/output error.
    Broken,
    /// A write takes half of its bytes; from then on there is no space left.
    Short,
    /// From this call on there is no space left.
    Full,
    /// The process stops, as by SIGSTOP, before the call.
    Stop,
    /// The calling thread never comes back; the others go on.
    Hang,
    /// The process gets SIGTERM before the call, and some time to notice.
    Terminate,
    /// The process gets SIGINT before the call, and some time to notice.
    Interrupt,
}

struct Plan {
    dir: Vec<u8>,
    log: c_int,
    at: u64,
    action: Action,
}

/// What the wrapper of a call does.
enum Verdict {
    Call,
    Fail(c_int),
    Half,
    ThenDie,
}

const ENOSPC: c_int = 28;
const EIO: c_int = 5;
const ENOLCK: c_int = 37;
const EAGAIN: c_int = 11;
const SIGINT: c_int = 2;
const SIGKILL: c_int = 9;
const SIGTERM: c_int = 15;
const SIGSTOP: c_int = 19;
const O_ACCMODE: c_int = 3;
const O_WRONLY: c_int = 1;
const O_CREAT: c_int = 0o100;
const O_APPEND: c_int = 0o2000;
const AT_FDCWD: c_int = -100;
const NEXT: *mut c_void = -1isize as *mut c_void;

extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn readlink(path: *const c_char, into: *mut c_char, size: usize) -> isize;
    fn getcwd(into: *mut c_char, size: usize) -> *mut c_char;
    fn getpid() -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn pause() -> c_int;
    fn usleep(microseconds: c_uint) -> c_int;
    fn pipe(ends: *mut c_int) -> c_int;
    fn __errno_location() -> *mut c_int;
}

static COUNT: AtomicU64 = AtomicU64::new(0);
static FULL: AtomicU64 = AtomicU64::new(0);

/// The C library's own function.
macro_rules! real {
    ($name:ident: $kind:ty) => {{
        static FOUND: AtomicUsize = AtomicUsize::new(0);
        let mut at = FOUND.load(Ordering::Relaxed);
        if at == 0 {
            at = unsafe { dlsym(NEXT, concat!(stringify!($name), "\0").as_ptr().cast()) } as usize;
            FOUND.store(at, Ordering::Relaxed);
        }
        // The next definition of a function of this name has the type that the C library declares.
        unsafe { std::mem::transmute::<usize, $kind>(at) }
    }};
}

fn plan() -> Option<&'static Plan> {
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| {
        let dir = std::env::var("FAULT_DIR").ok()?.into_bytes();
        let path = std::env::var("FAULT_LOG").expect("FAULT_LOG") + "\0";
        let log = real!(open64: Open)(path.as_ptr().cast(), O_WRONLY | O_CREAT | O_APPEND, 0o644);
        assert!(log >= 0, "cannot open FAULT_LOG {path}");
        let at = std::env::var("FAULT_AT").ok().map_or(0, |k| k.parse().expect("FAULT_AT"));
        let action = match std::env::var("FAULT_ACTION").as_deref().unwrap_or("kill-before") {
            "kill-before" => Action::KillBefore,
            "kill-after" => Action::KillAfter,
            "enospc" => Action::NoSpace,
            "eio" => Action::Broken,
            "short" => Action::Short,
            "full" => Action::Full,
            "stop" => Action::Stop,
            "hang" => Action::Hang,
            "term" => Action::Terminate,
            "int" => Action::Interrupt,
            other => panic!("FAULT_ACTION {other}"),
        };
        Some(Plan { dir, log, at, action })
    })
    .as_ref()
}

fn die() -> ! {
    unsafe { kill(getpid(), SIGKILL) };
    loop {
        unsafe { pause() };
    }
}

fn fail(error: c_int) -> c_int {
    unsafe { *__errno_location() = error };
    -1
}

fn signal(number: c_int) {
    unsafe { kill(getpid(), number) };
    unsafe { usleep(150_000) };
}

/// Counts a call on `path` and says what becomes of it; `grows` if it could find a disk full.
fn decide(call: &str, path: &[u8], grows: bool) -> Verdict {
    let Some(plan) = plan() else { return Verdict::Call };
    let below = path.strip_prefix(&plan.dir[..]).is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'));
    if !below {
        return Verdict::Call;
    }
    let number = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    let mut line = [0u8; 4400];
    let mut rest = &mut line[..];
    let _ = rest.write_all(call.as_bytes()).and_then(|()| rest.write_all(b"\t"));
    let _ = rest.write_all(path).and_then(|()| rest.write_all(b"\n"));
    let left = rest.len();
    real!(write: Write_)(plan.log, line.as_ptr().cast(), line.len() - left);
    if FULL.load(Ordering::SeqCst) == 1 && grows {
        return Verdict::Fail(ENOSPC);
    }
    if number != plan.at {
        return Verdict::Call;
    }
    match plan.action {
        Action::KillBefore => die(),
        Action::KillAfter => Verdict::ThenDie,
        Action::NoSpace => Verdict::Fail(ENOSPC),
        Action::Broken => Verdict::Fail(EIO),
        Action::Short => {
            FULL.store(1, Ordering::SeqCst);
            Verdict::Half
        }
        Action::Full => {
            FULL.store(1, Ordering::SeqCst);
            if grows {
                Verdict::Fail(ENOSPC)
            } else {
                Verdict::Call
            }
        }
        Action::Stop => {
            unsafe { kill(getpid(), SIGSTOP) };
            Verdict::Call
        }
        Action::Hang => loop {
            unsafe { pause() };
        },
        Action::Terminate => {
            signal(SIGTERM);
            Verdict::Call
        }
        Action::Interrupt => {
            signal(SIGINT);
            Verdict::Call
        }
    }
}

/// Decides on a call on an open file.
fn decide_fd(call: &str, fd: c_int, grows: bool) -> Verdict {
    with_path(fd, |path| decide(call, path, grows))
}

fn with_path<T>(fd: c_int, look: impl FnOnce(&[u8]) -> T) -> T {
    let mut name = [0u8; 32];
    let mut rest = &mut name[..];
    let _ = write!(rest, "/proc/self/fd/{fd}\0");
    let mut path = [0u8; 4096];
    let n = unsafe { readlink(name.as_ptr().cast(), path.as_mut_ptr().cast(), path.len()) };
    look(&path[..n.max(0) as usize])
}

/// The file to read from: in place of one that has fallen silent, a pipe that nobody writes to.
fn source(fd: c_int) -> c_int {
    static SILENT: OnceLock<Option<(Vec<u8>, u64)>> = OnceLock::new();
    static READS: AtomicU64 = AtomicU64::new(0);
    let silent = SILENT.get_or_init(|| {
        let at = std::env::var("FAULT_SILENT_AT").ok().map_or(1, |k| k.parse().expect("FAULT_SILENT_AT"));
        Some((std::env::var("FAULT_SILENT").ok()?.into_bytes(), at))
    });
    let Some((end, at)) = silent else { return fd };
    if !with_path(fd, |path| path.ends_with(end)) || READS.fetch_add(1, Ordering::SeqCst) + 1 < *at {
        return fd;
    }
    let mut ends = [0; 2];
    assert_eq!(unsafe { pipe(ends.as_mut_ptr()) }, 0);
    ends[0]
}

/// Decides on a call on a name.
fn decide_name(call: &str, name: *const c_char, grows: bool) -> Verdict {
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    if name.starts_with(b"/") {
        return decide(call, name, grows);
    }
    let mut path = [0u8; 4096];
    if unsafe { getcwd(path.as_mut_ptr().cast(), path.len()) }.is_null() {
        return Verdict::Call;
    }
    let mut length = path.iter().position(|b| *b == 0).unwrap_or(0);
    for byte in [b"/", name].concat() {
        if length < path.len() {
            path[length] = byte;
            length += 1;
        }
    }
    decide(call, &path[..length], grows)
}

fn carry_out(verdict: Verdict, call: impl Fn() -> c_int) -> c_int {
    match verdict {
        Verdict::Call | Verdict::Half => call(),
        Verdict::Fail(error) => fail(error),
        Verdict::ThenDie => {
            call();
            die()
        }
    }
}

type Open = extern "C" fn(*const c_char, c_int, c_uint) -> c_int;
type OpenAt = extern "C" fn(c_int, *const c_char, c_int, c_uint) -> c_int;
type Write_ = extern "C" fn(c_int, *const c_void, usize) -> isize;
type WriteV = extern "C" fn(c_int, *const c_void, c_int) -> isize;
type Fd = extern "C" fn(c_int) -> c_int;
type Name = extern "C" fn(*const c_char) -> c_int;
type Names = extern "C" fn(*const c_char, *const c_char) -> c_int;

fn changes(flags: c_int) -> bool {
    flags & O_ACCMODE != 0 || flags & O_CREAT != 0
}

#[no_mangle]
pub extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let call = || real!(open: Open)(path, flags, mode);
    if changes(flags) {
        carry_out(decide_name("open", path, flags & O_CREAT != 0), call)
    } else {
        call()
    }
}

#[no_mangle]
pub extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let call = || real!(open64: Open)(path, flags, mode);
    if changes(flags) {
        carry_out(decide_name("open", path, flags & O_CREAT != 0), call)
    } else {
        call()
    }
}

#[no_mangle]
pub extern "C" fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let call = || real!(openat64: OpenAt)(at, path, flags, mode);
    if changes(flags) && at == AT_FDCWD {
        carry_out(decide_name("open", path, flags & O_CREAT != 0), call)
    } else {
        call()
    }
}

#[no_mangle]
pub extern "C" fn read(fd: c_int, into: *mut c_void, size: usize) -> isize {
    real!(read: extern "C" fn(c_int, *mut c_void, usize) -> isize)(source(fd), into, size)
}

#[no_mangle]
pub extern "C" fn pread64(fd: c_int, into: *mut c_void, size: usize, at: i64) -> isize {
    match source(fd) {
        file if file == fd => real!(pread64: extern "C" fn(c_int, *mut c_void, usize, i64) -> isize)(fd, into, size, at),
        // A pipe has no places to read from.
        pipe => real!(read: extern "C" fn(c_int, *mut c_void, usize) -> isize)(pipe, into, size),
    }
}

#[no_mangle]
pub extern "C" fn write(fd: c_int, bytes: *const c_void, size: usize) -> isize {
    let call = |size| real!(write: Write_)(fd, bytes, size);
    match decide_fd("write", fd, true) {
        Verdict::Call => call(size),
        Verdict::Half => call(size.div_ceil(2)),
        Verdict::Fail(error) => fail(error) as isize,
        Verdict::ThenDie => {
            call(size);
            die()
        }
    }
}

#[no_mangle]
pub extern "C" fn writev(fd: c_int, parts: *const c_void, count: c_int) -> isize {
    let call = |count| real!(writev: WriteV)(fd, parts, count);
    match decide_fd("writev", fd, true) {
        Verdict::Call => call(count),
        Verdict::Half => call(count.min(1)),
        Verdict::Fail(error) => fail(error) as isize,
        Verdict::ThenDie => {
            call(count);
            die()
        }
    }
}

#[no_mangle]
pub extern "C" fn ftruncate64(fd: c_int, size: c_long) -> c_int {
    carry_out(decide_fd("ftruncate", fd, false), || real!(ftruncate64: extern "C" fn(c_int, c_long) -> c_int)(fd, size))
}

#[no_mangle]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    carry_out(decide_fd("fsync", fd, false), || real!(fsync: Fd)(fd))
}

#[no_mangle]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    carry_out(decide_fd("fdatasync", fd, false), || real!(fdatasync: Fd)(fd))
}

#[no_mangle]
pub extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    carry_out(decide_name("rename", to, true), || real!(rename: Names)(from, to))
}

#[no_mangle]
pub extern "C" fn symlink(target: *const c_char, link: *const c_char) -> c_int {
    carry_out(decide_name("symlink", link, true), || real!(symlink: Names)(target, link))
}

#[no_mangle]
pub extern "C" fn linkat(at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_int) -> c_int {
    type LinkAt = extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_int) -> c_int;
    carry_out(decide_name("link", to, true), || real!(linkat: LinkAt)(at, from, to_at, to, flags))
}

#[no_mangle]
pub extern "C" fn unlink(path: *const c_char) -> c_int {
    carry_out(decide_name("unlink", path, false), || real!(unlink: Name)(path))
}

#[no_mangle]
pub extern "C" fn unlinkat(at: c_int, name: *const c_char, flags: c_int) -> c_int {
    let call = || real!(unlinkat: extern "C" fn(c_int, *const c_char, c_int) -> c_int)(at, name, flags);
    if at == AT_FDCWD {
        return carry_out(decide_name("unlink", name, false), call);
    }
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    carry_out(with_path(at, |folder| decide("unlink", &[folder, b"/", name].concat(), false)), call)
}

#[no_mangle]
pub extern "C" fn rmdir(path: *const c_char) -> c_int {
    carry_out(decide_name("rmdir", path, false), || real!(rmdir: Name)(path))
}

#[no_mangle]
pub extern "C" fn mkdir(path: *const c_char, mode: c_uint) -> c_int {
    let call = || real!(mkdir: extern "C" fn(*const c_char, c_uint) -> c_int)(path, mode);
    carry_out(decide_name("mkdir", path, true), call)
}

#[no_mangle]
pub extern "C" fn flock(fd: c_int, operation: c_int) -> c_int {
    static REFUSED: OnceLock<bool> = OnceLock::new();
    if *REFUSED.get_or_init(|| std::env::var_os("FAULT_NO_LOCKS").is_some()) {
        return fail(ENOLCK);
    }
    real!(flock: extern "C" fn(c_int, c_int) -> c_int)(fd, operation)
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type CreateThread = extern "C" fn(*mut c_void, *const c_void, Start, *mut c_void) -> c_int;

/// Threads that were started and have not ended.
static LIVING: AtomicU64 = AtomicU64::new(0);

extern "C" fn counted(given: *mut c_void) -> *mut c_void {
    let (start, argument) = *unsafe { Box::from_raw(given.cast::<(Start, *mut c_void)>()) };
    let result = start(argument);
    LIVING.fetch_sub(1, Ordering::SeqCst);
    result
}

#[no_mangle]
pub extern "C" fn pthread_create(
    thread: *mut c_void,
    attributes: *const c_void,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    static MOST: OnceLock<Option<u64>> = OnceLock::new();
    let most = MOST.get_or_init(|| Some(std::env::var("FAULT_THREADS").ok()?.parse().expect("FAULT_THREADS")));
    let create = real!(pthread_create: CreateThread);
    let Some(most) = most else { return create(thread, attributes, start, argument) };
    if LIVING.fetch_add(1, Ordering::SeqCst) >= *most {
        LIVING.fetch_sub(1, Ordering::SeqCst);
        return EAGAIN;
    }
    let given = Box::into_raw(Box::new((start, argument)));
    let error = create(thread, attributes, counted, given.cast());
    if error != 0 {
        LIVING.fetch_sub(1, Ordering::SeqCst);
        drop(unsafe { Box::from_raw(given) });
    }
    error
}
