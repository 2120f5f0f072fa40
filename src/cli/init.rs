//! `twotower init`.

use clap::Args;
use std::path::PathBuf;
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::init::{InitOptions, KnownColumns, KnownReading, TableReading, init};
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
    /// File, folder or glob of users.
    #[arg(long, value_name = "PATH")]
    users: String,
    /// File, folder or glob of items.
    #[arg(long, value_name = "PATH")]
    items: String,
    /// File, folder or glob of interactions.
    #[arg(long, value_name = "PATH")]
    interactions: String,
    /// Separator of fields of those tables that are delimited text, if their first line does not tell.
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<String>,
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

/// Runs the subcommand.
pub fn run(opts: Opts) -> anyhow::Result<()> {
    // The job resolves paths against its own folder, so one written elsewhere needs whole paths.
    let elsewhere = opts.output.as_ref().and_then(|o| o.parent()).is_some_and(|p| !p.as_os_str().is_empty());
    let path = |typed: String| match std::path::absolute(&typed) {
        Ok(whole) if elsewhere => whole.to_string_lossy().into_owned(),
        _ => typed,
    };
    let encoding = opts.encoding.as_deref().map(twotower_tables::Encoding::of_name).transpose();
    let Opts { user_id, item_id, event_user, event_item, timestamp, delimiter, .. } = opts;
    let options = InitOptions {
        users: path(opts.users),
        items: path(opts.items),
        interactions: path(opts.interactions),
        delimiter: delimiter.map(|text| if text == "\\t" { "\t".to_string() } else { text }),
        encoding: encoding.map_err(|reason| PipelineError::usage(format!("--encoding: {reason}")))?,
        columns: KnownColumns { user_id, item_id, event_user, event_item, timestamp },
        reading: KnownReading {
            users: TableReading { format: opts.users_format, columns: opts.users_columns },
            items: TableReading { format: opts.items_format, columns: opts.items_columns },
            interactions: TableReading { format: opts.interactions_format, columns: opts.interactions_columns },
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
        Some(path) if path.exists() => {
            return Err(PipelineError::usage(format!(
                "{} exists already; remove it or write to another file",
                path.display()
            ))
            .into());
        }
        Some(path) => {
            twotower_artifacts::publish::publish_bytes(&path, text.as_bytes()).map_err(PipelineError::from)?;
            tell(&format!("wrote {}", path.display()));
        }
    }
    Ok(())
}
