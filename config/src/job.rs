//! `pipeline.toml`: one file describes a job.

use crate::error::ConfigError;
use crate::evaluation::EvaluateConfig;
use crate::gates::GatesConfig;
use crate::messages::{explain, explain_file, line_of, setting_of};
use crate::model_kind::of_another_kind;
use crate::overrides::{Override, apply, blamed};
use crate::ranges::{check_all, check_typed};
use crate::settings::fields;
use crate::split::SplitConfig;
use crate::times::{TimeLimit, TimeSettings};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::io::Read;
use std::path::Path;
use twotower_artifacts::json::MAX_BYTES;
use twotower_artifacts::{Compression, FieldSchema, NeighbourFormat, Precision, Side};
use twotower_encoders::FeatureSpec;
use twotower_index::IndexConfig;
use twotower_models::engine::EngineKind;
use twotower_models::model::ModelConfig;
use twotower_models::train::TrainConfig;
use twotower_tables::{FingerprintKind, SeenFiles, StoreSettings, StoreUrl, Stores, TableSpec};

/// A whole job. Every section but `tables` and `features` has defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The three raw tables.
    pub tables: Tables,
    /// What each tower sees.
    pub features: Features,
    /// What is encoded.
    #[serde(default)]
    pub encode: EncodeConfig,
    /// How positives are held out.
    #[serde(default)]
    pub split: SplitConfig,
    /// The model.
    #[serde(default)]
    pub model: ModelConfig,
    /// How it is trained.
    #[serde(default)]
    pub train: TrainConfig,
    /// How rows become vectors.
    #[serde(default)]
    pub infer: InferConfig,
    /// The item index.
    #[serde(default)]
    pub index: IndexConfig,
    /// What is retrieved for each user.
    #[serde(default)]
    pub recall: RecallConfig,
    /// How a run goes about it.
    #[serde(default)]
    pub run: RunConfig,
    /// How the model is measured.
    #[serde(default)]
    pub evaluate: EvaluateConfig,
    /// What a run must reach before it is published.
    #[serde(default)]
    pub gates: GatesConfig,
    /// How object stores are reached.
    #[serde(default)]
    pub store: StoreSettings,
}

/// The raw tables of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// One row per user.
    pub users: EntityTable,
    /// One row per item.
    pub items: EntityTable,
    /// One row per positive.
    pub interactions: InteractionTable,
    /// What fingerprints of these and of all other tables of the job cover.
    #[serde(default)]
    pub fingerprint: FingerprintKind,
}

/// A table of users or items: its id column, where it is and how it is written.
#[derive(Debug, Clone)]
pub struct EntityTable {
    /// Column of the row's id.
    pub id: String,
    /// Column by which people know the row, of items alone. Results show it; nothing is computed from it.
    pub title: Option<String>,
    /// Where it is and how it is written.
    pub source: TableSpec,
}

/// A table of interactions.
#[derive(Debug, Clone)]
pub struct InteractionTable {
    /// Column of the user's id.
    pub user: String,
    /// Column of the item's id.
    pub item: String,
    /// Where the times are.
    pub times: TimeSettings,
    /// Column of the weight, if there is one.
    pub weight: Option<String>,
    /// Where it is and how it is written.
    pub source: TableSpec,
}

/// Splits the keys named in `own`, names of columns, off a table section; the rest describes the source.
fn split_section<'de, D: Deserializer<'de>>(
    deserializer: D,
    own: &[&str],
) -> Result<(Vec<Option<String>>, TableSpec), D::Error> {
    let mut section = toml::Table::deserialize(deserializer)?;
    let names =
        own.iter().map(|key| take(&mut section, key, "a column name", text)).collect::<Result<_, D::Error>>()?;
    Ok((names, source_of(section)?))
}

/// Takes a key out of a table section.
fn take<T, E: serde::de::Error>(
    section: &mut toml::Table,
    key: &str,
    expected: &str,
    read: impl Fn(&toml::Value) -> Option<T>,
) -> Result<Option<T>, E> {
    let refuse = |found: &toml::Value| {
        let what = found.as_str().map_or(found.type_str().to_string(), |text| format!("\"{text}\""));
        E::custom(format!("`{key}`: expected {expected}, found {what}"))
    };
    section.remove(key).map(|value| read(&value).ok_or_else(|| refuse(&value))).transpose()
}

fn text(value: &toml::Value) -> Option<String> {
    value.as_str().map(str::to_string)
}

fn source_of<E: serde::de::Error>(section: toml::Table) -> Result<TableSpec, E> {
    TableSpec::deserialize(toml::Value::Table(section)).map_err(|e| E::custom(e.message()))
}

fn join_section<S: Serializer>(
    serializer: S,
    own: &[(&str, Option<serde_json::Value>)],
    source: &TableSpec,
) -> Result<S::Ok, S::Error> {
    use serde::ser::Error as _;
    let mut section = serde_json::Map::new();
    section.extend(own.iter().filter_map(|(key, value)| Some((key.to_string(), value.clone()?))));
    if let serde_json::Value::Object(rest) = serde_json::to_value(source).map_err(S::Error::custom)? {
        section.extend(rest.into_iter().filter(|(_, v)| !v.is_null()));
    }
    section.serialize(serializer)
}

impl<'de> Deserialize<'de> for EntityTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut own, source) = split_section(deserializer, &["id", "title"])?;
        let title = own.pop().flatten();
        let id = own.remove(0).ok_or_else(|| D::Error::missing_field("id"))?;
        Ok(Self { id, title, source })
    }
}

impl Serialize for EntityTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = [("id", Some(self.id.clone().into())), ("title", self.title.clone().map(Into::into))];
        join_section(serializer, &own, &self.source)
    }
}

impl<'de> Deserialize<'de> for InteractionTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut section = toml::Table::deserialize(deserializer)?;
        let mut column = |key: &str| take(&mut section, key, "a column name", text);
        let (user, item) = (column("user")?, column("item")?);
        let (timestamp, weight) = (column("timestamp")?, column("weight")?);
        let format = take(&mut section, "timestamp_format", "a pattern in the form of strftime", text)?;
        let units = "\"second\", \"millisecond\", \"microsecond\" or \"nanosecond\"";
        let unit = take(&mut section, "timestamp_unit", units, |value| value.clone().try_into().ok())?;
        let mut time = |key: &str| take(&mut section, key, "an integer, or a time in ISO 8601", TimeLimit::of_toml);
        let (earliest, latest) = (time("earliest")?, time("latest")?);
        Ok(Self {
            user: user.ok_or_else(|| D::Error::missing_field("user"))?,
            item: item.ok_or_else(|| D::Error::missing_field("item"))?,
            times: TimeSettings { timestamp, format, unit, earliest, latest },
            weight,
            source: source_of(section)?,
        })
    }
}

impl Serialize for InteractionTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let limit = |limit: &Option<TimeLimit>| limit.as_ref().and_then(|limit| serde_json::to_value(limit).ok());
        let own = [
            ("user", Some(self.user.clone().into())),
            ("item", Some(self.item.clone().into())),
            ("timestamp", self.times.timestamp.clone().map(Into::into)),
            ("timestamp_format", self.times.format.clone().map(Into::into)),
            ("timestamp_unit", self.times.unit.and_then(|unit| serde_json::to_value(unit).ok())),
            ("earliest", limit(&self.times.earliest)),
            ("latest", limit(&self.times.latest)),
            ("weight", self.weight.clone().map(Into::into)),
        ];
        join_section(serializer, &own, &self.source)
    }
}

/// The features of both towers, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Inputs of the user tower.
    pub user: Vec<FeatureSpec>,
    /// Inputs of the item tower.
    pub item: Vec<FeatureSpec>,
}

/// `[encode]`: raw rows to codes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EncodeConfig {
    /// Write the codes of all users to `users-all.parquet`, for other programs: twotower needs only those that train.
    pub all_users: bool,
    /// The share of the rows of users, of items, or of interactions, that may be set aside as unusable.
    pub max_bad_rows: f64,
    /// The share of a feature's values, of those that are not missing, that may be unreadable.
    pub max_unreadable: f64,
}

impl Default for EncodeConfig {
    fn default() -> Self {
        Self { all_users: false, max_bad_rows: 0.001, max_unreadable: 0.5 }
    }
}

/// `[infer]`: rows to vectors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InferConfig {
    /// What runs the towers: `ort` (ONNX Runtime), `native` (no shared library needed), or `native-int16` (the same with
    /// matrix products of 16-bit integers).
    pub engine: EngineKind,
    /// How vectors are stored: `f32` or `f16`.
    pub precision: Precision,
    /// Compression of vectors and of recalled items: `none`, `lz4` or `zstd`.
    pub compression: Compression,
    /// Keep a hash of what each user's vector, or list of items, was made from, so that a later run can take those of
    /// users who have not changed (`--changed-since`).
    pub row_hashes: bool,
    /// Rows read, encoded and embedded at a time.
    pub batch_rows: usize,
    /// Worker threads; 0 = one per available core.
    pub workers: usize,
}

impl Default for InferConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::default(),
            precision: Precision::default(),
            compression: Compression::default(),
            row_hashes: false,
            batch_rows: 8192,
            workers: 0,
        }
    }
}

/// `[recall]`: vectors to neighbours.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecallConfig {
    /// Items per user, at least 1; a user gets fewer only when fewer are eligible.
    pub topk: usize,
    /// Embed users on the way to their items, and keep no vectors of them.
    pub fused: bool,
    /// Leave out items that the user has in the interactions table.
    pub exclude_seen: bool,
    /// A table of the only items to retrieve.
    pub allow: Option<ListTable>,
    /// A table of items never to retrieve.
    pub deny: Option<ListTable>,
    /// A table of (user, item) pairs never to retrieve.
    pub exclusions: Option<PairTable>,
    /// How results are written: `parquet`, `parquet-long` or `jsonl`.
    pub format: NeighbourFormat,
}

impl Default for RecallConfig {
    fn default() -> Self {
        Self {
            topk: 50,
            fused: false,
            exclude_seen: true,
            allow: None,
            deny: None,
            exclusions: None,
            format: NeighbourFormat::default(),
        }
    }
}

/// A table whose one column of item ids matters.
#[derive(Debug, Clone)]
pub struct ListTable {
    /// Column of the item's id.
    pub item: String,
    /// Where it is and how it is written.
    pub source: TableSpec,
}

impl<'de> Deserialize<'de> for ListTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut own, source) = split_section(deserializer, &["item"])?;
        Ok(Self { item: own.remove(0).ok_or_else(|| D::Error::missing_field("item"))?, source })
    }
}

impl Serialize for ListTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        join_section(serializer, &[("item", Some(self.item.clone().into()))], &self.source)
    }
}

/// A table of (user, item) pairs.
#[derive(Debug, Clone)]
pub struct PairTable {
    /// Column of the user's id.
    pub user: String,
    /// Column of the item's id.
    pub item: String,
    /// Where it is and how it is written.
    pub source: TableSpec,
}

impl<'de> Deserialize<'de> for PairTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (mut own, source) = split_section(deserializer, &["user", "item"])?;
        let item = own.pop().flatten().ok_or_else(|| D::Error::missing_field("item"))?;
        let user = own.pop().flatten().ok_or_else(|| D::Error::missing_field("user"))?;
        Ok(Self { user, item, source })
    }
}

impl Serialize for PairTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = [("user", Some(self.user.clone().into())), ("item", Some(self.item.clone().into()))];
        join_section(serializer, &own, &self.source)
    }
}

/// `[run]`: how a run goes about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Rows embedded or searched at a time into a part of their own, which a command that was stopped keeps; 0 = all.
    pub part_users: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { part_users: 10_000_000 }
    }
}

impl Config {
    /// Reads a job's file, applies overrides, and resolves table paths against the file's folder.
    ///
    /// # Errors
    /// [`ConfigError::File`] with position, and the nearest valid name for an unknown one.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let refuse = |reason: String| ConfigError::File { path: path.to_path_buf(), reason };
        // It may be a pipe, whose size nobody knows.
        let mut text = String::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        read.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                refuse("file not found; write one with `twotower init`, or give --config".into())
            }
            _ => refuse(e.to_string()),
        })?;
        if text.len() as u64 > MAX_BYTES {
            return Err(refuse(format!("more bytes, expected at most {MAX_BYTES}")));
        }
        let file: toml::Table = toml::from_str(&text).map_err(|e| refuse(explain_file(&text, &e)))?;
        // A message that names a setting is about a flag, or about a line.
        let placed = |error: ConfigError| {
            let message = error.to_string();
            let Some(setting) = setting_of(&message) else { return refuse(message) };
            if let Some(given) = overrides.iter().rev().find(|o| o.gives(setting)) {
                return given.refuse(&message);
            }
            match line_of(&text, setting) {
                Some(line) => refuse(format!("line {line}: {message}")),
                None => refuse(message),
            }
        };
        let mut table = file.clone();
        overrides.iter().try_for_each(|o| apply(&mut table, o).map_err(|e| o.refuse(e)))?;
        of_another_kind(&table).map_or(Ok(()), |why| Err(placed(ConfigError::usage(why))))?;
        check_typed(&table).map_err(placed)?;
        // Without overrides, errors carry the line and column of the file itself.
        let in_file = || toml::from_str::<Config>(&text).map_err(|e| refuse(explain(&e.to_string())));
        let mut config: Config = match overrides {
            [] => in_file()?,
            _ => match Config::deserialize(toml::Value::Table(table)) {
                Ok(config) => config,
                Err(error) => {
                    return Err(blamed(file, overrides, error.message()).map_or_else(
                        || in_file().err().unwrap_or_else(|| refuse(explain(error.message()))),
                        |given| given.refuse(explain(error.message())),
                    ));
                }
            },
        };
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        config.resolve(base);
        config.validate().map_err(placed)?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        let (recall, fingerprint, seen) = (&mut self.recall, self.tables.fingerprint, SeenFiles::default());
        let stores = Stores::new(self.store.clone());
        [&mut self.tables.users.source, &mut self.tables.items.source, &mut self.tables.interactions.source]
            .into_iter()
            .chain(recall.allow.as_mut().map(|t| &mut t.source))
            .chain(recall.deny.as_mut().map(|t| &mut t.source))
            .chain(recall.exclusions.as_mut().map(|t| &mut t.source))
            .for_each(|source| {
                let (seen, stores) = (Some(seen.clone()), stores.clone());
                *source = TableSpec { fingerprint, seen, stores, ..source.resolve(base) };
            });
        for feature in self.features.user.iter_mut().chain(&mut self.features.item) {
            if let FeatureSpec::Vector(vector) = feature
                && let Some(file) = &mut vector.file
            {
                *file = TableSpec::new(&*file).resolve(base).pattern();
            }
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        check_all(self)?;
        if self.tables.users.title.is_some() {
            return Err(ConfigError::usage("`tables.users.title`: only items have a title; remove it"));
        }
        self.tables.interactions.times.validate()?;
        self.split.validate()?;
        self.evaluate.check(&self.split)?;
        twotower_encoders::validate(&self.side(Side::User), &self.side(Side::Item))?;
        let users = self.fields(Side::User);
        if let Some(field) = users.iter().find(|field| field.shape.intervals().is_some())
            && self.tables.interactions.times.timestamp.is_none()
        {
            return Err(ConfigError::usage(format!(
                "`features.user`: sequence `{}` has `intervals`, and the order of interactions is no clock; name their column of times in `tables.interactions.timestamp`, or remove `intervals`",
                field.name
            )));
        }
        self.model.check(&users, &self.fields(Side::Item))?;
        self.model.check_training(&self.train)?;
        let names: Vec<String> = [Side::User, Side::Item]
            .into_iter()
            .flat_map(|side| self.side(side).features.into_iter().map(move |f| format!("{side}.{}", f.name())))
            .collect();
        self.gates.check(names.iter().map(String::as_str))
    }

    /// The fields of a side, each of the smallest shape that it can have, since nothing is fitted yet.
    pub fn fields(&self, side: Side) -> Vec<FieldSchema> {
        fields(&self.side(side), side)
    }

    /// The table of a side.
    pub fn table(&self, side: Side) -> &EntityTable {
        match side {
            Side::User => &self.tables.users,
            Side::Item => &self.tables.items,
        }
    }

    /// The object stores of the job, which share what may be in flight.
    pub fn stores(&self) -> &Stores {
        &self.tables.users.source.stores
    }

    /// Bytes that reading from object stores holds: none where no table and no side file lies in one.
    pub fn store_bytes(&self) -> u64 {
        let Self { tables, recall, features, .. } = self;
        let sides = [recall.allow.as_ref(), recall.deny.as_ref()].into_iter().flatten().map(|side| &side.source);
        let sides = sides.chain(recall.exclusions.as_ref().map(|side| &side.source));
        let sources =
            [&tables.users.source, &tables.items.source, &tables.interactions.source].into_iter().chain(sides);
        let vectors = features.user.iter().chain(&features.item).filter_map(|feature| {
            let FeatureSpec::Vector(vector) = feature else { return None };
            vector.file.as_ref()
        });
        let mut paths = sources.flat_map(|source| source.path.as_slice()).chain(vectors);
        if paths.any(|path| StoreUrl::is_url(path)) { self.store.reading_bytes() } else { 0 }
    }

    /// Worker threads of the streaming stages.
    pub fn workers(&self) -> usize {
        match self.infer.workers {
            0 => crate::allocation::cores(),
            n => n,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A job with the least that one must have.
    pub(crate) const MINIMAL: &str = r#"
[tables.users]
path = "users"
id = "user_id"
[tables.items]
path = "items.parquet"
id = "product_id"
[tables.interactions]
path = "/abs/orders.csv"
user = "user_id"
item = "product_id"
timestamp = "ts"
[[features.user]]
name = "city"
kind = "categorical"
[[features.item]]
name = "price"
kind = "numeric"
"#;

    /// A job from its text.
    pub(crate) fn load(text: &str, overrides: &[Override]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, overrides)
    }

    #[test]
    fn a_minimal_job_loads_with_defaults_and_survives_a_round_trip() {
        let config = load(MINIMAL, &[]).unwrap();
        assert_eq!((config.recall.topk, config.tables.users.id.as_str()), (50, "user_id"));
        assert_eq!(config.tables.interactions.times.timestamp.as_deref(), Some("ts"));
        let json = serde_json::to_string(&config).unwrap();
        let again: Config = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), json);
    }

    #[test]
    fn a_table_in_a_store_keeps_its_url_and_holds_what_is_read_ahead() {
        let local = load(MINIMAL, &[]).unwrap();
        assert_eq!(local.store_bytes(), 0);
        let text = MINIMAL.replace("\"users\"", "\"s3://b/users/\"") + "[store]\nread_ahead_mib = 32\n";
        let config = load(&text, &[]).unwrap();
        assert_eq!(config.tables.users.source.pattern(), "s3://b/users/");
        assert_eq!(config.store_bytes(), 48 << 20);
        assert_eq!(config.stores().settings(), &config.store);
        let error = load(&format!("{MINIMAL}[store]\naccess_key = \"x\"\n"), &[]).unwrap_err();
        assert_eq!(error.category().exit_code(), 2, "{error}");
        let error = load(&format!("{MINIMAL}[store]\nretries = 101\n"), &[]).unwrap_err();
        assert!(error.to_string().contains("`store.retries` = 101: expected a whole number from 0 to 100"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        for (section, nearest) in [
            ("\n[recal]\ntopk = 3\n", "recall"),
            ("\n[recall]\ntop_k = 3\n", "topk"),
            ("\n[split]\nkind = \"leave_one_out\"\n", "leave_last_out"),
        ] {
            let message = load(&format!("{MINIMAL}{section}"), &[]).unwrap_err().to_string();
            assert!(message.contains(&format!("did you mean `{nearest}`?")), "{message}");
        }
        let typo = MINIMAL.replace("path = \"users\"", "pth = \"users\"");
        let error = load(&typo, &[]).unwrap_err();
        assert!(error.to_string().contains("did you mean `path`?"), "{error}");
        assert_eq!(error.category().exit_code(), 2);
    }
}
