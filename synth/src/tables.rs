//! In which form a data set is written: the tables of one part, chunk by chunk.

use crate::Layout;
use crate::catalogue::Catalogue;
use crate::choice::Choices;
use crate::columns::{dictionary, dictionary_type};
use crate::error::SynthError;
use crate::exported::{self, ExportedPart};
use crate::folder;
use crate::parts::PartWriter;
use crate::population::{Population, Users};
use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Schema};
use std::path::Path;
use std::sync::Arc;

/// What all parts of a data set share.
#[derive(Debug)]
pub(crate) struct World {
    pub seed: u64,
    pub layout: Layout,
    pub catalogue: Catalogue,
    pub population: Population,
}

/// Rows that were written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rows {
    pub users: u64,
    pub interactions: u64,
}

/// The files of one part of users and of their interactions, being written.
pub(crate) enum Part {
    Parquet { users: Box<PartWriter>, interactions: Box<PartWriter> },
    Exported(Box<ExportedPart>),
}

impl Layout {
    /// The ending of the names of its files.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Layout::Parquet => "parquet",
            Layout::Exported => "csv",
        }
    }

    /// The share of users with interactions.
    pub(crate) fn buyers(self) -> f64 {
        match self {
            Layout::Parquet => 0.05,
            Layout::Exported => 0.3,
        }
    }
}

/// Writes the table of items; returns its rows and bytes.
pub(crate) fn write_items(world: &World, dir: &Path) -> Result<(u64, u64), SynthError> {
    let path = dir.join(folder::items(world.layout));
    match world.layout {
        Layout::Parquet => {
            let mut items = PartWriter::create(&path, Catalogue::schema())?;
            items.write(world.catalogue.columns.clone())?;
            Ok((world.catalogue.items as u64, items.finish()?))
        }
        Layout::Exported => exported::write_items(world, &path),
    }
}

fn interactions_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("user_id", DataType::Utf8, false),
        Field::new("product_id", dictionary_type(), false),
        Field::new("ts", DataType::Int64, false),
    ]))
}

impl Part {
    pub fn create(world: &World, dir: &Path, number: u64) -> Result<Self, SynthError> {
        let [users, interactions] = folder::TABLES.map(|table| folder::part(dir, table, number, world.layout));
        Ok(match world.layout {
            Layout::Parquet => Part::Parquet {
                users: Box::new(PartWriter::create(&users, Population::schema())?),
                interactions: Box::new(PartWriter::create(&interactions, interactions_schema())?),
            },
            Layout::Exported => Part::Exported(Box::new(ExportedPart::create(&users, &interactions)?)),
        })
    }

    /// Appends a chunk of users with the interactions that they chose.
    pub fn write(&mut self, world: &World, chunk: u64, users: &Users, choices: &Choices) -> Result<Rows, SynthError> {
        let (user_rows, interaction_rows) = match self {
            Part::Exported(part) => return part.write(world, chunk, users, choices),
            Part::Parquet { users, interactions } => (users, interactions),
        };
        let columns = world.population.columns(chunk, users);
        let ids = columns[0].as_any().downcast_ref::<StringArray>();
        let ids = ids.expect("the first column holds the user ids");
        let buyer_ids = choices.users.iter().map(|row| ids.value(*row as usize));
        let items: Vec<i32> = choices.items.iter().map(|item| *item as i32).collect();
        let interactions: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(buyer_ids)),
            dictionary(&items, &world.catalogue.ids),
            Arc::new(Int64Array::from(choices.times.clone())),
        ];
        let rows = Rows { users: ids.len() as u64, interactions: choices.items.len() as u64 };
        user_rows.write(columns)?;
        interaction_rows.write(interactions)?;
        Ok(rows)
    }

    /// Publishes the files and returns their size in bytes.
    pub fn finish(self) -> Result<u64, SynthError> {
        match self {
            Part::Parquet { users, interactions } => Ok(users.finish()? + interactions.finish()?),
            Part::Exported(part) => part.finish(),
        }
    }
}
