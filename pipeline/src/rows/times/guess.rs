//! Guessing whether a column holds times, and with which settings, for `twotower init`.

use super::column::{Sample, Values};
use crate::config::TimeSettings;
use crate::error::PipelineError;
use arrow_array::cast::AsArray;
use twotower_artifacts::TickUnit;
use twotower_tables::{Table, TimeFormat};

/// Names of columns whose integers are taken for times, whatever they count.
const NAMES: [&str; 6] = ["ts", "time", "timestamp", "date", "datetime", "pos"];

/// The settings that read a column as times, and why they are guessed; none where it does not look like times.
///
/// # Errors
/// Those of reading the table's first rows.
pub fn guess(table: &Table, name: &str) -> Result<Option<(TimeSettings, String)>, PipelineError> {
    let Some(values) = Values::of(&table.column(name)?.data_type) else { return Ok(None) };
    let settings = TimeSettings { timestamp: Some(name.to_string()), ..TimeSettings::default() };
    if let Values::Times(unit) = values {
        return Ok(Some((settings, format!("its type is a time, in {}", unit.plural()))));
    }
    let sample = Sample::of(table, name, values)?;
    let all = |count: u64| count > 0 && count == sample.present;
    if all(sample.iso) {
        return Ok(Some((
            settings,
            "text that begins with the year, in ISO 8601 or as spreadsheets write it".to_string(),
        )));
    }
    let ours = |unit: &TickUnit| TickUnit::ALL.iter().zip(sample.ours).any(|(of, (n, _))| of == unit && all(n));
    if let Some(unit) = TickUnit::ALL.into_iter().find(|unit| ours(unit)) {
        let settings = TimeSettings { unit: Some(unit), ..settings };
        return Ok(Some((settings, format!("numbers that read as {} since 1970", unit.plural()))));
    }
    let is_digits = matches!(values, Values::Text | Values::Integers);
    let texts = sample.texts.iter().flat_map(|texts| texts.as_string::<i32>()).flatten();
    if let Some(pattern) = is_digits.then(|| TimeFormat::pattern_of(texts)).flatten() {
        let settings = TimeSettings { format: Some(pattern.to_string()), ..settings };
        return Ok(Some((settings, format!("dates written as `{pattern}`; check which number is the day"))));
    }
    let named = NAMES.contains(&name.to_lowercase().as_str()) && all(sample.numbers) && sample.fractions == 0;
    Ok(named.then(|| (settings, "whole numbers in a column with such a name".to_string())))
}
