//! Parts: each shard once, of one input, one model and one number of shards, with the rows it says.

use super::Check;
use crate::stream::parts::{KeyRange, Part, file_name, list_parts, manifest_name, part_name};
use crate::stream::sample;
use crate::stream::shard::Shard;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{
    ArtifactError, FileEntry, Ids, Manifest, NeighbourFormat, Side, VectorsReader, inspect_neighbours,
};

/// What parts are of.
#[derive(Clone, Copy)]
pub(super) enum Output {
    Vectors(Side),
    Recall,
}

impl Output {
    fn stage(self) -> &'static str {
        match self {
            Output::Vectors(_) => "infer",
            Output::Recall => "recall",
        }
    }

    /// Name of the count of a part's own rows.
    fn rows(self) -> &'static str {
        match self {
            Output::Vectors(_) => "rows",
            Output::Recall => "users",
        }
    }
}

/// All parts of a folder whose manifests can be read.
pub(super) struct Parts {
    pub list: Vec<Part>,
    output: Output,
}

impl Parts {
    /// Rows of all parts.
    pub fn rows(&self) -> u64 {
        self.list.iter().filter_map(|p| p.manifest.rows.get(self.output.rows())).sum()
    }
}

impl Check<'_> {
    /// Verifies the parts of a folder; none where the stage never ran.
    pub(super) fn parts(&mut self, dir: &Path, output: Output) -> Option<Parts> {
        let files = self.take(list_parts(dir)).unwrap_or_default();
        if files.is_empty() {
            return None;
        }
        let mut parts = Parts { list: Vec::new(), output };
        let manifests: Vec<_> = files.iter().filter(|p| p.extension() == Some("json".as_ref())).collect();
        for path in &manifests {
            self.known.insert(path.to_path_buf());
            if let Some(manifest) = self.take(Manifest::read(path)) {
                parts.list.push(Part { path: path.to_path_buf(), manifest });
            }
        }
        if manifests.is_empty() {
            self.mismatch(dir, format!("parts without manifests do not count: `{}` did not finish", output.stage()));
        }
        for part in &parts.list {
            self.part(dir, part, output);
        }
        self.coverage(dir, &parts);
        Some(parts)
    }

    /// What a part says about itself, and whether its file agrees.
    fn part(&mut self, dir: &Path, part: &Part, output: Output) {
        let Part { path, manifest } = part;
        self.equal(path, "`stage`", &output.stage(), &manifest.stage.as_str());
        let Some(shard) = part.shard() else {
            let (i, n) = (&manifest.config["shard"], &manifest.config["shards"]);
            return self.mismatch(path, format!("says to be shard {i} of {n}, which cannot be"));
        };
        if file_name(path) != manifest_name(shard) {
            self.mismatch(path, format!("says to be shard {shard}, expected the name {}", manifest_name(shard)));
        }
        let format: Option<NeighbourFormat> = serde_json::from_value(manifest.config["recall"]["format"].clone()).ok();
        let extension = match (output, format) {
            (Output::Vectors(side), _) => {
                self.equal(path, "`config.side`", &side.to_string().as_str(), &text(&manifest.config["side"]));
                "parquet"
            }
            (Output::Recall, Some(format)) => format.extension(),
            (Output::Recall, None) => return self.mismatch(path, "`config.recall.format` is not a format"),
        };
        let mut expected = vec![part_name(shard, extension)];
        if let Output::Recall = output {
            expected.push(format!("{}/{}", sample::FOLDER, sample::file_name(shard)));
        }
        let listed: Vec<&String> = manifest.files.iter().map(|file| &file.path).collect();
        if listed != expected.iter().collect::<Vec<_>>() {
            return self.mismatch(path, format!("lists {listed:?}, expected {expected:?}"));
        }
        let file = &manifest.files[0];

        let count = |name: &str| manifest.rows.get(name).copied();
        let Some(total) = count("table rows") else { return self.mismatch(path, "no `rows.table rows`") };
        let range = shard.range(total);
        let quarantined = count("quarantined").unwrap_or_default();
        let length = (range.end - range.start).saturating_sub(quarantined);
        self.equal(path, &format!("`rows.{}`", output.rows()), &Some(length), &count(output.rows()));
        let place = (manifest.details["first_row"].as_u64(), manifest.details["end_row"].as_u64());
        self.equal(path, "rows of the table", &(Some(range.start), Some(range.end)), &place);
        let before = self.found.problems.len();
        manifest.files.iter().for_each(|file| self.file(dir, file));
        if self.found.problems.len() > before {
            return;
        }
        let found = match output {
            Output::Vectors(_) => self.vector_file(dir, part, file),
            Output::Recall => self.recall_file(dir, part, file, format.unwrap_or_default()),
        };
        if let Some((rows, keys)) = found {
            self.equal(path, "`files.rows`", &rows, &file.rows);
            let said = KeyRange::of(manifest);
            self.equal(path, "first id", &keys.first_id, &said.first_id);
            self.equal(path, "last id", &keys.last_id, &said.last_id);
        }
    }

    /// Rows and keys of a file of vectors, and whether it is what its manifest says.
    fn vector_file(&mut self, dir: &Path, part: &Part, file: &FileEntry) -> Option<(u64, KeyRange)> {
        let (path, manifest) = (dir.join(&file.path), &part.manifest);
        let reader = self.take(VectorsReader::open(&path))?;
        let (info, rows) = (reader.info(), reader.rows());
        self.equal(&path, "rows by its footer", &manifest.rows.get("rows").copied(), &Some(rows));
        self.equal(&path, "encoders", &manifest.inputs.get("encoders"), &Some(&info.encoder));
        self.equal(&path, "towers", &manifest.inputs.get("towers"), &Some(&info.tower));
        for (what, said, found) in [
            ("kind of ids", &manifest.config["ids"], serde_json::to_value(info.ids)),
            ("precision", &manifest.config["precision"], serde_json::to_value(info.precision)),
            ("dim", &manifest.details["dim"], serde_json::to_value(info.dim)),
        ] {
            self.equal(&path, what, said, &found.unwrap_or_default());
        }
        let mut keys = KeyRange::default();
        for row in [0, rows.saturating_sub(1)] {
            let ids = |row: u64| -> Result<Option<Ids>, ArtifactError> {
                Ok(reader.batches(row..row + 1, 1)?.next().transpose()?.map(|(ids, _)| ids))
            };
            if let Some(ids) = self.take(ids(row))? {
                keys.add(&ids);
            }
        }
        Some((rows, keys))
    }

    /// Rows and keys of a file of neighbours.
    fn recall_file(
        &mut self,
        dir: &Path,
        part: &Part,
        file: &FileEntry,
        format: NeighbourFormat,
    ) -> Option<(u64, KeyRange)> {
        let (path, manifest) = (dir.join(&file.path), &part.manifest);
        let edges = self.take(inspect_neighbours(&path, format))?;
        let count = |name: &str| manifest.rows.get(name).copied();
        let long = format == NeighbourFormat::ParquetLong;
        let said = count(if long { "pairs" } else { "users" });
        self.equal(&path, "rows", &said, &Some(edges.rows));
        // Users without items are not in pairs; the first and the last may be among them.
        let keys = match long && count("users with fewer than topk") != Some(0) {
            true => KeyRange::of(manifest),
            false => KeyRange { first_id: edges.first, last_id: edges.last },
        };
        Some((edges.rows, keys))
    }

    /// Notes every shard that is there twice or not at all.
    fn coverage(&mut self, dir: &Path, parts: &Parts) {
        let mut claims: BTreeMap<Shard, Vec<&Part>> = BTreeMap::new();
        for part in &parts.list {
            if let Some(shard) = part.shard() {
                claims.entry(shard).or_default().push(part);
            }
        }
        for (shard, parts) in claims.iter().filter(|(_, parts)| parts.len() > 1) {
            let names: Vec<&str> = parts.iter().map(|p| file_name(&p.path)).collect();
            self.mismatch(dir, format!("shard {shard} is there {} times: {}", parts.len(), names.join(", ")));
        }
        // Of the first number of shards; parts of others were noted.
        let Some(count) = parts.list.iter().find_map(Part::shard).map(|s| s.count) else { return };
        let mut next = 0;
        let held = claims.keys().filter(|s| s.count == count).map(|s| s.index);
        for index in held.chain([count]) {
            if index > next {
                let last = index - 1;
                let which = if last == next { format!("shard {next}") } else { format!("shards {next} to {last}") };
                self.mismatch(dir, format!("{which} of {count} missing"));
            }
            next = index.saturating_add(1);
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
