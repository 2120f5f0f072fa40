//! Features most of whose values cannot be read: the kind or a setting of such a feature is wrong, and a model that
//! takes it has learnt nothing of it.

use crate::error::PipelineError;
use crate::rows::columns::read_batches;
use crate::watch::cancel::Cancel;
use arrow_cast::display::array_value_to_string;
use std::collections::BTreeMap;
use twotower_artifacts::Side;
use twotower_encoders::{EncodeCounts, FeatureSpec, SideSpec};
use twotower_tables::Table;

/// Values that an error shows.
const SHOWN: usize = 3;
/// Characters of a value that an error shows.
const SHOWN_VALUE: usize = 60;

/// Whether no feature has more unreadable values than may be, by the counts of both sides.
pub fn within_limit(specs: &[(Side, SideSpec)], counts: &BTreeMap<Side, EncodeCounts>, most: f64) -> bool {
    specs.iter().all(|(side, spec)| counts.get(side).is_none_or(|counts| first_beyond(spec, counts, most).is_none()))
}

/// The first feature of a side that has more unreadable values than may be, and their share.
fn first_beyond<'s>(spec: &'s SideSpec, counts: &EncodeCounts, most: f64) -> Option<(&'s FeatureSpec, f64)> {
    let share = |feature: &'s FeatureSpec| {
        let share = feature.unreadable_share(counts.features.get(feature.name())?);
        (share > most).then_some((feature, share))
    };
    spec.features.iter().find_map(share)
}

/// Refuses a side of whose features one has more unreadable values than may be, showing some of its table's, and where
/// they stand.
///
/// # Errors
/// [`PipelineError::Data`].
pub fn refuse(
    side: Side,
    spec: &SideSpec,
    counts: &EncodeCounts,
    most: f64,
    table: &Table,
    cancel: &Cancel,
) -> Result<(), PipelineError> {
    let Some((feature, share)) = first_beyond(spec, counts, most) else { return Ok(()) };
    let column = feature.input(&spec.id_column).unwrap_or(feature.name());
    let shown = values(feature, column, table, cancel)?;
    let advice = match feature {
        FeatureSpec::Numeric(_) => {
            "take another kind, such as \"categorical\", or set `decimal`, if a comma stands before the fraction"
        }
        FeatureSpec::Date(_) => "set its `format`, such as \"%d/%m/%Y\", or `unit`",
        _ => "list its texts in `true_values`, `false_values` and `missing_values`, or take the kind \"categorical\"",
    };
    Err(PipelineError::Data(format!(
        "{side} feature `{}`: {:.0}% of the values of column `{column}` that are there do not read as {}, more than `encode.max_unreadable` = {most}: {}; {advice}; list in the table's `null_values` what means nothing; or raise `encode.max_unreadable`",
        feature.name(),
        100.0 * share,
        match feature.kind() {
            "numeric" => "numbers",
            "date" => "dates",
            _ => "true or false",
        },
        shown.join(", ")
    )))
}

/// The first values of a column that a feature cannot read, and where they stand.
fn values(feature: &FeatureSpec, column: &str, table: &Table, cancel: &Cancel) -> Result<Vec<String>, PipelineError> {
    let mut shown = Vec::new();
    let wanted = [column.to_string()];
    for batch in read_batches("encode-features", table, &wanted, 0..u64::MAX, cancel)? {
        let batch = batch?;
        let Some(array) = batch.batch.column_by_name(column) else { continue };
        for row in feature.unreadable(array, SHOWN - shown.len()) {
            let value = array_value_to_string(array, row).unwrap_or_default();
            let value: String = value.chars().take(SHOWN_VALUE).collect();
            shown.push(format!("`{value}` at {} of {}", batch.place(row), batch.path().display()));
        }
        if shown.len() == SHOWN {
            break;
        }
    }
    Ok(shown)
}
