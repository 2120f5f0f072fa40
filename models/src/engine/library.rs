//! Finds and loads the shared library of ONNX Runtime.
//!
//! If `ORT_DYLIB_PATH` is set, no other place is searched, since a wrong setting must not fall back
//! silently. Otherwise the places are: beside the executable, `lib/` there, the user's cache folder
//! (`$XDG_CACHE_HOME` or `~/.cache`, then `twotower/onnxruntime/`), and the system's folders.
//! `scripts/onnxruntime.sh` fills the cache folder.

use crate::error::ModelError;
use ort::environment::Environment;
use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The oldest minor version 1.x of ONNX Runtime that has the API this build calls.
pub const MIN_MINOR: u32 = ort::MINOR_VERSION;

const STEM: &str = "libonnxruntime.so";

/// A usable library of ONNX Runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Path of its file.
    pub path: PathBuf,
    /// Its version, such as `1.31.1`.
    pub version: String,
}

/// Finds the library that engines will use.
///
/// # Errors
/// [`ModelError::RuntimeMissing`] listing every place looked at and what was wrong with it.
pub fn locate() -> Result<Library, ModelError> {
    Places::of_process().locate()
}

/// The process's ONNX Runtime environment, made on first use and kept until exit.
///
/// # Errors
/// Those of [`locate`], and [`ModelError::Runtime`] when the library cannot be initialised.
pub(super) fn environment() -> Result<&'static Environment, ModelError> {
    static MADE: Mutex<Option<&'static Environment>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = *made {
        return Ok(environment);
    }
    let found = locate()?;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ModelError::Runtime {
        action: "load ONNX Runtime from",
        path: found.path.clone(),
        source,
    };
    let builder = ort::init_from(&found.path).map_err(|e| failed(e.to_string().into()))?;
    let environment = builder.with_telemetry(false).build().map_err(|e| failed(e.into()))?;
    tracing::debug!(path = %found.path.display(), version = found.version, "ONNX Runtime loaded");
    // The environment is never dropped, since tearing the runtime down at exit races with its own threads.
    Ok(made.insert(Box::leak(Box::new(environment))))
}

/// The places where the library is searched.
#[derive(Debug, Default)]
struct Places {
    /// `ORT_DYLIB_PATH`.
    explicit: Option<PathBuf>,
    /// Folders in order.
    folders: Vec<PathBuf>,
}

impl Places {
    fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let mut folders = Vec::new();
        if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
            folders.extend([folder.to_path_buf(), folder.join("lib")]);
        }
        let cache = set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")));
        folders.extend(cache.map(|cache| cache.join("twotower/onnxruntime")));
        folders.extend(std::env::split_paths(&set("LD_LIBRARY_PATH").unwrap_or_default()));
        let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        folders.extend(["/usr/local/lib", "/usr/local/lib64", "/usr/lib", "/usr/lib64", &multiarch].map(PathBuf::from));
        folders.retain(|folder| !folder.as_os_str().is_empty());
        Self { explicit: set("ORT_DYLIB_PATH").map(PathBuf::from), folders }
    }

    fn locate(&self) -> Result<Library, ModelError> {
        if let Some(path) = &self.explicit {
            // A relative path is relative to the working folder, like all paths of a command line.
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            return match probe(&path) {
                Ok(version) => Ok(Library { path, version }),
                Err(reason) => Err(ModelError::RuntimeMissing {
                    looked: vec![format!("ORT_DYLIB_PATH {}: {reason}", path.display())],
                    min_minor: MIN_MINOR,
                }),
            };
        }
        let mut looked = Vec::new();
        for folder in &self.folders {
            let files = libraries_in(folder);
            if files.is_empty() {
                looked.push(format!("{}: no {STEM}", folder.display()));
            }
            for file in files {
                match probe(&file) {
                    Ok(version) => return Ok(Library { path: file, version }),
                    Err(reason) => looked.push(format!("{}: {reason}", file.display())),
                }
            }
        }
        Err(ModelError::RuntimeMissing { looked, min_minor: MIN_MINOR })
    }
}

/// `libonnxruntime.so` and `libonnxruntime.so.*` of a folder, the plain name first, then newest first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let is_library = |name: &OsString| {
        name.to_str().and_then(|n| n.strip_prefix(STEM)).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut names: Vec<OsString> = entries.flatten().map(|e| e.file_name()).filter(is_library).collect();
    let version = |name: &OsString| -> Vec<u32> {
        let text = name.to_string_lossy();
        text[STEM.len()..].split('.').filter_map(|part| part.parse().ok()).collect()
    };
    names.sort_by_key(|name| (name != STEM, std::cmp::Reverse(version(name))));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// The version of the library at `path`, or why it cannot be used.
///
/// It is checked before `ort` loads it, since `ort` panics on a library that is too old.
fn probe(path: &Path) -> Result<String, String> {
    if !path.is_file() {
        return Err("no such file".to_string());
    }
    if is_truncated(path) {
        return Err("truncated".to_string());
    }
    let file = CString::new(path.as_os_str().as_bytes()).map_err(|_| "not a path".to_string())?;
    // SAFETY: `file` is a C string. The handle stays open, so that the symbol and the strings it returns
    // stay valid. `OrtGetApiBase` has this signature in every version of ONNX Runtime.
    let version = unsafe {
        let handle = dlopen(file.as_ptr(), RTLD_NOW);
        if handle.is_null() {
            let error = dlerror();
            return Err(if error.is_null() {
                "cannot be loaded".to_string()
            } else {
                CStr::from_ptr(error).to_string_lossy().into_owned()
            });
        }
        let symbol = dlsym(handle, c"OrtGetApiBase".as_ptr());
        if symbol.is_null() {
            return Err("not ONNX Runtime: it has no `OrtGetApiBase`".to_string());
        }
        let get_base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase = std::mem::transmute(symbol);
        let base = get_base();
        if base.is_null() {
            return Err("`OrtGetApiBase` returned nothing".to_string());
        }
        let version = ((*base).GetVersionString)();
        if version.is_null() {
            return Err("it does not tell its version".to_string());
        }
        CStr::from_ptr(version).to_string_lossy().into_owned()
    };
    if is_new_enough(&version) { Ok(version) } else { Err(format!("version {version}, needs 1.{MIN_MINOR} or newer")) }
}

/// Whether a 64-bit little-endian ELF file ends before its section headers, which come last. The
/// loader would map the missing bytes too, and the process would die of SIGBUS.
fn is_truncated(path: &Path) -> bool {
    let read = || -> std::io::Result<bool> {
        let mut file = std::fs::File::open(path)?;
        let mut header = [0; 64];
        file.read_exact(&mut header)?;
        let word = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let mut start = [0; 8];
        start.copy_from_slice(&header[40..48]);
        let end = u64::from_le_bytes(start).saturating_add(word(58) * word(60));
        let is_elf64 = header.starts_with(b"\x7fELF\x02\x01");
        Ok(is_elf64 && file.metadata()?.len() < end)
    };
    // A file that cannot be read here is refused by the loader.
    read().unwrap_or(false)
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    matches!((parts.next(), parts.next()), (Some(Some(1)), Some(Some(minor))) if minor >= MIN_MINOR)
}

const RTLD_NOW: c_int = 2;

// The loader of the C library, which std does not expose.
unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn dlerror() -> *mut c_char;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(places: &Places) -> String {
        places.locate().unwrap_err().to_string()
    }

    #[test]
    fn versions_below_the_needed_api_are_refused() {
        for (version, ok) in
            [("1.24.0", true), ("1.31.1", true), ("1.23.2", false), ("1.9", false), ("2.0.0", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), ok, "{version}");
        }
    }

    #[test]
    fn a_missing_library_names_every_place_and_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let bad = dir.path().join(STEM);
        std::fs::write(&bad, b"not a library").unwrap();
        let empty = dir.path().join("empty");
        let message = refusal(&Places { explicit: None, folders: vec![empty.clone(), dir.path().to_path_buf()] });
        for part in [empty.to_str().unwrap(), bad.to_str().unwrap(), "scripts/onnxruntime.sh", "--engine native"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_explicit_path_that_fails_is_not_passed_over() {
        let found = locate().unwrap();
        let folder = found.path.parent().unwrap().to_path_buf();
        let message = refusal(&Places { explicit: Some("/nowhere/x.so".into()), folders: vec![folder.clone()] });
        assert!(message.contains("ORT_DYLIB_PATH /nowhere/x.so"), "{message}");
        assert_eq!(Places { explicit: None, folders: vec![folder] }.locate().unwrap().version, found.version);
    }

    #[test]
    fn a_truncated_library_is_refused_and_does_not_kill_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STEM);
        let whole = std::fs::read(locate().unwrap().path).unwrap();
        for end in [0, 63, 64, 5000, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(probe(&path).is_err(), "{end} bytes");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(probe(&path).is_ok());
    }

    #[test]
    fn another_library_is_recognised_as_such() {
        let libc = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = libc.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("libc.so")).unwrap();
        let message = refusal(&Places { explicit: Some(libc.into()), folders: vec![] });
        assert!(message.contains("OrtGetApiBase"), "{message}");
    }

    #[test]
    fn the_plain_name_comes_first_and_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", STEM, "libonnxruntime_x.so", "other"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let names: Vec<_> =
            libraries_in(dir.path()).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, [STEM, "libonnxruntime.so.1.31.1", "libonnxruntime.so.1.9.0"]);
    }
}
