//! `init`: a commented `pipeline.toml` from the columns of given files.

use crate::config::TimeSettings;
use crate::error::PipelineError;
use crate::rows::columns::read_whole;
use crate::rows::times::guess::guess;
use crate::watch::cancel::Cancel;
use crate::watch::terminal::{escape_line, steers};
use arrow_schema::DataType;
use std::collections::BTreeSet;
use std::fmt::Write;
use twotower_artifacts::{IdKind, Side};
use twotower_encoders::FeatureSpec;
use twotower_encoders::init::{ColumnSample, Proposal, Role, propose};
use twotower_tables::{Table, TableError, TableSpec};

/// Rows looked at per table.
const SAMPLE_ROWS: u64 = 50_000;

/// What a job is written from.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// File, folder or glob of users.
    pub users: String,
    /// File, folder or glob of items.
    pub items: String,
    /// File, folder or glob of interactions.
    pub interactions: String,
}

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
    let users = Sampled::read("users", &options.users)?;
    let items = Sampled::read("items", &options.items)?;
    let interactions = Sampled::read("interactions", &options.interactions)?;
    let mut guesses = Vec::new();
    let user_id = users.id(&mut guesses)?;
    let item_id = items.id(&mut guesses)?;
    let events = interactions.event_columns(&users, &user_id, &items, &item_id, &mut guesses)?;

    let mut text = String::from(
        "# A twotower job, written by `twotower init` from the columns of the tables below.\n\
         # Check the guesses; every setting that is not here has a default (see docs/CONFIG.md).\n\n",
    );
    let quoted = |s: &str| written(&toml::Value::String(s.to_string()));
    let _ = write!(
        text,
        "[tables.users]\npath = {}\nid = {}\n\n[tables.items]\npath = {}\nid = {}\n\n[tables.interactions]\npath = {}\nuser = {}\nitem = {}\n",
        quoted(&options.users),
        quoted(&user_id),
        quoted(&options.items),
        quoted(&item_id),
        quoted(&options.interactions),
        quoted(&events.user),
        quoted(&events.item)
    );
    match &events.time {
        Some(TimeSettings { timestamp: Some(column), format, unit, .. }) => {
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
    text.push_str(
        "\n# How positives are held out: leave_last_out, time, ratio or random.\n[split]\nkind = \"leave_last_out\"\n\
         \n[model]\nkind = \"dssm\"\n# embedding_dim = 16\n# hidden = [256, 128, 64]\n\
         \n[train]\n# epochs = 10\n# batch_size = 1024\n# learning_rate = 0.001\n\
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
    columns: Vec<(ColumnSample, Proposal)>,
}

struct EventColumns {
    user: String,
    item: String,
    time: Option<TimeSettings>,
}

impl Sampled {
    fn read(name: &'static str, path: &str) -> Result<Self, PipelineError> {
        let table = Table::open(name, &TableSpec::new(path))?;
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
        Ok(Self { name, columns: sampled.collect(), table })
    }

    /// The column that looks like the table's id.
    fn id(&self, guesses: &mut Vec<Guess>) -> Result<String, PipelineError> {
        let distinct = |s: &ColumnSample| s.missing == 0 && s.values.len() as u64 == s.rows;
        let fits = |s: &ColumnSample| IdKind::of(&s.data_type).is_some();
        let usable = || self.columns.iter().filter(|(s, _)| fits(s));
        let found = usable().find(|(_, p)| p.role == Role::Id).or_else(|| usable().find(|(s, _)| distinct(s)));
        let unfit = self.columns.iter().find(|(s, p)| !fits(s) && (p.role == Role::Id || distinct(s)));
        match found {
            Some((sample, proposal)) => {
                guesses.push(Guess {
                    about: format!("{}.{}", self.name, sample.name),
                    reason: format!("id: {}", proposal.reason),
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
                "{}: no column has a distinct value in every row, so none can be the id; columns: {}",
                self.name,
                self.columns.iter().map(|(s, _)| s.name.as_str()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Which columns name user, item and time: by the ids' own names first, else by shared values.
    fn event_columns(
        &self,
        users: &Sampled,
        user_id: &str,
        items: &Sampled,
        item_id: &str,
        guesses: &mut Vec<Guess>,
    ) -> Result<EventColumns, PipelineError> {
        let mut find = |entity: &Sampled, id: &str, taken: &[&str]| -> Result<String, PipelineError> {
            let known: BTreeSet<&String> =
                entity.columns.iter().filter(|(s, _)| s.name == id).flat_map(|(s, _)| s.values.keys()).collect();
            let shared = |s: &ColumnSample| s.values.keys().filter(|v| known.contains(v)).count();
            let usable = |s: &ColumnSample| IdKind::of(&s.data_type).is_some() && !taken.contains(&s.name.as_str());
            let free = || self.columns.iter().map(|(s, _)| s).filter(|s| usable(s));
            let by_name = free().find(|s| s.name == id);
            let best = by_name.or_else(|| free().max_by_key(|s| shared(s)).filter(|s| shared(s) > 0));
            let best = best.ok_or_else(|| {
                PipelineError::Data(format!("interactions: no column shares values with `{id}` of {}", entity.name))
            })?;
            let why = if best.name == id { "same name as" } else { "shares values with" };
            guesses.push(Guess {
                about: format!("interactions.{}", best.name),
                reason: format!("{why} `{id}` of {}", entity.name),
            });
            Ok(best.name.clone())
        };
        let user = find(users, user_id, &[])?;
        let item = find(items, item_id, &[&user])?;
        let free = self.columns.iter().map(|(s, _)| &s.name).filter(|name| **name != user && **name != item);
        let mut time = None;
        for name in free {
            time = guess(&self.table, name)?.map(|guessed| (name, guessed));
            if time.is_some() {
                break;
            }
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
        Ok(EventColumns { user, item, time: time.map(|(_, (settings, _))| settings) })
    }
}

fn features(text: &mut String, side: Side, table: &Sampled, id: &str, guesses: &mut Vec<Guess>) {
    let mut any = false;
    for (sample, proposal) in table.columns.iter().filter(|(s, _)| s.name != id) {
        guesses.push(Guess { about: format!("{}.{}", table.name, sample.name), reason: proposal.reason.clone() });
        match &proposal.role {
            Role::Feature(spec) => {
                any = true;
                let reason = escape_line(&proposal.reason);
                let _ = write!(text, "\n# {reason}\n[[features.{side}]]\n{}", settings(spec));
            }
            _ => {
                let (name, reason) = (escape_line(&sample.name), escape_line(&proposal.reason));
                let _ = write!(text, "\n# \"{name}\" left out: {reason}\n");
            }
        }
    }
    if side == Side::Item || !any {
        let taken = |name: &String| table.columns.iter().any(|(s, _)| s.name == *name);
        let mut name = side.to_string();
        while taken(&name) {
            name.push_str("_id");
        }
        let _ = write!(
            text,
            "\n# the {side}'s own id as a feature; new ids take the unknown slot\n[[features.{side}]]\nkind = \"id\"\nname = \"{name}\"\n"
        );
    }
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
