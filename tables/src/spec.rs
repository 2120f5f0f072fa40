//! What a configuration says about a table.

use crate::encoding::Encoding;
use crate::error::TableError;
use crate::identity::SeenFiles;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use twotower_stores::Stores;

/// One string or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// File format of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// Delimited text, comma by default.
    Csv,
    /// Delimited text, tab by default.
    Tsv,
    /// A JSON object per line.
    Jsonl,
}

impl Format {
    /// The format a file name's extension stands for; `.txt` and `.dat` count as tab-delimited text. Of a compressed
    /// file it is the extension before that of the compression: `.csv.gz`.
    pub fn of_path(path: &Path) -> Option<Self> {
        match extension(path)?.as_str() {
            "parquet" | "pq" => Some(Format::Parquet),
            "csv" => Some(Format::Csv),
            "tsv" | "txt" | "dat" => Some(Format::Tsv),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            _ if Self::is_compressed(path) => Format::of_path(Path::new(path.file_stem()?)),
            _ => None,
        }
    }

    /// Whether a file name's extension stands for a compression that is read.
    pub(crate) fn is_compressed(path: &Path) -> bool {
        extension(path).is_some_and(|found| ["gz", "gzip", "zst", "zstd", "bz2"].contains(&found.as_str()))
    }

    /// The compression a file name's extension stands for, if it is none that is read.
    pub(crate) fn compression_of_path(path: &Path) -> Option<&'static str> {
        match extension(path)?.as_str() {
            "xz" => Some("xz"),
            "lz4" => Some("lz4"),
            "sz" | "snappy" => Some("snappy"),
            "zip" => Some("zip"),
            _ => None,
        }
    }
}

fn extension(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// What a table's fingerprint covers beside the names and sizes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FingerprintKind {
    /// Times of change, and all content of a table of up to 64 MiB; of a larger one the ends of each file and some
    /// pieces between them.
    #[default]
    Quick,
    /// All content, and no times.
    Content,
}

/// Where a table lies and how to read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Files, folders or patterns, as `paths.rs` reads them; on this machine, or URLs of a store.
    pub path: OneOrMany,
    /// The folder that relative paths count from; the one of the job, once its file is read.
    #[serde(skip)]
    pub base: PathBuf,
    /// What its fingerprint covers; a setting of the whole job.
    #[serde(skip)]
    pub fingerprint: FingerprintKind,
    /// What the tables of the job were read from so far; none for a table that may change between two readings.
    #[serde(skip)]
    pub seen: Option<SeenFiles>,
    /// How stores are reached; a setting of the whole job.
    #[serde(skip)]
    pub stores: Stores,
    /// By default from the extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Field separator of delimited text, of any length, such as `::`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Encoding of text formats.
    #[serde(default)]
    pub encoding: Encoding,
    /// Whether the first line of delimited text names the columns.
    #[serde(default = "yes")]
    pub header: bool,
    /// Column names of delimited text without a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Quote of delimited text: one ASCII character, `"` by default; empty for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// Values of delimited text that mean null; [`NULL_VALUES`] by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_values: Option<Vec<String>>,
}

/// The values that mean null in delimited text, unless the table lists its own: what pandas, R, Hive, databases and
/// Python write for nothing.
pub const NULL_VALUES: [&str; 9] = ["", "NULL", "null", "\\N", "NA", "N/A", "NaN", "nan", "None"];

fn yes() -> bool {
    true
}

/// How delimited text is cut: settings checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Never empty, never a line break or the quote.
    pub delimiter: String,
    /// ASCII.
    pub quote: Option<u8>,
    /// Values that mean null.
    pub null_values: Vec<String>,
    /// Names given for files without a header.
    pub names: Option<Vec<String>>,
}

/// A table's fingerprint holds this text, so it never changes, and how stores are reached is no part of it.
impl fmt::Debug for TableSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSpec")
            .field("path", &self.path)
            .field("base", &self.base)
            .field("fingerprint", &self.fingerprint)
            .field("seen", &self.seen)
            .field("format", &self.format)
            .field("delimiter", &self.delimiter)
            .field("encoding", &self.encoding)
            .field("header", &self.header)
            .field("columns", &self.columns)
            .field("quote", &self.quote)
            .field("null_values", &self.null_values)
            .finish()
    }
}

impl TableSpec {
    /// A table at `path` with default settings.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: OneOrMany::One(path.into()),
            base: PathBuf::new(),
            fingerprint: FingerprintKind::default(),
            seen: None,
            stores: Stores::default(),
            format: None,
            delimiter: None,
            encoding: Encoding::Utf8,
            header: true,
            columns: None,
            quote: None,
            null_values: None,
        }
    }

    /// The same table with relative paths taken from `base`, which is never a pattern itself.
    pub fn resolve(&self, base: &Path) -> Self {
        Self { base: base.to_path_buf(), ..self.clone() }
    }

    /// A table that is written as this one, at a path of its own, which counts from the folder one is in.
    pub fn at(&self, path: impl Into<String>) -> Self {
        Self { path: OneOrMany::One(path.into()), base: PathBuf::new(), ..self.clone() }
    }

    /// Another table of the same job, at a path that is resolved already, with settings of its own.
    pub fn beside(&self, path: impl Into<String>) -> Self {
        let (fingerprint, seen, stores) = (self.fingerprint, self.seen.clone(), self.stores.clone());
        Self { fingerprint, seen, stores, ..Self::new(path) }
    }

    /// All paths, for messages.
    pub fn pattern(&self) -> String {
        let located = |path: &String| paths::located(&self.base, path).display().to_string();
        let paths = self.path.as_slice().iter().map(located);
        paths.collect::<Vec<_>>().join(", ")
    }

    /// Checks the settings of delimited text.
    pub(crate) fn dialect(&self, table: &str, format: Format) -> Result<Dialect, TableError> {
        let wrong = |key, reason: &str| TableError::Spec { table: table.to_string(), key, reason: reason.to_string() };
        let default = if format == Format::Tsv { "\t" } else { "," };
        let delimiter = self.delimiter.as_deref().unwrap_or(default);
        if delimiter.is_empty() || delimiter.contains(['\n', '\r']) {
            return Err(wrong("delimiter", "expected at least one character and no line break"));
        }
        let quote = match self.quote.as_deref().unwrap_or("\"").as_bytes() {
            [] => None,
            [quote] if quote.is_ascii_graphic() && !delimiter.contains(*quote as char) => Some(*quote),
            _ => return Err(wrong("quote", "expected one ASCII character that is not in the delimiter, or nothing")),
        };
        match (self.header, &self.columns) {
            (false, None) => return Err(wrong("columns", "expected the column names, since header = false")),
            (true, Some(_)) => return Err(wrong("columns", "expected only with header = false")),
            _ => {}
        }
        Ok(Dialect {
            delimiter: delimiter.to_string(),
            quote,
            null_values: self.null_values.clone().unwrap_or_else(|| NULL_VALUES.map(str::to_string).to_vec()),
            names: self.columns.clone(),
        })
    }

    /// Refuses settings that a format without delimiters would ignore.
    pub(crate) fn refuse_text_settings(&self, table: &str, format: Format) -> Result<(), TableError> {
        let given = [
            ("delimiter", self.delimiter.is_some()),
            ("header", !self.header),
            ("columns", self.columns.is_some()),
            ("quote", self.quote.is_some()),
            ("null_values", self.null_values.is_some()),
            ("encoding", format == Format::Parquet && self.encoding != Encoding::Utf8),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(TableError::Spec {
                table: table.to_string(),
                key,
                reason: format!("expected only for delimited text, this is {format:?}"),
            }),
            None => Ok(()),
        }
    }
}
