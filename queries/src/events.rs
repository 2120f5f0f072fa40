//! Interactions joined to encoded users and items, in time order.

use crate::QueryError;
use polars::prelude::*;
use std::path::Path;
use twotower_artifacts::ids::{Id, IdKind, Ids};
use twotower_artifacts::{Interactions, Side};

/// Columns of a staged interactions file: user and item id (Int64 or Utf8), time (Int64),
/// weight (Float32), and the row's position in the table (Int64).
pub const STAGED: [&str; 5] = ["user", "item", "time", "weight", "position"];

/// How many interactions a join kept and why the others fell out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Rows of the staged file.
    pub rows: u64,
    /// Events: rows whose user and item are both known, each event once.
    pub kept: u64,
    /// Further rows of an event that is kept.
    pub repeated: u64,
    /// Rows whose item is not in the items table.
    pub unknown_items: Strangers,
    /// Rows whose user is not in the users table (their item may be unknown as well).
    pub unknown_users: Strangers,
}

/// Rows with an id that the other table does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strangers {
    /// How many.
    pub rows: u64,
    /// The id of the first of them, as text.
    pub example: Option<String>,
}

/// What makes two rows of one user and one item the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The same time.
    SameTime,
    /// Nothing more: the table has no times.
    SamePair,
}

/// The distinct users of a staged interactions file, in no particular order.
///
/// # Errors
/// [`QueryError`] when polars cannot read the file.
pub fn distinct_users(staged: &Path, kind: IdKind) -> Result<Ids, QueryError> {
    let query = Query { name: "find the distinct users", path: staged };
    let frame = query.collect(query.scan()?.select([col("user")]).group_by([col("user")]).agg(Vec::<Expr>::new()))?;
    query.ids(&frame, "user", kind)
}

/// Joins a staged interactions file to the row numbers of `users` and `items`, sorted by user
/// row, then time, then position in the table.
///
/// An event counts once, however many rows it has: it stands where its first row stands, with the largest weight of
/// its rows. `identity` says which rows of a user and an item are one event.
///
/// # Errors
/// [`QueryError::IdType`] when ids of the two sides have different types; otherwise polars' errors.
pub fn join_events(
    staged: &Path,
    users: &Ids,
    items: &Ids,
    identity: Identity,
) -> Result<(Interactions, EventCounts), QueryError> {
    let query = Query { name: "join interactions to users and items", path: staged };
    let user_rows = query.lookup(users, "user", "user_row", Side::User)?;
    let item_rows = query.lookup(items, "item", "item_row", Side::Item)?;
    let rows = query.collect(query.scan()?.select([col("position").len().cast(DataType::Int64).alias("n")]))?;
    let rows = query.column::<i64>(&rows, "n", |c| c.i64())?.first().copied().unwrap_or(0) as u64;
    let unknown_items = query.strangers(item_rows.clone(), "item")?;
    let unknown_users = query.strangers(user_rows.clone(), "user")?;

    let order = SortMultipleOptions::default().with_maintain_order(false);
    let joined = query.collect(
        query
            .scan()?
            .inner_join(item_rows, col("item"), col("item"))
            .inner_join(user_rows, col("user"), col("user"))
            .select([col("user_row"), col("item_row"), col("time"), col("weight"), col("position")])
            .sort(["user_row", "time", "position"], order),
    )?;
    let events = Events {
        users: query.column::<u32>(&joined, "user_row", |c| c.u32())?,
        items: query.column::<u32>(&joined, "item_row", |c| c.u32())?,
        times: query.column::<i64>(&joined, "time", |c| c.i64())?,
        weights: query.column::<f32>(&joined, "weight", |c| c.f32())?,
    };
    drop(joined);
    let all = events.items.len();
    let interactions = events.each_once(identity).by_user(users.len());
    let kept = interactions.len();
    let repeated = (all - kept) as u64;
    Ok((interactions, EventCounts { rows, kept: kept as u64, repeated, unknown_items, unknown_users }))
}

/// Rows of known users and items, by user and in time order.
struct Events {
    users: Vec<u32>,
    items: Vec<u32>,
    times: Vec<i64>,
    weights: Vec<f32>,
}

impl Events {
    /// The events, each at its first row and with the largest weight of its rows.
    fn each_once(mut self, identity: Identity) -> Self {
        let same_moment = |events: &Self, a: usize, b: usize| {
            events.users[a] == events.users[b] && (identity == Identity::SamePair || events.times[a] == events.times[b])
        };
        let (all, mut kept, mut first) = (self.items.len(), 0, 0);
        let (mut by_item, mut is_repeat) = (Vec::new(), Vec::new());
        while first < all {
            let mut end = first + 1;
            while end < all && same_moment(&self, first, end) {
                end += 1;
            }
            // Most moments have one event.
            if end - first > 1 {
                by_item.clear();
                by_item.extend(first..end);
                by_item.sort_unstable_by_key(|at: &usize| (self.items[*at], *at));
                is_repeat.clear();
                is_repeat.resize(end - first, false);
                for rows in by_item.chunk_by(|a, b| self.items[*a] == self.items[*b]) {
                    for row in &rows[1..] {
                        self.weights[rows[0]] = self.weights[rows[0]].max(self.weights[*row]);
                        is_repeat[row - first] = true;
                    }
                }
            }
            for at in first..end {
                if end - first == 1 || !is_repeat[at - first] {
                    self.users[kept] = self.users[at];
                    self.items[kept] = self.items[at];
                    self.times[kept] = self.times[at];
                    self.weights[kept] = self.weights[at];
                    kept += 1;
                }
            }
            first = end;
        }
        self.users.truncate(kept);
        self.items.truncate(kept);
        self.times.truncate(kept);
        self.weights.truncate(kept);
        self
    }

    fn by_user(self, users: usize) -> Interactions {
        let mut offsets = vec![0u64; users + 1];
        for user in &self.users {
            offsets[*user as usize + 1] += 1;
        }
        for user in 0..users {
            offsets[user + 1] += offsets[user];
        }
        Interactions { offsets, items: self.items, times: self.times, weights: self.weights }
    }
}

/// One query over one staged file; carries what its errors must name.
struct Query<'a> {
    name: &'static str,
    path: &'a Path,
}

impl Query<'_> {
    fn error(&self, source: PolarsError) -> QueryError {
        QueryError::Polars { query: self.name, path: self.path.to_path_buf(), source }
    }

    fn scan(&self) -> Result<LazyFrame, QueryError> {
        let path = PlRefPath::try_from_path(self.path).map_err(|e| self.error(e))?;
        LazyFrame::scan_parquet(path, ScanArgsParquet { glob: false, ..Default::default() }).map_err(|e| self.error(e))
    }

    fn collect(&self, frame: LazyFrame) -> Result<DataFrame, QueryError> {
        frame.collect_with_engine(Engine::Streaming).map(|r| r.unwrap_single()).map_err(|e| self.error(e))
    }

    /// Rows whose id in `column` is not in `known`.
    fn strangers(&self, known: LazyFrame, column: &str) -> Result<Strangers, QueryError> {
        let unknown = self.scan()?.anti_join(known, col(column), col(column));
        let position = col("position");
        let counted = self.collect(unknown.select([
            position.clone().len().cast(DataType::Int64).alias("n"),
            position.clone().min().fill_null(lit(-1i64)).alias("first"),
        ]))?;
        let of = |name: &str| Ok(self.column::<i64>(&counted, name, |c| c.i64())?.first().copied().unwrap_or(0));
        let (rows, first) = (of("n")? as u64, of("first")?);
        if rows == 0 {
            return Ok(Strangers::default());
        }
        let row = self.collect(self.scan()?.filter(position.eq(lit(first))).select([col(column)]))?;
        let ids = row.column(column).map_err(|e| self.error(e))?;
        let example = match ids.dtype() {
            DataType::String => ids.str().map(|ids| ids.iter().flatten().next().map(|id| Id::Text(id).quoted())),
            _ => ids.i64().map(|ids| ids.iter().flatten().next().map(|id| Id::Int(id).quoted())),
        };
        Ok(Strangers { rows, example: example.map_err(|e| self.error(e))? })
    }

    /// A frame from ids to their row numbers.
    fn lookup(&self, ids: &Ids, id: &str, row: &str, side: Side) -> Result<LazyFrame, QueryError> {
        let staged = self.scan()?.collect_schema().map_err(|e| self.error(e))?;
        let keys = match ids {
            Ids::Int(values) => Column::new(id.into(), values.as_slice()),
            Ids::Text(values) => {
                let mut builder = StringChunkedBuilder::new(id.into(), ids.len());
                (0..ids.len()).for_each(|r| builder.append_value(values.get(r)));
                builder.finish().into_column()
            }
        };
        let table = match side {
            Side::User => "users",
            Side::Item => "items",
        };
        match staged.get(id) {
            Some(found) if found == keys.dtype() => {}
            found => {
                let found = found.map_or("missing".to_string(), |t| t.to_string());
                return Err(QueryError::IdType { table, expected: keys.dtype().to_string(), found });
            }
        }
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let frame =
            DataFrame::new_infer_height(vec![keys, Column::new(row.into(), rows)]).map_err(|e| self.error(e))?;
        Ok(frame.lazy())
    }

    /// The values of a column without nulls.
    fn column<T>(
        &self,
        frame: &DataFrame,
        name: &str,
        typed: impl FnOnce(&Column) -> PolarsResult<&ChunkedArray<T::PolarsType>>,
    ) -> Result<Vec<T>, QueryError>
    where
        T: NumericNative,
        T::PolarsType: PolarsNumericType<Native = T>,
    {
        let column = frame.column(name).map_err(|e| self.error(e))?;
        let values = typed(column).map_err(|e| self.error(e))?;
        if values.null_count() > 0 {
            let reason = format!("{} nulls in column `{name}`, expected none", values.null_count());
            return Err(QueryError::Result { query: self.name, path: self.path.to_path_buf(), reason });
        }
        Ok(values.into_no_null_iter().collect())
    }

    fn ids(&self, frame: &DataFrame, name: &str, kind: IdKind) -> Result<Ids, QueryError> {
        match kind {
            IdKind::Int => Ok(Ids::Int(self.column::<i64>(frame, name, |c| c.i64())?)),
            IdKind::Text => {
                let column = frame.column(name).map_err(|e| self.error(e))?;
                let mut ids = Ids::new(IdKind::Text);
                for value in column.str().map_err(|e| self.error(e))?.iter().flatten() {
                    ids.push(Id::Text(value));
                }
                Ok(ids)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(rows: &[(u32, u32, i64, f32)]) -> Events {
        Events {
            users: rows.iter().map(|r| r.0).collect(),
            items: rows.iter().map(|r| r.1).collect(),
            times: rows.iter().map(|r| r.2).collect(),
            weights: rows.iter().map(|r| r.3).collect(),
        }
    }

    #[test]
    fn an_event_counts_once_at_its_first_row_with_its_largest_weight() {
        // User 0 takes item 7 twice at once, and again later; user 2 repeats a whole moment; user 1 has nothing.
        let rows = [
            (0, 7, 10, 1.0),
            (0, 3, 10, 1.0),
            (0, 7, 10, 5.0),
            (0, 7, 11, 2.0),
            (2, 7, 11, 1.0),
            (2, 4, 11, 3.0),
            (2, 4, 11, 2.0),
            (2, 7, 11, 1.0),
        ];
        let once = events(&rows).each_once(Identity::SameTime).by_user(3);
        assert_eq!(once.offsets, [0, 3, 3, 5]);
        assert_eq!(once.items, [7, 3, 7, 7, 4]);
        assert_eq!(once.times, [10, 10, 11, 11, 11]);
        assert_eq!(once.weights, [5.0, 1.0, 2.0, 1.0, 3.0]);
        // Without times a pair is one event.
        let once = events(&rows).each_once(Identity::SamePair).by_user(3);
        assert_eq!((once.offsets, once.items), (vec![0, 2, 2, 4], vec![7, 3, 7, 4]));
        assert_eq!(once.weights, [5.0, 1.0, 1.0, 3.0]);
        assert!(events(&[]).each_once(Identity::SameTime).by_user(2).is_empty());
    }
}
