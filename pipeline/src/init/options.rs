//! What whoever writes a job knows of its tables; the rest is guessed.

use twotower_tables::{Encoding, Format};

/// What a job is written from.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// File, folder or glob of users.
    pub users: String,
    /// File, folder or glob of items.
    pub items: String,
    /// File, folder or glob of interactions.
    pub interactions: String,
    /// Separator of fields of those that are delimited text and have it in their first line; the others are read by what
    /// that tells.
    pub delimiter: Option<String>,
    /// Character encoding of those that are text; told by their bytes where it is not given.
    pub encoding: Option<Encoding>,
    /// Columns that are known.
    pub columns: KnownColumns,
    /// How the tables are to be read, as far as that is known.
    pub reading: KnownReading,
}

/// How tables are to be read; what is not given, their names and first lines tell.
#[derive(Debug, Clone, Default)]
pub struct KnownReading {
    /// Of users.
    pub users: TableReading,
    /// Of items.
    pub items: TableReading,
    /// Of interactions.
    pub interactions: TableReading,
    /// The first lines of delimited tables name their columns, whatever they look like.
    pub header: bool,
}

/// How a table is to be read.
#[derive(Debug, Clone, Default)]
pub struct TableReading {
    /// Its format; by the extension where it is not given.
    pub format: Option<Format>,
    /// Separator of its fields; that of all tables, or what its first line tells, where it is not given.
    pub delimiter: Option<String>,
    /// Names of its columns, which its first line does not have.
    pub columns: Option<Vec<String>>,
}

/// Columns that whoever writes a job knows; those that are not given are guessed.
#[derive(Debug, Clone, Default)]
pub struct KnownColumns {
    /// Of users: the id.
    pub user_id: Option<String>,
    /// Of items: the id.
    pub item_id: Option<String>,
    /// Of interactions: the user's id.
    pub event_user: Option<String>,
    /// Of interactions: the item's id.
    pub event_item: Option<String>,
    /// Of interactions: the time.
    pub timestamp: Option<String>,
}
