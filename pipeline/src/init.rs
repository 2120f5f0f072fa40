//! `init`: a commented `pipeline.toml` from the columns of given files.

mod bad_rows;
mod delimiter;
mod event_ids;
mod first_line;
pub(crate) mod first_model;
mod missing_table;
mod options;

use crate::config::{InteractionTable, TimeSettings};
use crate::error::PipelineError;
use crate::rows::columns::read_whole;
use crate::rows::times::guess::guess;
use crate::watch::cancel::Cancel;
use crate::watch::terminal::{escape_line, steers};
use arrow_schema::DataType;
use bad_rows::Allowed;
use delimiter::is_delimited;
use event_ids::Entity;
use first_line::FirstLine;
use first_model::FirstModel;
use std::fmt::Write;
use twotower_artifacts::{IdKind, Side};
use twotower_encoders::FeatureSpec;
use twotower_encoders::init::{ColumnSample, Proposal, Role, propose};
use twotower_tables::{Encoding, Table, TableError, TableSpec};

pub use missing_table::IdsFrom;
pub use options::{InitOptions, KnownColumns, KnownReading, TableReading};

/// Rows looked at per table.
const SAMPLE_ROWS: u64 = 50_000;

/// A guess about the job, for the person who will check it.
#[derive(Debug, Clone)]
pub struct Guess {
    /// `users.city`, or a section's name.
    pub about: String,
    /// What was guessed and why.
    pub reason: String,
}

/// Writes the job and says what was guessed.
///
/// # Errors
/// A table that cannot be read, or one without a column that could be its id.
pub fn init(options: &InitOptions) -> Result<(String, Vec<Guess>), PipelineError> {
    let reading = &options.reading;
    let delimiters = [&reading.users, &reading.items, &reading.interactions].map(|table| &table.delimiter);
    if delimiters.into_iter().chain([&options.delimiter]).flatten().any(String::is_empty) {
        return Err(PipelineError::usage("--delimiter: expected at least one character"));
    }
    let mut guesses = Vec::new();
    let users = Sampled::read("users", &options.users, &options.reading.users, options, &mut guesses)?;
    let items = Sampled::read("items", &options.items, &options.reading.items, options, &mut guesses)?;
    let interactions =
        Sampled::read("interactions", &options.interactions, &options.reading.interactions, options, &mut guesses)?;
    if let Some(delimiter) = &options.delimiter
        && [&users, &items, &interactions].iter().all(|table| table.spec.delimiter.as_ref() != Some(delimiter))
    {
        return Err(PipelineError::usage(format!(
            "--delimiter {delimiter:?}: it stands in the first line of none of the tables; leave it out, for first lines tell the usual ones, or name that of one table by --users-delimiter, --items-delimiter or --interactions-delimiter"
        )));
    }
    let known = &options.columns;
    let user_id = users.id(known.user_id.as_deref(), &mut guesses)?;
    let item_id = items.id(known.item_id.as_deref(), &mut guesses)?;
    let mut allowed = Allowed::default();
    allowed.ids(&users, &user_id, &mut guesses);
    allowed.ids(&items, &item_id, &mut guesses);
    let events = interactions.event_columns(known, (&users, &user_id), (&items, &item_id), &mut guesses)?;
    allowed.interactions(&interactions, &events, [(&users, &user_id), (&items, &item_id)], &mut guesses);

    let mut text = String::from(
        "# A twotower job, written by `twotower init` from the columns of the tables below.\n\
         # Check the guesses; every setting that is not here has a default (see docs/CONFIG.md).\n\n",
    );
    let quoted = |s: &str| written(&toml::Value::String(s.to_string()));
    let _ = write!(
        text,
        "[tables.users]\npath = {}\n{}id = {}\n\n[tables.items]\npath = {}\n{}id = {}\n\n[tables.interactions]\npath = {}\n{}user = {}\nitem = {}\n",
        quoted(&options.users),
        users.reading(),
        quoted(&user_id),
        quoted(&options.items),
        items.reading(),
        quoted(&item_id),
        quoted(&options.interactions),
        interactions.reading(),
        quoted(&events.user),
        quoted(&events.item)
    );
    match &events.times {
        TimeSettings { timestamp: Some(column), format, unit, .. } => {
            let _ = writeln!(text, "timestamp = {}", quoted(column));
            let unit = unit.map(|unit| unit.name().to_string());
            for (setting, value) in [("timestamp_format", format), ("timestamp_unit", &unit)] {
                if let Some(value) = value {
                    let _ = writeln!(text, "{setting} = {}", quoted(value));
                }
            }
        }
        _ => text.push_str("# timestamp = \"…\"    # without it, the order of the rows counts as time\n"),
    }
    text.push_str("# weight = \"…\"       # a column of weights of at least 0\n");
    features(&mut text, Side::User, &users, &user_id, &mut guesses);
    features(&mut text, Side::Item, &items, &item_id, &mut guesses);
    recent_items(&mut text, &users, &items, &mut guesses);
    if let Some(share) = allowed.share() {
        let _ = write!(
            text,
            "\n# The share of a table's rows that may be unusable, such as rows without an id: they are left out.\n[encode]\nmax_bad_rows = {share}\n"
        );
    }
    let model = FirstModel::of(items.distinct(&item_id)?);
    guesses.extend(model.guesses());
    let [of_model, of_training] = ["model", "train"].map(|section| model.lines(section));
    let _ = write!(
        text,
        "\n# How positives are held out: leave_last_out, time, ratio or random.\n[split]\nkind = \"leave_last_out\"\n\
         \n[model]\nkind = \"dssm\"\n{of_model}\
         \n[train]\n{of_training}# epochs = 10\n# batch_size = 0    # by the number of events, 256 to 4096\n\
         \n[recall]\ntopk = 50\n# format = \"parquet\"    # or parquet-long, jsonl\n\
         \n# What a night must reach before \"latest\" names it; see docs/CONFIG.md for all limits.\n[gates]\n\
         # off = [\"coverage\"]    # gates that are not asked\n# min_rows = 0.7    # users, as a share of the previous run's\n",
    );
    Ok((text, guesses))
}

/// The first rows of a table, column by column.
struct Sampled {
    name: &'static str,
    table: Table,
    /// How it is read.
    spec: TableSpec,
    columns: Vec<(ColumnSample, Proposal)>,
}

impl Sampled {
    /// Reads the first rows, in the encoding that fits them and by the delimiter that parts them.
    fn read(
        name: &'static str,
        path: &str,
        reading: &TableReading,
        options: &InitOptions,
        guesses: &mut Vec<Guess>,
    ) -> Result<Self, PipelineError> {
        let common = options.delimiter.as_ref().filter(|_| reading.delimiter.is_none());
        let delimiter = reading.delimiter.as_ref().or(common).cloned();
        let encoding = options.encoding.unwrap_or_default();
        let mut spec = TableSpec { delimiter, encoding, format: reading.format, ..TableSpec::new(path) };
        let mut lenient = false;
        loop {
            let mut guess = |reason: String| guesses.push(Guess { about: name.to_string(), reason });
            let opened = Table::open(name, &spec);
            if let Ok(table) = &opened
                && common.is_some()
                && spec.delimiter.as_ref() == common
                && delimiter::only_field(table, &spec).is_some()
            {
                // What is given for all tables is for those that have it.
                spec.delimiter = None;
                continue;
            }
            let names = reading.columns.as_ref().map(Vec::len);
            if let Ok(table) = &opened
                && spec.delimiter.is_none()
                && let Some((delimiter, why)) = delimiter::other(table, &spec, names, name == "interactions")
                && common.is_none_or(|common| common != delimiter)
            {
                guess(format!("delimiter {delimiter:?}: {why}"));
                spec.delimiter = Some(delimiter.to_string());
                continue;
            }
            if let Some(columns) = &reading.columns
                && spec.columns.is_none()
            {
                match &opened {
                    Ok(table) if table.columns().len() != columns.len() => {
                        return Err(PipelineError::usage(format!(
                            "--{name}-columns: {} names are given, and the first line of {path} has {} fields{}",
                            columns.len(),
                            table.columns().len(),
                            delimiter::advice(name, table, &spec)
                        )));
                    }
                    // A first line of data may have a value twice.
                    Ok(_) | Err(TableError::Header { .. }) => {
                        (spec.header, spec.columns) = (false, Some(columns.clone()));
                        continue;
                    }
                    Err(_) => {}
                }
            }
            match &opened {
                Err(error @ TableError::Header { reason, .. }) if reason.starts_with("two columns") => {
                    return Err(PipelineError::usage(format!(
                        "{error}; if the first line is data and names no columns, give their names by --{name}-columns A,B,…"
                    )));
                }
                Err(error @ TableError::Spec { key: "format", reason, .. }) if reason.starts_with("cannot tell") => {
                    return Err(PipelineError::usage(format!("{error}; name the format by --{name}-format")));
                }
                _ => {}
            }
            let sampled =
                opened.map_err(PipelineError::from).and_then(|table| Self::sample(name, table, &spec, lenient));
            let Err(PipelineError::Table(error)) = &sampled else {
                return sampled.and_then(|sampled| sampled.with_names(path, options.reading.header, guesses));
            };
            match error {
                TableError::Undecodable { fitting: Some(fitting), .. }
                    if options.encoding.is_none()
                        && spec.encoding == Encoding::default()
                        && *fitting != spec.encoding =>
                {
                    let named = fitting.name();
                    guess(format!("encoding \"{named}\": the bytes of the table are no UTF-8, and fit {fitting}"));
                    spec.encoding = *fitting;
                }
                // What is given is meant for those tables that can have it.
                TableError::Spec { key: "delimiter", .. } if common.is_some() && spec.delimiter.is_some() => {
                    spec.delimiter = None;
                }
                TableError::Spec { key: "encoding", .. } if spec.encoding != Encoding::default() => {
                    spec.encoding = Encoding::default();
                }
                TableError::Undecodable { .. } | TableError::Ragged { .. } | TableError::Json { .. } if !lenient => {
                    guess(format!("a row cannot be read, and a run sets such rows aside, if they are few: {error}"));
                    lenient = true;
                }
                _ => return sampled,
            }
        }
    }

    /// Refuses names of columns that look like a row of data, and says which of them do where few do; unless they are
    /// known to be names.
    fn with_names(self, path: &str, are_known: bool, guesses: &mut Vec<Guess>) -> Result<Self, PipelineError> {
        let name = self.name;
        if are_known || !self.spec.header || !is_delimited(&self.table, &self.spec) {
            return Ok(self);
        }
        match FirstLine::of(self.columns.iter().map(|(sample, _)| sample)) {
            FirstLine::Names => {}
            FirstLine::Doubtful(said) => guesses.push(Guess {
                about: name.to_string(),
                reason: format!(
                    "the first line is taken for the names of the columns, though {said}; if it is data, give the names by --{name}-columns A,B,…"
                ),
            }),
            FirstLine::Data(said) => {
                return Err(PipelineError::usage(format!(
                    "{name}: the first line of {path} looks like data and not like names of columns: {said}; give the names of the {} columns by --{name}-columns A,B,…, or --header if that line does name them{}",
                    self.columns.len(),
                    delimiter::advice(name, &self.table, &self.spec)
                )));
            }
        }
        Ok(self)
    }

    /// A name of a feature that no column has: this one, or a longer one.
    fn free_name(&self, name: &str) -> String {
        let mut name = name.to_string();
        while self.columns.iter().any(|(sample, _)| sample.name == name) {
            name.push_str("_id");
        }
        name
    }

    /// The settings beside the path that read the table, as lines of a job.
    fn reading(&self) -> String {
        let mut lines = String::new();
        let default = TableSpec::new("");
        if let Some(format) = self.spec.format
            && let Ok(format) = toml::Value::try_from(format)
        {
            let _ = writeln!(lines, "format = {}", written(&format));
        }
        if let Some(delimiter) = &self.spec.delimiter {
            let _ = writeln!(lines, "delimiter = {}", written(&toml::Value::String(delimiter.clone())));
        }
        if self.spec.encoding != default.encoding {
            let _ = writeln!(lines, "encoding = {}", written(&toml::Value::String(self.spec.encoding.name())));
        }
        if let Some(columns) = &self.spec.columns {
            let columns = columns.iter().cloned().map(toml::Value::String).collect();
            let _ = writeln!(lines, "header = false\ncolumns = {}", written(&toml::Value::Array(columns)));
        }
        lines
    }

    fn sample(name: &'static str, table: Table, spec: &TableSpec, lenient: bool) -> Result<Self, PipelineError> {
        let table = if lenient { table.leniently() } else { table };
        let mut names: Vec<String> = table.columns().iter().map(|c| c.name.clone()).collect();
        let whole = loop {
            match read_whole(&table, &names, SAMPLE_ROWS, &Cancel::default()) {
                // Other columns may be what the job needs.
                Err(PipelineError::Table(TableError::NotText { column, .. })) if names.len() > 1 => {
                    tracing::warn!("init: {name}: column `{column}` holds bytes that are not UTF-8: left out");
                    names.retain(|name| *name != column);
                }
                whole => break whole?,
            }
        };
        let sampled = names.iter().zip(whole.columns()).map(|(name, rows)| {
            let sample = ColumnSample::of(name, rows);
            let proposal = propose(&sample);
            (sample, proposal)
        });
        Ok(Self { name, columns: sampled.collect(), table, spec: spec.clone() })
    }

    /// A column that is known to be there.
    fn known(&self, name: &str) -> Result<String, PipelineError> {
        Ok(self.table.column(name).map(|column| column.name.clone())?)
    }

    /// The column that looks like the table's id, if it is not known.
    fn id(&self, known: Option<&str>, guesses: &mut Vec<Guess>) -> Result<String, PipelineError> {
        if let Some(known) = known {
            return self.known(known);
        }
        let distinct = |s: &ColumnSample| s.missing == 0 && s.values.len() as u64 == s.rows;
        let fits = |s: &ColumnSample| IdKind::of(&s.data_type).is_some() && !s.is_index_of_pandas();
        let usable = || self.columns.iter().filter(|(s, _)| fits(s));
        // Amounts and dates may be distinct by chance, and are no ids.
        let is_shaped = |s: &ColumnSample, p: &Proposal| match &p.role {
            Role::Feature(FeatureSpec::Numeric(_)) => s.values.keys().all(|v| v.bytes().all(|b| b.is_ascii_digit())),
            Role::Feature(FeatureSpec::Date(_) | FeatureSpec::Boolean(_) | FeatureSpec::MultiValued(_)) => false,
            _ => true,
        };
        let shaped = || usable().filter(|(s, p)| is_shaped(s, p));
        let found = usable()
            .find(|(_, p)| p.role == Role::Id)
            .or_else(|| shaped().find(|(s, _)| distinct(s)))
            .or_else(|| shaped().find(|(s, _)| s.is_nearly_unique()))
            .or_else(|| usable().find(|(s, _)| distinct(s)));
        let unfit = self.columns.iter().find(|(s, p)| !fits(s) && (p.role == Role::Id || distinct(s)));
        match found {
            Some((sample, proposal)) => {
                let why = match proposal.role {
                    Role::Id => "",
                    _ => "; no column is named like an id, and this is the first that could be one",
                };
                guesses.push(Guess {
                    about: format!("{}.{}", self.name, sample.name),
                    reason: format!("id: {}{why}", sample.ids()),
                });
                Ok(sample.name.clone())
            }
            None if unfit.is_some() => Err(PipelineError::Data(format!(
                "{}: column `{}` has a distinct value in every row, but ids are integers or text and it is {}; cast it where the table is written",
                self.name,
                unfit.map_or("", |(s, _)| s.name.as_str()),
                unfit.map_or(&DataType::Null, |(s, _)| &s.data_type)
            ))),
            None => Err(PipelineError::Data(format!(
                "{}: no column has a distinct value in nearly every row, so none can be the id; name it by --user-id or --item-id; columns: {}",
                self.name,
                self.columns.iter().map(|(s, _)| s.name.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// The table as the job is to have it: which columns name user, item and time, by the ids' own names first, else by shared values.
    fn event_columns(
        &self,
        known: &KnownColumns,
        (users, user_id): (&Sampled, &str),
        (items, item_id): (&Sampled, &str),
        guesses: &mut Vec<Guess>,
    ) -> Result<InteractionTable, PipelineError> {
        let entities = [&Entity::users(users, user_id), &Entity::items(items, item_id)];
        let [user, item] = self.ids_of_events(known, entities, guesses)?;
        let own_time = known.timestamp.as_deref().map(|name| self.known(name)).transpose()?;
        let free = self.columns.iter().map(|(s, _)| &s.name).filter(|name| **name != user && **name != item);
        let free = free.filter(|name| own_time.as_ref().is_none_or(|own| own == *name));
        let mut time = None;
        for name in free {
            time = guess(&self.table, name)?.map(|guessed| (name, guessed));
            if time.is_some() {
                break;
            }
        }
        if let (Some(own), None) = (&own_time, &time) {
            return Err(PipelineError::Data(format!(
                "interactions: --timestamp {own}: the column does not read as times; write the job without it, and then `timestamp_format` or `timestamp_unit` into it"
            )));
        }
        match &time {
            Some((name, (_, reason))) => {
                guesses.push(Guess { about: format!("interactions.{name}"), reason: format!("timestamp: {reason}") })
            }
            None => guesses.push(Guess {
                about: "interactions".to_string(),
                reason: "no timestamp found: the order of the rows counts as time".to_string(),
            }),
        }
        let times = time.map_or_else(TimeSettings::default, |(_, (settings, _))| settings);
        Ok(InteractionTable { user, item, times, weight: None, source: self.spec.clone() })
    }
}

fn features(text: &mut String, side: Side, table: &Sampled, id: &str, guesses: &mut Vec<Guess>) {
    for (sample, proposal) in table.columns.iter().filter(|(s, _)| s.name != id) {
        guesses.push(Guess { about: format!("{}.{}", table.name, sample.name), reason: proposal.reason.clone() });
        match &proposal.role {
            Role::Feature(spec) => {
                let reason = escape_line(&proposal.reason);
                let _ = write!(text, "\n# {reason}\n[[features.{side}]]\n{}", settings(spec));
            }
            _ => {
                let (name, reason) = (escape_line(&sample.name), escape_line(&proposal.reason));
                let _ = write!(text, "\n# \"{name}\" left out: {reason}\n");
            }
        }
    }
}

/// Lengths of the histories that are features: short ones say what a user wants now, long ones what he likes.
const RECENT: [u32; 3] = [1, 5, 50];

/// The items that a user had last, as features of the user, and the item's own id, whose vectors they share.
fn recent_items(text: &mut String, users: &Sampled, items: &Sampled, guesses: &mut Vec<Guess>) {
    let item = items.free_name("item");
    for length in RECENT {
        let name = users.free_name(&format!("last_{length}"));
        let _ = write!(
            text,
            "\n# the {length} newest items of the user; they share the vectors of the item's id\n[[features.user]]\nkind = \"sequence\"\nname = \"{name}\"\nmax_len = {length}\ntable = \"{item}\"\n"
        );
    }
    let _ = write!(
        text,
        "\n# the item's own id as a feature; new ids take the unknown slot\n[[features.item]]\nkind = \"id\"\nname = \"{item}\"\ntable = \"{item}\"\n"
    );
    let reason = "recent items of a user: what was done last says most about what is wanted next, and it is known of new users too; the user's own id is no feature, since it says nothing of those who did not train";
    guesses.push(Guess { about: "features.user".to_string(), reason: reason.to_string() });
}

/// A value as TOML, in which what steers a terminal is escaped: a job is looked at too.
fn written(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.contains(steers) => {
            let escaped = text.chars().map(|c| match c {
                '"' | '\\' => format!("\\{c}"),
                c if steers(c) => format!("\\u{:04X}", c as u32),
                c => c.to_string(),
            });
            format!("\"{}\"", escaped.collect::<String>())
        }
        toml::Value::Array(values) => format!("[{}]", values.iter().map(written).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// A feature's settings as TOML lines, `kind` first; settings at their defaults stay out where they are empty.
fn settings(spec: &FeatureSpec) -> String {
    let value = toml::Value::try_from(spec).ok();
    let table = value.as_ref().and_then(toml::Value::as_table);
    let mut lines: Vec<String> =
        table.into_iter().flatten().map(|(key, value)| format!("{key} = {}\n", written(value))).collect();
    lines.sort_by_key(|line| match line.split(' ').next() {
        Some("kind") => 0,
        Some("name") => 1,
        _ => 2,
    });
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A job from its text.
    pub(super) fn read(text: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path, &[]).unwrap()
    }

    /// The job that is written for three tables, and what is said of it.
    fn written_for(tables: [(&str, String); 3]) -> (String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let [users, items, interactions] = tables.map(|(name, text)| {
            let path = dir.path().join(format!("{name}.csv"));
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        let columns = KnownColumns::default();
        let options = InitOptions {
            users,
            items,
            interactions,
            delimiter: None,
            encoding: None,
            columns,
            reading: KnownReading::default(),
        };
        let (job, guesses) = init(&options).unwrap();
        (job, guesses.into_iter().map(|guess| format!("{}: {}", guess.about, guess.reason)).collect())
    }

    #[test]
    fn a_job_has_recent_items_a_chosen_model_and_room_for_bad_ids_of_users_and_items() {
        let lines = |head: &str, rows: &mut dyn Iterator<Item = String>| {
            format!("{head}\n{}\n", rows.collect::<Vec<_>>().join("\n"))
        };
        let users =
            lines("user_id,zip,title", &mut (0..400).map(|u| format!("u{u},{:05},name of {u}", 70_000 + u % 50)));
        let with_empty = |i: usize| if i == 7 { String::new() } else { format!("i{}", i.max(1)) };
        let items = lines("item_id,name", &mut (0..300).map(|i| format!("{},the item {i}", with_empty(i))));
        let events = lines(
            "user_id,item_id,time",
            &mut (0..900).map(|e| format!("u{},i{},{}", e % 400, 1 + e % 6, 1_600_000_000 + e)),
        );
        let (job, said) = written_for([("users", users), ("items", items), ("events", events)]);
        let config = read(&job);
        assert_eq!(FirstModel::of(300).unlike(&config), Vec::<String>::new());
        let kinds = |features: &[FeatureSpec]| {
            features.iter().map(|f| format!("{} {}", f.kind(), f.name())).collect::<Vec<_>>()
        };
        assert_eq!(
            kinds(&config.features.user),
            ["categorical zip", "sequence last_1", "sequence last_5", "sequence last_50"]
        );
        // Names of items are as many as items.
        assert_eq!(kinds(&config.features.item), ["id item"]);
        // One row without an id and one that repeats that of the row before, of 300: twice that share.
        assert_eq!(config.encode.max_bad_rows, 0.014);
        for expected in [
            "users.user_id: id: 400 rows, all distinct",
            "items.item_id: id: 300 rows, of which 1 lacks an id and 1 repeats one",
            "items.item_id: of 300 rows 1 has no id and 1 repeats the id of an earlier row: the run leaves these rows out",
            "for which `encode.max_bad_rows` is 0.014",
            "items.name: skipped: text, 300 distinct: nearly every row has its own",
            "users.zip: guessed categorical: postal codes, 50 distinct",
            "train.loss: \"in_batch\": the items of a batch",
            "model.hidden: [64]: one layer",
        ] {
            assert!(said.iter().any(|line| line.contains(expected)), "expected `{expected}` in {said:#?}");
        }
        assert!(job.contains("# one layer") && job.contains("hidden = [64]"), "{job}");
    }

    #[test]
    fn bad_rows_of_interactions_count_too_and_an_id_is_not_told_to_be_a_number() {
        let lines = |head: &str, rows: Vec<String>| format!("{head}\n{}\n", rows.join("\n"));
        let users = lines("u,age", (0..100).map(|u| format!("{u},{}", 18 + u % 60)).collect());
        let items = lines("i,price", (0..50).map(|i| format!("{i},{i}.5")).collect());
        let event = |e: usize| match e {
            17 => ",3,2026-01-31".to_string(),
            400 => "9,,2026-01-31".to_string(),
            500 => "9,3,".to_string(),
            e => format!("{},{},2026-01-{:02}", e % 100, e % 50, 1 + e % 28),
        };
        let of = |events: Vec<String>| {
            written_for([
                ("users", users.clone()),
                ("items", items.clone()),
                ("events", lines("user,item,day", events)),
            ])
        };
        let (job, said) = of((0..1000).map(event).collect());
        let spoilt = said.iter().find(|line| line.contains("cannot be used")).unwrap();
        assert!(
            spoilt.starts_with("interactions: 3 of 1000 rows cannot be used, such as row 17 (line 19 of "),
            "{spoilt}"
        );
        assert!(
            spoilt.contains("column `user`") && spoilt.ends_with("for which `encode.max_bad_rows` is 0.006"),
            "{spoilt}"
        );
        assert_eq!(read(&job).encode.max_bad_rows, 0.006);
        let id = said.iter().find(|line| line.starts_with("users.u: ")).unwrap();
        assert!(id.starts_with("users.u: id: 100 rows, all distinct; no column is named like an id"), "{id}");
        // One in a thousand is what every job allows.
        let (job, said) = of((0..1000).map(|e| event(if e == 400 || e == 500 { 1 } else { e })).collect());
        assert!(said.iter().any(|line| line.contains("1 of 1000 rows cannot be used")), "{said:#?}");
        assert!(!job.contains("max_bad_rows"), "{job}");
    }
}
