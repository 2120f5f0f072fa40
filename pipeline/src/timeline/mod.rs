//! Interactions: read from their table, joined to users and items, and what of them excludes an item.

pub(crate) mod builder;
pub(crate) mod counts;
pub(crate) mod dataset;
pub(crate) mod exclusions;
pub(crate) mod interactions;
pub(crate) mod intervals;
pub(crate) mod of_run;
pub(crate) mod pair_store;
