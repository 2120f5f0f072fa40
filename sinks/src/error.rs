//! Why an export stopped, and whether it is worth another try.

use twotower_artifacts::Category;

/// Errors of a database. No message holds a password.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// An address or a setting that cannot be right, or a server that refuses this client.
    #[error("{0}")]
    Usage(String),
    /// What stands in the database does not fit.
    #[error("{0}")]
    Mismatch(String),
    /// Lists that the database cannot hold.
    #[error("{0}")]
    Data(String),
    /// The server is away, or was for a moment: the same may succeed later.
    #[error("{action} {server}: {reason}")]
    Gone {
        /// What was attempted.
        action: &'static str,
        /// The server, without a password.
        server: String,
        /// What is known of why.
        reason: String,
    },
    /// The server cannot do it.
    #[error("{action} {server}: {reason}; {advice}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// The server, without a password.
        server: String,
        /// What the server said.
        reason: String,
        /// The next step.
        advice: &'static str,
    },
    /// Another export writes under the name.
    #[error(
        "`{name}` in {server} is being written by {holder}; wait for it or end it, then give the same command again"
    )]
    InUse {
        /// What the names of keys or tables begin with.
        name: String,
        /// The server, without a password.
        server: String,
        /// Who writes it.
        holder: String,
    },
    /// The caller did not want to go on.
    #[error("stopped")]
    Stopped,
}

impl SinkError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            Self::Usage(_) => Category::Usage,
            Self::Mismatch(_) => Category::Mismatch,
            Self::Data(_) => Category::Data,
            Self::Gone { .. } | Self::Refused { .. } | Self::InUse { .. } | Self::Stopped => Category::Other,
        }
    }

    /// Whether the same may succeed after a while.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::InUse { .. })
    }
}
