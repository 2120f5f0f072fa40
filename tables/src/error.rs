//! The error of this crate.

use arrow_schema::DataType;
use std::path::PathBuf;
use twotower_artifacts::{Category, IdProblem};

/// Errors of reading raw tables. Messages name table, file, line or row, and column.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A setting of a table makes no sense.
    #[error("table `{table}`: setting `{key}`: {reason}")]
    Spec {
        /// Table name.
        table: String,
        /// The setting.
        key: &'static str,
        /// What was expected and found.
        reason: String,
    },
    /// No file under the given path.
    #[error("table `{table}`: no file matches `{pattern}`")]
    NoFiles {
        /// Table name.
        table: String,
        /// The path, folder or glob.
        pattern: String,
    },
    /// Files, but no rows.
    #[error("table `{table}`: no rows in {files} files of `{pattern}`")]
    Empty {
        /// Table name.
        table: String,
        /// The path, folder or glob.
        pattern: String,
        /// Files found.
        files: usize,
    },
    /// The operating system refused.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Its error.
        source: std::io::Error,
    },
    /// A column that is not there.
    #[error("table `{table}`: no column `{column}` in {path}{advice}; it has {columns}", path = path.display(),
        advice = nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(),
        columns = columns.join(", "))]
    MissingColumn {
        /// Table name.
        table: String,
        /// The column asked for.
        column: String,
        /// The first file that lacks it.
        path: PathBuf,
        /// Columns of that file.
        columns: Vec<String>,
        /// The column most like the one asked for.
        nearest: Option<String>,
    },
    /// A column has unlike types in two files, or a type that cannot serve its purpose.
    #[error("table `{table}`: column `{column}` in {path} is {found}, expected {expected}", path = path.display())]
    ColumnType {
        /// Table name.
        table: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// Type found.
        found: DataType,
        /// What was expected, and why.
        expected: String,
    },
    /// A file without a usable first line.
    #[error("read {path}: header: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A row with too few or too many fields.
    #[error("read {path}: line {line} has {found} fields, expected {expected}; check the delimiter and quoting", path = path.display())]
    Ragged {
        /// The file.
        path: PathBuf,
        /// Line on which the row begins, from 1.
        line: u64,
        /// Fields of the header.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// Bytes that are not UTF-8.
    #[error("read {path}: line {line} is not UTF-8 (byte {offset} of the file); for Western European files set encoding = \"latin-1\"", path = path.display())]
    InvalidUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Offset of the first bad byte, from 0.
        offset: u64,
    },
    /// A row that never ends.
    #[error("read {path}: the row at line {line} {reason}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Line on which the row begins, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A line that is not the expected JSON object.
    #[error("read {path}: line {line}: {reason}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// Parquet refused a file: truncated, altered, or not Parquet.
    #[error("read {path}: {source}; it is truncated, damaged or not Parquet", path = path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Its error.
        source: parquet::errors::ParquetError,
    },
    /// A value that is not an id.
    #[error("table `{table}`: column `{column}` in {path}{place}: {problem}", path = path.display(),
        place = row.map(|r| format!(" at row {r}")).unwrap_or_default())]
    Id {
        /// Table name.
        table: String,
        /// The id column.
        column: String,
        /// The file.
        path: PathBuf,
        /// Row of the file, from 0.
        row: Option<u64>,
        /// What is wrong.
        problem: IdProblem,
    },
}

impl TableError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            TableError::Spec { .. } => Category::Usage,
            TableError::Io { .. } => Category::Other,
            TableError::NoFiles { .. }
            | TableError::Empty { .. }
            | TableError::MissingColumn { .. }
            | TableError::ColumnType { .. }
            | TableError::Header { .. }
            | TableError::Ragged { .. }
            | TableError::InvalidUtf8 { .. }
            | TableError::Record { .. }
            | TableError::Json { .. }
            | TableError::Parquet { .. }
            | TableError::Id { .. } => Category::Data,
        }
    }
}
