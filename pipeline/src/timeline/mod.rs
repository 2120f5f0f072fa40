//! Interactions: read from their table, joined to users and items, and what a user has seen.

pub mod dataset;
pub(crate) mod exclusions;
pub(crate) mod interactions;
pub(crate) mod pair_store;
