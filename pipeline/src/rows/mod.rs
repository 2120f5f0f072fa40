//! Raw tables as rows that a stage can use: columns by name, what is set aside as unusable, lists beside the tables.

pub(crate) mod bad_rows;
pub(crate) mod columns;
pub(crate) mod duplicates;
pub(crate) mod id_filter;
pub(crate) mod id_index;
pub(crate) mod partitions;
pub(crate) mod quarantine;
pub(crate) mod side_files;
pub(crate) mod source;
pub(crate) mod strangers;
pub(crate) mod times;
pub(crate) mod unreadable;
