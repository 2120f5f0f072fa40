//! Encoded interactions as Parquet: `user_row`, `item_row`, `time`, `weight`, sorted by user and time.

use crate::error::ArtifactError;
use crate::fingerprint::Fingerprint;
use crate::interactions::Interactions;
use crate::manifest::FileEntry;
use crate::parquet_file::{Artifact, Compression, ParquetFile, ParquetSource};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type, UInt32Type};
use arrow_array::{Array, Float32Array, Int64Array, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

const INTERACTIONS: Artifact = Artifact { name: "interactions", version: 1 };
const CHUNK_ROWS: usize = 128 * 1024;

/// What a file of interactions says about itself, in its Parquet metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InteractionsInfo {
    /// Rows of the encoded user table; users without events included.
    pub users: u64,
    /// Rows of the encoded item table.
    pub items: u64,
    /// Encoder state the rows refer to.
    pub encoder: Fingerprint,
}

/// Publishes `interactions` under `path`.
///
/// # Errors
/// [`ArtifactError::Length`] when the columns have unlike lengths, or a failed write.
pub fn write_interactions(
    path: impl AsRef<Path>,
    interactions: &Interactions,
    items: u64,
    encoder: &Fingerprint,
    compression: Compression,
) -> Result<FileEntry, ArtifactError> {
    let path = path.as_ref();
    let expected = interactions.len();
    let last = interactions.offsets.last().map_or(0, |o| *o as usize);
    let lengths =
        [("offsets' end", last), ("times", interactions.times.len()), ("weights", interactions.weights.len())];
    if let Some((what, found)) = lengths.into_iter().find(|(_, found)| *found != expected) {
        return Err(ArtifactError::Length { path: path.to_path_buf(), what, expected, found });
    }
    let info = InteractionsInfo { users: interactions.users() as u64, items, encoder: encoder.clone() };
    let schema = Arc::new(Schema::new(vec![
        Field::new("user_row", DataType::UInt32, false),
        Field::new("item_row", DataType::UInt32, false),
        Field::new("time", DataType::Int64, false),
        Field::new("weight", DataType::Float32, false),
    ]));
    let mut file = ParquetFile::create(path, schema, 4 * CHUNK_ROWS, compression, &["weight"], INTERACTIONS, &info)?;
    let mut user = 0;
    for start in (0..expected).step_by(CHUNK_ROWS) {
        let chunk = start..expected.min(start + CHUNK_ROWS);
        let user_rows = chunk.clone().map(|event| {
            while interactions.offsets[user + 1] as usize <= event {
                user += 1;
            }
            user as u32
        });
        file.write(vec![
            Arc::new(UInt32Array::from_iter_values(user_rows)),
            Arc::new(UInt32Array::from(interactions.items[chunk.clone()].to_vec())),
            Arc::new(Int64Array::from(interactions.times[chunk.clone()].to_vec())),
            Arc::new(Float32Array::from(interactions.weights[chunk].to_vec())),
        ])?;
    }
    file.finish()
}

/// What a file of [`write_interactions`] says about itself, and its number of events.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Version`] or [`ArtifactError::Corrupt`].
pub fn inspect_interactions(path: impl AsRef<Path>) -> Result<(InteractionsInfo, u64), ArtifactError> {
    let source = ParquetSource::open(path.as_ref())?;
    Ok((source.details(INTERACTIONS)?, source.rows()))
}

/// Loads a file of [`write_interactions`] between so many users and items: 16 bytes per event and 8 per user.
///
/// # Errors
/// [`ArtifactError::Io`], [`ArtifactError::Parquet`], [`ArtifactError::Version`], and [`ArtifactError::Corrupt`] when
/// rows are out of order or out of range, or the file is of another number of users or items.
pub fn read_interactions(
    path: impl AsRef<Path>,
    users: usize,
    items: usize,
) -> Result<(InteractionsInfo, Interactions), ArtifactError> {
    let source = ParquetSource::open(path.as_ref())?;
    let info: InteractionsInfo = source.details(INTERACTIONS)?;
    // Before anything is allocated for them.
    if (info.users, info.items) != (users as u64, items as u64) || info.users > u64::from(u32::MAX) {
        return Err(source.corrupt(format!(
            "events of {} users and {} items, beside it are {users} users and {items} items",
            info.users, info.items
        )));
    }
    let mut found = Interactions { offsets: vec![0], ..Interactions::default() };
    for batch in source.batches(0..u64::MAX, CHUNK_ROWS)? {
        let batch = batch?;
        let columns = batch.columns();
        let typed = (|| {
            let [users, items, times, weights] = columns else { return None };
            let nulls: usize = columns.iter().map(|c| c.null_count()).sum();
            (nulls == 0).then_some((
                users.as_primitive_opt::<UInt32Type>()?.values(),
                items.as_primitive_opt::<UInt32Type>()?.values(),
                times.as_primitive_opt::<Int64Type>()?.values(),
                weights.as_primitive_opt::<Float32Type>()?.values(),
            ))
        })();
        let (users, items, times, weights) = typed.ok_or_else(|| {
            source.corrupt("expected `user_row`, `item_row` (UInt32), `time` (Int64), `weight` (Float32), no nulls")
        })?;
        for (row, (&user, &item)) in users.iter().zip(items.iter()).enumerate() {
            let event = found.items.len() as u64;
            let current = found.offsets.len() as u64 - 1;
            if u64::from(user) >= info.users
                || u64::from(item) >= info.items
                || u64::from(user) < current.saturating_sub(1)
            {
                return Err(
                    source.corrupt(format!("row {event}: user row {user} or item row {item} is out of order or range"))
                );
            }
            // offsets holds the starts of users 0..=user, the last of them still open.
            let same_user = found.offsets.len() == user as usize + 2;
            if same_user && found.times.last().is_some_and(|t| *t > times[row]) {
                return Err(source.corrupt(format!("row {event}: events of user row {user} are not in time order")));
            }
            found.offsets.resize(user as usize + 1, event);
            found.offsets.push(event + 1);
            found.items.push(item);
            found.times.push(times[row]);
            found.weights.push(weights[row]);
        }
    }
    found.offsets.resize(info.users as usize + 1, found.items.len() as u64);
    Ok((info, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Interactions {
        Interactions {
            offsets: vec![0, 0, 3, 3, 3, 4, 4],
            items: vec![5, 1, 5, 0],
            times: vec![-2, 7, 7, 1],
            weights: vec![1.0, 0.5, 1.0, 2.0],
        }
    }

    #[test]
    fn users_without_events_survive_first_middle_and_last() {
        let dir = tempfile::tempdir().unwrap();
        let encoder = Fingerprint::of(b"state");
        for (name, expected) in
            [("some", sample()), ("none", Interactions { offsets: vec![0, 0, 0], ..Interactions::default() })]
        {
            let path = dir.path().join(name);
            write_interactions(&path, &expected, 6, &encoder, Compression::Zstd).unwrap();
            let (info, found) = read_interactions(&path, expected.users(), 6).unwrap();
            assert_eq!(found, expected);
            assert_eq!((info.users, info.items), (expected.users() as u64, 6));
            assert_eq!(inspect_interactions(&path).unwrap(), (info, expected.len() as u64));
            for (users, items) in [(expected.users() + 1, 6), (expected.users(), 5)] {
                assert!(read_interactions(&path, users, items).unwrap_err().to_string().contains("beside it"));
            }
        }
    }

    #[test]
    fn items_out_of_range_and_times_out_of_order_are_corrupt() {
        let dir = tempfile::tempdir().unwrap();
        let encoder = Fingerprint::of(b"state");
        let path = dir.path().join("i");
        write_interactions(&path, &sample(), 5, &encoder, Compression::None).unwrap();
        let message = |items| read_interactions(&path, 6, items).unwrap_err().to_string();
        assert!(message(5).contains("out of order or range"), "{}", message(5));
        let mut unordered = sample();
        unordered.times[2] = 6;
        write_interactions(&path, &unordered, 6, &encoder, Compression::None).unwrap();
        assert!(message(6).contains("time order"), "{}", message(6));
    }

    #[test]
    fn columns_of_unlike_lengths_are_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut bad = sample();
        bad.times.pop();
        let result = write_interactions(dir.path().join("i"), &bad, 6, &Fingerprint::of(b""), Compression::None);
        assert!(matches!(result, Err(ArtifactError::Length { what: "times", expected: 4, found: 3, .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
