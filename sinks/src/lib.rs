//! Databases that results are exported to. The only crate that knows Redis and PostgreSQL.
//!
//! Both hold *generations*: all lists of one export, under keys or in a table of their own. Readers are pointed at one
//! generation, and at the next in one step, so that they see one export or the other, whole.
//!
//! ```text
//! connect ─▶ begin ─▶ (begin_part ─▶ write… ─▶ end_part)… ─▶ switch ─▶ remove_old
//! ```
//!
//! What a part has written counts once `end_part` has returned. After an error that [passes](SinkError::passes) the caller
//! connects and begins again: `begin` says which parts of the unfinished generation are done.

mod error;
mod postgres;
mod redis;
mod target;

pub use error::SinkError;
pub use target::Target;

use std::collections::BTreeSet;
use std::time::Duration;
use twotower_artifacts::IdKind;
use twotower_artifacts::neighbours_file::NeighbourTable;

/// What is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Night {
    /// Name of the run.
    pub run: String,
    /// Fingerprint of its lists.
    pub fingerprint: String,
    /// Number of its parts.
    pub parts: u32,
    /// Users in all parts.
    pub users: u64,
    /// Pairs of a user and an item in all parts.
    pub pairs: u64,
    /// Kind of the ids of users.
    pub user_ids: IdKind,
    /// Kind of the ids of items.
    pub item_ids: IdKind,
    /// Of a model of inner products, what cosines are multiplied with to be these.
    pub inner_product_scale: Option<f32>,
    /// The program's version.
    pub made_by: String,
}

/// How it is exported.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What the names of keys or tables begin with.
    pub name: String,
    /// How long a generation lives in Redis from its beginning; none for ever.
    pub expire: Option<Duration>,
    /// Complete generations to keep, the current one among them.
    pub keep: u32,
    /// Write a generation even where the current one has the same lists.
    pub again: bool,
}

/// How an export begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Readers have these lists already.
    Current {
        /// The generation that they read.
        generation: u64,
    },
    /// Parts are to be written.
    Due {
        /// The generation that is written.
        generation: u64,
        /// Its parts that are complete.
        done: BTreeSet<u32>,
    },
}

/// Asks whether to go on, some times a second while a server takes its time; `false` stops the export.
pub type GoOn<'a> = &'a mut dyn FnMut() -> bool;

/// A database that an export is written to.
pub trait Sink {
    /// Connects, or connects again.
    ///
    /// # Errors
    /// No server, or one that refuses this client.
    fn connect(&mut self) -> Result<(), SinkError>;

    /// Locks the name against other exports, and finds the generation that is to be written.
    ///
    /// # Errors
    /// [`SinkError::InUse`], a failed request.
    fn begin(&mut self) -> Result<Begun, SinkError>;

    /// Begins a part, from 0.
    ///
    /// # Errors
    /// A failed request.
    fn begin_part(&mut self, part: u32) -> Result<(), SinkError>;

    /// Writes lists of the part.
    ///
    /// # Errors
    /// A failed request, ids that the database cannot hold.
    fn write(&mut self, lists: &NeighbourTable) -> Result<(), SinkError>;

    /// Completes the part, of which so many users were written.
    ///
    /// # Errors
    /// A failed request.
    fn end_part(&mut self, part: u32, users: u64) -> Result<(), SinkError>;

    /// Points readers at the generation, all of whose parts are done.
    ///
    /// # Errors
    /// A failed request; parts that are no longer there.
    fn switch(&mut self, go_on: GoOn<'_>) -> Result<(), SinkError>;

    /// Removes generations that are not to be kept; returns their numbers. What cannot be removed now is left with a warning.
    ///
    /// # Errors
    /// A failed request.
    fn remove_old(&mut self, go_on: GoOn<'_>) -> Result<Vec<u64>, SinkError>;

    /// Gives the name free. That it cannot is no error: the lock ends by itself.
    fn end(&mut self);
}
