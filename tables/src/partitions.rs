//! Columns that stand in the names of folders: `dt=2026-01-01/part-0.parquet`.

use crate::error::TableError;
use crate::table::ColumnInfo;
use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Date32Array, DictionaryArray, Int32Array, Int64Array, StringArray, new_null_array};
use arrow_cast::parse::Parser;
use arrow_schema::DataType;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

/// The value that stands for null, as Hive and Spark write it.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Keys and values of the folders that a file lies in, in order; null as `None`.
pub type Folders = Vec<(String, Option<String>)>;

/// A column that has one value in a whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name and type of the column.
    pub column: ColumnInfo,
    value: Value,
    /// As its folder says it.
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Null,
    Int(i64),
    /// Days since 1970.
    Date(i32),
    Text(String),
}

/// The partition folders of a file, whose path counts from `base`, which has none.
///
/// # Errors
/// [`TableError::Source`] for a name that is not UTF-8, or a key that stands twice.
pub fn folders(base: &Path, path: &Path) -> Result<Folders, TableError> {
    let refused = |reason: String| TableError::Source { path: path.to_path_buf(), reason };
    let below = if base.as_os_str().is_empty() { path } else { path.strip_prefix(base).unwrap_or(path) };
    let mut found = Folders::new();
    for component in below.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(name) = component else { continue };
        if !name.as_encoded_bytes().contains(&b'=') {
            continue;
        }
        let decode = |text: &str| decode(text).ok_or_else(|| refused(format!("`{text}` is not UTF-8")));
        let text = name.to_str().ok_or_else(|| refused(format!("the folder {name:?} is not UTF-8")))?;
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else { continue };
        let (key, value) = (decode(key)?, decode(value)?);
        if found.iter().any(|(other, _)| *other == key) {
            return Err(refused(format!("lies in two folders of the key `{key}`")));
        }
        found.push((key, Some(value).filter(|value| !value.is_empty() && value != NULL)));
    }
    Ok(found)
}

/// Text with `%3A` and its like, as Hive writes them, turned back; `None` where that is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let hex = |byte: &u8| char::from(*byte).to_digit(16);
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((first, others)) = rest.split_first() {
        match others {
            [high, low, behind @ ..] if *first == b'%' && hex(high).is_some() && hex(low).is_some() => {
                bytes.push((hex(high)? * 16 + hex(low)?) as u8);
                rest = behind;
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// The partitions of each file. A column is of integers where all its values are integers as this program writes them,
/// of dates where all are dates such as `2026-01-31`, else of text, so that no digit is lost.
pub fn typed(files: Vec<Folders>) -> Vec<Vec<Partition>> {
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in files.iter().flatten() {
        values.entry(key.clone()).or_default().extend(value.clone());
    }
    let all = |values: &[String], fits: fn(&str) -> bool| !values.is_empty() && values.iter().all(|v| fits(v));
    let types: BTreeMap<&str, DataType> = values
        .iter()
        .map(|(key, values)| {
            let data_type = match () {
                () if all(values, |v| int(v).is_some()) => DataType::Int64,
                () if all(values, |v| date(v).is_some()) => DataType::Date32,
                () => DataType::Utf8,
            };
            (key.as_str(), data_type)
        })
        .collect();
    let partition = |(name, value): (String, Option<String>)| {
        let text = value.clone().unwrap_or_else(|| NULL.to_string());
        let data_type = types[name.as_str()].clone();
        let value = match (&data_type, value) {
            (_, None) => Value::Null,
            (DataType::Int64, Some(text)) => int(&text).map_or(Value::Null, Value::Int),
            (DataType::Date32, Some(text)) => date(&text).map_or(Value::Null, Value::Date),
            (_, Some(text)) => Value::Text(text),
        };
        Partition { column: ColumnInfo { name, data_type }, value, text }
    };
    files.into_iter().map(|folders| folders.into_iter().map(partition).collect()).collect()
}

fn int(text: &str) -> Option<i64> {
    text.parse().ok().filter(|n: &i64| n.to_string() == text)
}

fn date(text: &str) -> Option<i32> {
    let written = |(at, byte): (usize, &u8)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() };
    (text.len() == 10 && text.as_bytes().iter().enumerate().all(written)).then(|| Date32Type::parse(text)).flatten()
}

impl Partition {
    /// The column for some rows.
    pub fn rows(&self, rows: usize) -> ArrayRef {
        match &self.value {
            Value::Null => new_null_array(&self.column.data_type, rows),
            Value::Int(value) => Arc::new(Int64Array::from_value(*value, rows)),
            Value::Date(value) => Arc::new(Date32Array::from_value(*value, rows)),
            Value::Text(value) => {
                let entries = Arc::new(StringArray::from_iter_values([value]));
                Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from_value(0, rows), entries))
            }
        }
    }

    /// The first row of a column of the file itself, of those that `is_read` names, that has another value, and that
    /// value.
    pub fn differs(&self, column: &ArrayRef, is_read: impl Fn(usize) -> bool) -> Option<(usize, String)> {
        let cast = arrow_cast::cast(column, &self.column.data_type).ok();
        let same = |row: usize| match (&cast, &self.value) {
            (_, Value::Null) => column.is_null(row),
            (None, _) => false,
            (Some(cast), _) if cast.is_null(row) => false,
            (Some(cast), Value::Int(value)) => cast.as_primitive::<Int64Type>().value(row) == *value,
            (Some(cast), Value::Date(value)) => cast.as_primitive::<Date32Type>().value(row) == *value,
            (Some(cast), Value::Text(value)) => cast.as_string::<i32>().value(row) == value,
        };
        let row = (0..column.len()).find(|row| is_read(*row) && !same(*row))?;
        let found = arrow_cast::display::array_value_to_string(column, row).unwrap_or_default();
        Some((row, if column.is_null(row) { "null".to_string() } else { format!("`{found}`") }))
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.column.name, self.text)
    }
}
