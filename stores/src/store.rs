//! A bucket: listed, read, written, deleted.

use crate::blocks::Cache;
use crate::budget::Budget;
use crate::client::{self, Client};
use crate::error::{ErrorKind, StoreError};
use crate::object::{Listed, Object};
use crate::ranges::RangeReader;
use crate::retry::{again, cut_body};
use crate::runtime;
use crate::settings::StoreSettings;
use crate::upload::Upload;
use crate::url::{Scheme, StoreUrl};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// How many requests of one call are on their way at once, where a call makes many.
const AT_ONCE: usize = 16;
/// The end of the names by which Hadoop marks folders.
const HADOOP_FOLDER: &str = "_$folder$";

/// A bucket; clones share its connections. Keys have no slash at their beginning.
///
/// All calls block; requests that fail for a reason that may pass are made again, with back-off and jitter.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    /// The bucket itself.
    pub root: StoreUrl,
    pub client: Client,
    pub settings: StoreSettings,
    /// What is read ahead.
    pub ahead: Budget,
    /// What waits to be sent.
    pub waiting: Budget,
    /// Blocks of what is read at many places.
    pub cache: Arc<Cache>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.0.root)
    }
}

impl Store {
    pub(crate) fn new(
        root: StoreUrl,
        settings: &StoreSettings,
        ahead: Budget,
        waiting: Budget,
        cache: Arc<Cache>,
    ) -> Result<Self, StoreError> {
        let client = client::open(&root, settings)?;
        Ok(Self(Arc::new(Inner { root, client, settings: settings.clone(), ahead, waiting, cache })))
    }

    /// The bucket itself.
    pub fn root(&self) -> &StoreUrl {
        &self.0.root
    }

    /// Where a key is.
    pub fn url(&self, key: &str) -> StoreUrl {
        self.0.root.with_key(key.to_string())
    }

    /// All objects below the folder `prefix`, at any depth, in order of their keys; empty ones that only mark a folder
    /// are left out. Memory: all of them.
    ///
    /// # Errors
    /// [`StoreError`]; [`ErrorKind::Unsupported`] for a web server, which lists nothing.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        const ACTION: &str = "list";
        let (path, inner) = (self.folder(prefix, ACTION)?, self.0.clone());
        let url = self.url(prefix);
        let found = runtime::run(async move {
            let list = || inner.client.objects.list(path.as_ref()).try_collect::<Vec<_>>();
            again(inner.settings.retries, ACTION, url, list).await
        })?;
        let folders: HashSet<String> = found.iter().flat_map(|meta| above(meta.location.as_ref())).collect();
        let prefix = prefix.trim_matches('/');
        let is_mark = |meta: &ObjectMeta| {
            let key = meta.location.as_ref();
            meta.size == 0 && (folders.contains(key) || key == prefix || key.ends_with(HADOOP_FOLDER))
        };
        let mut objects: Vec<Object> =
            found.iter().filter(|meta| !is_mark(meta)).map(|meta| self.object(meta)).collect();
        objects.sort_by(|a, b| a.url.key().cmp(b.url.key()));
        Ok(objects)
    }

    /// What lies directly below the folder `key`; nothing for one that is not there.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn list_folder(&self, key: &str) -> Result<Listed, StoreError> {
        const ACTION: &str = "list";
        let (path, inner) = (self.folder(key, ACTION)?, self.0.clone());
        let url = self.url(key);
        let found = runtime::run(async move {
            let list = || inner.client.objects.list_with_delimiter(path.as_ref());
            again(inner.settings.retries, ACTION, url, list).await
        })?;
        let name = |path: &Path| path.filename().unwrap_or_default().to_string();
        let mut folders: Vec<String> = found.common_prefixes.iter().map(name).collect();
        folders.sort();
        folders.dedup();
        let folder = key.trim_matches('/');
        let is_mark = |meta: &ObjectMeta| {
            let key = meta.location.as_ref();
            let is_folder = || folders.binary_search(&name(&meta.location)).is_ok();
            meta.size == 0 && (key == folder || key.ends_with(HADOOP_FOLDER) || is_folder())
        };
        let objects = found.objects.iter().filter(|meta| !is_mark(meta)).map(|meta| self.object(meta));
        let mut objects: Vec<Object> = objects.collect();
        objects.sort_by(|a, b| a.url.key().cmp(b.url.key()));
        Ok(Listed { objects, folders })
    }

    /// Looks at an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none, and other [`StoreError`]s.
    pub fn head(&self, key: &str) -> Result<Object, StoreError> {
        let meta = runtime::run(head(self.0.clone(), self.path(key, "look at")?))?;
        Ok(self.object(&meta))
    }

    /// Looks at an object; none where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn find(&self, key: &str) -> Result<Option<Object>, StoreError> {
        match self.head(key) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks at many objects, some at a time; the answers are in the order of `keys`.
    ///
    /// # Errors
    /// As [`Store::head`], of the first that fails.
    pub fn heads(&self, keys: &[String]) -> Result<Vec<Object>, StoreError> {
        let paths = keys.iter().map(|key| self.path(key, "look at")).collect::<Result<Vec<_>, _>>()?;
        let inner = self.0.clone();
        let looks = async move {
            let looks = paths.into_iter().map(|path| head(inner.clone(), path));
            futures_util::stream::iter(looks).buffered(AT_ONCE).try_collect::<Vec<_>>().await
        };
        Ok(runtime::run(looks)?.iter().map(|meta| self.object(meta)).collect())
    }

    /// A whole object, which is to be small.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn get(&self, key: &str) -> Result<(Object, Bytes), StoreError> {
        let (path, inner) = (self.path(key, "read")?, self.0.clone());
        let (meta, bytes) = runtime::run(async move { whole(&inner, &path).await })?;
        Ok((self.object(&meta), bytes))
    }

    /// Some bytes of an object that was looked at before.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] where it is another object by now, and other [`StoreError`]s.
    pub fn get_range(&self, object: &Object, range: Range<u64>) -> Result<Bytes, StoreError> {
        runtime::run(self.range(object, range)?)
    }

    /// Several ranges of an object, some at a time, in their order.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub fn get_ranges(&self, object: &Object, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let gets = ranges.iter().map(|range| self.range(object, range.clone())).collect::<Result<Vec<_>, _>>()?;
        runtime::run(async move { futures_util::stream::iter(gets).buffered(AT_ONCE).try_collect().await })
    }

    /// The request for some bytes of an object that was looked at before.
    pub(crate) fn range(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> Result<impl Future<Output = Result<Bytes, StoreError>> + Send + 'static, StoreError> {
        let path = self.path(object.url.key(), "read")?;
        Ok(range_of(self.0.clone(), path, object.clone(), range))
    }

    /// Reads an object from its beginning on.
    ///
    /// # Errors
    /// As [`Store::head`].
    pub fn reader(&self, key: &str) -> Result<RangeReader, StoreError> {
        Ok(self.reader_of(self.head(key)?))
    }

    /// Reads an object that was looked at before.
    pub fn reader_of(&self, object: Object) -> RangeReader {
        RangeReader::new(self.clone(), object)
    }

    /// Begins to write an object in parts. It appears when [`Upload::finish`] has returned, whole, or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a web server, [`ErrorKind::Url`] for a key that no object can have.
    pub fn upload(&self, key: &str) -> Result<Upload, StoreError> {
        self.require_writable("write", key)?;
        Ok(Upload::new(self.clone(), self.url(key), self.path(key, "write")?))
    }

    /// Deletes an object; one that is not there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.delete_many(&[key.to_string()])
    }

    /// Deletes objects, some at a time; those that are not there are none.
    ///
    /// # Errors
    /// [`StoreError`], of the first that could not be deleted; others may be gone.
    pub fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        const ACTION: &str = "delete";
        let paths = keys.iter().map(|key| {
            self.require_writable(ACTION, key)?;
            self.path(key, ACTION)
        });
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        let inner = self.0.clone();
        runtime::run(async move {
            let delete = |path: Path| {
                let inner = inner.clone();
                async move {
                    let url = inner.root.with_key(path.to_string());
                    match again(inner.settings.retries, ACTION, url, || inner.client.objects.delete(&path)).await {
                        Err(error) if error.is_not_found() => Ok(()),
                        deleted => deleted,
                    }
                }
            };
            futures_util::stream::iter(paths.into_iter().map(delete)).buffered(AT_ONCE).try_collect().await
        })
    }

    pub(crate) fn object(&self, meta: &ObjectMeta) -> Object {
        let key = meta.location.as_ref();
        Object::of(
            match self.0.root.scheme() {
                // Its keys are paths of URLs.
                Scheme::Http => self.url(&key.replace('%', "%25")),
                Scheme::S3 | Scheme::Gcs | Scheme::Azure => self.url(key),
            },
            meta,
        )
    }

    /// A key as the store takes it.
    pub(crate) fn path(&self, key: &str, action: &'static str) -> Result<Path, StoreError> {
        let wrong = |said: &dyn fmt::Display| StoreError::new(ErrorKind::Url, action, self.url(key), said);
        if key.is_empty() || key.ends_with('/') {
            return Err(wrong(&"expected the key of an object"));
        }
        match self.0.root.scheme() {
            Scheme::Http => Path::from_url_path(key).map_err(|e| wrong(&e)),
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => Path::parse(key).map_err(|e| wrong(&e)),
        }
    }

    /// A folder as the store takes it; none for the bucket itself.
    fn folder(&self, key: &str, action: &'static str) -> Result<Option<Path>, StoreError> {
        if self.0.root.scheme() == Scheme::Http {
            let said = "a web server does not list what it has; name each file";
            return Err(StoreError::new(ErrorKind::Unsupported, action, self.url(key), said));
        }
        let key = key.trim_matches('/');
        Ok(if key.is_empty() { None } else { Some(self.path(key, action)?) })
    }

    pub(crate) fn require_writable(&self, action: &'static str, key: &str) -> Result<(), StoreError> {
        match self.0.root.scheme() {
            Scheme::S3 | Scheme::Gcs | Scheme::Azure => Ok(()),
            Scheme::Http => {
                let said = "a web server is read only; write to s3://, gs:// or az://";
                Err(StoreError::new(ErrorKind::Unsupported, action, self.url(key), said))
            }
        }
    }
}

/// The folders above a key.
fn above(key: &str) -> impl Iterator<Item = String> {
    key.match_indices('/').map(|(end, _)| key[..end].to_string())
}

async fn head(inner: Arc<Inner>, path: Path) -> Result<ObjectMeta, StoreError> {
    let url = inner.root.with_key(path.to_string());
    again(inner.settings.retries, "look at", url, || inner.client.objects.head(&path)).await
}

/// A whole object.
pub(crate) async fn whole(inner: &Inner, path: &Path) -> Result<(ObjectMeta, Bytes), StoreError> {
    let url = inner.root.with_key(path.to_string());
    let get = || async {
        let answer = inner.client.objects.get(path).await?;
        let meta = answer.meta.clone();
        let bytes = answer.bytes().await?;
        if bytes.len() as u64 != meta.size {
            return Err(cut_body(meta.size, bytes.len() as u64));
        }
        Ok((meta, bytes))
    };
    again(inner.settings.retries, "read", url, get).await
}

async fn range_of(inner: Arc<Inner>, path: Path, object: Object, range: Range<u64>) -> Result<Bytes, StoreError> {
    const ACTION: &str = "read";
    let changed = |said: String| StoreError::new(ErrorKind::Changed, ACTION, &object.url, said);
    let range = range.start.min(object.bytes)..range.end.min(object.bytes);
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    // A weak e-tag matches nothing, by the rules of HTTP.
    let strong = object.version.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
    let get = || async {
        let options = GetOptions { if_match: strong.clone(), ..GetOptions::default() };
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..options };
        let answer = inner.client.objects.get_opts(&path, options).await?;
        let meta = answer.meta.clone();
        let bytes = answer.bytes().await?;
        match bytes.len() as u64 == range.end - range.start {
            true => Ok((meta, bytes)),
            false => Err(cut_body(range.end - range.start, bytes.len() as u64)),
        }
    };
    let (meta, bytes) = match again(inner.settings.retries, ACTION, &object.url, get).await {
        Err(error) if error.is_conflict() => return Err(changed("another object has its name".into())),
        Err(error) if error.is_not_found() => return Err(changed("it is not there any more".into())),
        answer => answer?,
    };
    let found = Object::of(object.url.clone(), &meta);
    if found.bytes != object.bytes {
        return Err(changed(format!("it had {} bytes and has {}", object.bytes, found.bytes)));
    }
    if found.version.e_tag != object.version.e_tag
        || (object.version.e_tag.is_none() && found.modified != object.modified)
    {
        return Err(changed("another object has its name".into()));
    }
    Ok(bytes)
}
