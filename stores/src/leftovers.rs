//! Uploads that were begun and never ended.
//!
//! A program that is killed leaves what it sent in the store, which is paid for. S3 can be asked for it. Azure deletes
//! it after a week by itself and cannot be asked; Google's storage deletes it by a rule of the bucket
//! (`AbortIncompleteMultipartUpload`), and is not asked here.

use crate::client::RETRY_TIMEOUT;
use crate::error::{ErrorKind, StoreError};
use crate::retry::{again, tag};
use crate::runtime;
use crate::store::{Inner, Store};
use chrono::{DateTime, Utc};
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use std::sync::Arc;
use std::time::Duration;

const ACTION: &str = "list the unfinished uploads of";

/// An upload that was begun.
#[derive(Debug, PartialEq, Eq)]
struct Unfinished {
    key: String,
    id: String,
    begun: DateTime<Utc>,
}

impl Store {
    /// Aborts uploads below `prefix` that were begun longer than `age` ago, and returns how many; none where the store
    /// cannot be asked for them: Azure deletes them after a week, Google's by a rule of the bucket.
    ///
    /// # Errors
    /// [`StoreError`]; some may be aborted then.
    pub fn abort_uploads_older_than(&self, prefix: &str, age: Duration) -> Result<Option<usize>, StoreError> {
        let Some(s3) = self.0.client.s3.clone().filter(|_| !self.0.settings.unsigned) else { return Ok(None) };
        let (inner, prefix) = (self.0.clone(), prefix.trim_matches('/').to_string());
        runtime::run(async move {
            let oldest = Utc::now() - chrono::Duration::from_std(age).unwrap_or(chrono::Duration::MAX);
            let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
            let mut aborted = 0;
            for upload in inner.unfinished(&s3, &prefix).await? {
                if upload.begun > oldest {
                    continue;
                }
                let url = inner.root.with_key(upload.key.clone());
                let wrong = |e| StoreError::new(ErrorKind::Url, "abort the upload of", &url, e);
                let path = Path::parse(&upload.key).map_err(wrong)?;
                let abort = || s3.abort_multipart(&path, &upload.id);
                match again(inner.settings.retries, "abort the upload of", &url, abort).await {
                    Ok(()) => aborted += 1,
                    // Somebody else has ended it.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Some(aborted))
        })
    }

    /// Keys below `prefix` of uploads that were begun and are not ended, in order; none where the store cannot be asked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn unfinished_uploads(&self, prefix: &str) -> Result<Option<Vec<String>>, StoreError> {
        let Some(s3) = self.0.client.s3.clone().filter(|_| !self.0.settings.unsigned) else { return Ok(None) };
        let (inner, prefix) = (self.0.clone(), prefix.to_string());
        let found = runtime::run(async move { inner.unfinished(&s3, &prefix).await })?;
        Ok(Some(found.into_iter().map(|upload| upload.key).collect()))
    }
}

impl Inner {
    async fn unfinished(&self, s3: &Arc<AmazonS3>, prefix: &str) -> Result<Vec<Unfinished>, StoreError> {
        let mut all = Vec::new();
        let mut markers: Option<(String, String)> = None;
        loop {
            let text = self.page(s3, prefix, markers.as_ref()).await?;
            let uploads = uploads(&text).ok_or_else(|| {
                StoreError::new(ErrorKind::Refused, ACTION, &self.root, "the answer is no list of uploads")
            })?;
            // Some stores take the prefix for a hint.
            all.extend(uploads.into_iter().filter(|upload| upload.key.starts_with(prefix)));
            let next = |name| tag(&text, name).map(unescape).filter(|marker| !marker.is_empty());
            markers = match (tag(&text, "IsTruncated"), next("NextKeyMarker"), next("NextUploadIdMarker")) {
                (Some("true"), Some(key), id) if markers.as_ref().is_none_or(|(last, _)| *last <= key) => {
                    Some((key, id.unwrap_or_default()))
                }
                _ => break,
            };
        }
        all.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        all.dedup();
        Ok(all)
    }

    /// A page of the list.
    async fn page(
        &self,
        s3: &AmazonS3,
        prefix: &str,
        markers: Option<&(String, String)>,
    ) -> Result<String, StoreError> {
        let mut query = vec![("uploads", ""), ("max-uploads", "1000")];
        query.extend(Some(("prefix", prefix)).filter(|_| !prefix.is_empty()));
        if let Some((key, id)) = markers {
            query.push(("key-marker", key));
            query.extend(Some(("upload-id-marker", id.as_str())).filter(|_| !id.is_empty()));
        }
        let options = SignedUrlOptions::new().with_query(query);
        let get = || async {
            let bucket = Path::default();
            let url = s3.signed_url_opts(reqwest::Method::GET, &bucket, RETRY_TIMEOUT, &options).await?;
            let failed = |e: reqwest::Error| {
                let source = Box::new(object_store::client::HttpError::new(
                    object_store::client::HttpErrorKind::Interrupted,
                    e.without_url(),
                ));
                object_store::Error::Generic { store: "S3", source }
            };
            let timeout = Duration::from_secs(self.settings.timeout_seconds.into());
            let client = reqwest::Client::builder().timeout(timeout).build().map_err(failed)?;
            let answer = client.get(url).send().await.map_err(failed)?;
            let status = answer.status();
            let text = answer.text().await.map_err(failed)?;
            match status.is_success() {
                true => Ok(text),
                false => {
                    let source = format!("Server returned non-2xx status code: {status}: {text}").into();
                    Err(match status.as_u16() {
                        403 => object_store::Error::PermissionDenied { path: String::new(), source },
                        404 => object_store::Error::NotFound { path: String::new(), source },
                        _ => object_store::Error::Generic { store: "S3", source },
                    })
                }
            }
        };
        again(self.settings.retries, ACTION, &self.root, get).await
    }
}

/// The uploads of a page.
fn uploads(text: &str) -> Option<Vec<Unfinished>> {
    if !text.contains("ListMultipartUploadsResult") {
        return None;
    }
    let upload = |text: &str| {
        let begun = DateTime::parse_from_rfc3339(tag(text, "Initiated")?).ok()?.to_utc();
        Some(Unfinished { key: unescape(tag(text, "Key")?), id: unescape(tag(text, "UploadId")?), begun })
    };
    text.split("<Upload>").skip(1).map(upload).collect()
}

/// The text of an XML element.
fn unescape(text: &str) -> String {
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&#34;", "\"")];
    let text = plain.into_iter().fold(text.to_string(), |text, (escaped, plain)| text.replace(escaped, plain));
    text.replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_s3_writes_it() {
        let text = "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Bucket>b</Bucket><IsTruncated>false</IsTruncated><Upload><Key>a&amp;b/c</Key><UploadId>X1</UploadId><Initiated>2026-01-31T10:00:00.000Z</Initiated></Upload><Upload><UploadId>X2</UploadId><Key>d</Key><Initiated>2026-01-31T10:00:01Z</Initiated></Upload></ListMultipartUploadsResult>";
        let found = uploads(text).unwrap();
        let keys: Vec<_> = found.iter().map(|upload| (upload.key.as_str(), upload.id.as_str())).collect();
        assert_eq!(keys, [("a&b/c", "X1"), ("d", "X2")]);
        assert_eq!(found[1].begun.timestamp() - found[0].begun.timestamp(), 1);
        assert_eq!(uploads("<html>"), None);
    }
}
