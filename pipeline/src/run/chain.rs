//! Whether the outputs of a run belong together, by what their manifests say: each was made from the one before it,
//! and the parts of each from the same inputs, under the same settings. `verify`, `check` and `publish` all ask here.

use crate::error::PipelineError;
use crate::rows::quarantine::Quarantine;
use crate::run::details::RecallDetails;
use crate::run::manifests::{content_fingerprint, details, settings};
use crate::run::names::{inputs, rows, tables};
use crate::run::records::{EncodeRecord, InferRecord, RecallRecord};
use crate::stages::encoded;
use crate::stream::parts::{differing, parts_fingerprint, settings_of};
use crate::stream::shard::Shard;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Debug;
use twotower_artifacts::{Fingerprint, Manifest, Side};

/// The path of a part's manifest in the run's folder, and what it says.
pub type NamedPart<'a> = (String, &'a Manifest);

/// RunManifests of a run's outputs, as far as there are any.
#[derive(Default)]
pub struct RunManifests<'a> {
    /// The manifest of `encode-features`.
    pub encoded: Option<&'a Manifest>,
    /// Fingerprint of the timeline that `encode-features` wrote.
    pub timeline: Option<Fingerprint>,
    /// The manifest of `train`.
    pub trained: Option<&'a Manifest>,
    /// Manifests of the item vectors, by shard.
    pub items: Vec<NamedPart<'a>>,
    /// Manifests of the user vectors, by shard.
    pub users: Vec<NamedPart<'a>>,
    /// Manifests of the results, by shard.
    pub recalled: Vec<NamedPart<'a>>,
    /// What `index/index.json` says.
    pub index: Option<Value>,
    /// Rows of the tables that were left out, where that is known.
    pub quarantine: BTreeMap<Side, Quarantine>,
}

/// Two outputs that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The output that the later one is, such as `vectors/user`.
    pub output: String,
    /// Its manifest, as a path in the run's folder.
    pub path: String,
    /// What it says, and what was expected.
    pub what: String,
    /// The command that makes it again.
    pub command: String,
}

/// Folder of a side's vectors.
fn vectors(side: Side) -> String {
    format!("vectors/{side}")
}

/// All outputs that do not belong together.
pub fn contradictions(made: &RunManifests<'_>) -> Vec<Contradiction> {
    let mut found = Comparison { made, list: Vec::new() };
    found.towers();
    for (side, parts) in [(Side::Item, &made.items), (Side::User, &made.users)] {
        let folder = vectors(side);
        found.alike(&folder, parts);
        for (name, part) in parts {
            let place = Place::of(&folder, name);
            if let Some(record) = found.read(&place, settings::<InferRecord>(READER, part)) {
                found.embedded(&place, part, side, record.id.as_deref());
            }
        }
    }
    found.engines();
    found.alike("recall", &made.recalled);
    for (name, part) in &made.recalled {
        found.recalled(&Place::of("recall", name), part);
    }
    found.list
}

/// Where a manifest stands, and the command that makes it again.
struct Place {
    output: String,
    path: String,
    command: String,
}

impl Place {
    /// The place of a part of an output, whose manifest is at `path`.
    fn of(output: &str, path: &str) -> Self {
        let command = match output.strip_prefix("vectors/") {
            Some(side) => format!("twotower infer --side {side}"),
            None => format!("twotower {output}"),
        };
        Self { output: output.into(), path: path.into(), command }
    }
}

struct Comparison<'a> {
    made: &'a RunManifests<'a>,
    list: Vec<Contradiction>,
}

impl Comparison<'_> {
    fn note(&mut self, place: &Place, what: impl Into<String>) {
        let Place { output, path, command } = place;
        let (output, path, command) = (output.clone(), path.clone(), command.clone());
        self.list.push(Contradiction { output, path, what: what.into(), command });
    }

    /// What was read from a manifest. Where that failed, there is none, and the error is noted.
    fn read<T>(&mut self, place: &Place, record: Result<T, PipelineError>) -> Option<T> {
        record.map_err(|error| self.note(place, error.to_string())).ok()
    }

    /// Notes unless both are equal.
    fn equal<T: PartialEq + Debug>(&mut self, place: &Place, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.note(place, format!("{what} {found:?}, expected {expected:?}"));
        }
    }

    /// As [`Comparison::equal`], where both are there. Manifests of earlier versions say less.
    fn both<T: PartialEq + Debug>(&mut self, place: &Place, what: &str, expected: Option<T>, found: Option<T>) {
        if let (Some(expected), Some(found)) = (expected, found) {
            self.equal(place, what, &expected, &found);
        }
    }

    /// Notes unless a manifest names the input that is there. Where it names none, this is noted only if one is
    /// `wanted`.
    fn input(&mut self, place: &Place, manifest: &Manifest, name: &str, there: Option<&Fingerprint>, wanted: bool) {
        match (manifest.inputs.get(name), there) {
            (Some(found), Some(expected)) => self.equal(place, &format!("made from {name}"), expected, found),
            (None, Some(_)) if wanted => self.note(place, format!("does not say which {name} it was made from")),
            _ => {}
        }
    }

    fn towers(&mut self) {
        let RunManifests { encoded, trained: Some(trained), .. } = self.made else { return };
        let place =
            Place { output: "towers".into(), path: "towers/manifest.json".into(), command: "twotower train".into() };
        self.input(&place, trained, inputs::ENCODERS, encoded.map(|e| &e.fingerprint), true);
        self.input(&place, trained, inputs::ENCODED_TABLES, encoded.map(encoded::content).as_ref(), false);
    }

    /// Whether parts are of the files they list, and whether the parts of one output agree in what they have in common.
    fn alike(&mut self, folder: &str, parts: &[NamedPart<'_>]) {
        for (own, part) in parts {
            let content = content_fingerprint(&part.files);
            self.equal(&Place::of(folder, own), "fingerprint", &content, &part.fingerprint);
        }
        let Some(((name, first), others)) = parts.split_first() else { return };
        for (own, part) in others {
            let place = Place::of(folder, own);
            let mut others = differing(&first.inputs, &part.inputs);
            // Each shard reads the vectors of its own users.
            others.remove(inputs::USER_VECTORS);
            if !others.is_empty() {
                self.note(&place, format!("made from other inputs than {name}: {others:?}"));
            }
            let settings = differing(&settings_of(first), &settings_of(part));
            if !settings.is_empty() {
                self.note(&place, format!("made under other settings than {name}: {settings:?}"));
            }
            let table_rows = |part: &Manifest| part.rows.get(rows::TABLE_ROWS).copied();
            self.equal(&place, "`rows.table rows`", &table_rows(first), &table_rows(part));
            // Parts of vectors have none.
            let index = |part: &Manifest| details::<RecallDetails>(READER, part).ok().map(|details| details.index);
            self.equal(&place, "`details.index`", &index(first), &index(part));
            let (mine, other) = (&part.tool_version, &first.tool_version);
            if mine != other {
                self.note(&place, format!("made by twotower {mine}, {name} by {other}"));
            }
        }
    }

    /// Whether rows were embedded by the run's towers, from the table that its encoders were fitted on, without the
    /// rows that these left out. `id` is the column of ids that was read.
    fn embedded(&mut self, place: &Place, part: &Manifest, side: Side, id: Option<&str>) {
        let RunManifests { encoded, timeline, trained, quarantine, .. } = self.made;
        self.input(place, part, inputs::ENCODERS, encoded.map(|e| &e.fingerprint), true);
        self.input(place, part, inputs::TOWERS, trained.map(|t| &t.fingerprint), true);
        self.input(place, part, inputs::TIMELINE, timeline.as_ref(), false);
        let Some(encoded) = encoded else { return };
        let table = encoded.inputs.get(tables::of(side));
        if let (Some(expected), Some(found)) = (table, part.inputs.get(inputs::TABLE))
            && expected != found
        {
            return self.note(
                place,
                format!(
                    "made from the {side}s table {found}, encode-features read {expected}: another one, or changed"
                ),
            );
        }
        let fitted = Place {
            output: "encoders".into(),
            path: "encoders/manifest.json".into(),
            command: "twotower encode-features".into(),
        };
        if let Some(record) = self.read(&fitted, settings::<EncodeRecord>(READER, encoded)) {
            self.both(place, &format!("column of {side} ids"), Some(record.tables.id(side)), id);
        }
        if let (Some(quarantine), Some(shard)) = (quarantine.get(&side), Shard::of(part)) {
            let count = |name: &str| part.rows.get(name).copied().unwrap_or_default();
            let expected = quarantine.within(&shard.range(count(rows::TABLE_ROWS)));
            self.equal(place, "rows quarantined", &expected, &count(rows::QUARANTINED));
            let without = part.inputs.get(inputs::QUARANTINE);
            self.equal(place, "made without the rows", &quarantine.fingerprint().as_ref(), &without);
        }
    }

    /// Whether vectors of both sides come from one engine.
    fn engines(&mut self) {
        let ([(_, item), ..], [(name, user), ..]) = (&self.made.items[..], &self.made.users[..]) else { return };
        let place = Place::of(&vectors(Side::User), name);
        self.both(&place, "engine of user and item vectors", engine_of(item), engine_of(user));
    }

    fn recalled(&mut self, place: &Place, part: &Manifest) {
        let RunManifests { timeline, items, users, index, .. } = self.made;
        let Some(record) = self.read(place, settings::<RecallRecord>(READER, part)) else { return };
        let engine = record.engine.map(|engine| engine.to_string());
        if let Some((_, first)) = items.first() {
            let content = parts_fingerprint(items.iter().map(|(_, part)| *part));
            self.input(place, part, inputs::ITEM_VECTORS, Some(&content), true);
            self.both(place, "`config.engine`", engine_of(first), engine.clone());
        }
        if let Some(searched) = self.read(place, details::<RecallDetails>(READER, part))
            && let Some(index) = index
        {
            self.equal(place, "searched in the index", index, &searched.index);
        }
        self.input(place, part, inputs::TIMELINE, timeline.as_ref(), record.recall.exclude_seen);
        if record.recall.fused {
            let embed = record.embed.as_ref();
            let of_users = embed.and_then(|embed| embed.engine).map(|engine| engine.to_string());
            self.both(place, "engine of user and item vectors", engine, of_users);
            return self.embedded(place, part, Side::User, embed.and_then(|embed| embed.id.as_deref()));
        }
        let by_shard: BTreeMap<Shard, &Manifest> =
            users.iter().filter_map(|(_, u)| Some((Shard::of(u)?, *u))).collect();
        let (Some(shard), Some(first)) = (Shard::of(part), users.first().map(|(_, first)| *first)) else {
            return;
        };
        let (Some(rows), Some(count)) = (first.rows.get(rows::TABLE_ROWS), Shard::of(first).map(|s| s.count)) else {
            return;
        };
        self.equal(place, "`rows.table rows`", &Some(rows), &part.rows.get(rows::TABLE_ROWS));
        let read = shard.covering(*rows, count).map(|shard| by_shard.get(&shard).copied());
        // A shard that is not there has been noted as missing.
        if let Some(read) = read.collect::<Option<Vec<&Manifest>>>() {
            self.input(place, part, inputs::USER_VECTORS, Some(&parts_fingerprint(read)), true);
        }
        let without = (first.inputs.get(inputs::QUARANTINE), part.inputs.get(inputs::QUARANTINE));
        self.equal(place, "made without the rows", &without.0, &without.1);
    }
}

/// Who asks, in messages.
const READER: &str = "compare";

/// Name of the engine that made vectors, if their manifest says so.
fn engine_of(vectors: &Manifest) -> Option<String> {
    settings::<InferRecord>(READER, vectors).ok().map(|record| record.engine.to_string())
}

/// Whether results were made from users that were embedded on the way.
pub fn is_fused(recalled: &Manifest) -> bool {
    settings::<RecallRecord>(READER, recalled).is_ok_and(|record| record.recall.fused)
}
