//! What an error of a request means, and requests that are made again.
//!
//! `object_store` repeats requests that fail before an answer, or are answered by 429 or 5xx, with exponential back-off
//! and jitter. What it gives up although it may pass (a body that was cut, an answer that cannot be read) is made again
//! here, whole.

use crate::client::RETRY_TIMEOUT;
use crate::error::{ErrorKind, StoreError};
use object_store::client::{HttpError, HttpErrorKind};
use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a request is made again that `object_store` has given up.
const MOST: u32 = 4;
/// How much of an answer's text is shown.
const SHOWN: usize = 400;
/// Codes of answers to credentials that are none.
const BAD_CREDENTIALS: [&str; 6] = [
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "AuthenticationFailed",
    "NoAuthenticationInformation",
];
/// Hosts that give credentials to machines and containers.
const METADATA: [&str; 4] = ["169.254.169.254", "169.254.170.2", "169.254.170.23", "metadata.google.internal"];

/// What a request's error means.
pub struct Meaning {
    pub kind: ErrorKind,
    pub said: String,
    /// Whether the same request may succeed later.
    pub passes: bool,
}

/// What an error means.
pub fn meaning(error: &object_store::Error) -> Meaning {
    let text = error.to_string();
    let status = status(&text);
    let transport = transport(error);
    let code = tag(&text, "Code");
    let has = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    let refused = || match has(&BAD_CREDENTIALS) {
        true => ErrorKind::Credentials,
        false => ErrorKind::Denied,
    };
    let kind = match error {
        _ if METADATA.iter().any(|host| text.contains(host)) => ErrorKind::Credentials,
        _ if has(&["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]) => ErrorKind::NoBucket,
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. }
        | object_store::Error::Precondition { .. }
        | object_store::Error::NotModified { .. } => ErrorKind::Conflict,
        object_store::Error::Unauthenticated { .. } => ErrorKind::Credentials,
        object_store::Error::PermissionDenied { .. } => refused(),
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => ErrorKind::Unsupported,
        // Of a list, the store's answer is not told apart.
        _ if status == Some(403) => refused(),
        _ if status == Some(401) => ErrorKind::Credentials,
        _ if status == Some(404) => ErrorKind::NotFound,
        _ if status == Some(501) => ErrorKind::Unsupported,
        _ if matches!(status, Some(429 | 503)) || has(&["SlowDown", "ServerBusy"]) => ErrorKind::Throttled,
        _ => match transport {
            Some(HttpErrorKind::Connect) => ErrorKind::Unreachable,
            Some(_) => ErrorKind::Interrupted,
            None if text.contains("missing region") || text.contains("redirect") => ErrorKind::Settings,
            None => ErrorKind::Refused,
        },
    };
    let is_server_fault =
        status.is_some_and(|status| status >= 500 && status != 501) || matches!(status, Some(429 | 408));
    let is_lost = matches!(kind, ErrorKind::Interrupted | ErrorKind::Unreachable | ErrorKind::Throttled);
    let said = match (status, code, tag(&text, "Message")) {
        (Some(status), Some(code), Some(message)) => format!("{status} {code}: {message}"),
        (Some(status), Some(code), None) => format!("{status} {code}"),
        _ => last_cause(error),
    };
    Meaning { kind, said: cut(said), passes: is_server_fault || is_lost }
}

/// What an error means to whoever asked.
pub fn explained(error: &object_store::Error, action: &'static str, url: impl Display) -> StoreError {
    let Meaning { kind, said, .. } = meaning(error);
    StoreError::new(kind, action, url, said)
}

/// Makes a request, again if it fails for a reason that may pass.
pub async fn again<T, F: Future<Output = object_store::Result<T>>>(
    retries: u32,
    action: &'static str,
    url: impl Display,
    request: impl Fn() -> F,
) -> Result<T, StoreError> {
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        let error = match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Meaning { kind, passes, .. } = meaning(&error);
        // These were repeated as often as they are to be.
        let is_exhausted = error.to_string().contains(&format!("after {retries} retries"))
            || matches!(kind, ErrorKind::Unreachable | ErrorKind::Throttled);
        if !passes || is_exhausted || tries >= retries.min(MOST) || begun.elapsed() > RETRY_TIMEOUT {
            return Err(explained(&error, action, url));
        }
        wait(tries).await;
        tries += 1;
    }
}

/// Waits before the next try, the longer the more there were, and never exactly as long as others.
pub async fn wait(tries: u32) {
    let longest = 100u64 << tries.min(6);
    let noise = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::from(since.subsec_nanos()));
    tokio::time::sleep(Duration::from_millis(longest / 2 + noise / 1000 % longest.max(1))).await;
}

/// An error of a request that was answered by other bytes than were asked for.
pub fn cut_body(expected: u64, found: u64) -> object_store::Error {
    #[derive(Debug)]
    struct Cut(String);
    impl Display for Cut {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.0)
        }
    }
    impl Error for Cut {}
    let cut = Cut(format!("expected {expected} bytes, the answer had {found}"));
    let source = Box::new(HttpError::new(HttpErrorKind::Interrupted, cut));
    object_store::Error::Generic { store: "object store", source }
}

/// The kind of an error of the connection.
fn transport(error: &object_store::Error) -> Option<HttpErrorKind> {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(at) = source {
        if let Some(found) = at.downcast_ref::<HttpError>() {
            return Some(found.kind());
        }
        source = at.source();
    }
    None
}

fn last_cause(error: &object_store::Error) -> String {
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The status that an error tells of.
fn status(text: &str) -> Option<u16> {
    text.split("status code: ").nth(1)?.get(..3)?.parse().ok()
}

/// The text of the first XML element of that name.
pub fn tag<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

fn cut(text: String) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_is_told_short() {
        let text = "Generic S3 error: Error performing GET - Server returned non-2xx status code: 503 Service Unavailable: <Error><Code>SlowDown</Code><Message>Please reduce\nyour rate</Message></Error>";
        let error = object_store::Error::Generic { store: "S3", source: text.into() };
        let found = meaning(&error);
        assert_eq!((found.kind, found.said.as_str()), (ErrorKind::Throttled, "503 SlowDown: Please reduce your rate"));
        assert!(found.passes);
        let found = meaning(&cut_body(8, 3));
        assert_eq!(found.kind, ErrorKind::Interrupted);
        assert!(found.passes && found.said.contains("expected 8 bytes"), "{}", found.said);
    }
}
