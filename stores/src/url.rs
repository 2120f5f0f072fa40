//! Where something lies in an object store.

use crate::error::{ErrorKind, StoreError};
use std::fmt;

/// The interface of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Amazon S3 and what speaks its interface: `s3://bucket/key`, `s3a://`.
    S3,
    /// Google Cloud Storage: `gs://bucket/key`.
    Gcs,
    /// Azure Blob Storage: `az://container/key`, `azure://`, `adl://`, `abfs://container@account.dfs.core.windows.net/key`,
    /// `abfss://`.
    Azure,
    /// A web server, read only: `https://host/path`, `http://`.
    Http,
}

/// A place in a store: a bucket and a key, which may be empty.
///
/// Keys are taken as they are written, without percent decoding, but for web servers, where the path is that of the URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreUrl {
    scheme: Scheme,
    /// As it was written: `s3`, `abfss`.
    name: String,
    bucket: String,
    key: String,
}

impl StoreUrl {
    /// Reads a URL; `None` for a path of this machine.
    ///
    /// # Errors
    /// [`ErrorKind::Url`] for a scheme that no store has, a URL without a bucket, with a user or password, or, of a web
    /// server, with a query.
    pub fn parse(text: &str) -> Result<Option<Self>, StoreError> {
        let Some((name, rest)) = split(text) else { return Ok(None) };
        let wrong = |reason: &str| Err(StoreError::new(ErrorKind::Url, "read the URL", shown(text), reason));
        let scheme = match name.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "azure" | "adl" | "abfs" | "abfss" => Scheme::Azure,
            "http" | "https" => Scheme::Http,
            "hdfs" => return wrong("HDFS is not spoken; mount it, or put JuiceFS or an S3 gateway before it"),
            "file" => return wrong("a file of this machine is named by its path alone"),
            _ => return wrong("expected s3://, gs://, az://, abfss:// or https://"),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return wrong("expected the name of a bucket, container or host behind `//`");
        }
        if bucket.contains('@') && !matches!(scheme, Scheme::Azure) {
            return wrong("credentials do not belong into a URL; give them by the environment");
        }
        if bucket.contains(['*', '?', '[', '\\']) {
            return wrong("a bucket cannot be a pattern");
        }
        if scheme == Scheme::Http && key.contains(['?', '#']) {
            return wrong("a query or fragment is not sent to web servers; name the file by its path alone");
        }
        let (name, bucket) = (name.to_ascii_lowercase(), bucket.to_string());
        Ok(Some(Self { scheme, name, bucket, key: key.to_string() }))
    }

    /// Whether a text is a URL, of whatever kind, and no path of this machine.
    pub fn is_url(text: &str) -> bool {
        split(text).is_some()
    }

    /// The interface of its store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bucket, container or host.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key in the bucket, without a slash before it; a slash at its end is kept.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The last part of the key; empty for the bucket itself.
    pub fn file_name(&self) -> &str {
        let key = self.key.trim_end_matches('/');
        key.rsplit('/').next().unwrap_or(key)
    }

    /// What is called `name` below this place; `name` may have several parts.
    pub fn join(&self, name: &str) -> Self {
        let (folder, name) = (self.key.trim_end_matches('/'), name.trim_start_matches('/'));
        self.with_key(if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") })
    }

    /// The place that holds this one; none for the bucket itself.
    pub fn parent(&self) -> Option<Self> {
        let key = self.key.trim_end_matches('/');
        if key.is_empty() {
            return None;
        }
        Some(self.with_key(key.rsplit_once('/').map_or("", |(folder, _)| folder).to_string()))
    }

    /// Another key of the same bucket.
    pub fn with_key(&self, key: String) -> Self {
        Self { key, ..self.clone() }
    }

    /// The bucket itself.
    pub fn root(&self) -> Self {
        self.with_key(String::new())
    }
}

/// Scheme and rest of what is written as a URL.
fn split(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.split_once("://")?;
    let is_name = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    is_name.then_some((name, rest))
}

/// A text that may hold a password or a signature, without it.
fn shown(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or(text);
    match split(text) {
        Some((name, rest)) if rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            let (_, host) = rest.split_once('@').unwrap_or(("", rest));
            format!("{name}://…@{host}")
        }
        _ => text.to_string(),
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.bucket)?;
        if self.key.is_empty() { Ok(()) } else { write!(f, "/{}", self.key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        StoreUrl::parse(text).unwrap().unwrap()
    }

    #[test]
    fn urls_of_stores_are_told_from_paths() {
        for path in ["users", "/data/users", "./s3:/x", "a://b/c", "users/*.parquet", "", "dt=2026:01", "C://x"] {
            assert!(StoreUrl::parse(path).unwrap().is_none(), "{path}");
        }
        for (text, scheme, bucket, key) in [
            ("s3://b/users/", Scheme::S3, "b", "users/"),
            ("S3A://b/u?/[a-z]*.csv", Scheme::S3, "b", "u?/[a-z]*.csv"),
            ("gs://b", Scheme::Gcs, "b", ""),
            ("az://c/a b/电信%20.parquet", Scheme::Azure, "c", "a b/电信%20.parquet"),
            ("abfss://c@acc.dfs.core.windows.net/k", Scheme::Azure, "c@acc.dfs.core.windows.net", "k"),
            ("https://h:8080/x/y.csv", Scheme::Http, "h:8080", "x/y.csv"),
        ] {
            let found = url(text);
            assert_eq!((found.scheme(), found.bucket(), found.key()), (scheme, bucket, key), "{text}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_store_is_refused_without_its_secrets() {
        for (text, said) in [
            ("ftp://h/x", "expected s3://"),
            ("hdfs://n/x", "JuiceFS"),
            ("s3:///x", "name of a bucket"),
            ("https://me:secret@h/x", "credentials"),
            ("https://h/x?sig=secret", "query"),
            ("s3://b*/x", "pattern"),
        ] {
            let error = StoreUrl::parse(text).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(error.category().exit_code(), 2);
        }
    }

    #[test]
    fn places_join_and_have_parents() {
        let users = url("s3://b/data/users/");
        assert_eq!(users.join("dt=1/x").to_string(), "s3://b/data/users/dt=1/x");
        assert_eq!(users.file_name(), "users");
        assert_eq!(users.parent().unwrap().to_string(), "s3://b/data");
        assert_eq!(url("s3://b").join("x").to_string(), "s3://b/x");
        assert_eq!(url("s3://b/x").parent().unwrap().to_string(), "s3://b");
        assert!(url("s3://b").parent().is_none());
    }
}
