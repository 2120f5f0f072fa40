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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Rows of the staged file.
    pub rows: u64,
    /// Rows whose user and item are both known.
    pub kept: u64,
    /// Rows whose item is not in the items table.
    pub unknown_item: u64,
    /// Rows whose user is not in the users table (their item may be unknown as well).
    pub unknown_user: u64,
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
/// # Errors
/// [`QueryError::IdType`] when ids of the two sides have different types; otherwise polars' errors.
pub fn join_events(staged: &Path, users: &Ids, items: &Ids) -> Result<(Interactions, EventCounts), QueryError> {
    let query = Query { name: "join interactions to users and items", path: staged };
    let user_rows = query.lookup(users, "user", "user_row", Side::User)?;
    let item_rows = query.lookup(items, "item", "item_row", Side::Item)?;
    let count = |frame: LazyFrame, what: &str| -> Result<u64, QueryError> {
        let frame = query.collect(frame.select([col(what).len().cast(DataType::Int64).alias("n")]))?;
        Ok(query.column::<i64>(&frame, "n", |c| c.i64())?.first().copied().unwrap_or(0) as u64)
    };
    let rows = count(query.scan()?, "position")?;
    let unknown_item = count(query.scan()?.anti_join(item_rows.clone(), col("item"), col("item")), "position")?;
    let unknown_user = count(query.scan()?.anti_join(user_rows.clone(), col("user"), col("user")), "position")?;

    let order = SortMultipleOptions::default().with_maintain_order(false);
    let joined = query.collect(
        query
            .scan()?
            .inner_join(item_rows, col("item"), col("item"))
            .inner_join(user_rows, col("user"), col("user"))
            .select([col("user_row"), col("item_row"), col("time"), col("weight"), col("position")])
            .sort(["user_row", "time", "position"], order),
    )?;
    let user_row = query.column::<u32>(&joined, "user_row", |c| c.u32())?;
    let mut offsets = vec![0u64; users.len() + 1];
    for u in &user_row {
        offsets[*u as usize + 1] += 1;
    }
    for u in 0..users.len() {
        offsets[u + 1] += offsets[u];
    }
    let interactions = Interactions {
        offsets,
        items: query.column::<u32>(&joined, "item_row", |c| c.u32())?,
        times: query.column::<i64>(&joined, "time", |c| c.i64())?,
        weights: query.column::<f32>(&joined, "weight", |c| c.f32())?,
    };
    let counts = EventCounts { rows, kept: interactions.len() as u64, unknown_item, unknown_user };
    Ok((interactions, counts))
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
