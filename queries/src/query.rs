//! One query over one staged file.

use crate::QueryError;
use polars::prelude::*;
use std::path::Path;

/// A query over a file, with the name that its errors state.
pub(crate) struct Query<'a> {
    pub(crate) name: &'static str,
    pub(crate) path: &'a Path,
}

impl Query<'_> {
    pub(crate) fn error(&self, source: PolarsError) -> QueryError {
        QueryError::Polars { query: self.name, path: self.path.to_path_buf(), source }
    }

    /// The rows of the file. Only columns that are used are read.
    pub(crate) fn scan(&self) -> Result<LazyFrame, QueryError> {
        self.scan_numbered(None)
    }

    /// The rows of the file, with the number of each row, from 0, in a column of this name.
    pub(crate) fn scan_numbered(&self, number: Option<&str>) -> Result<LazyFrame, QueryError> {
        let path = PlRefPath::try_from_path(self.path).map_err(|e| self.error(e))?;
        let row_index = number.map(|name| RowIndex { name: name.into(), offset: 0 });
        let options = ScanArgsParquet { glob: false, row_index, ..Default::default() };
        LazyFrame::scan_parquet(path, options).map_err(|e| self.error(e))
    }

    pub(crate) fn collect(&self, frame: LazyFrame) -> Result<DataFrame, QueryError> {
        frame.collect_with_engine(Engine::Streaming).map(|r| r.unwrap_single()).map_err(|e| self.error(e))
    }

    /// The values of a column without nulls.
    pub(crate) fn column<T>(
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

    /// The counts in a column of integers without nulls.
    pub(crate) fn counts(&self, frame: &DataFrame, name: &str) -> Result<Vec<u64>, QueryError> {
        Ok(self.column::<i64>(frame, name, |c| c.i64())?.into_iter().map(|n| n as u64).collect())
    }
}
