//! Parts: whether each shard is there once, and holds the rows that its manifest says.

use super::Check;
use crate::run::details::{IdRange, InferDetails, PartDetails};
use crate::run::manifests::{details, settings};
use crate::run::names::{inputs, rows};
use crate::run::records::{InferRecord, RecallRecord};
use crate::stream::part_folder::{Part, PartFolder, file_name, manifest_name};
use crate::stream::row_hashes;
use crate::stream::sample;
use crate::stream::shard::Shard;
use std::collections::BTreeMap;
use std::path::Path;
use twotower_artifacts::{
    ArtifactError, FileEntry, Ids, Manifest, NeighbourFormat, RowHashesReader, Side, VectorsReader, inspect_neighbours,
};

/// The output that parts are of.
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
            Output::Vectors(_) => rows::ROWS,
            Output::Recall => rows::USERS,
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
    pub(super) fn parts(&mut self, folder: &PartFolder, output: Output) -> Option<Parts> {
        let files = self.take(folder.files()).unwrap_or_default();
        let manifests = self.take(folder.manifest_paths()).unwrap_or_default();
        if files.is_empty() && manifests.is_empty() {
            return None;
        }
        let mut parts = Parts { list: Vec::new(), output };
        let dir = folder.data();
        if manifests.is_empty() {
            self.mismatch(&dir, format!("parts without manifests do not count: `{}` did not finish", output.stage()));
        }
        for (path, layout) in manifests {
            self.known.insert(path.clone());
            if let Some(manifest) = self.take(Manifest::read(&path)) {
                parts.list.push(folder.part(path, layout, manifest));
            }
        }
        for part in &parts.list {
            self.part(folder, part, output);
        }
        self.coverage(&dir, &parts);
        Some(parts)
    }

    /// What a part says about itself, and whether its file agrees.
    fn part(&mut self, folder: &PartFolder, part: &Part, output: Output) {
        let Part { path, layout, base, manifest } = part;
        self.equal(path, "`stage`", &output.stage(), &manifest.stage.as_str());
        let shard = match Shard::of_part("verify", manifest) {
            Ok(shard) => shard,
            Err(error) => return self.mismatch(path, error),
        };
        if file_name(path) != manifest_name(shard) {
            self.mismatch(path, format!("says to be shard {shard}, expected the name {}", manifest_name(shard)));
        }
        let (format, hashed) = match output {
            Output::Vectors(side) => match settings::<InferRecord>("verify", manifest) {
                Ok(record) => {
                    self.equal(path, "`config.side`", &side, &record.side);
                    (None, record.row_hashes)
                }
                Err(error) => return self.mismatch(path, error),
            },
            Output::Recall => match settings::<RecallRecord>("verify", manifest) {
                Ok(record) => (Some(record.recall.format), record.row_hashes),
                Err(error) => return self.mismatch(path, error),
            },
        };
        let extension = format.map_or("parquet", NeighbourFormat::extension);
        let mut expected = vec![folder.listed(*layout, shard, extension)];
        if let Output::Recall = output {
            expected.push(sample::listed(*layout, shard));
        }
        if hashed {
            expected.push(row_hashes::listed(folder, shard));
        }
        let listed: Vec<&String> = manifest.files.iter().map(|file| &file.path).collect();
        if listed != expected.iter().collect::<Vec<_>>() {
            return self.mismatch(path, format!("lists {listed:?}, expected {expected:?}"));
        }
        let file = &manifest.files[0];

        let count = |name: &str| manifest.rows.get(name).copied();
        let Some(total) = count(rows::TABLE_ROWS) else {
            return self.mismatch(path, format!("no `rows.{}`", rows::TABLE_ROWS));
        };
        let range = shard.range(total);
        let quarantined = count(rows::QUARANTINED).unwrap_or_default();
        let length = (range.end - range.start).saturating_sub(quarantined);
        self.equal(path, &format!("`rows.{}`", output.rows()), &Some(length), &count(output.rows()));
        let said: PartDetails = match details("verify", manifest) {
            Ok(said) => said,
            Err(error) => return self.mismatch(path, error),
        };
        self.equal(path, "rows of the table", &range, &(said.first_row..said.end_row));
        let before = self.found.problems.len();
        manifest.files.iter().for_each(|file| self.file(base, file));
        if self.found.problems.len() > before {
            return;
        }
        if hashed && let Some(entry) = manifest.files.last() {
            let path = base.join(&entry.path);
            if let Some(hashes) = self.take(RowHashesReader::open(&path)) {
                self.equal(&path, "rows by its footer", &length, &hashes.rows());
            }
        }
        let found = match format {
            None => self.vector_file(part, file),
            Some(format) => self.recall_file(part, file, format, said.ids.clone()),
        };
        if let Some((rows, ids)) = found {
            self.equal(path, "`files.rows`", &rows, &file.rows);
            self.equal(path, "first id", &ids.first_id, &said.ids.first_id);
            self.equal(path, "last id", &ids.last_id, &said.ids.last_id);
        }
    }

    /// Rows and ids of a file of vectors, and whether it is what its manifest says.
    fn vector_file(&mut self, part: &Part, file: &FileEntry) -> Option<(u64, IdRange)> {
        let (path, manifest) = (part.base.join(&file.path), &part.manifest);
        let reader = self.take(VectorsReader::open(&path))?;
        let (info, rows) = (reader.info(), reader.rows());
        self.equal(&path, "rows by its footer", &manifest.rows.get(rows::ROWS).copied(), &Some(rows));
        self.equal(&path, "encoders", &manifest.inputs.get(inputs::ENCODERS), &Some(&info.encoder));
        self.equal(&path, "towers", &manifest.inputs.get(inputs::TOWERS), &Some(&info.tower));
        let made: InferRecord = self.take(settings("verify", manifest))?;
        self.equal(&path, "kind of ids", &made.ids, &info.ids);
        self.equal(&path, "precision", &made.precision, &info.precision);
        let said: InferDetails = self.take(details("verify", manifest))?;
        self.equal(&path, "dim", &said.dim, &info.dim);
        let mut at_ends = IdRange::default();
        for row in [0, rows.saturating_sub(1)] {
            let ids = |row: u64| -> Result<Option<Ids>, ArtifactError> {
                Ok(reader.batches(row..row + 1, 1)?.next().transpose()?.map(|(ids, _)| ids))
            };
            if let Some(ids) = self.take(ids(row))? {
                at_ends.add(&ids);
            }
        }
        Some((rows, at_ends))
    }

    /// Rows and ids of a file of neighbours; `said` are the ids by its manifest.
    fn recall_file(
        &mut self,
        part: &Part,
        file: &FileEntry,
        format: NeighbourFormat,
        said: IdRange,
    ) -> Option<(u64, IdRange)> {
        let (path, manifest) = (part.base.join(&file.path), &part.manifest);
        let edges = self.take(inspect_neighbours(&path, format))?;
        let count = |name: &str| manifest.rows.get(name).copied();
        let long = format == NeighbourFormat::ParquetLong;
        let counted = count(if long { rows::PAIRS } else { rows::USERS });
        self.equal(&path, "rows", &counted, &Some(edges.rows));
        // Users without items are not in pairs; the first and the last may be among them.
        let ids = match long && count(rows::USERS_WITH_FEWER) != Some(0) {
            true => said,
            false => IdRange { first_id: edges.first, last_id: edges.last },
        };
        Some((edges.rows, ids))
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
        // Only for the number of shards of the first part: others were noted.
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
