//! Small objects, written whole, if a condition holds.

use crate::client::RETRY_TIMEOUT;
use crate::error::{ErrorKind, StoreError};
use crate::object::Version;
use crate::retry::{Meaning, again, explained, meaning, wait};
use crate::runtime;
use crate::settings::ConditionalPut;
use crate::store::{Inner, Store, whole};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload, PutResult, UpdateVersion};
use std::time::Instant;

const ACTION: &str = "write";

/// When an object may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Whatever is there.
    Always,
    /// If there is none under its key.
    IfAbsent,
    /// If what is there is still that version.
    IfMatch(Version),
}

impl Store {
    /// Writes a small object whole.
    ///
    /// A write whose answer was lost is made again and may meet what it wrote itself. So where a condition does not hold,
    /// what is there is compared with `bytes`, and the same bytes count as written: two writers of the same bytes both
    /// succeed. Who must tell two writers apart writes something that tells them apart.
    ///
    /// With `store.conditional_put = "disabled"` the condition is looked at before the write, and what is there is
    /// compared after it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] where the condition does not hold, and other [`StoreError`]s.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>, condition: Condition) -> Result<Version, StoreError> {
        self.require_writable(ACTION, key)?;
        let (path, bytes, inner) = (self.path(key, ACTION)?, bytes.into(), self.0.clone());
        runtime::run(async move {
            match (&condition, inner.settings.conditional_put, inner.client.s3.is_some()) {
                (Condition::Always, _, _) => inner.put(&path, &bytes).await,
                (_, ConditionalPut::Disabled, true) => inner.look_and_put(&path, &bytes, &condition).await,
                (Condition::IfAbsent, _, _) => inner.put_if(&path, &bytes, || PutMode::Create).await,
                (Condition::IfMatch(version), _, _) => {
                    let e_tag = version.e_tag.clone();
                    let mode = || PutMode::Update(UpdateVersion { e_tag: e_tag.clone(), version: None });
                    inner.put_if(&path, &bytes, mode).await
                }
            }
        })
    }
}

fn version(put: PutResult) -> Version {
    Version::of(put.e_tag.as_deref())
}

impl Inner {
    pub(crate) async fn put(&self, path: &Path, bytes: &Bytes) -> Result<Version, StoreError> {
        let url = self.root.with_key(path.to_string());
        let put = || self.client.objects.put_opts(path, PutPayload::from(bytes.clone()), PutOptions::default());
        again(self.settings.retries, ACTION, url, put).await.map(version)
    }

    /// Writes on a condition that the store keeps.
    async fn put_if(&self, path: &Path, bytes: &Bytes, mode: impl Fn() -> PutMode) -> Result<Version, StoreError> {
        let url = self.root.with_key(path.to_string());
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let payload = PutPayload::from(bytes.clone());
            let error = match self.client.once.put_opts(path, payload, PutOptions::from(mode())).await {
                Ok(put) => return Ok(version(put)),
                Err(error) => error,
            };
            let Meaning { kind, passes, .. } = meaning(&error);
            // Two writes at once may both be refused, and then there is nothing.
            let is_lost = match kind {
                ErrorKind::Conflict | ErrorKind::NotFound => match self.own(path, bytes).await? {
                    Found::Own(version) => return Ok(version),
                    Found::Other(bytes) => return Err(conflict(&url, bytes)),
                    Found::None if matches!(mode(), PutMode::Update(_)) => return Err(gone(&url)),
                    Found::None => true,
                },
                _ => passes,
            };
            if !is_lost || tries >= self.settings.retries || begun.elapsed() > RETRY_TIMEOUT {
                return Err(explained(&error, ACTION, &url));
            }
            wait(tries).await;
            tries += 1;
        }
    }

    /// Writes on a condition that nobody keeps: looks before and after.
    async fn look_and_put(&self, path: &Path, bytes: &Bytes, condition: &Condition) -> Result<Version, StoreError> {
        let url = self.root.with_key(path.to_string());
        let found = match whole(self, path).await {
            Ok((meta, found)) => Some((Version::of(meta.e_tag.as_deref()), found)),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        match (condition, found) {
            (Condition::Always, _) | (Condition::IfAbsent, None) => {}
            (Condition::IfMatch(expected), Some((found, _))) if found == *expected => {}
            (Condition::IfMatch(_), None) => return Err(gone(&url)),
            (_, Some((version, found))) if found == *bytes => return Ok(version),
            (_, Some((_, found))) => return Err(conflict(&url, found.len())),
        }
        self.put(path, bytes).await?;
        match self.own(path, bytes).await? {
            Found::Own(version) => Ok(version),
            Found::Other(bytes) => Err(conflict(&url, bytes)),
            Found::None => Err(gone(&url)),
        }
    }

    /// Whether what is there is what is to be written.
    async fn own(&self, path: &Path, bytes: &Bytes) -> Result<Found, StoreError> {
        match whole(self, path).await {
            Ok((meta, found)) if found == *bytes => Ok(Found::Own(Version::of(meta.e_tag.as_deref()))),
            Ok((_, found)) => Ok(Found::Other(found.len())),
            Err(error) if error.is_not_found() => Ok(Found::None),
            Err(error) => Err(error),
        }
    }
}

enum Found {
    Own(Version),
    /// Of so many bytes.
    Other(usize),
    None,
}

fn conflict(url: &crate::StoreUrl, bytes: usize) -> StoreError {
    StoreError::new(ErrorKind::Conflict, ACTION, url, format!("there are {bytes} other bytes by now"))
}

fn gone(url: &crate::StoreUrl) -> StoreError {
    StoreError::new(ErrorKind::Conflict, ACTION, url, "it was deleted meanwhile")
}
