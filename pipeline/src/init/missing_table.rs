//! What to do where there is no table of users or of items: their ids stand in the interactions.

use super::delimiter::{likely, only_field};
use super::{KnownColumns, TableReading};
use crate::error::PipelineError;
use std::path::Path;
use twotower_artifacts::Side;
use twotower_tables::{Format, Table, TableError, TableSpec};

/// What is known of the interactions, from which ids are to be taken.
#[derive(Debug)]
pub struct IdsFrom<'a> {
    /// The path, as it was typed.
    pub path: &'a str,
    /// How they are to be read.
    pub reading: &'a TableReading,
    /// Separator of fields of all tables, if one is given.
    pub delimiter: Option<&'a str>,
    /// Columns that are known.
    pub columns: &'a KnownColumns,
}

/// The interactions as they are written.
struct Layout {
    /// What parts the fields of text; none where it is Parquet, JSON or compressed.
    delimiter: Option<String>,
    /// Whether the first line of text names the columns.
    header: bool,
    columns: Vec<String>,
}

impl IdsFrom<'_> {
    /// The error that says which tables are missing, and how each is made.
    pub fn missing(&self, sides: &[Side]) -> PipelineError {
        let flags: Vec<String> = sides.iter().map(|side| format!("--{side}s")).collect();
        let (is, them) = match sides {
            [_] => ("is", "it"),
            _ => ("are", "them"),
        };
        // A line of a message that goes on is indented.
        let commands: Vec<String> = sides.iter().map(|side| format!("\n  {}", self.command(*side))).collect();
        let given: Vec<String> = sides.iter().map(|side| format!("--{side}s {}", self.output(*side))).collect();
        PipelineError::usage(format!(
            "init: {} {is} missing: a job needs a table of the ids of users and one of the ids of items, even if nothing else is known of them. Make {them} from the interactions as below, then give {}, and make {them} anew before each night's run, so that those who are new are in {them} (docs/FAQ.md#tables):{}",
            flags.join(" and "),
            given.join(" "),
            commands.concat()
        ))
    }

    /// The file that [`IdsFrom::command`] writes.
    fn output(&self, side: Side) -> String {
        let kind = if self.layout().delimiter.is_some() { "csv" } else { "parquet" };
        format!("{side}s.{kind}")
    }

    /// One line for a shell that writes the ids of a side.
    fn command(&self, side: Side) -> String {
        let Layout { delimiter, header, columns } = self.layout();
        let (word, at) = match side {
            Side::User => ("user", 0),
            Side::Item => ("item", 1),
        };
        let given = match side {
            Side::User => &self.columns.event_user,
            Side::Item => &self.columns.event_item,
        };
        let is_given = |name: &&String| given.as_ref() == Some(*name);
        let at = columns
            .iter()
            .position(|name| is_given(&name))
            .or_else(|| {
                columns.iter().position(|name| [word.to_string(), format!("{word}id")].contains(&letters(name)))
            })
            .or_else(|| columns.iter().position(|name| letters(name).contains(word)))
            .unwrap_or(at);
        let plain = |name: &&String| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let name = columns.get(at).filter(plain).filter(|_| header).cloned().unwrap_or(format!("{word}_id"));
        let (files, output) = (self.files(), self.output(side));
        match delimiter {
            None => {
                let column = columns.get(at).map_or(name.clone(), |own| format!("\"{own}\""));
                let column = column.replace('"', "\\\"");
                format!(
                    "duckdb -c \"COPY (SELECT DISTINCT {column} AS {name} FROM '{files}' WHERE {column} IS NOT NULL ORDER BY 1) TO '{output}'\""
                )
            }
            Some(delimiter) => {
                let parting = match delimiter.as_str() {
                    " " => String::new(),
                    "," => "-F, ".to_string(),
                    other => format!("-F'{}' ", other.escape_default()),
                };
                let (field, rows) = (at + 1, if header { "FNR > 1 && " } else { "" });
                format!(
                    "awk {parting}'BEGIN {{print \"{name}\"}} {rows}${field} != \"\" && !seen[${field}]++ {{print ${field}}}' {} > {output}",
                    for_shell(&files)
                )
            }
        }
    }

    /// The files, as a shell and DuckDB find them: those in a folder by their extension.
    fn files(&self) -> String {
        let folder = Path::new(self.path);
        let first = || {
            let table = Table::open("interactions", &TableSpec::new(self.path)).ok()?;
            let end = table.paths().next()?.extension()?.to_str()?.to_string();
            Some(format!("{}/*.{end}", self.path.trim_end_matches('/')))
        };
        folder.is_dir().then(first).flatten().unwrap_or_else(|| self.path.to_string())
    }

    fn layout(&self) -> Layout {
        let given = self.reading.delimiter.as_deref().or(self.delimiter);
        let mut spec = TableSpec { format: self.reading.format, ..TableSpec::new(self.path) };
        spec.delimiter = given.map(str::to_string);
        let guessed =
            || Layout { delimiter: Some(given.unwrap_or(",").to_string()), header: true, columns: Vec::new() };
        let opened = match Table::open("interactions", &spec) {
            Err(TableError::Spec { .. }) if given.is_some() => {
                spec.delimiter = None;
                Table::open("interactions", &spec)
            }
            opened => opened,
        };
        let mut table = match opened {
            Ok(table) => table,
            // A first line of data, with a value twice.
            Err(TableError::Header { .. }) => return Layout { header: false, ..guessed() },
            Err(_) => return guessed(),
        };
        let format = spec.format.or_else(|| table.paths().next().and_then(Format::of_path));
        let compressed = |path: &Path| {
            let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase();
            ["gz", "gzip", "zst", "zstd", "bz2"].contains(&end.as_str())
        };
        let names = |table: &Table| table.columns().iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        let is_text = matches!(format, Some(Format::Csv | Format::Tsv)) && !table.paths().any(compressed);
        if let Some(delimiter) = only_field(&table, &spec).and_then(likely) {
            spec.delimiter = Some(delimiter.to_string());
            match Table::open("interactions", &spec) {
                Ok(parted) => table = parted,
                Err(_) => return Layout { delimiter: spec.delimiter, header: false, columns: Vec::new() },
            }
        }
        if !is_text {
            return Layout { delimiter: None, header: true, columns: names(&table) };
        }
        let usual = if format == Some(Format::Tsv) { "\t" } else { "," };
        let delimiter = Some(spec.delimiter.clone().unwrap_or(usual.to_string()));
        if let Some(columns) = &self.reading.columns {
            return Layout { delimiter, header: false, columns: columns.clone() };
        }
        let columns = names(&table);
        // A number is no name.
        let header = columns.iter().all(|name| name.parse::<f64>().is_err());
        Layout { delimiter, header, columns: if header { columns } else { Vec::new() } }
    }
}

/// A name's letters and digits, in small letters.
fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// A path, or a pattern of paths, as a shell reads it.
fn for_shell(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,*?[]".contains(c);
    if path.chars().all(plain) { path.to_string() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}
