//! Parts: one shard's output each, `part-i-of-n` with a manifest.

use crate::error::PipelineError;
use crate::run::dir::remove_if_there;
use crate::run::manifests::{row_count, settings, verify_file};
use crate::run::names::{inputs, rows};
use crate::run::records::InferRecord;
use crate::stream::part_folder::{Layout, Part, PartFolder, manifest_name, shard_of_name};
use crate::stream::shard::Shard;
use crate::watch::cancel::Cancel;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use twotower_artifacts::{
    ArtifactError, FileEntry, Fingerprint, IdKind, Manifest, NeighbourFormat, RowHashesReader, Side, VectorsReader,
    inspect_neighbours,
};
use twotower_models::engine::EngineKind;

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

/// Whether a file is one that a stage wrote: Parquet that says so in its footer, or lists as JSON Lines.
pub(crate) fn is_artifact(path: &Path) -> bool {
    let lists = |format| inspect_neighbours(path, format).is_ok();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("parquet") => {
            VectorsReader::open(path).is_ok()
                || lists(NeighbourFormat::Parquet)
                || lists(NeighbourFormat::ParquetLong)
                || RowHashesReader::open(path).is_ok()
        }
        Some("jsonl") => std::fs::metadata(path).is_ok_and(|m| m.len() == 0) || lists(NeighbourFormat::Jsonl),
        _ => false,
    }
}

/// Refuses to write a shard's file over one that no stage wrote and that the shard's manifest does not name.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming it.
pub(crate) fn refuse_stranger(
    stage: &str,
    folder: &PartFolder,
    shard: Shard,
    extension: &str,
) -> Result<(), PipelineError> {
    let path = folder.file(shard, extension);
    let named = |layout: Layout| {
        let listed = folder.listed(layout, shard, extension);
        let manifest = Manifest::read(folder.manifest(layout, shard));
        manifest.is_ok_and(|manifest| manifest.files.iter().any(|file| file.path == listed))
    };
    if !path.exists() || [Layout::Apart, Layout::Beside].into_iter().any(named) || is_artifact(&path) {
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

/// Makes sure that a folder holds no parts of another number of shards: read together with this shard's they would
/// give rows twice. A manifest whose part was taken away counts for nothing and is removed. With `force` parts are removed
/// after `withdraw`, manifests first, so that none names a file that is gone; other shards may be doing the same. Files of
/// other names are left alone.
///
/// # Errors
/// [`PipelineError::Mismatch`] naming one of them, or, with `force`, one that no manifest names and no stage wrote.
pub(crate) fn exclude_other_counts(
    stage: &str,
    folder: &PartFolder,
    shard: Shard,
    force: bool,
    withdraw: impl FnOnce() -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let is_other = |path: &Path| shard_of_name(path).is_some_and(|other| other.count != shard.count);
    let (mut files, mut manifests) = (folder.files()?, folder.manifest_paths()?);
    files.retain(|path| is_other(path));
    manifests.retain(|(path, _)| is_other(path));
    for (path, layout) in std::mem::take(&mut manifests) {
        let part = Manifest::read(&path).ok().map(|manifest| folder.part(path.clone(), layout, manifest));
        match part.is_some_and(|part| part.is_gone()) {
            true => remove_if_there(&path)?,
            false => manifests.push((path, layout)),
        }
    }
    let one = manifests.first().map(|(path, _)| path).or(files.first());
    if let (Some(path), false) = (one, force) {
        return Err(PipelineError::Mismatch(format!(
            "{stage}: {} is of another number of shards than shard {shard}; give --force to remove the parts of other numbers, or use another --run folder",
            path.display()
        )));
    }
    if one.is_none() {
        return Ok(());
    }
    let mut named = Vec::new();
    for (path, layout) in &manifests {
        match Manifest::read(path) {
            // Another shard has removed it.
            Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            manifest => named.extend(folder.part(path.clone(), *layout, manifest?).files()),
        }
    }
    if let Some(path) = files.iter().find(|path| path.exists() && !named.contains(path) && !is_artifact(path)) {
        return Err(stranger(stage, path));
    }
    files.extend(named.into_iter().filter(|path| is_other(path)));
    withdraw()?;
    files.sort();
    files.dedup();
    for path in manifests.into_iter().map(|(path, _)| path).chain(files) {
        tracing::warn!("{stage}: removing {}, of another number of shards", path.display());
        remove_if_there(&path)?;
    }
    Ok(())
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
    /// Their entries in manifests, with the folders from which their paths count.
    files: Vec<(PathBuf, FileEntry)>,
}

impl VectorParts {
    /// Finds the parts that together cover a shard of the table, or all of it.
    ///
    /// # Errors
    /// No parts; a missing shard; parts of unlike towers, engines, tables or shard counts.
    pub fn find(
        stage: &'static str,
        folder: &PartFolder,
        side: Side,
        shard: Option<Shard>,
    ) -> Result<Self, PipelineError> {
        let set = PartSet::read(stage, folder, format!("twotower infer --side {side}"))?;
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
            files: Vec::new(),
        };
        let mut read = Vec::new();
        for shard in shard.unwrap_or(Shard::WHOLE).covering(total, set.count) {
            let part = set.of(shard)?;
            found.take(stage, side, (folder, shard), part)?;
            read.push(&part.manifest);
        }
        found.fingerprint = parts_fingerprint(read);
        Ok(found)
    }

    /// Takes the file of a shard, if by its footer it is one of these parts.
    fn take(
        &mut self,
        stage: &str,
        side: Side,
        (folder, shard): (&PartFolder, Shard),
        part: &Part,
    ) -> Result<(), PipelineError> {
        let quarantined = part.manifest.rows.get(rows::QUARANTINED).copied().unwrap_or_default();
        let listed = folder.listed(part.layout, shard, "parquet");
        let file = part.manifest.files.first().filter(|file| file.path == listed).ok_or_else(|| {
            let found = match part.manifest.files.first() {
                Some(file) => format!("lists `{}`", file.path),
                None => "lists no file".to_string(),
            };
            PipelineError::Mismatch(format!(
                "{stage}: {}: {found}, expected `{listed}`; run `twotower infer --side {side} --shard {shard} --force`",
                part.path.display()
            ))
        })?;
        let path = folder.file(shard, "parquet");
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
        self.files.push((part.base.clone(), file.clone()));
        Ok(())
    }

    /// Checks that every part is the file its manifest speaks of, byte for byte: Parquet itself would not
    /// notice a changed number.
    ///
    /// # Errors
    /// [`ArtifactError::Corrupt`] naming the first that is not; a signal.
    pub fn verify(&self, stage: &'static str, cancel: &Cancel) -> Result<(), PipelineError> {
        self.files.iter().try_for_each(|(base, file)| verify_file(stage, base, file, cancel))
    }
}

/// A complete set of parts, in shard order. Every shard is there once, and all have the same number of shards and the
/// same settings.
///
/// # Errors
/// A shard without a manifest or with two, naming the command that makes it; parts of unlike settings.
pub(crate) fn complete_set(
    stage: &'static str,
    folder: &PartFolder,
    command: &str,
) -> Result<Vec<Part>, PipelineError> {
    let set = PartSet::read(stage, folder, command.to_string())?;
    (0..set.count).map(|index| set.of(Shard { index, count: set.count }).cloned()).collect()
}

/// The parts of a folder, which have the same settings and the same number of shards.
struct PartSet {
    /// The stage that reads them.
    stage: &'static str,
    folder: PartFolder,
    /// The command that makes them, without the shard.
    command: String,
    /// Number of shards.
    count: u32,
    /// Not empty.
    parts: Vec<Part>,
}

impl PartSet {
    fn read(stage: &'static str, folder: &PartFolder, command: String) -> Result<Self, PipelineError> {
        let parts = part_manifests(folder)?;
        let mut set = Self { stage, folder: folder.clone(), command, count: 0, parts };
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
            (Some(part), None) if part.is_gone() => {
                let advice = format!("run `{} --shard {shard}` first", self.command);
                let path = part.files().next().unwrap_or_else(|| part.path.clone());
                Err(PipelineError::MissingInput { stage: self.stage, path, advice })
            }
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
        PipelineError::MissingInput { stage: self.stage, path: self.folder.manifests().join(name), advice }
    }
}

/// Manifests of a folder's parts; one that another shard removes meanwhile is passed over.
fn part_manifests(folder: &PartFolder) -> Result<Vec<Part>, PipelineError> {
    let mut parts = Vec::new();
    for (path, layout) in folder.manifest_paths()? {
        match Manifest::read(&path) {
            Err(ArtifactError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            manifest => parts.push(folder.part(path, layout, manifest?)),
        }
    }
    Ok(parts)
}
