//! The item index: which kind the job gets, and what is known of a graph's recall.

use super::Finding;
use crate::config::Config;
use crate::run::dir::RunDir;
use std::path::Path;
use twotower_index::store::MANIFEST_NAME;
use twotower_index::{IndexKind, IndexManifest};

/// The kind of index for a number of items. A graph is measured on users when `recall` builds it, not here. If a run in
/// the folder `run` has measured one, this says what it found.
pub(super) fn index(config: &Config, items: Option<u64>, run: &Path) -> Option<Finding> {
    const CHECK: &str = "index";
    let (kind, reason) = config.index.choose(usize::try_from(items?).unwrap_or(usize::MAX));
    if kind != IndexKind::Hnsw {
        return Some(Finding::ok(CHECK, reason));
    }
    let path = RunDir::new(run).index().join(MANIFEST_NAME);
    let read = || serde_json::from_slice::<IndexManifest>(&std::fs::read(&path).ok()?).ok();
    let Some(made) = read() else {
        return Some(Finding::ok(
            CHECK,
            format!("{reason}; its recall is measured on users of the table when `recall` builds it, not here"),
        ));
    };
    let found = |what: String| format!("{reason}; {} has {what}", path.display());
    Some(match (&made.measured, made.recall) {
        (Some(users), _) if users.mean < config.index.target_recall => Finding::warning(
            CHECK,
            found(users.to_string()),
            "raise `index.m` or `index.ef_construction`, leave `index.ef_search` out, or set `index.kind = \"exact\"`",
        ),
        (Some(users), _) => Finding::ok(CHECK, found(users.to_string())),
        (None, Some(recall)) => Finding::warning(
            CHECK,
            found(format!("a recall of {recall:.4} of queries made from items, which says little about users")),
            "run `twotower recall --force`, which measures it on users",
        ),
        (None, None) => Finding::ok(CHECK, found(format!("an exact index: {}", made.reason))),
    })
}
