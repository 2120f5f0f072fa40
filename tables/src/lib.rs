//! Raw tables of twotower (Parquet, CSV, JSON Lines) as bounded streams of Arrow batches.
