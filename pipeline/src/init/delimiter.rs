//! How the fields of a delimited table are parted, by what is given or by its first lines.

use crate::rows::columns::read_whole;
use crate::watch::cancel::Cancel;
use arrow_array::cast::AsArray;
use twotower_tables::{Format, Table, TableSpec};

/// Delimiters that are common, the longest and the rarest in text first. The space is none of them: text has it.
const COMMON: [&str; 6] = ["::", "\t", ";", "|", ",", "\u{1}"];
/// Lines that must agree on a space.
const AGREEING: u64 = 1000;

/// Whether a table is delimited text.
pub fn is_delimited(table: &Table, spec: &TableSpec) -> bool {
    matches!(format(table, spec), Some(Format::Csv | Format::Tsv))
}

fn format(table: &Table, spec: &TableSpec) -> Option<Format> {
    spec.format.or_else(|| table.paths().next().and_then(Format::of_path))
}

/// The delimiter that is likely to part a line, which it stands in.
pub fn likely(line: &str) -> Option<&'static str> {
    COMMON.into_iter().chain([" "]).find(|delimiter| line.contains(delimiter))
}

/// The first line of a delimited table which has no field but one.
pub fn only_field<'t>(table: &'t Table, spec: &TableSpec) -> Option<&'t str> {
    match table.columns() {
        [only] if is_delimited(table, spec) => Some(&only.name),
        _ => None,
    }
}

/// Another delimiter than the usual one, where that leaves a first line whole, and why. The space is taken where the first
/// lines all have as many fields by it, and one field is not what the table has: it has so many `names`, or must have
/// `several` columns.
pub fn other(table: &Table, spec: &TableSpec, names: Option<usize>, several: bool) -> Option<(&'static str, String)> {
    let line = only_field(table, spec)?;
    if let Some(delimiter) = COMMON.into_iter().find(|delimiter| line.contains(delimiter)) {
        return Some((delimiter, "it stands in the first line, and the usual one does not".to_string()));
    }
    let fields = by_space(line)?;
    if names.is_some_and(|names| names != fields) || names.is_none() && !several {
        return None;
    }
    let rows = read_whole(table, &[line.to_string()], AGREEING, &Cancel::default()).ok()?;
    let lines = rows.column(0).as_string_opt::<i32>()?;
    lines.iter().all(|row| by_space(row.unwrap_or_default()) == Some(fields)).then(|| {
        (" ", format!("the usual one parts no line, and the space parts each of the first into {fields} fields"))
    })
}

/// The fields of a line by single spaces, if there are several.
fn by_space(line: &str) -> Option<usize> {
    let count = line.split(' ').count();
    (count > 1 && line.split(' ').all(|field| !field.is_empty())).then_some(count)
}

/// What is added to a message about a table of one field, if its first line has what may be a delimiter: which one was
/// used, which one is likely, and the flag that names it.
pub fn advice(name: &str, table: &Table, spec: &TableSpec) -> String {
    let Some((line, likely)) = only_field(table, spec).and_then(|line| Some((line, likely(line)?))) else {
        return String::new();
    };
    let usual = if format(table, spec) == Some(Format::Tsv) { "\t" } else { "," };
    let used = spec.delimiter.as_deref().unwrap_or(usual);
    let typed = likely.escape_default();
    format!(
        "; by the delimiter {used:?} that line has one field, `{}`: if {likely:?} parts it, give --{name}-delimiter '{typed}'",
        crate::watch::terminal::escape_line(line)
    )
}
