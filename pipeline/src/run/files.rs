//! Names of the files and folders in a run's folders.

/// The encoder folder.
pub mod encoders {
    /// The stage's manifest.
    pub const MANIFEST: &str = "manifest.json";
    /// Encoded users that have positives.
    pub const USERS: &str = "users.parquet";
    /// Encoded items, sorted by id.
    pub(crate) const ITEMS: &str = "items.parquet";
    /// What every user did, in time order.
    pub(crate) const TIMELINE: &str = "timeline.bin";
    /// The manifest of the timeline.
    pub(crate) const TIMELINE_MANIFEST: &str = "timeline.json";
    /// With `encode.all_users`, every encoded user.
    pub(crate) const ALL_USERS: &str = "users-all.parquet";
    /// Rows of users and interactions that cannot be used, where there are some.
    pub(crate) const QUARANTINE: &str = "quarantine.jsonl";
}

/// The tower folder.
pub mod towers {
    use twotower_artifacts::Side;

    /// The stage's manifest.
    pub const MANIFEST: &str = "manifest.json";
    /// Losses and validation metrics by epoch.
    pub(crate) const REPORT: &str = "training.json";
    /// Folder of the checkpoints.
    pub(crate) const CHECKPOINTS: &str = "checkpoints";
    /// The best epoch's checkpoint.
    pub(crate) const BEST: &str = "checkpoints/best.ckpt";
    /// Folder of a tower that is not verified yet.
    pub(crate) const CANDIDATE: &str = ".candidate";

    /// The exported tower of one side.
    pub fn tower(side: Side) -> String {
        format!("{side}_tower.onnx")
    }

    /// Its tables, where they are too large to stand in it.
    pub(crate) fn tower_data(side: Side) -> String {
        format!("{side}_tower.onnx.data")
    }
}

/// The index folder.
pub(crate) mod index {
    /// The stage's manifest, beside the one of the index itself.
    pub(crate) const MANIFEST: &str = "stage.json";
}

/// The evaluation folder.
pub mod evaluation {
    /// The stage's manifest.
    pub(crate) const MANIFEST: &str = "manifest.json";
    /// The metrics.
    pub const METRICS: &str = "metrics.json";
}

/// The gates folder.
pub(crate) mod gates {
    /// The stage's manifest.
    pub(crate) const MANIFEST: &str = "manifest.json";
}
