//! The chain from encoders to evaluation: what each stage read is what the one before it left.

use super::Check;
use super::coverage::{Output, Parts};
use crate::rows::quarantine::{BAD_ROWS, Quarantine};
use crate::run::chain::{Contradiction, NamedPart, RunManifests, contradictions, is_fused};
use crate::run::details::{EncodeDetails, RecallDetails};
use crate::run::dir::RunDir;
use crate::run::files;
use crate::run::manifests::{as_written, content_fingerprint, details};
use crate::run::names::{inputs, rows};
use crate::run::stage::Stage;
use crate::stages::encoded::{self, EncoderFolder};
use crate::stages::evaluate::read_metrics;
use crate::stages::recall::Catalogue;
use crate::stages::towers::verified_in;
use crate::stages::train::checkpoint_entry;
use crate::stream::part_folder::{Part, PartFolder};
use crate::stream::parts::VectorParts;
use crate::timeline::of_run::RunTimeline;
use std::path::Path;
use twotower_artifacts::{Fingerprint, Manifest, Side};
use twotower_encoders::store;
use twotower_index::store::MANIFEST_NAME;
use twotower_models::onnx;

/// What later links of the chain must name. None where it is not there, or cannot be read.
#[derive(Default)]
struct Links {
    /// The encoder state.
    state: Option<Fingerprint>,
    /// State and encoded tables.
    encoded: Option<Fingerprint>,
    timeline: Option<Fingerprint>,
    towers: Option<Fingerprint>,
    items: Option<VectorParts>,
    /// The index as its manifest describes it.
    index: Option<serde_json::Value>,
}

impl Check<'_> {
    /// Verifies the artifacts in order.
    pub(super) fn chain(&mut self, required: &[Stage]) {
        let mut links = Links::default();
        self.compare();
        let encoders = self.encoders(&mut links);
        let towers = self.towers(&mut links);
        let items = self.vectors(Side::Item, &mut links);
        let users = self.vectors(Side::User, &mut links);
        let index = self.index(&mut links);
        let recall = self.recall(&links, users);
        let evaluation = self.evaluation(&links);
        let gates = self.manifest(&self.run.gates().join(files::gates::MANIFEST), "check").is_some();
        for (name, there, earlier, found) in [
            ("towers", towers, "encoders", encoders),
            ("vectors", items || users, "encoders", encoders),
            ("vectors", items || users, "towers", towers),
            ("index", index, "vectors/item", items),
            ("recall", recall, "vectors/item", items),
            ("recall", recall, "index", index),
            ("evaluation", evaluation, "encoders", encoders),
            ("evaluation", evaluation, "towers", towers),
        ] {
            if there && !found {
                let path = self.run.root().join(name);
                self.mismatch(&path, format!("made from {earlier}/, which is not there"));
            }
        }
        for stage in required {
            let there = match stage {
                Stage::EncodeFeatures => encoders,
                Stage::Train => towers,
                Stage::InferItems => items,
                Stage::InferUsers => users,
                Stage::Recall => recall,
                Stage::Evaluate => evaluation,
                Stage::Check => gates,
            };
            if !there {
                let run = self.run.root().to_path_buf();
                self.mismatch(&run, format!("no output of `{}`, which is required", stage.name()));
            }
        }
    }

    /// Reads all manifests that can be read, and keeps what does not belong together.
    fn compare(&mut self) {
        let run = self.run;
        let read = |path: &Path| Manifest::read(path).ok();
        let encoded = read(&run.encoders().join(files::encoders::MANIFEST));
        let timeline = read(&run.encoders().join(files::encoders::TIMELINE_MANIFEST));
        let trained = read(&run.towers().join(files::towers::MANIFEST));
        let aside = |side| Some((side, Quarantine::load(&run.encoders(), encoded.as_ref()?, side).ok()?));
        let quarantine = [Side::User, Side::Item].into_iter().filter_map(aside).collect();
        let parts = |folder: PartFolder| -> Vec<Part> {
            let paths = folder.manifest_paths().unwrap_or_default().into_iter();
            paths.filter_map(|(path, layout)| read(&path).map(|read| folder.part(path, layout, read))).collect()
        };
        let [items, users, recalled] = [run.vectors(Side::Item), run.vectors(Side::User), run.recall()].map(parts);
        fn named<'a>(run: &RunDir, parts: &'a [Part]) -> Vec<NamedPart<'a>> {
            parts.iter().map(|part| part.within(run.root())).collect()
        }
        // Results of users that were embedded on the way are not of the vectors that an earlier night may have left.
        self.fused = recalled.iter().any(|part| is_fused(&part.manifest));
        self.contradictions = contradictions(&RunManifests {
            encoded: encoded.as_ref(),
            timeline: timeline.map(|manifest| manifest.fingerprint),
            trained: trained.as_ref(),
            items: named(run, &items),
            users: if self.fused { Vec::new() } else { named(run, &users) },
            recalled: named(run, &recalled),
            index: None,
            quarantine,
        });
    }

    /// Notes what of an output does not belong to the rest.
    fn contradicted(&mut self, output: &str) {
        let found = std::mem::take(&mut self.contradictions);
        for Contradiction { path, what, .. } in found.iter().filter(|c| c.output == output) {
            self.mismatch(&self.run.root().join(path), what);
        }
        self.contradictions = found;
    }

    /// Notes unless a manifest names the input that is there.
    fn input(&mut self, path: &Path, manifest: &Manifest, name: &str, there: Option<&Fingerprint>) {
        match (manifest.inputs.get(name), there) {
            (Some(found), Some(expected)) => self.equal(path, &format!("made from {name}"), expected, found),
            (None, Some(_)) => self.mismatch(path, format!("does not say which {name} it was made from")),
            _ => {}
        }
    }

    fn encoders(&mut self, links: &mut Links) -> bool {
        let (before, dir) = (self.found.problems.len(), self.run.encoders());
        let path = dir.join(files::encoders::MANIFEST);
        let Some(manifest) = self.manifest(&path, "encode-features") else { return path.exists() };
        links.encoded = Some(encoded::content(&manifest));
        let count = |name: &str| manifest.rows.get(name).copied().unwrap_or_default();
        if let Some(encoded) = self.take(EncoderFolder::load("verify", &dir)) {
            links.state = Some(encoded.state.fingerprint().clone());
            let mut expected: Vec<String> =
                encoded.state.vocabularies().map(|(t, _)| store::vocabulary_file(t)).collect();
            expected
                .extend([files::encoders::USERS, files::encoders::ITEMS, files::encoders::TIMELINE].map(String::from));
            expected.push(store::MANIFEST.to_string());
            for file in expected.iter().filter(|f| manifest.files.iter().all(|entry| entry.path != **f)) {
                self.mismatch(&path, format!("does not list `{file}`"));
            }
            for (side, name, rows) in [
                (Side::User, files::encoders::USERS, count(rows::USERS_WITH_POSITIVES)),
                (Side::Item, files::encoders::ITEMS, usable_items(&manifest)),
            ] {
                if let Some(table) = self.take(encoded.table(side)) {
                    self.equal(&dir.join(name), "rows by its footer", &rows, &table.rows());
                }
            }
            self.timeline(&dir, &manifest, links);
            for side in [Side::User, Side::Item] {
                self.take(Quarantine::load(&dir, &manifest, side));
            }
            let aside: u64 = BAD_ROWS.iter().map(|(_, bad)| count(bad)).sum();
            let listed = manifest.files.iter().find(|f| f.path == files::encoders::QUARANTINE).map_or(0, |f| f.rows);
            self.equal(&path, "rows quarantined", &aside, &listed);
            if let Some(said) = self.take(details::<EncodeDetails>("verify", &manifest)) {
                self.equal(&path, "`details.content`", &links.encoded, &said.content);
            }
        }
        self.report("encoders", count(rows::USERS_WITH_POSITIVES) + usable_items(&manifest), &[&manifest], before);
        true
    }

    /// The timeline in the encoder folder, whose manifest is this.
    fn timeline(&mut self, dir: &Path, encoded: &Manifest, links: &mut Links) {
        let path = dir.join(files::encoders::TIMELINE_MANIFEST);
        let Some(manifest) = self.manifest(&path, inputs::TIMELINE) else {
            return self.mismatch(dir, format!("no `{}`", files::encoders::TIMELINE_MANIFEST));
        };
        self.equal(&path, "made from tables", &encoded.inputs, &manifest.inputs);
        let count = |name: &str| encoded.rows.get(name).copied().unwrap_or_default();
        if let Some(run) = self.take(RunTimeline::open("verify", dir)) {
            let (timeline, path) = (run.timeline(), dir.join(files::encoders::TIMELINE));
            let sizes = (timeline.info().table_rows, timeline.info().items);
            self.equal(&path, "users and items by its index", &(count(rows::USERS), usable_items(encoded)), &sizes);
            if let Some(events) = self.take(timeline.events_before(sizes.0)) {
                self.equal(&path, "events of users of the table", &count(rows::INTERACTIONS_KEPT), &events);
            }
            links.timeline = Some(run.fingerprint().clone());
        }
    }

    fn towers(&mut self, links: &mut Links) -> bool {
        let (before, dir) = (self.found.problems.len(), self.run.towers());
        let path = dir.join(files::towers::MANIFEST);
        let Some(manifest) = self.manifest(&path, "train") else { return path.exists() };
        if self.take(verified_in("verify", &dir)).is_some() {
            links.towers = Some(manifest.fingerprint.clone());
        }
        self.contradicted("towers");
        for side in [Side::User, Side::Item] {
            let file = dir.join(files::towers::tower(side));
            if manifest.files.iter().all(|entry| entry.path != files::towers::tower(side)) {
                self.mismatch(&path, format!("does not list `{}`", files::towers::tower(side)));
            }
            if let Some((tower, metadata)) = self.take(onnx::read(&file)) {
                self.equal(&file, "side", &side, &tower.schema.side);
                if let Some(state) = &links.state {
                    self.equal(&file, "trained on encoders", state, &tower.schema.encoder);
                }
                if metadata.data.is_some() {
                    self.known.insert(file.with_extension("onnx.data"));
                }
            }
        }
        if let Some(checkpoint) = checkpoint_entry(&manifest)
            && dir.join(&checkpoint.path).exists()
        {
            self.file(&dir, &checkpoint);
        }
        self.report("towers", 2, &[&manifest], before);
        true
    }

    fn vectors(&mut self, side: Side, links: &mut Links) -> bool {
        let (before, folder) = (self.found.problems.len(), self.run.vectors(side));
        let name = if side == Side::User { inputs::USER_VECTORS } else { inputs::ITEM_VECTORS };
        let Some(parts) = self.parts(&folder, Output::Vectors(side)) else { return false };
        self.contradicted(folder.name());
        if side == Side::User && self.fused {
            let note = format!(
                "{}: the results were made without them, from users embedded on the way",
                folder.data().display()
            );
            self.found.notes.push(note);
        }
        if side == Side::Item && !parts.list.is_empty() {
            links.items = self.take(VectorParts::find("verify", &folder, side, None));
        }
        self.report_parts(name, &parts, before);
        true
    }

    fn report_parts(&mut self, name: &'static str, parts: &Parts, before: usize) {
        let manifests: Vec<&Manifest> = parts.list.iter().map(|p| &p.manifest).collect();
        self.report(name, parts.rows(), &manifests, before);
    }

    fn index(&mut self, links: &mut Links) -> bool {
        let (before, dir) = (self.found.problems.len(), self.run.index());
        let path = dir.join(files::index::MANIFEST);
        let Some(manifest) = self.manifest(&path, "index") else { return path.exists() };
        if let Some(catalogue) = links.items.as_ref().and_then(|items| self.take(Catalogue::load(items))) {
            self.input(&path, &manifest, inputs::ITEM_VECTORS, Some(catalogue.fingerprint()));
            // A graph was measured on users, which were embedded by these encoders and towers, with this timeline.
            let embedded_by = [
                (inputs::ENCODERS, &links.state),
                (inputs::TOWERS, &links.towers),
                (inputs::TIMELINE, &links.timeline),
            ];
            for (name, there) in embedded_by {
                if manifest.inputs.contains_key(name) {
                    self.input(&path, &manifest, name, there.as_ref());
                }
            }
            if let Some(index) = self.take(twotower_index::open(&dir, catalogue.fingerprint())) {
                let items = manifest.rows.get(rows::ITEMS).copied().unwrap_or_default();
                self.equal(&dir.join(MANIFEST_NAME), "items", &items, &(index.count() as u64));
                links.index = Some(as_written(&serde_json::json!(index.manifest())));
            }
        }
        self.equal(&path, "fingerprint", &content_fingerprint(&manifest.files), &manifest.fingerprint);
        self.report("index", manifest.rows.get(rows::ITEMS).copied().unwrap_or_default(), &[&manifest], before);
        true
    }

    fn recall(&mut self, links: &Links, users_there: bool) -> bool {
        let (before, folder) = (self.found.problems.len(), self.run.recall());
        let Some(parts) = self.parts(&folder, Output::Recall) else { return false };
        self.contradicted(folder.name());
        for Part { path, manifest, .. } in &parts.list {
            if let (Some(index), Some(searched)) =
                (&links.index, self.take(details::<RecallDetails>("verify", manifest)))
            {
                self.equal(path, "searched in the index", index, &searched.index);
            }
            if !is_fused(manifest) && !users_there {
                self.mismatch(path, "made from vectors/user/, which is not there");
            }
        }
        self.report_parts("recall", &parts, before);
        true
    }

    fn evaluation(&mut self, links: &Links) -> bool {
        let (before, dir) = (self.found.problems.len(), self.run.evaluation());
        let path = dir.join(files::evaluation::MANIFEST);
        let Some(manifest) = self.manifest(&path, "evaluate") else { return path.exists() };
        self.input(&path, &manifest, inputs::ENCODED_TABLES, links.encoded.as_ref());
        self.input(&path, &manifest, inputs::TOWERS, links.towers.as_ref());
        let file = dir.join(files::evaluation::METRICS);
        if let Some(metrics) = self.take(read_metrics(&file)) {
            let measured = [("data", &links.encoded, &metrics.data), ("towers", &links.towers, &metrics.towers)];
            for (what, expected, found) in measured {
                if let Some(expected) = expected {
                    self.equal(&file, &format!("measured {what}"), expected, found);
                }
            }
        }
        self.equal(&path, "fingerprint", &content_fingerprint(&manifest.files), &manifest.fingerprint);
        self.report("evaluation", manifest.rows.get(rows::USERS).copied().unwrap_or_default(), &[&manifest], before);
        true
    }
}

/// Rows of the items table that are in no quarantine.
fn usable_items(encoded: &Manifest) -> u64 {
    let count = |name: &str| encoded.rows.get(name).copied().unwrap_or_default();
    count(rows::ITEMS).saturating_sub(count(rows::ITEMS_QUARANTINED))
}
