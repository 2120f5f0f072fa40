//! Whether the outputs of a run belong together, by what their manifests say: each was made from the one before it,
//! and the parts of each from the same inputs, under the same settings. `verify`, `check` and `publish` all ask here.

use crate::rows::quarantine::{QUARANTINE, Quarantine};
use crate::stages::content_fingerprint;
use crate::stages::encoded;
use crate::stream::parts::{differing, parts_fingerprint, settings_of};
use crate::stream::shard::Shard;
use crate::timeline::of_run::TIMELINE;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Debug;
use twotower_artifacts::{Fingerprint, Manifest, Side};

/// A part's manifest and the name of its file.
pub type Named<'a> = (String, &'a Manifest);

/// Manifests of a run's outputs, as far as there are any.
#[derive(Default)]
pub struct Made<'a> {
    /// Of `encode-features`.
    pub encoded: Option<&'a Manifest>,
    /// Fingerprint of the timeline that `encode-features` wrote.
    pub timeline: Option<Fingerprint>,
    /// Of `train`.
    pub trained: Option<&'a Manifest>,
    /// Of the item vectors, by shard.
    pub items: Vec<Named<'a>>,
    /// Of the user vectors, by shard.
    pub users: Vec<Named<'a>>,
    /// Of the results, by shard.
    pub recalled: Vec<Named<'a>>,
    /// What `index/index.json` says.
    pub index: Option<Value>,
    /// Rows of the users table that were left out.
    pub quarantine: Option<&'a Quarantine>,
}

/// Two outputs that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The manifest of the later one, as a path in the run's folder.
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

/// All that does not belong together.
pub fn contradictions(made: &Made<'_>) -> Vec<Contradiction> {
    let mut found = Found { made, list: Vec::new() };
    found.towers();
    for (side, parts) in [(Side::Item, &made.items), (Side::User, &made.users)] {
        let folder = vectors(side);
        found.alike(&folder, parts);
        for (name, part) in parts {
            found.embedded(&Place::of(&folder, name), part, side, &part.config["id"]);
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
    path: String,
    command: String,
}

impl Place {
    /// The place of a part.
    fn of(folder: &str, name: &str) -> Self {
        let command = match folder.strip_prefix("vectors/") {
            Some(side) => format!("twotower infer --side {side}"),
            None => format!("twotower {folder}"),
        };
        Self { path: format!("{folder}/{name}"), command }
    }
}

struct Found<'a> {
    made: &'a Made<'a>,
    list: Vec<Contradiction>,
}

impl Found<'_> {
    fn note(&mut self, place: &Place, what: impl Into<String>) {
        let Place { path, command } = place;
        self.list.push(Contradiction { path: path.clone(), what: what.into(), command: command.clone() });
    }

    /// Notes unless both are equal.
    fn equal<T: PartialEq + Debug>(&mut self, place: &Place, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.note(place, format!("{what} {found:?}, expected {expected:?}"));
        }
    }

    /// As [`Found::equal`], where both are there: older versions say less.
    fn both(&mut self, place: &Place, what: &str, expected: &Value, found: &Value) {
        if !expected.is_null() && !found.is_null() {
            self.equal(place, what, expected, found);
        }
    }

    /// Notes unless a manifest names the input that is there; one that it does not name is `wanted`, or not.
    fn input(&mut self, place: &Place, manifest: &Manifest, name: &str, there: Option<&Fingerprint>, wanted: bool) {
        match (manifest.inputs.get(name), there) {
            (Some(found), Some(expected)) => self.equal(place, &format!("made from {name}"), expected, found),
            (None, Some(_)) if wanted => self.note(place, format!("does not say which {name} it was made from")),
            _ => {}
        }
    }

    fn towers(&mut self) {
        let Made { encoded, trained: Some(trained), .. } = self.made else { return };
        let place = Place { path: "towers/manifest.json".into(), command: "twotower train".into() };
        self.input(&place, trained, "encoders", encoded.map(|e| &e.fingerprint), true);
        self.input(&place, trained, "encoded tables", encoded.map(encoded::content).as_ref(), false);
    }

    /// That parts are of the files they list, and what those of one output have in common.
    fn alike(&mut self, folder: &str, parts: &[Named<'_>]) {
        for (own, part) in parts {
            let content = content_fingerprint(&part.files);
            self.equal(&Place::of(folder, own), "fingerprint", &content, &part.fingerprint);
        }
        let Some(((name, first), others)) = parts.split_first() else { return };
        for (own, part) in others {
            let place = Place::of(folder, own);
            let mut inputs = differing(&first.inputs, &part.inputs);
            // Each shard reads the vectors of its own users.
            inputs.remove(USER_VECTORS);
            if !inputs.is_empty() {
                self.note(&place, format!("made from other inputs than {name}: {inputs:?}"));
            }
            let settings = differing(&settings_of(first), &settings_of(part));
            if !settings.is_empty() {
                self.note(&place, format!("made under other settings than {name}: {settings:?}"));
            }
            self.equal(&place, "`rows.table rows`", &first.rows.get("table rows"), &part.rows.get("table rows"));
            self.equal(&place, "`details.index`", &first.details["index"], &part.details["index"]);
            let (mine, other) = (&part.tool_version, &first.tool_version);
            if mine != other {
                self.note(&place, format!("made by twotower {mine}, {name} by {other}"));
            }
        }
    }

    /// What was embedded: by these towers, from the rows that the encoders were fitted on, but for those left out.
    fn embedded(&mut self, place: &Place, part: &Manifest, side: Side, id: &Value) {
        let Made { encoded, timeline, trained, quarantine, .. } = self.made;
        self.input(place, part, "encoders", encoded.map(|e| &e.fingerprint), true);
        self.input(place, part, "towers", trained.map(|t| &t.fingerprint), true);
        self.input(place, part, TIMELINE, timeline.as_ref(), false);
        let Some(encoded) = encoded else { return };
        let table = encoded.inputs.get(&format!("{side}s"));
        if let (Some(expected), Some(found)) = (table, part.inputs.get("table"))
            && expected != found
        {
            return self.note(
                place,
                format!(
                    "made from the {side}s table {found}, encode-features read {expected}: another one, or changed"
                ),
            );
        }
        self.both(place, &format!("column of {side} ids"), &encoded.config["tables"][format!("{side}s")]["id"], id);
        if let (Side::User, Some(quarantine), Some(shard)) = (side, quarantine, Shard::of(part)) {
            let count = |name: &str| part.rows.get(name).copied().unwrap_or_default();
            let expected = quarantine.within(&shard.range(count("table rows")));
            self.equal(place, "rows quarantined", &expected, &count("quarantined"));
            let without = part.inputs.get(QUARANTINE);
            self.equal(place, "made without the rows", &quarantine.fingerprint().as_ref(), &without);
        }
    }

    /// Vectors of both sides must come from one engine.
    fn engines(&mut self) {
        let ([(_, item), ..], [(name, user), ..]) = (&self.made.items[..], &self.made.users[..]) else { return };
        let place = Place::of(&vectors(Side::User), name);
        self.both(&place, "engine of user and item vectors", &item.config["engine"], &user.config["engine"]);
    }

    fn recalled(&mut self, place: &Place, part: &Manifest) {
        let Made { timeline, items, users, index, .. } = self.made;
        if let Some((_, first)) = items.first() {
            let content = parts_fingerprint(items.iter().map(|(_, part)| *part));
            self.input(place, part, "item vectors", Some(&content), true);
            self.both(place, "`config.engine`", &first.config["engine"], &part.config["engine"]);
        }
        if let Some(index) = index {
            self.equal(place, "searched in the index", index, &part.details["index"]);
        }
        let seen = part.config["recall"]["exclude_seen"].as_bool() == Some(true);
        self.input(place, part, TIMELINE, timeline.as_ref(), seen);
        if is_fused(part) {
            let embed = &part.config["embed"];
            self.both(place, "engine of user and item vectors", &part.config["engine"], &embed["engine"]);
            return self.embedded(place, part, Side::User, &embed["id"]);
        }
        let by_shard: BTreeMap<Shard, &Manifest> =
            users.iter().filter_map(|(_, u)| Some((Shard::of(u)?, *u))).collect();
        let (Some(shard), Some(first)) = (Shard::of(part), users.first().map(|(_, first)| *first)) else {
            return;
        };
        let (Some(rows), Some(count)) = (first.rows.get("table rows"), Shard::of(first).map(|s| s.count)) else {
            return;
        };
        self.equal(place, "`rows.table rows`", &Some(rows), &part.rows.get("table rows"));
        let read = shard.covering(*rows, count).map(|shard| by_shard.get(&shard).copied());
        // A shard that is not there has been noted as missing.
        if let Some(read) = read.collect::<Option<Vec<&Manifest>>>() {
            self.input(place, part, USER_VECTORS, Some(&parts_fingerprint(read)), true);
        }
        let without = (first.inputs.get(QUARANTINE), part.inputs.get(QUARANTINE));
        self.equal(place, "made without the rows", &without.0, &without.1);
    }
}

/// Name among the inputs of results: the vectors of their users.
pub const USER_VECTORS: &str = "user vectors";

/// Whether results were made from users that were embedded on the way.
pub fn is_fused(recalled: &Manifest) -> bool {
    recalled.config["recall"]["fused"].as_bool() == Some(true)
}
