//! The error of this crate.

use crate::encoding::Encoding;
use crate::place::Place;
use arrow_schema::DataType;
use std::path::PathBuf;
use twotower_artifacts::{Category, IdProblem};
use twotower_stores::StoreError;

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
    #[error("table `{table}`: no file matches `{pattern}`{but}",
        but = if *skipped > 0 { format!(", but for {skipped} whose names begin with . or _") } else { String::new() })]
    NoFiles {
        /// Table name.
        table: String,
        /// The path, folder or pattern.
        pattern: String,
        /// Files and folders that were skipped for their names.
        skipped: usize,
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
    /// What a path leads to cannot be read as a table.
    #[error("{path} {reason}", path = path.display())]
    Source {
        /// Where.
        path: PathBuf,
        /// What is wrong, said of the path.
        reason: String,
    },
    /// Two paths of a table lead to one file, whose rows would count twice.
    #[error("table `{table}`: {first} and {second} are one file; leave one of them out", first = first.display(),
        second = second.display())]
    Twice {
        /// Table name.
        table: String,
        /// One path.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Files of one path that lie in folders of unlike keys.
    #[error("table `{table}`: {first} lies in folders of {keys}, {second} in folders of {others}; expected all files of one path in the same; name them as two paths if they belong together",
        first = first.display(), second = second.display(), keys = keys_of(keys), others = keys_of(others))]
    Partitions {
        /// Table name.
        table: String,
        /// The first file.
        first: PathBuf,
        /// Keys of its folders.
        keys: Vec<String>,
        /// The first file of other keys.
        second: PathBuf,
        /// Keys of its folders.
        others: Vec<String>,
    },
    /// A column that has another value in the file than the name of its folder says.
    #[error("table `{table}`: column `{column}` in {path} at {place} is {found}, its folder says `{folder}`", path = path.display())]
    PartitionValue {
        /// Table name.
        table: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// The row.
        place: Place,
        /// The value in the file.
        found: String,
        /// The folder's name.
        folder: String,
    },
    /// A file that is no longer what it was when the table was opened.
    #[error("read {path}: the file changed while it was being read: {reason}; what was read of it is not used, run the command again once the table is complete", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What is another.
        reason: String,
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
    /// A store did not give what was asked of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A column that is not there.
    #[error("table `{table}`: no column `{column}` in {path}{advice}; it has {columns}{delimiter}", path = path.display(),
        delimiter = delimiter_advice(columns),
        advice = nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default(),
        columns = some_of(columns))]
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
    /// Bytes that are no text in the encoding that the table has.
    #[error("read {path}: line {line} is not {encoding}{reason}; {advice}", path = path.display(),
        advice = encoding_advice(*encoding, *fitting))]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The encoding that was expected.
        encoding: Encoding,
        /// Where the first of the bytes stands, or what says that it is another encoding.
        reason: String,
        /// The encoding that the file fits, or the row.
        fitting: Option<Encoding>,
    },
    /// A compressed file that does not uncompress.
    #[error("uncompress {path}, compressed by {compression}: {source}; the file is cut or damaged", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Its compression.
        compression: &'static str,
        /// What its decompressor says.
        source: std::io::Error,
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
    /// A Parquet file that is whole, but written in a way that is not read.
    #[error("read {path}: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not read, and what is.
        reason: String,
    },
    /// Bytes that are not text in a column of text.
    #[error("table `{table}`: column `{column}` in {path}{place}: bytes that are not UTF-8: {bytes}; write the column as UTF-8, or leave it out", path = path.display(),
        place = row.map(|r| format!(" at row {r}")).unwrap_or_default())]
    NotText {
        /// Table name.
        table: String,
        /// The column.
        column: String,
        /// The file.
        path: PathBuf,
        /// Row of the file, from 0; none where no row has them, but the dictionary of a row group.
        row: Option<u64>,
        /// The first of the bytes.
        bytes: String,
    },
    /// A value that is not an id.
    #[error("table `{table}`: column `{column}` in {path}{place}: {problem}", path = path.display(),
        place = place.map(|place| format!(" at {place}")).unwrap_or_default())]
    Id {
        /// Table name.
        table: String,
        /// The id column.
        column: String,
        /// The file.
        path: PathBuf,
        /// The row, if it is one's.
        place: Option<Place>,
        /// What is wrong.
        problem: IdProblem,
    },
}

/// What to do about a file in another encoding.
fn encoding_advice(expected: Encoding, fitting: Option<Encoding>) -> String {
    match fitting {
        Some(fitting) if fitting == expected => format!("the rest of the file is {expected}: mend the line"),
        Some(fitting) => format!(
            "it fits {fitting}: set encoding = \"{}\" for the table, or convert the file to UTF-8",
            fitting.name()
        ),
        None => "no encoding fits it: look whether it is text at all, and convert it to UTF-8".to_string(),
    }
}

/// What to do about a file whose first line is one name that has a delimiter in it.
fn delimiter_advice(columns: &[String]) -> String {
    let [only] = columns else { return String::new() };
    let likely = ["::", "\t", ";", "|", ",", " "].into_iter().find(|delimiter| only.contains(delimiter));
    likely.map_or(String::new(), |likely| {
        format!(": if {likely:?} parts the fields of that line, set `delimiter = {likely:?}` for the table")
    })
}

/// The most columns that a message lists.
const LISTED: usize = 50;

fn some_of(columns: &[String]) -> String {
    match columns.get(..LISTED) {
        Some(first) if columns.len() > LISTED => format!("{} and {} more", first.join(", "), columns.len() - LISTED),
        _ => columns.join(", "),
    }
}

fn keys_of(keys: &[String]) -> String {
    if keys.is_empty() { "no key".to_string() } else { format!("the keys `{}`", keys.join("`, `")) }
}

impl TableError {
    /// The exit-code category.
    pub fn category(&self) -> Category {
        match self {
            TableError::Spec { .. } => Category::Usage,
            TableError::Io { .. } => Category::Other,
            TableError::Store(error) => error.category(),
            TableError::NoFiles { .. }
            | TableError::Source { .. }
            | TableError::Twice { .. }
            | TableError::Partitions { .. }
            | TableError::PartitionValue { .. }
            | TableError::Changed { .. }
            | TableError::Unsupported { .. }
            | TableError::NotText { .. }
            | TableError::Empty { .. }
            | TableError::MissingColumn { .. }
            | TableError::ColumnType { .. }
            | TableError::Header { .. }
            | TableError::Ragged { .. }
            | TableError::Undecodable { .. }
            | TableError::Damaged { .. }
            | TableError::Record { .. }
            | TableError::Json { .. }
            | TableError::Parquet { .. }
            | TableError::Id { .. } => Category::Data,
        }
    }
}
