//! The file system of the run: room for the night, and whether it does what publication needs.

use super::{Finding, Rows};
use crate::config::Config;
use crate::stream::memory::mib;
use std::ffi::CString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use twotower_artifacts::Precision;

/// The nearest folder on the way to `run` that exists: where a run that does not exist yet will be made.
pub fn existing(run: &Path) -> PathBuf {
    let whole = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
    whole.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_path_buf()
}

/// Bytes that a night of the job writes, roughly; see docs/SCALING.md for measured ones.
pub fn estimate(config: &Config, rows: &Rows) -> u64 {
    let k = (config.recall.topk as u64).min(rows.items);
    // Items are written as numbers of a dictionary, as many bits as tell them apart, beside four bytes of cosine.
    let item_bits = u64::from(rows.items.next_power_of_two().trailing_zeros()).max(1);
    let results = rows.users * (16 + k * (32 + item_bits) / 8);
    let dim = config.model.dim() as u64;
    let vector = 16 + dim * if config.infer.precision == Precision::F16 { 2 } else { 4 };
    let users = if config.recall.fused { 0 } else { rows.users * vector };
    let items = rows.items * (2 * vector + 300);
    // Staged, sorted by user, and written; and what users have seen, while `recall` runs.
    let interactions = rows.interactions * (3 * 32 + 16);
    let codes = if config.encode.all_users { rows.users * 8 * config.features.user.len() as u64 } else { 0 };
    let hashes = if config.infer.row_hashes { rows.users * (16 + 24) } else { 0 };
    (results + users + items + interactions + codes + hashes) * 11 / 10
}

/// Free space against the estimate.
pub fn space(folder: &Path, needed: Option<u64>) -> Finding {
    const CHECK: &str = "disk";
    let more = "make room (`twotower runs prune --keep N`), or give --run on another file system; see docs/SCALING.md";
    let free = match free(folder) {
        Ok(free) => free,
        Err(error) => {
            let found = format!("{}: its free space is not known: {error}", folder.display());
            return Finding::warning(CHECK, found, more);
        }
    };
    let at = format!("{} free on the file system of {}", mib(free), folder.display());
    match needed {
        None => Finding::ok(CHECK, format!("{at}; without the tables there is no estimate")),
        Some(needed) => {
            let found = format!("{at}, a night takes about {}", mib(needed));
            match free {
                _ if free < needed => Finding::problem(CHECK, found, more),
                _ if free < 2 * needed => {
                    Finding::warning(CHECK, format!("{found}: not enough for a second one"), more)
                }
                _ => Finding::ok(CHECK, found),
            }
        }
    }
}

/// Bytes that this process may write to a folder's file system.
fn free(folder: &Path) -> io::Result<u64> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string and `found` has room for what the call writes; it is read only when it was written.
    let found = unsafe {
        match libc::statvfs(path.as_ptr(), found.as_mut_ptr()) {
            0 => found.assume_init(),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    // The widths of these fields differ between machines.
    #[allow(clippy::unnecessary_cast)]
    Ok(found.f_bavail as u64 * found.f_frsize as u64)
}

/// Does what publication does, in a folder below this one, which is removed again.
pub fn folder(folder: &Path) -> Finding {
    const CHECK: &str = "folder";
    let advice =
        "give --run on a file system that can be written and has locks, renames and syncs, as the user of the job";
    match rehearse(folder) {
        Ok(skew) if skew > Duration::from_secs(60) => Finding::warning(
            CHECK,
            format!("{}: its clock and this machine's are {} s apart", folder.display(), skew.as_secs()),
            "set the clocks of both, by NTP say",
        ),
        Ok(_) => Finding::ok(CHECK, format!("{}: write, sync, lock, rename and link work", folder.display())),
        Err((action, error)) => Finding::problem(CHECK, format!("{action} in {}: {error}", folder.display()), advice),
    }
}

/// How far the time of a file written now lies from now.
fn rehearse(folder: &Path) -> Result<Duration, (&'static str, io::Error)> {
    let at = |action: &'static str| move |error: io::Error| (action, error);
    let place = tempfile::Builder::new().prefix(".doctor-").tempdir_in(folder).map_err(at("create a folder"))?;
    let (first, last, link) = (place.path().join("a"), place.path().join("b"), place.path().join("latest"));
    let mut file = File::create(&first).map_err(at("create a file"))?;
    let now = SystemTime::now();
    file.write_all(&[7; 8192]).map_err(at("write a file"))?;
    file.sync_all().map_err(at("sync a file"))?;
    file.lock().map_err(at("lock a file"))?;
    match File::open(&first).map_err(at("open a file"))?.try_lock() {
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(("lock a file", error)),
        Ok(()) => return Err(("lock a file", io::Error::other("a lock does not keep others out"))),
    }
    File::create(&last).map_err(at("create a file"))?;
    fs::rename(&first, &last).map_err(at("rename over a file"))?;
    File::open(place.path()).and_then(|dir| dir.sync_all()).map_err(at("sync a folder"))?;
    std::os::unix::fs::symlink("a", &link).map_err(at("make a link"))?;
    let time = fs::metadata(&last).and_then(|found| found.modified()).map_err(at("read a file's time"))?;
    place.close().map_err(at("remove a folder"))?;
    Ok(time.duration_since(now).unwrap_or_else(|early| early.duration()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_does_not_exist_is_looked_for_further_up() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("runs/2026-01-31")), dir.path());
        assert!(free(dir.path()).unwrap() > 0);
        assert_eq!(rehearse(dir.path()).unwrap().as_secs() / 60, 0);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the rehearsal leaves nothing");
    }
}
