//! Parts: one shard's output each, `part-i-of-n` with a manifest beside it.

use crate::error::PipelineError;
use crate::run::dir::remove_if_there;
use crate::run::manifests::{row_count, settings, verify_file};
use crate::run::names::{inputs, rows};
use crate::run::records::InferRecord;
use crate::stream::shard::Shard;
use crate::watch::cancel::Cancel;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use twotower_artifacts::{
    ArtifactError, FileEntry, Fingerprint, IdKind, Manifest, NeighbourFormat, Side, VectorsReader, inspect_neighbours,
};
use twotower_models::engine::EngineKind;

/// Name of a shard's file.
pub fn part_name(shard: Shard, extension: &str) -> String {
    format!("part-{}.{extension}", shard.label())
}

/// Name of a shard's manifest.
pub(crate) fn manifest_name(shard: Shard) -> String {
    part_name(shard, "json")
}

/// A shard's manifest.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Where it stands.
    pub path: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

impl Part {
    /// The shard that it says to be; none where that makes no sense.
    pub fn shard(&self) -> Option<Shard> {
        Shard::of(&self.manifest)
    }
}

/// The settings that all parts of one output have in common: all but the shard.
pub(crate) fn settings_of(part: &Manifest) -> BTreeMap<String, Value> {
    let settings = part.config.as_object().into_iter().flatten();
    settings
        .filter(|(name, _)| *name != Shard::INDEX_SETTING)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Fingerprint of the content of parts, in shard order.
pub(crate) fn parts_fingerprint<'a>(parts: impl IntoIterator<Item = &'a Manifest>) -> Fingerprint {
    let names: Vec<&str> = parts.into_iter().map(|part| part.fingerprint.as_str()).collect();
    Fingerprint::of(names.join(" ").as_bytes())
}

/// The keys under which two maps differ.
pub(crate) fn differing<T: PartialEq>(a: &BTreeMap<String, T>, b: &BTreeMap<String, T>) -> BTreeSet<String> {
    a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).cloned().collect()
}

/// The shard whose part a file is by its name; none for any other name.
fn shard_of_name(name: &str) -> Option<Shard> {
    let (label, extension) = name.strip_prefix("part-")?.split_once('.')?;
    let (index, count) = label.split_once("-of-")?;
    let shard = Shard::new(index.parse().ok()?, count.parse().ok()?).ok()?;
    (label == shard.label() && ["json", "jsonl", "parquet"].contains(&extension)).then_some(shard)
}

/// Whether a file is one that a stage wrote: Parquet that says so in its footer, or lists as JSON Lines.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let lists = |format| inspect_neighbours(path, format).is_ok();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => {
            VectorsReader::open(path).is_ok() || lists(NeighbourFormat::Parquet) || lists(NeighbourFormat::ParquetLong)
        }
        Some("jsonl") => std::fs::metadata(path).is_ok_and(|m| m.len() == 0) || lists(NeighbourFormat::Jsonl),
        _ => false,
    }
}

/// Refuses to write a shard's file over one that no stage wrote and that the shard's manifest does not name.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming it.
pub(crate) fn refuse_stranger(stage: &str, dir: &Path, shard: Shard, extension: &str) -> Result<(), PipelineError> {
    let (name, path) = (part_name(shard, extension), dir.join(part_name(shard, extension)));
    let named = |manifest: Manifest| manifest.files.iter().any(|file| file.path == name);
    if !path.exists() || Manifest::read(dir.join(manifest_name(shard))).is_ok_and(named) || is_artifact(&path) {
        return Ok(());
    }
    Err(stranger(stage, &path))
}

fn stranger(stage: &str, path: &Path) -> PipelineError {
    PipelineError::Mismatch(format!(
        "{stage}: {} stands where a part is to be, no manifest names it, and twotower did not write it; move it away, or use another --run folder",
        path.display()
    ))
}

/// Makes sure that a folder holds no parts of another number of shards: read together with this
/// shard's they would give rows twice. With `force` they are removed after `withdraw`, manifests first, so that none
/// names a file that is gone; other shards may be doing the same. Files of other names are left alone.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming one of them, or, with `force`, one that no manifest names and no stage wrote.
pub(crate) fn exclude_other_counts(
    stage: &str,
    dir: &Path,
    shard: Shard,
    force: bool,
    withdraw: impl FnOnce() -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let mut others = list_parts(dir)?;
    let is_other = |path: &Path| shard_of_name(file_name(path)).is_some_and(|other| other.count != shard.count);
    others.retain(|path| is_other(path));
    if let (Some(path), false) = (others.first(), force) {
        return Err(PipelineError::Mismatch(format!(
            "{stage}: {} is of another number of shards than shard {shard}; give --force to remove the parts of other numbers, or use another --run folder",
            path.display()
        )));
    }
    if others.is_empty() {
        return Ok(());
    }
    let (manifests, mut files): (Vec<PathBuf>, Vec<PathBuf>) =
        others.into_iter().partition(|path| path.extension() == Some("json".as_ref()));
    let mut named = Vec::new();
    for path in &manifests {
        match Manifest::read(path) {
            // Another shard has removed it.
            Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            manifest => named.extend(manifest?.files.iter().map(|file| dir.join(&file.path))),
        }
    }
    if let Some(path) = files.iter().find(|path| path.exists() && !named.contains(path) && !is_artifact(path)) {
        return Err(stranger(stage, path));
    }
    files.extend(named.into_iter().filter(|path| is_other(path)));
    withdraw()?;
    files.sort();
    files.dedup();
    for path in manifests.into_iter().chain(files) {
        tracing::warn!("{stage}: removing {}, of another number of shards", path.display());
        remove_if_there(&path)?;
    }
    Ok(())
}

pub(crate) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// All files of a folder named like a part, in order.
pub(crate) fn list_parts(dir: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let mut paths: Vec<PathBuf> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(PipelineError::io("list", dir)(e)),
    };
    paths.retain(|path| file_name(path).starts_with("part-"));
    paths.sort();
    Ok(paths)
}

/// A complete set of vector parts of one side. All have the same tower, engine, precision and table, and every shard is
/// there once.
pub(crate) struct VectorParts {
    /// Part files in shard order, with the rows of the table that each is of.
    pub parts: Vec<(PathBuf, Range<u64>)>,
    /// Rows of the table.
    pub rows: u64,
    /// Fingerprint of the table.
    pub table: Option<Fingerprint>,
    /// Fingerprint of the rows of the table that have no vectors, where there are some.
    pub quarantine: Option<Fingerprint>,
    /// Kind of the ids.
    pub ids: IdKind,
    /// What ran the tower.
    pub engine: EngineKind,
    /// Fingerprint of the towers they come from.
    pub towers: Fingerprint,
    /// Fingerprint of all parts' content.
    pub fingerprint: Fingerprint,
    dir: PathBuf,
    files: Vec<FileEntry>,
}

impl VectorParts {
    /// Finds the parts that together cover a shard of the table, or all of it.
    ///
    /// # Errors
    /// No parts; a missing shard; parts of unlike towers, engines, tables or shard counts.
    pub fn find(stage: &'static str, dir: &Path, side: Side, shard: Option<Shard>) -> Result<Self, PipelineError> {
        let set = PartSet::read(stage, dir, format!("twotower infer --side {side}"))?;
        set.refuse_unlike("inputs", |part| part.manifest.inputs.clone())?;
        let first = set.first();
        let (path, first) = (&first.path, &first.manifest);
        let named = |error: PipelineError| error.within(path.display().to_string());
        let total = row_count(stage, first, rows::TABLE_ROWS).map_err(named)?;
        let embedded: InferRecord = settings(stage, first).map_err(named)?;
        let towers = first.inputs.get(inputs::TOWERS).cloned().ok_or_else(|| {
            PipelineError::Mismatch(format!(
                "{stage}: {}: `inputs.{}` is missing; run `twotower infer --side {side} --force`",
                path.display(),
                inputs::TOWERS
            ))
        })?;
        let mut found = Self {
            parts: Vec::new(),
            rows: total,
            table: first.inputs.get(inputs::TABLE).cloned(),
            quarantine: first.inputs.get(inputs::QUARANTINE).cloned(),
            ids: embedded.ids,
            engine: embedded.engine,
            towers,
            fingerprint: Fingerprint::of(b""),
            dir: dir.to_path_buf(),
            files: Vec::new(),
        };
        let mut read = Vec::new();
        for shard in shard.unwrap_or(Shard::WHOLE).covering(total, set.count) {
            let part = set.of(shard)?;
            let file = part.manifest.files.first().ok_or_else(|| {
                PipelineError::Mismatch(format!(
                    "{stage}: {}: lists no file; run `twotower infer --side {side} --shard {shard} --force`",
                    part.path.display()
                ))
            })?;
            let quarantined = part.manifest.rows.get(rows::QUARANTINED).copied().unwrap_or_default();
            found.take(stage, side, shard, file, quarantined)?;
            read.push(&part.manifest);
        }
        found.fingerprint = parts_fingerprint(read);
        Ok(found)
    }

    /// Takes the file of a shard, if by its footer it is one of these parts; `quarantined` of the shard's rows have no
    /// vectors.
    fn take(
        &mut self,
        stage: &str,
        side: Side,
        shard: Shard,
        file: &FileEntry,
        quarantined: u64,
    ) -> Result<(), PipelineError> {
        let path = self.dir.join(part_name(shard, "parquet"));
        if path != self.dir.join(&file.path) {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: {}: lists `{}`, expected `{}`; run `twotower infer --side {side} --shard {shard} --force`",
                self.dir.join(manifest_name(shard)).display(),
                file.path,
                part_name(shard, "parquet")
            )));
        }
        let reader = VectorsReader::open(&path)?;
        let (rows, info) = (shard.range(self.rows), reader.info());
        let expected = (rows.end - rows.start).saturating_sub(quarantined);
        if (reader.rows(), &info.tower, info.ids) != (expected, &self.towers, self.ids) {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: {}: {} rows with {} ids of towers {}, expected {} rows with {} ids of towers {}; run `twotower infer --side {side} --shard {shard} --force`",
                path.display(),
                reader.rows(),
                info.ids,
                info.tower,
                expected,
                self.ids,
                self.towers
            )));
        }
        self.parts.push((path, rows));
        self.files.push(file.clone());
        Ok(())
    }

    /// Checks that every part is the file its manifest speaks of, byte for byte: Parquet itself would not
    /// notice a changed number.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] naming the first that is not; a signal.
    pub fn verify(&self, stage: &'static str, cancel: &Cancel) -> Result<(), PipelineError> {
        self.files.iter().try_for_each(|file| verify_file(stage, &self.dir, file, cancel))
    }
}

/// Manifests of a complete set of parts, in shard order. Every shard is there once, and all have the same number of
/// shards and the same settings.
///
/// # Errors
/// A shard without a manifest or with two, naming the command that makes it; parts of unlike settings.
pub(crate) fn complete_set(stage: &'static str, dir: &Path, command: &str) -> Result<Vec<Manifest>, PipelineError> {
    let set = PartSet::read(stage, dir, command.to_string())?;
    let of = |index| set.of(Shard { index, count: set.count }).map(|part| part.manifest.clone());
    (0..set.count).map(of).collect()
}

/// The parts of a folder, which have the same settings and the same number of shards.
struct PartSet {
    /// The stage that reads them.
    stage: &'static str,
    dir: PathBuf,
    /// The command that makes them, without the shard.
    command: String,
    /// Number of shards.
    count: u32,
    /// Not empty.
    parts: Vec<Part>,
}

impl PartSet {
    fn read(stage: &'static str, dir: &Path, command: String) -> Result<Self, PipelineError> {
        let parts = part_manifests(dir)?;
        let mut set = Self { stage, dir: dir.to_path_buf(), command, count: 0, parts };
        let Some(first) = set.parts.first() else { return Err(set.missing("part-*.json", "")) };
        set.count = first.shard().map_or(0, |shard| shard.count);
        if set.count == 0 {
            return Err(PipelineError::Mismatch(format!(
                "{stage}: {}: `shard` or `shards` is missing or makes no sense; run `{} --force`",
                first.path.display(),
                set.command
            )));
        }
        set.refuse_unlike("settings", |part| settings_of(&part.manifest))?;
        Ok(set)
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }

    /// Refuses parts for which `common` gives different maps.
    fn refuse_unlike<T: PartialEq>(
        &self,
        what: &str,
        common: impl Fn(&Part) -> BTreeMap<String, T>,
    ) -> Result<(), PipelineError> {
        let (first, expected) = (self.first(), common(self.first()));
        let unlike = |part: &Part| differing(&expected, &common(part));
        let Some((other, names)) = self.parts.iter().map(|p| (p, unlike(p))).find(|(_, names)| !names.is_empty())
        else {
            return Ok(());
        };
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        Err(PipelineError::Mismatch(format!(
            "{}: {} and {} were made with different {what}: {}; run `{} --force` for all shards",
            self.stage,
            first.path.display(),
            other.path.display(),
            names.join(", "),
            self.command
        )))
    }

    /// The one part of a shard.
    fn of(&self, shard: Shard) -> Result<&Part, PipelineError> {
        let mut claims = self.parts.iter().filter(|part| part.shard() == Some(shard));
        match (claims.next(), claims.next()) {
            (None, _) => Err(self.missing(&manifest_name(shard), &format!(" --shard {shard}"))),
            (Some(part), None) => Ok(part),
            (Some(part), Some(other)) => Err(PipelineError::Mismatch(format!(
                "{}: {} and {} both say to be shard {shard}; run `{} --shard {shard} --force`",
                self.stage,
                part.path.display(),
                other.path.display(),
                self.command
            ))),
        }
    }

    fn missing(&self, name: &str, shard: &str) -> PipelineError {
        let advice = format!("run `{}{shard}` first", self.command);
        PipelineError::MissingInput { stage: self.stage, path: self.dir.join(name), advice }
    }
}

/// Manifests of a folder's parts; one that another shard removes meanwhile is passed over.
fn part_manifests(dir: &Path) -> Result<Vec<Part>, PipelineError> {
    let mut manifests = Vec::new();
    for path in list_parts(dir)?.into_iter().filter(|p| p.extension() == Some("json".as_ref())) {
        match Manifest::read(&path) {
            Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            manifest => manifests.push(Part { manifest: manifest?, path }),
        }
    }
    Ok(manifests)
}
