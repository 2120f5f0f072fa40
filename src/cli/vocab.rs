//! `twotower vocab`.

use super::report::{say_json, say_lines, table};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use twotower_encoders::{EncoderState, Slot, Vocabulary};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::mirror;

/// Options of `vocab`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # all vocabularies
  twotower vocab show run/encoders
  # its most frequent values
  twotower vocab show run/encoders user_city --limit 20
  # value to code; --code 17 for code to value
  twotower vocab lookup run/encoders user_city Berlin
  twotower vocab diff runs/yesterday/encoders runs/today/encoders")]
pub struct Opts {
    #[command(subcommand)]
    command: VocabCommand,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// What to look at.
#[derive(Debug, Subcommand)]
enum VocabCommand {
    /// List vocabularies, or one vocabulary's values.
    Show {
        /// A run's encoder folder.
        dir: PathBuf,
        /// The vocabulary.
        table: Option<String>,
        /// Values shown.
        #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 31))]
        limit: usize,
    },
    /// The code of a value, or the value of a code.
    Lookup {
        /// A run's encoder folder.
        dir: PathBuf,
        /// The vocabulary.
        table: String,
        /// The value.
        #[arg(required_unless_present = "code")]
        value: Option<String>,
        /// A code instead of a value.
        #[arg(long, conflicts_with = "value")]
        code: Option<u32>,
    },
    /// What changed from one encoder state to another.
    Diff {
        /// The first encoder folder.
        before: PathBuf,
        /// The second encoder folder.
        after: PathBuf,
        /// Only this vocabulary.
        #[arg(long)]
        table: Option<String>,
    },
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    match opts.command {
        VocabCommand::Show { dir, table: None, .. } => show_all(&load(&dir)?, opts.json),
        VocabCommand::Show { dir, table: Some(name), limit } => {
            show(vocabulary(&load(&dir)?, &name)?, limit, opts.json)
        }
        VocabCommand::Lookup { dir, table, value, code } => {
            lookup(vocabulary(&load(&dir)?, &table)?, value.as_deref(), code, opts.json)?;
        }
        VocabCommand::Diff { before, after, table } => {
            diff(&load(&before)?, &load(&after)?, table.as_deref(), opts.json)?
        }
    }
    Ok(())
}

fn load(dir: &Path) -> Result<EncoderState, PipelineError> {
    let dir = &mirror::local(dir)?;
    if let (false, Some(run)) = (dir.is_dir(), dir.parent()) {
        // Where the run itself is not there, that is what is wrong.
        RunDir::new(run).require("vocab")?;
        return Err(PipelineError::MissingInput {
            stage: "vocab",
            path: dir.clone(),
            advice: "name the folder `encoders` of a run, which `twotower encode-features` makes".into(),
        });
    }
    Ok(EncoderState::load(dir)?)
}

fn vocabulary<'a>(state: &'a EncoderState, name: &str) -> Result<&'a Vocabulary, PipelineError> {
    state.vocabulary(name).map(AsRef::as_ref).ok_or_else(|| {
        let names: Vec<&str> = state.vocabularies().map(|(name, _)| name).collect();
        PipelineError::usage(format!("no vocabulary `{name}`; there are: {}", names.join(", ")))
    })
}

fn show_all(state: &EncoderState, as_json: bool) {
    if as_json {
        let all: Vec<_> = state
            .vocabularies()
            .map(|(name, v)| json!({ "table": name, "values": v.len(), "cardinality": v.cardinality(), "fingerprint": v.fingerprint() }))
            .collect();
        say_json(&json!({ "fingerprint": state.fingerprint(), "vocabularies": all }));
        return;
    }
    let rows: Vec<Vec<String>> = state
        .vocabularies()
        .map(|(name, v)| {
            vec![name.to_string(), v.len().to_string(), v.cardinality().to_string(), v.fingerprint().to_string()]
        })
        .collect();
    say!("encoder state {}", state.fingerprint());
    say_lines(table(&["vocabulary", "values", "slots", "fingerprint"], &rows));
}

fn show(vocabulary: &Vocabulary, limit: usize, as_json: bool) {
    if as_json {
        let values: Vec<_> = vocabulary
            .iter()
            .take(limit)
            .map(|(code, value, count)| json!({ "code": code, "value": value, "count": count }))
            .collect();
        say_json(&json!({ "fingerprint": vocabulary.fingerprint(), "values": values }));
        return;
    }
    let rows: Vec<Vec<String>> = vocabulary
        .iter()
        .take(limit)
        .map(|(code, value, count)| vec![value.to_string(), code.to_string(), count.to_string()])
        .collect();
    say_lines(table(&["value", "code", "count"], &rows));
    if vocabulary.len() > limit {
        say!("… {} more (--limit)", vocabulary.len() - limit);
    }
}

fn lookup(vocabulary: &Vocabulary, value: Option<&str>, code: Option<u32>, as_json: bool) -> Result<(), PipelineError> {
    let code = code.unwrap_or_else(|| vocabulary.lookup(value.unwrap_or_default()));
    let meaning = match vocabulary.decode(code) {
        Some(Slot::Padding) => "padding".to_string(),
        Some(Slot::Missing) => "missing".to_string(),
        Some(Slot::Unknown) => "unknown".to_string(),
        Some(Slot::Value(value)) => format!("value `{value}`"),
        None => {
            return Err(PipelineError::usage(format!(
                "code {code}: the vocabulary has {} slots, 0 to {}",
                vocabulary.cardinality(),
                vocabulary.cardinality() - 1
            )));
        }
    };
    if as_json {
        say_json(&json!({ "code": code, "meaning": meaning }));
    } else {
        say!("{code}: {meaning}");
    }
    Ok(())
}

fn diff(before: &EncoderState, after: &EncoderState, only: Option<&str>, as_json: bool) -> Result<(), PipelineError> {
    if let Some(name) = only {
        vocabulary(before, name)?;
    }
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    let new = after.vocabularies().filter(|(name, _)| before.vocabulary(name).is_none() && only.is_none());
    for (name, vocabulary) in new {
        rows.push(vec![name.to_string(), vocabulary.len().to_string(), "-".into(), "-".into(), "-".into()]);
        objects.push(json!({ "table": name, "new": true }));
    }
    for (name, old) in before.vocabularies().filter(|(name, _)| only.is_none_or(|o| o == *name)) {
        let Some(new) = after.vocabulary(name) else {
            rows.push(vec![name.to_string(), "-".into(), old.len().to_string(), "-".into(), "-".into()]);
            objects.push(json!({ "table": name, "gone": true }));
            continue;
        };
        let d = old.diff(new);
        rows.push(vec![
            name.to_string(),
            d.added.len().to_string(),
            d.removed.len().to_string(),
            d.moved.len().to_string(),
            d.unchanged.to_string(),
        ]);
        objects.push(json!({ "table": name, "diff": d }));
    }
    if as_json {
        say_json(&json!({ "before": before.fingerprint(), "after": after.fingerprint(), "vocabularies": objects }));
    } else {
        say_lines(table(&["vocabulary", "added", "removed", "moved", "unchanged"], &rows));
    }
    Ok(())
}
