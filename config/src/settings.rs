//! What each stage obeys: its part of the job, and nothing else of it.
//!
//! A stage is given one of these values and never the whole job, and its key is this very value written out. So
//! nothing that a stage does can depend on a setting that its key does not hold. What is left of a job is its
//! [`Execution`], which no result depends on.

use crate::evaluation::EvaluateConfig;
use crate::gates::GatesConfig;
use crate::job::{Config, Features, InteractionTable, RecallConfig, Tables};
use crate::split::SplitConfig;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use twotower_artifacts::{Compression, FieldSchema, Precision, Side};
use twotower_encoders::{FeatureSpec, SideSpec};
use twotower_index::{IndexConfig, IndexKind};
use twotower_models::engine::EngineKind;
use twotower_models::model::ModelConfig;
use twotower_models::train::TrainConfig;
use twotower_tables::TableSpec;

/// How stages go about their work. A complete output is the same whatever this says, so no key holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Execution {
    /// Worker threads of the streaming stages, at least 1.
    pub workers: usize,
    /// Rows read, encoded and embedded at a time, at the most.
    pub batch_rows: usize,
    /// Rows embedded or searched into a part of their own; 0 = all. A part's key names its rows.
    pub part_users: u64,
    /// Threads of training; 0 = those of the process.
    pub train_threads: usize,
    /// The share of rows that may be set aside: above it there is no output.
    pub max_bad_rows: f64,
    /// The share of a feature's values that may be unreadable: above it there is no output.
    pub max_unreadable: f64,
    /// Bytes that reading from object stores holds; 0 where no table lies in one.
    pub store_bytes: u64,
}

/// What `encode-features` obeys.
#[derive(Debug, Clone, Serialize)]
pub struct EncodeSettings {
    /// The three raw tables.
    pub tables: Tables,
    /// What each tower sees.
    pub features: Features,
    /// Write the codes of all users.
    #[serde(rename = "all users")]
    pub all_users: bool,
}

/// What `train` obeys.
#[derive(Debug, Clone, Serialize)]
pub struct TrainSettings {
    /// How positives are held out.
    pub split: SplitConfig,
    /// The model.
    pub model: ModelConfig,
    /// How it is trained; the number of threads stands in [`Execution`].
    pub train: TrainConfig,
    /// What computes the exported towers, to compare them with the trained ones.
    #[serde(rename = "verified with")]
    pub engine: EngineKind,
}

/// What `train` obeys where an earlier run's towers are taken as they are.
#[derive(Debug, Clone, Serialize)]
pub struct AdoptSettings {
    /// What computes the exported towers, to compare them with the adopted ones.
    #[serde(rename = "verified with")]
    pub engine: EngineKind,
    /// Users that the towers are compared on.
    pub users: RowSettings,
    /// Items that the towers are compared on.
    pub items: RowSettings,
}

/// Rows of a table of users or items, and what a tower takes of them.
#[derive(Debug, Clone, Serialize)]
pub struct RowSettings {
    /// Column of the row's id.
    pub id: String,
    /// What the tower takes, in order.
    pub features: Vec<FeatureSpec>,
    /// Where the table lies, and how it is read.
    #[serde(rename = "table", serialize_with = "reading")]
    pub source: TableSpec,
}

/// What `infer` obeys for one side.
#[derive(Debug, Clone, Serialize)]
pub struct InferSettings {
    /// The side.
    pub side: Side,
    /// Its rows.
    #[serde(flatten)]
    pub rows: RowSettings,
    /// What runs the tower.
    pub engine: EngineKind,
    /// How vectors are stored.
    pub precision: Precision,
    /// Compression of vectors.
    pub compression: Compression,
    /// Whether a hash of each row is kept beside the vectors; of users alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub row_hashes: bool,
}

/// What `recall` obeys.
#[derive(Debug, Clone, Serialize)]
pub struct RecallSettings {
    /// What is retrieved for each user.
    pub recall: RecallConfig,
    /// The item index.
    pub index: IndexConfig,
    /// Compression of the results.
    pub compression: Compression,
    /// Whether a hash of what each list was made from is kept beside the results.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub row_hashes: bool,
    /// How the interactions are read that say what users have seen, if that is left out.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reading_interactions")]
    pub seen: Option<InteractionTable>,
    /// The users, if they are embedded on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embed: Option<EmbedSettings>,
    /// The users on whom the index is measured, if it may be a graph.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled: Option<RowSettings>,
}

/// How users are embedded on the way to their items.
#[derive(Debug, Clone, Serialize)]
pub struct EmbedSettings {
    /// The users.
    #[serde(flatten)]
    pub rows: RowSettings,
    /// What runs the tower.
    pub engine: EngineKind,
}

/// What building the item index obeys.
#[derive(Debug, Clone, Serialize)]
pub struct IndexSettings {
    /// The index.
    pub index: IndexConfig,
    /// Whom it is measured on, if it is a graph.
    #[serde(flatten)]
    pub audience: Option<AudienceSettings>,
}

/// What measuring a graph on users obeys.
#[derive(Debug, Clone, Serialize)]
pub struct AudienceSettings {
    /// What is retrieved for each user; the form of the results is the default one.
    pub recall: RecallConfig,
    /// How the interactions are read that say what users have seen, if that is left out.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reading_interactions")]
    pub seen: Option<InteractionTable>,
    /// The users.
    pub embed: EmbedSettings,
}

/// What `evaluate` obeys.
#[derive(Debug, Clone, Serialize)]
pub struct EvaluateSettings {
    /// How positives are held out.
    pub split: SplitConfig,
    /// How the model is measured.
    pub evaluate: EvaluateConfig,
    /// What runs the towers.
    pub engine: EngineKind,
}

/// What `check` obeys.
#[derive(Debug, Clone, Serialize)]
pub struct CheckSettings {
    /// What a run must reach.
    pub gates: GatesConfig,
    /// The features whose values are judged.
    pub features: Features,
    /// The item index, of which the recall is judged.
    pub index: IndexConfig,
    /// How the model was measured.
    pub evaluate: EvaluateConfig,
}

/// Writes how a table is read, without its path: what lies there has a fingerprint among the inputs of a stage, and
/// the shards of a stage may reach it by other paths.
fn reading<S: Serializer>(source: &TableSpec, serializer: S) -> Result<S::Ok, S::Error> {
    let mut section = serde_json::to_value(source).map_err(S::Error::custom)?;
    section.as_object_mut().map(|section| section.remove("path"));
    section.serialize(serializer)
}

/// As [`reading`], for a table of interactions, with its columns.
fn reading_interactions<S: Serializer>(table: &Option<InteractionTable>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut section = serde_json::to_value(table).map_err(S::Error::custom)?;
    section.as_object_mut().map(|section| section.remove("path"));
    section.serialize(serializer)
}

/// The features of a side and its id column.
fn side_spec(tables: &Tables, features: &Features, side: Side) -> SideSpec {
    let (table, features) = match side {
        Side::User => (&tables.users, &features.user),
        Side::Item => (&tables.items, &features.item),
    };
    SideSpec { id_column: table.id.clone(), features: features.clone() }
}

impl RowSettings {
    /// The features and the id column.
    pub fn spec(&self) -> SideSpec {
        SideSpec { id_column: self.id.clone(), features: self.features.clone() }
    }
}

impl EncodeSettings {
    /// The features of a side and its id column.
    pub fn side(&self, side: Side) -> SideSpec {
        side_spec(&self.tables, &self.features, side)
    }

    /// The fields of a side, each of the smallest shape that it can have, since nothing is fitted yet.
    pub fn fields(&self, side: Side) -> Vec<FieldSchema> {
        fields(&self.side(side), side)
    }
}

/// The fields of features, each of the smallest shape that it can have.
pub(crate) fn fields(spec: &SideSpec, side: Side) -> Vec<FieldSchema> {
    let field = |feature: &FeatureSpec| FieldSchema { name: feature.name().into(), shape: feature.least_shape(side) };
    spec.features.iter().map(field).collect()
}

impl CheckSettings {
    /// The features of a side.
    pub fn features(&self, side: Side) -> &[FeatureSpec] {
        match side {
            Side::User => &self.features.user,
            Side::Item => &self.features.item,
        }
    }
}

impl RecallSettings {
    /// What building the item index obeys of it; for a graph, with the engine that embeds the users it is measured on.
    pub fn index(&self, engine: Option<EngineKind>) -> IndexSettings {
        let audience = self.sampled.as_ref().zip(engine).map(|(rows, engine)| AudienceSettings {
            recall: RecallConfig { format: Default::default(), fused: false, ..self.recall.clone() },
            seen: self.seen.clone(),
            embed: EmbedSettings { rows: rows.clone(), engine },
        });
        IndexSettings { index: self.index.clone(), audience }
    }
}

impl Config {
    /// All tables that the job reads.
    pub fn tables(&self) -> impl Iterator<Item = &TableSpec> {
        let (tables, recall) = (&self.tables, &self.recall);
        let raw = [&tables.users.source, &tables.items.source, &tables.interactions.source];
        let lists = [&recall.allow, &recall.deny].into_iter().flatten().map(|list| &list.source);
        raw.into_iter().chain(lists).chain(recall.exclusions.as_ref().map(|pairs| &pairs.source))
    }

    /// How the job's stages go about their work.
    pub fn execution(&self) -> Execution {
        Execution {
            workers: self.workers(),
            batch_rows: self.infer.batch_rows,
            part_users: self.run.part_users,
            train_threads: self.train.threads,
            max_bad_rows: self.encode.max_bad_rows,
            max_unreadable: self.encode.max_unreadable,
            store_bytes: self.store_bytes(),
        }
    }

    /// What `encode-features` obeys.
    pub fn encode_settings(&self) -> EncodeSettings {
        let Self { tables, features, .. } = self.clone();
        EncodeSettings { tables, features, all_users: self.encode.all_users }
    }

    /// What `train` obeys.
    pub fn train_settings(&self) -> TrainSettings {
        let Self { split, model, train, .. } = self.clone();
        TrainSettings { split, model, train: TrainConfig { threads: 0, ..train }, engine: self.infer.engine }
    }

    /// What `train` obeys where an earlier run's towers are taken as they are.
    pub fn adopt_settings(&self) -> AdoptSettings {
        AdoptSettings { engine: self.infer.engine, users: self.rows(Side::User), items: self.rows(Side::Item) }
    }

    /// What `infer` obeys for one side.
    pub fn infer_settings(&self, side: Side) -> InferSettings {
        let infer = &self.infer;
        InferSettings {
            side,
            rows: self.rows(side),
            engine: infer.engine,
            precision: infer.precision,
            compression: infer.compression,
            row_hashes: infer.row_hashes && side == Side::User,
        }
    }

    /// What `recall` obeys.
    pub fn recall_settings(&self) -> RecallSettings {
        let Self { recall, index, .. } = self.clone();
        let embed = || EmbedSettings { rows: self.rows(Side::User), engine: self.infer.engine };
        RecallSettings {
            seen: recall.exclude_seen.then(|| self.tables.interactions.clone()),
            embed: recall.fused.then(embed),
            sampled: (index.kind != IndexKind::Exact).then(|| self.rows(Side::User)),
            compression: self.infer.compression,
            row_hashes: self.infer.row_hashes,
            recall,
            index,
        }
    }

    /// What `evaluate` obeys.
    pub fn evaluate_settings(&self) -> EvaluateSettings {
        let Self { split, evaluate, .. } = self.clone();
        EvaluateSettings { split, evaluate, engine: self.infer.engine }
    }

    /// What `check` obeys.
    pub fn check_settings(&self) -> CheckSettings {
        let Self { gates, features, index, evaluate, .. } = self.clone();
        CheckSettings { gates, features, index, evaluate }
    }

    /// The features of a side and its id column.
    pub fn side(&self, side: Side) -> SideSpec {
        side_spec(&self.tables, &self.features, side)
    }

    fn rows(&self, side: Side) -> RowSettings {
        let SideSpec { id_column: id, features } = self.side(side);
        RowSettings { id, features, source: self.table(side).source.clone() }
    }
}

#[cfg(test)]
mod tests;
