//! Files in a run folder that no manifest speaks of.

use super::Check;
use crate::run::files::towers as files;
use crate::run::shard_progress;
use crate::stream::part_folder::{MANIFESTS, file_name};
use crate::stream::row_hashes;
use crate::stream::sample;
use std::path::{Path, PathBuf};

impl Check<'_> {
    /// Notes what is left over: temporary files of dead writers, and names that are not ours.
    pub(super) fn strays(&mut self) {
        let checkpoints = self.run.towers().join(files::CHECKPOINTS);
        for name in ["best.ckpt", "last.ckpt", "key.json"] {
            self.known.insert(checkpoints.join(name));
        }
        let mut folders = vec![self.run.root().to_path_buf()];
        while let Some(folder) = folders.pop() {
            let mut entries: Vec<PathBuf> = match std::fs::read_dir(&folder) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(error) => {
                    self.found.notes.push(format!("{}: not listed: {error}", folder.display()));
                    continue;
                }
            };
            entries.sort();
            for path in entries {
                // A link is noted, never followed.
                let is_folder = path.symlink_metadata().is_ok_and(|m| m.is_dir());
                match is_folder {
                    true if path == self.run.root().join(shard_progress::FOLDER) => {}
                    true if self.is_ours(&path) => folders.push(path),
                    _ if self.known.contains(&path) => {}
                    _ => self.found.notes.push(format!("{}: {}", path.display(), explain(&path))),
                }
            }
        }
    }

    /// Whether a folder is part of a run's layout.
    fn is_ours(&self, folder: &Path) -> bool {
        let run = self.run;
        let below = [
            run.encoders(),
            run.towers(),
            run.root().join("vectors"),
            run.index(),
            run.recall().data(),
            sample::folder(run).data(),
            run.root().join(row_hashes::FOLDER),
            run.root().join(MANIFESTS),
            run.evaluation(),
            run.gates(),
        ];
        below.iter().any(|ours| folder.starts_with(ours))
    }
}

fn explain(path: &Path) -> &'static str {
    let name = file_name(path);
    if name.starts_with('.') && (name.contains(".tmp-") || name.contains(".candidate.")) {
        "left by a writer that did not finish; the stage removes it when it runs again"
    } else {
        "no manifest speaks of it"
    }
}
