//! Interactions: read from their table, joined to users and items, and what a user has seen.

pub(crate) mod builder;
pub mod dataset;
pub(crate) mod exclusions;
pub(crate) mod interactions;
pub(crate) mod of_run;
pub(crate) mod pair_store;
