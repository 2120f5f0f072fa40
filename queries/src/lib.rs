//! Queries over interactions, in polars.
