//! The error of this crate: what was attempted, where, what the store said, and what to do next.

use crate::redact::redact;
use std::fmt;
use twotower_artifacts::Category;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A URL that makes no sense.
    Url,
    /// A setting of `[store]` or of the environment that makes no sense.
    Settings,
    /// No credentials were found, or the store does not know them.
    Credentials,
    /// The store refuses the request to these credentials.
    Denied,
    /// There is no such bucket or container.
    NoBucket,
    /// There is no such object.
    NotFound,
    /// The condition of a write does not hold: another was faster.
    Conflict,
    /// The object is no longer what it was.
    Changed,
    /// No connection to the endpoint.
    Unreachable,
    /// The store asks to slow down, and goes on asking.
    Throttled,
    /// An answer or its body did not come in time, or was cut.
    Interrupted,
    /// The store cannot do that.
    Unsupported,
    /// Anything else that the store answers.
    Refused,
}

impl ErrorKind {
    /// What to do next.
    fn advice(self) -> Option<&'static str> {
        match self {
            ErrorKind::Url | ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Refused => None,
            ErrorKind::Settings => Some("mend the setting, in `[store]` of the job or in the environment"),
            ErrorKind::Credentials => Some(
                "give credentials by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY; GOOGLE_APPLICATION_CREDENTIALS) or a role of the machine, or set `store.unsigned` for a public bucket",
            ),
            ErrorKind::Denied => {
                Some("let these credentials list and read, and where results go also write and delete")
            }
            ErrorKind::NoBucket => Some("create it, or check its name, `store.region` and `store.endpoint`"),
            ErrorKind::NotFound => Some("check the path"),
            ErrorKind::Changed => Some("what was read of it is not used, run the command again once it is complete"),
            ErrorKind::Unreachable => Some("check `store.endpoint`, the network and its proxies"),
            ErrorKind::Throttled => Some("run the command again later, with fewer shards at a time"),
            ErrorKind::Interrupted => {
                Some("check the network, raise `store.timeout_seconds` or `store.retries`, and run the command again")
            }
        }
    }

    fn what(self) -> &'static str {
        match self {
            ErrorKind::Url => "not a URL of a store",
            ErrorKind::Settings => "a setting is wrong",
            ErrorKind::Credentials => "no valid credentials",
            ErrorKind::Denied => "access denied",
            ErrorKind::NoBucket => "there is no such bucket",
            ErrorKind::NotFound => "there is no such object",
            ErrorKind::Conflict => "another has written it",
            ErrorKind::Changed => "the object changed while it was being read",
            ErrorKind::Unreachable => "no connection",
            ErrorKind::Throttled => "the store asks to slow down",
            ErrorKind::Interrupted => "the answer did not come in time or was cut",
            ErrorKind::Unsupported => "the store cannot do that",
            ErrorKind::Refused => "the store refused",
        }
    }
}

/// An operation on a store that failed. Secrets are taken out of what the store said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    kind: ErrorKind,
    action: &'static str,
    url: String,
    said: String,
}

impl StoreError {
    /// An error of `action` at `url`; `said` is what the store, or this program, says of it, or nothing.
    pub fn new(kind: ErrorKind, action: &'static str, url: impl fmt::Display, said: impl fmt::Display) -> Self {
        Self { kind, action, url: redact(&url.to_string()), said: redact(&said.to_string()) }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether another writer was faster: a conditional write that found something else than it expected.
    pub fn is_conflict(&self) -> bool {
        self.kind == ErrorKind::Conflict
    }

    /// Whether the object, or its bucket, is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// The exit-code category: a URL or setting is usage, an object that is missing or changed is data, and what a run
    /// again may mend is neither.
    pub fn category(&self) -> Category {
        match self.kind {
            ErrorKind::Url | ErrorKind::Settings | ErrorKind::Unsupported | ErrorKind::NoBucket => Category::Usage,
            ErrorKind::NotFound | ErrorKind::Changed => Category::Data,
            ErrorKind::Credentials
            | ErrorKind::Denied
            | ErrorKind::Conflict
            | ErrorKind::Unreachable
            | ErrorKind::Throttled
            | ErrorKind::Interrupted
            | ErrorKind::Refused => Category::Other,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, action, url, said } = self;
        write!(f, "{action} {url}: {}", kind.what())?;
        if !said.is_empty() {
            write!(f, ": {said}")?;
        }
        kind.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound | ErrorKind::NoBucket => std::io::ErrorKind::NotFound,
            ErrorKind::Credentials | ErrorKind::Denied => std::io::ErrorKind::PermissionDenied,
            ErrorKind::Conflict => std::io::ErrorKind::AlreadyExists,
            ErrorKind::Unreachable => std::io::ErrorKind::NotConnected,
            ErrorKind::Interrupted | ErrorKind::Throttled => std::io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => std::io::ErrorKind::Unsupported,
            ErrorKind::Url | ErrorKind::Settings => std::io::ErrorKind::InvalidInput,
            ErrorKind::Changed | ErrorKind::Refused => std::io::ErrorKind::Other,
        };
        std::io::Error::new(kind, error)
    }
}
