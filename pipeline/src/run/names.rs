//! Names in manifests: of tables, of what a stage read, and of rows that it counted. Who writes one and who reads it
//! take it from here.

/// Tables of a job. Among the inputs of a stage, each stands under its own name.
pub(crate) mod tables {
    use twotower_artifacts::Side;

    /// The users table.
    pub(crate) const USERS: &str = "users";
    /// The items table.
    pub(crate) const ITEMS: &str = "items";
    /// The interactions table.
    pub(crate) const INTERACTIONS: &str = "interactions";
    /// The only items that may be retrieved.
    pub(crate) const ALLOW: &str = "allow";
    /// Items that must not be retrieved.
    pub(crate) const DENY: &str = "deny";
    /// Pairs of a user and an item that must not be retrieved.
    pub(crate) const EXCLUSIONS: &str = "exclusions";

    /// The table of a side's rows.
    pub(crate) fn of(side: Side) -> &'static str {
        match side {
            Side::User => USERS,
            Side::Item => ITEMS,
        }
    }
}

/// What a stage read, beside tables under their own names and side files.
pub(crate) mod inputs {
    /// The encoder state.
    pub(crate) const ENCODERS: &str = "encoders";
    /// The encoder state that was extended.
    pub(crate) const PREVIOUS_ENCODERS: &str = "previous encoders";
    /// The encoder state and the encoded tables.
    pub(crate) const ENCODED_TABLES: &str = "encoded tables";
    /// The timeline of all users.
    pub(crate) const TIMELINE: &str = "timeline";
    /// Both towers.
    pub(crate) const TOWERS: &str = "towers";
    /// Towers of an earlier run, which training started from.
    pub(crate) const PREVIOUS_TOWERS: &str = "previous towers";
    /// Towers of an earlier run, taken as they are.
    pub(crate) const ADOPTED_TOWERS: &str = "adopted towers";
    /// The table of the rows that were embedded.
    pub(crate) const TABLE: &str = "table";
    /// The rows of that table that were left out.
    pub(crate) const QUARANTINE: &str = "quarantine";
    /// Vectors of all items.
    pub(crate) const ITEM_VECTORS: &str = "item vectors";
    /// Vectors of a shard's users.
    pub(crate) const USER_VECTORS: &str = "user vectors";
    /// All that the gates judge of the run.
    pub(crate) const RUN: &str = "run";
    /// The same of the run that it is compared with.
    pub(crate) const PREVIOUS_RUN: &str = "previous run";
}

/// What is counted in the `rows` of a manifest.
pub(crate) mod rows {
    /// Users of a table, or of results.
    pub(crate) const USERS: &str = super::tables::USERS;
    /// Items of a table, or of results.
    pub(crate) const ITEMS: &str = super::tables::ITEMS;
    /// Rows of the interactions table.
    pub(crate) const INTERACTIONS: &str = super::tables::INTERACTIONS;
    /// Users that have events, and so train.
    pub(crate) const USERS_WITH_POSITIVES: &str = "users with positives";
    /// Rows of the users table that cannot be used.
    pub(crate) const USERS_QUARANTINED: &str = "users quarantined";
    /// Rows of the items table that cannot be used.
    pub(crate) const ITEMS_QUARANTINED: &str = "items quarantined";
    /// Rows of the interactions table that cannot be used.
    pub(crate) const INTERACTIONS_QUARANTINED: &str = "interactions quarantined";
    /// Interactions that became events.
    pub(crate) const INTERACTIONS_KEPT: &str = "interactions kept";
    /// Further rows of an event.
    pub(crate) const INTERACTIONS_REPEATED: &str = "interactions repeated";
    /// Interactions whose item is not in the items table.
    pub(crate) const INTERACTIONS_OF_UNKNOWN_ITEMS: &str = "interactions of unknown items";
    /// Interactions whose user is not in the users table.
    pub(crate) const INTERACTIONS_OF_UNKNOWN_USERS: &str = "interactions of unknown users";
    /// Events of a timeline.
    pub(crate) const EVENTS: &str = "events";
    /// Events that trained.
    pub(crate) const TRAINING_EVENTS: &str = "training events";
    /// Rows of a part that were taken from an earlier run.
    pub(crate) const COPIED: &str = "copied";
    /// Rows of a part that were embedded, where others were taken from an earlier run.
    pub(crate) const EMBEDDED: &str = "embedded";
    /// Users of a part that were searched for, where others were taken from an earlier run.
    pub(crate) const SEARCHED: &str = "searched";
    /// Users of a part without any known event, whose sequences are empty.
    pub(crate) const WITHOUT_HISTORY: &str = "without history";
    /// Vectors of a part.
    pub(crate) const ROWS: &str = "rows";
    /// Rows of a part's range that were left out.
    pub(crate) const QUARANTINED: &str = "quarantined";
    /// Rows of the whole table of a part.
    pub(crate) const TABLE_ROWS: &str = "table rows";
    /// Pairs of a user and an item in results.
    pub(crate) const PAIRS: &str = "pairs";
    /// Pairs that the users of a part must not get.
    pub(crate) const PAIRS_EXCLUDED: &str = "pairs excluded";
    /// Users that got fewer items than the job asks for.
    pub(crate) const USERS_WITH_FEWER: &str = "users with fewer than topk";
    /// Gates that passed.
    pub(crate) const GATES_PASSED: &str = "gates passed";
    /// Gates that failed.
    pub(crate) const GATES_FAILED: &str = "failed";
    /// Gates that failed, which the operator accepted.
    pub(crate) const GATES_ACCEPTED: &str = "accepted";
    /// Gates that had nothing to measure.
    pub(crate) const GATES_NOT_APPLICABLE: &str = "not applicable";
    /// Gates that the job turns off.
    pub(crate) const GATES_OFF: &str = "off";
}
