//! `twotower init`.

use clap::Args;
use std::path::{Path, PathBuf};
use twotower_artifacts::Side;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::init::{IdsFrom, InitOptions, KnownColumns, KnownReading, TableReading, init};
use twotower_pipeline::watch::terminal::tell;
use twotower_tables::Format;

/// Options of `init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  twotower init --users users.parquet --items items.csv --interactions orders/ \\
      > pipeline.toml
  twotower init --users u.csv --items i.csv --interactions r.csv \\
      --output pipeline.toml
  twotower init --users u.csv --items i.csv --interactions r.csv \\
      --encoding gbk --delimiter ';' --user-id uid
The guesses and their reasons go to standard error; check them.")]
pub struct Opts {
    /// File, folder or glob of users. Without one, the command that makes it from the interactions is shown.
    #[arg(long, value_name = "PATH")]
    users: Option<String>,
    /// File, folder or glob of items. Without one, as for users.
    #[arg(long, value_name = "PATH")]
    items: Option<String>,
    /// File, folder or glob of interactions.
    #[arg(long, value_name = "PATH")]
    interactions: String,
    /// Separator of fields of those tables that are delimited text and have it in their first line. The others tell
    /// theirs by that line, as all do without this.
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<String>,
    /// Separator of fields of the users' table, whatever the other tables have.
    #[arg(long, value_name = "TEXT")]
    users_delimiter: Option<String>,
    /// The same of the items.
    #[arg(long, value_name = "TEXT")]
    items_delimiter: Option<String>,
    /// The same of the interactions.
    #[arg(long, value_name = "TEXT")]
    interactions_delimiter: Option<String>,
    /// Character encoding of those tables that are text, such as gbk, big5 or utf-16, if their bytes do not tell.
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// Format of the users' table (parquet, csv, tsv, jsonl), if the extension does not tell.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    users_format: Option<Format>,
    /// The same of the items.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    items_format: Option<Format>,
    /// The same of the interactions.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    interactions_format: Option<Format>,
    /// Names of the columns of users, in order, where the first line is data: A,B,…
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    users_columns: Option<Vec<String>>,
    /// The same of the items.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    items_columns: Option<Vec<String>>,
    /// The same of the interactions.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    interactions_columns: Option<Vec<String>>,
    /// The first lines of the other tables name their columns, though they look like data.
    #[arg(long)]
    header: bool,
    /// Column of users that is the id.
    #[arg(long, value_name = "COLUMN")]
    user_id: Option<String>,
    /// Column of items that is the id.
    #[arg(long, value_name = "COLUMN")]
    item_id: Option<String>,
    /// Column of interactions that names the user.
    #[arg(long, value_name = "COLUMN")]
    event_user: Option<String>,
    /// Column of interactions that names the item.
    #[arg(long, value_name = "COLUMN")]
    event_item: Option<String>,
    /// Column of interactions that is the time.
    #[arg(long, value_name = "COLUMN")]
    timestamp: Option<String>,
    /// Write the job to this file, which must not exist yet, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// A format by its name in a job.
fn format(typed: &str) -> Result<Format, String> {
    match typed {
        "parquet" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "tsv" => Ok(Format::Tsv),
        "jsonl" => Ok(Format::Jsonl),
        _ => Err("expected parquet, csv, tsv or jsonl".into()),
    }
}

/// A delimiter as it was typed; a shell has no plain way to type a tab.
fn typed(delimiter: String) -> String {
    if delimiter == "\\t" { "\t".to_string() } else { delimiter }
}

/// Refuses a file that is there or cannot be made, before anything is read for it.
fn require_writable(path: &Path) -> Result<(), PipelineError> {
    let refuse = |why: String| PipelineError::usage(format!("init: --output {}: {why}", path.display()));
    if path.symlink_metadata().is_ok() {
        return Err(refuse("it exists already; remove it, or name another file".into()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    made.and_then(|_| std::fs::remove_file(path)).map_err(|error| match folder.is_dir() {
        false => refuse(format!("there is no folder {}; make it first", folder.display())),
        true => refuse(format!("the file cannot be made: {error}; name one in a folder that you may write to")),
    })
}

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    if let Some(path) = &opts.output {
        require_writable(path)?;
    }
    // The job resolves paths against its own folder, so one written elsewhere needs whole paths.
    let elsewhere = opts.output.as_ref().and_then(|o| o.parent()).is_some_and(|p| !p.as_os_str().is_empty());
    let path = |typed: String| match std::path::absolute(&typed) {
        Ok(whole) if elsewhere => whole.to_string_lossy().into_owned(),
        _ => typed,
    };
    let encoding = opts.encoding.as_deref().map(twotower_tables::Encoding::of_name).transpose();
    let Opts { user_id, item_id, event_user, event_item, timestamp, .. } = opts;
    let columns = KnownColumns { user_id, item_id, event_user, event_item, timestamp };
    let delimiter = opts.delimiter.map(typed);
    let reading =
        |format, delimiter: Option<String>, columns| TableReading { format, delimiter: delimiter.map(typed), columns };
    let interactions = reading(opts.interactions_format, opts.interactions_delimiter, opts.interactions_columns);
    let (users, items) = match (opts.users, opts.items) {
        (Some(users), Some(items)) => (users, items),
        (users, items) => {
            let missing = [(Side::User, users), (Side::Item, items)].into_iter().filter(|(_, given)| given.is_none());
            let missing: Vec<Side> = missing.map(|(side, _)| side).collect();
            let (path, delimiter) = (&opts.interactions, delimiter.as_deref());
            return Err(IdsFrom { path, reading: &interactions, delimiter, columns: &columns }
                .missing(&missing)
                .into());
        }
    };
    let options = InitOptions {
        users: path(users),
        items: path(items),
        interactions: path(opts.interactions),
        delimiter,
        encoding: encoding.map_err(|reason| PipelineError::usage(format!("--encoding: {reason}")))?,
        columns,
        reading: KnownReading {
            users: reading(opts.users_format, opts.users_delimiter, opts.users_columns),
            items: reading(opts.items_format, opts.items_delimiter, opts.items_columns),
            interactions,
            header: opts.header,
        },
    };
    let (text, guesses) = init(&options)?;
    for guess in &guesses {
        tell(&format!("{}: {}", guess.about, guess.reason));
    }
    match opts.output {
        // A job, not words: whoever wrote it has escaped what must be.
        None => super::report::write_out(|out| std::io::Write::write_all(out, text.as_bytes())),
        Some(path) => {
            twotower_artifacts::publish::publish_bytes(&path, text.as_bytes()).map_err(PipelineError::from)?;
            tell(&format!("wrote {}", path.display()));
        }
    }
    Ok(())
}
