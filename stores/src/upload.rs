//! Writes an object in parts.

use crate::budget::Permit;
use crate::error::{ErrorKind, StoreError};
use crate::object::Version;
use crate::ranges::RANGE_BYTES;
use crate::retry::{again, explained};
use crate::runtime::{self, Pending};
use crate::store::Store;
use crate::url::StoreUrl;
use bytes::Bytes;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartId, PutPayload};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

/// Bytes of every part but the last. The e-tag of an object depends on how it was cut, so this never changes; S3 takes
/// up to 10,000 parts.
pub const PART_BYTES: usize = 16 << 20;
const MOST_PARTS: usize = 10_000;

/// A part on its way, and the permit of the bytes that it holds.
type SentPart = (Pending<Result<PartId, StoreError>>, Option<Permit>);

/// An object that is being written, which appears under its key when it is [finished](Upload::finish). Dropped before,
/// or after an error, it is aborted: what was sent is deleted, where the store can.
///
/// An object of up to [`PART_BYTES`] is sent whole, a larger one in parts of that size; so the same bytes have the same
/// e-tag. Memory: a part that is being filled, one that is being sent, and more of these as far as the process may hold
/// bytes that wait ([`StoreSettings::upload_mib`](crate::StoreSettings::upload_mib)).
pub struct Upload {
    store: Store,
    url: StoreUrl,
    path: Path,
    /// Of an upload of several parts, once it is begun.
    id: Option<MultipartId>,
    buffer: Vec<u8>,
    /// Parts on their way, in order.
    sent: VecDeque<SentPart>,
    done: Vec<PartId>,
    bytes: u64,
    hasher: blake3::Hasher,
    /// The error after which nothing is written any more.
    failed: Option<StoreError>,
}

impl Upload {
    pub(crate) fn new(store: Store, url: StoreUrl, path: Path) -> Self {
        let (sent, hasher) = (VecDeque::new(), blake3::Hasher::new());
        Self { store, url, path, id: None, buffer: Vec::new(), sent, done: Vec::new(), bytes: 0, hasher, failed: None }
    }

    /// Where it will be.
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The BLAKE3 hash of what was written so far, in hexadecimal.
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Writes bytes behind those written so far.
    ///
    /// # Errors
    /// [`StoreError`], of this part or of one that was sent before; every later call fails alike.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        while !bytes.is_empty() {
            let taken = bytes.len().min(PART_BYTES - self.buffer.len());
            let (now, rest) = bytes.split_at(taken);
            // A part is sent once there is more, since the last may be all.
            if now.is_empty() {
                let sent = self.send();
                self.noted(sent)?;
                continue;
            }
            // A buffer that doubles would end up larger than a part.
            if self.buffer.len() + taken > PART_BYTES / 16 && self.buffer.capacity() < PART_BYTES {
                self.buffer.reserve_exact(PART_BYTES - self.buffer.len());
            }
            self.buffer.extend_from_slice(now);
            self.hasher.update(now);
            self.bytes += taken as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends the object, which then stands under its key.
    ///
    /// # Errors
    /// [`StoreError`]; the upload is then aborted, and what was under the key before stays.
    pub fn finish(mut self) -> Result<Version, StoreError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let Some(id) = self.id.clone() else {
            let (inner, path) = (self.store.0.clone(), self.path.clone());
            let bytes = Bytes::from(std::mem::take(&mut self.buffer));
            return runtime::run(async move { inner.put(&path, &bytes).await });
        };
        self.send()?;
        while self.take_sent()? {}
        let (parts, path, done) = (self.parts()?, self.path.clone(), std::mem::take(&mut self.done));
        let (url, retries) = (self.url.clone(), self.store.0.settings.retries);
        let ended = runtime::run(async move {
            let complete = || parts.complete_multipart(&path, &id, done.clone());
            again(retries, "write", url, complete).await
        });
        let version = match ended {
            Ok(put) => Version::of(put.e_tag.as_deref()),
            // An end whose answer was lost is made again, and then there is no such upload any more.
            Err(error) => self.own()?.ok_or(error)?,
        };
        self.id = None;
        Ok(version)
    }

    fn parts(&self) -> Result<Arc<dyn MultipartStore>, StoreError> {
        let none = || StoreError::new(ErrorKind::Unsupported, "write", &self.url, "it takes no parts");
        self.store.0.client.parts.clone().ok_or_else(none)
    }

    fn noted<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Sends what is in the buffer as the next part, once there is room for it.
    fn send(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let (parts, number) = (self.parts()?, self.done.len() + self.sent.len());
        if number >= MOST_PARTS {
            let most = (MOST_PARTS as u64 * PART_BYTES as u64) >> 30;
            let said = format!("an object has at most {most} GiB; write more, smaller parts");
            return Err(StoreError::new(ErrorKind::Unsupported, "write", &self.url, said));
        }
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.id.insert(self.begin(parts.clone())?).clone(),
        };
        let permit = loop {
            if self.sent.is_empty() {
                break None;
            }
            match self.store.0.waiting.take(PART_BYTES) {
                None => _ = self.take_sent()?,
                permit => break permit,
            }
        };
        let (path, url, retries) = (self.path.clone(), self.url.clone(), self.store.0.settings.retries);
        let bytes = Bytes::from(std::mem::take(&mut self.buffer));
        let part = Pending::start(async move {
            let put = || parts.put_part(&path, &id, number, PutPayload::from(bytes.clone()));
            again(retries, "write", url, put).await
        })?;
        self.sent.push_back((part, permit));
        Ok(())
    }

    fn begin(&self, parts: Arc<dyn MultipartStore>) -> Result<MultipartId, StoreError> {
        let (path, url, retries) = (self.path.clone(), self.url.clone(), self.store.0.settings.retries);
        runtime::run(async move { again(retries, "write", url, || parts.create_multipart(&path)).await })
    }

    /// Waits for the part that was sent first; false if there is none.
    fn take_sent(&mut self) -> Result<bool, StoreError> {
        let Some((part, permit)) = self.sent.pop_front() else { return Ok(false) };
        let id = part.wait()??;
        drop(permit);
        self.done.push(id);
        Ok(true)
    }

    /// The version of what stands under the key, if that is what was written.
    fn own(&self) -> Result<Option<Version>, StoreError> {
        let Some(object) = self.store.find(self.url.key())? else { return Ok(None) };
        if object.bytes != self.bytes {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        while at < object.bytes {
            let range = at..object.bytes.min(at + RANGE_BYTES);
            at = range.end;
            hasher.update(&self.store.get_range(&object, range)?);
        }
        Ok((hasher.finalize() == self.hasher.finalize()).then_some(object.version))
    }

    fn abort(&mut self) -> Result<(), StoreError> {
        self.sent.clear();
        let Some(id) = self.id.take() else { return Ok(()) };
        let (parts, path, url) = (self.parts()?, self.path.clone(), self.url.clone());
        runtime::run(async move {
            parts.abort_multipart(&path, &id).await.map_err(|error| explained(&error, "abort the upload of", url))
        })
    }
}

impl Drop for Upload {
    /// Aborts what is not finished. What cannot be aborted is left to [`Store::abort_uploads_older_than`].
    fn drop(&mut self) {
        let _ = self.abort();
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: parts are sent when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
