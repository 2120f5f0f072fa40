//! Which URLs have a working copy in this process, and where.

use super::cache::Cache;
use super::notes::Notes;
use super::{Mirror, REMOVED};
use crate::config::Config;
use crate::error::PipelineError;
use crate::run::dir::LATEST;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use twotower_artifacts::Fingerprint;
use twotower_artifacts::mirror;
use twotower_stores::{ConditionalPut, StoreUrl, Stores};

/// How runs in stores are reached, and where their working copies are.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// The folder of the working copies; the user's own without one.
    pub cache: Option<PathBuf>,
    /// Bytes that it may take.
    pub limit: u64,
    /// The stores of the job; without them, those of the job's file that the environment names (`TWOTOWER_CONFIG`) or that
    /// is called `pipeline.toml` and lies in the current folder.
    pub stores: Option<Stores>,
    /// Whether every file that is compared is fetched, even where the store can tell its hash.
    pub whole: bool,
}

/// Bytes that the cache takes, unless it is told otherwise.
const LIMIT: u64 = 100 << 30;

/// The pause where a store does not tell two writers apart.
const PAUSE: Duration = Duration::from_secs(1);

struct Process {
    options: Option<MirrorOptions>,
    cache: Option<Arc<Cache>>,
}

/// Who opens a mirror holds this; who only looks for one does not wait for that.
static PROCESS: Mutex<Process> = Mutex::new(Process { options: None, cache: None });
static OPEN: RwLock<Vec<Arc<Mirror>>> = RwLock::new(Vec::new());

fn mirrors() -> RwLockReadGuard<'static, Vec<Arc<Mirror>>> {
    OPEN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Variables of the environment that say which service a URL is of.
const ENDPOINTS: [&str; 6] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_BASE_URL",
];

impl Default for MirrorOptions {
    fn default() -> Self {
        Self { cache: None, limit: LIMIT, stores: None, whole: false }
    }
}

/// Changes the options of runs that are opened from now on.
pub fn configure(change: impl FnOnce(&mut MirrorOptions)) {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    change(process.options.get_or_insert_with(MirrorOptions::default));
}

/// What is written for a run or another folder, as a path of this machine: of a URL, that of its working copy, which is
/// brought in step with the store.
///
/// # Errors
/// A URL that no store has; [`StoreError`](twotower_stores::StoreError); I/O in the cache.
pub fn local(path: &Path) -> Result<PathBuf, PipelineError> {
    let Some(url) = url_of(path)? else { return Ok(path.to_path_buf()) };
    let Some(parent) = url.parent() else {
        return Err(PipelineError::usage(format!(
            "{url}: it is a whole bucket; name a folder in it, such as {}",
            url.join("runs/2026-01-31")
        )));
    };
    let (mirror, name) = (open(&parent)?, url.file_name().to_string());
    let named = mirror.look_at_latest()?;
    // The object that names a run stands for that run.
    let name = named.filter(|_| name == LATEST).unwrap_or(name);
    if mirror.store().find(&mirror.key(&format!("{REMOVED}{name}")))?.is_some() {
        return Err(PipelineError::Mismatch(format!(
            "{url}: the run is being removed; `twotower runs prune {parent} --keep N` ends that, then the name is free"
        )));
    }
    mirror.sync(&name)?;
    Ok(mirror.root().join(name))
}

/// As [`local`], for a folder of runs, of which all are brought in step.
///
/// # Errors
/// As [`local`].
pub fn local_folder(path: &Path) -> Result<PathBuf, PipelineError> {
    let Some(url) = url_of(path)? else { return Ok(path.to_path_buf()) };
    let mirror = open(&url)?;
    mirror.sync("")?;
    Ok(mirror.root().to_path_buf())
}

/// The URL that is written as a path, if it is one.
fn url_of(path: &Path) -> Result<Option<StoreUrl>, PipelineError> {
    let url = path.to_str().map(StoreUrl::parse).transpose()?.flatten();
    Ok(url.map(|url| url.with_key(url.key().trim_matches('/').to_string())))
}

/// The stores of the job's file that is used unless another is named; those of the environment where there is none.
///
/// # Errors
/// A file that is no job.
fn stores_of_job() -> Result<Stores, PipelineError> {
    let path = std::env::var_os("TWOTOWER_CONFIG").map_or_else(|| PathBuf::from("pipeline.toml"), PathBuf::from);
    match path.is_file() {
        true => Ok(Config::load(&path, &[])?.stores().clone()),
        false => Ok(Stores::default()),
    }
}

/// The mirror of a folder, opened where it is not yet.
fn open(url: &StoreUrl) -> Result<Arc<Mirror>, PipelineError> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = mirrors().iter().find(|mirror| mirror.url() == url) {
        return Ok(open.clone());
    }
    let options = process.options.get_or_insert_with(MirrorOptions::default).clone();
    let cache = match &process.cache {
        Some(cache) => cache.clone(),
        None => {
            let folder = options.cache.clone().unwrap_or_else(Cache::of_user);
            let opened = Cache::open(&folder, options.limit).map_err(PipelineError::io("open the cache", &folder))?;
            process.cache.insert(Arc::new(opened)).clone()
        }
    };
    let stores = options.stores.map_or_else(stores_of_job, Ok)?;
    let store = stores.open(url)?;
    let endpoints = ENDPOINTS.map(|name| std::env::var(name).unwrap_or_default());
    let service = stores.settings().endpoint.clone().unwrap_or_default();
    let place = [&[url.to_string(), service][..], &endpoints].concat().join("\n");
    let place = Fingerprint::of(place.as_bytes());
    // For people; what tells it from others is the hash.
    let bucket: String = url.bucket().chars().filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
    let name = format!("{bucket:.40}-{:.16}", place.as_str());
    let failed = |e| PipelineError::io("make the working copy", cache.folder().join(&name))(e);
    let (copy, in_use) = cache.copy(&name).map_err(failed)?;
    let root = copy.join("tree");
    std::fs::create_dir_all(&root).map_err(failed)?;
    let mirror = Arc::new(Mirror {
        store,
        url: url.clone(),
        root: root.clone(),
        notes: Notes::new(copy.join("notes")),
        cache,
        whole: options.whole,
        opened: Mutex::default(),
        latest: Mutex::default(),
        removed: Mutex::new(BTreeSet::new()),
        guards: Mutex::default(),
        pause: match stores.settings().conditional_put {
            ConditionalPut::Etag => Duration::ZERO,
            ConditionalPut::Disabled => PAUSE,
        },
        changes: copy.join(".changes"),
        _in_use: in_use,
    });
    mirror::add(root, mirror.clone());
    OPEN.write().unwrap_or_else(PoisonError::into_inner).push(mirror.clone());
    Ok(mirror)
}

/// The mirror that a path of a working copy belongs to.
pub(crate) fn of(path: &Path) -> Option<Arc<Mirror>> {
    mirrors().iter().find(|mirror| path.starts_with(mirror.root())).cloned()
}

/// Brings a folder of a working copy in step with the store; any other folder is as it is.
///
/// # Errors
/// [`StoreError`](twotower_stores::StoreError); I/O in the cache.
pub(crate) fn refresh(folder: &Path) -> Result<(), PipelineError> {
    let Some(mirror) = of(folder) else { return Ok(()) };
    let name = mirror.name(folder).map_err(PipelineError::io("look at", folder))?;
    mirror.sync(&name)
}

/// A path as it is written for people and in manifests: of a working copy, its URL.
pub(crate) fn written(path: &Path) -> PathBuf {
    url(path).map_or_else(|| path.to_path_buf(), |url| PathBuf::from(url.to_string()))
}

/// The URL of a path of a working copy.
pub(crate) fn url(path: &Path) -> Option<StoreUrl> {
    let mirror = of(path)?;
    let name = mirror.name(path).ok()?;
    Some(if name.is_empty() { mirror.url().clone() } else { mirror.url().join(&name) })
}

/// A text for people, with URLs in place of the paths of their working copies.
pub fn shown(text: &str) -> Cow<'_, str> {
    mirrors().iter().fold(Cow::Borrowed(text), |text, mirror| {
        let root = mirror.root().to_string_lossy();
        if text.contains(&*root) { Cow::Owned(text.replace(&*root, &mirror.url().to_string())) } else { text }
    })
}

/// Where the working copies are that a text speaks of, if it speaks of one.
pub(crate) fn copy_of(text: &str) -> Option<PathBuf> {
    let mirrors = mirrors();
    let spoken_of = mirrors.iter().find(|mirror| text.contains(&*mirror.root().to_string_lossy()))?;
    Some(spoken_of.cache.folder().to_path_buf())
}
