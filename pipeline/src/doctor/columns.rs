//! The columns that a job names, in the tables that are to have them: found and read as the stages do.

use super::Finding;
use crate::config::{Config, ListTable, PairTable};
use crate::error::PipelineError;
use crate::rows::columns::read_batches;
use crate::rows::side_files::{file_columns, read_columns, side_file};
use crate::run::names::tables::{INTERACTIONS, ITEMS, USERS};
use crate::timeline::interactions::bad_rows;
use crate::watch::cancel::Cancel;
use arrow_array::RecordBatch;
use twotower_artifacts::{CodeBatch, IdKind, Side};
use twotower_encoders::{EncoderError, EncoderFit, FeatureSpec, SideSpec};
use twotower_tables::{Table, TableSpec, id_kind};

const CHECK: &str = "columns";
/// Rows of a table that are read.
const ROWS: u64 = 100;

/// A finding for each table that can be opened; what is wrong with the others is told where their rows are counted.
pub fn columns(config: &Config) -> Vec<Finding> {
    let recall = &config.recall;
    let list = |name, table: &Option<ListTable>| {
        table.as_ref().and_then(|list| finding(name, &list.source, |table| Ok(id_kind(table, &list.item).map(|_| 1)?)))
    };
    let pairs = recall
        .exclusions
        .as_ref()
        .and_then(|pairs| finding("recall.exclusions", &pairs.source, |table| of_pairs(table, pairs)));
    let side = |side: Side, name| {
        let spec = config.side(side);
        let entity = config.table(side);
        let title = entity.title.as_deref();
        let own = finding(name, &entity.source, |table| of_side(table, config, side, title));
        let files = spec.features.iter().filter_map(|feature| of_file(feature, &spec, &entity.source));
        own.into_iter().chain(files).collect::<Vec<_>>()
    };
    let mut found = [side(Side::User, USERS), side(Side::Item, ITEMS)].concat();
    found.extend(finding(INTERACTIONS, &config.tables.interactions.source, |table| of_interactions(table, config)));
    found.extend(list("recall.allow", &recall.allow));
    found.extend(list("recall.deny", &recall.deny));
    found.extend(pairs);
    found
}

/// What a look at a table says, which gives the number of columns that are read.
fn finding(
    name: &str,
    source: &TableSpec,
    look: impl FnOnce(&Table) -> Result<usize, PipelineError>,
) -> Option<Finding> {
    let table = Table::open(name, source).ok()?.leniently();
    Some(match look(&table) {
        Ok(columns) => Finding::ok(CHECK, format!("{name}: {columns} columns that the job names can be read")),
        Err(error) => {
            let advice = "name the column in the job as the table does, or look at the job that writes the table";
            Finding::problem(CHECK, format!("{name}: {error}"), advice)
        }
    })
}

/// The id of users or items, what their features read, and their title.
fn of_side(table: &Table, config: &Config, side: Side, title: Option<&str>) -> Result<usize, PipelineError> {
    let spec = config.side(side);
    id_kind(table, &spec.id_column)?;
    let columns = read_columns(&spec);
    for column in columns.iter().map(String::as_str).chain(title) {
        table.column(column)?;
    }
    for batch in read_batches("doctor", table, &columns, 0..ROWS, &Cancel::default())? {
        match read_values(config, side, &batch?.batch) {
            Err(error @ (EncoderError::MissingColumn { .. } | EncoderError::ColumnType { .. })) => {
                return Err(error.into());
            }
            // Rows that cannot be used are set aside.
            _ => continue,
        }
    }
    Ok(columns.len() + title.iter().filter(|title| !columns.iter().any(|column| column == *title)).count())
}

/// Fits and encodes rows of a side, but for vectors of files of their own, which are not in them.
fn read_values(config: &Config, side: Side, rows: &RecordBatch) -> Result<(), EncoderError> {
    let [user, item] = [Side::User, Side::Item].map(|each| {
        let mut spec = config.side(each);
        spec.features.retain(|feature| each != side || side_file(feature).is_none());
        spec
    });
    let mut fit = EncoderFit::new(user, item)?;
    fit.fit_batch(side, rows)?;
    let state = fit.finish()?;
    state.encoder(side).encode(rows, &mut CodeBatch::empty(&state.schema(side)))?;
    Ok(())
}

/// The file that a vector feature has of its own.
fn of_file(feature: &FeatureSpec, spec: &SideSpec, source: &TableSpec) -> Option<Finding> {
    let (FeatureSpec::Vector(vector), Some(path)) = (feature, side_file(feature)) else { return None };
    let (id, column) = file_columns(vector, spec);
    finding(&format!("vectors of `{}`", vector.name), &source.beside(path), |table| {
        id_kind(table, id)?;
        table.column(column)?;
        Ok(2)
    })
}

/// User, item, time and weight of interactions, whose ids are of the kinds of those tables.
fn of_interactions(table: &Table, config: &Config) -> Result<usize, PipelineError> {
    let spec = &config.tables.interactions;
    let [users, items] = [Side::User, Side::Item].map(|side| {
        let entity = config.table(side);
        // What is wrong there is told there.
        Table::open("ids", &entity.source).and_then(|table| id_kind(&table, &entity.id)).unwrap_or(IdKind::Text)
    });
    let (rows, bad) = bad_rows(table, spec, (users, items), ROWS)?;
    match bad.first() {
        Some(first) if bad.len() as u64 == rows => {
            Err(PipelineError::Data(format!("none of the first {rows} rows can be used, such as {first}")))
        }
        _ => Ok(2 + usize::from(spec.times.timestamp.is_some()) + usize::from(spec.weight.is_some())),
    }
}

/// A table of pairs.
fn of_pairs(table: &Table, pairs: &PairTable) -> Result<usize, PipelineError> {
    for column in [&pairs.user, &pairs.item] {
        id_kind(table, column)?;
    }
    Ok(2)
}
