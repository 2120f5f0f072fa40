//! `twotower profile`.

use super::job::LimitOpts;
use super::report::{say_json, say_lines, table, utc};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::path::PathBuf;
use twotower_artifacts::TickUnit;
use twotower_pipeline::config::{Config, Override};
use twotower_pipeline::error::PipelineError;
use twotower_pipeline::profile::types::{
    Drift, FeatureDrift, InteractionsProfile, Numbers, Participants, Profile, Segments, TableProfile, Times, Unusable,
    Values, share,
};
use twotower_pipeline::profile::{FILE, Settings, TOP, profile, write_profile};
use twotower_pipeline::run::dir::RunDir;
use twotower_pipeline::run::mirror;
use twotower_pipeline::watch::progress::Progress;
use twotower_pipeline::watch::terminal::{escape_line, tell};

/// Options of `profile`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  # what the tables hold
  twotower profile --config pipeline.toml
  # and which values that run does not know
  twotower profile --run runs/2026-01-31
  # users and events of each city; writes profile.json
  twotower profile --segment city --output profiles/monday
  # what has changed since, the worst first
  twotower profile --against profiles/monday/profile.json
Tables are read once, and what the features use of them is copied to temporary
files (TMPDIR, or the folder of --output). No setting of the run changes: the
exit code is 0 whatever is found; limits are the gates' affair.")]
pub struct Opts {
    /// The job's file.
    #[arg(long, short, default_value = "pipeline.toml", env = "TWOTOWER_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// A run whose vocabularies say which values are unknown.
    #[arg(long, short, env = "TWOTOWER_RUN", value_name = "DIR")]
    run: Option<PathBuf>,
    /// Override a setting of the job's file, such as tables.users.path="today.parquet" (TOML value; may repeat).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Count users and events for each value of this user feature (categorical, boolean or hashed).
    #[arg(long, value_name = "FEATURE")]
    segment: Option<String>,
    /// Compare with an earlier profile.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write profile.json to this folder.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Values of each feature, and segments, that the report shows; the file has up to a hundred values.
    #[arg(long, default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(0..=TOP as u64))]
    top: usize,
    #[command(flatten)]
    limits: LimitOpts,
    /// Print the profile as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(opts: Opts, quiet: bool) -> anyhow::Result<()> {
    let overrides = opts.set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>();
    let overrides: Vec<Override> = overrides.map_err(PipelineError::from)?;
    let config = Config::load(&opts.config, &overrides).map_err(PipelineError::from)?;
    mirror::configure(|options| options.stores = Some(config.stores().clone()));
    let encoders = opts
        .run
        .as_deref()
        .map(|run| Ok::<_, PipelineError>(RunDir::existing("profile", run)?.encoders()))
        .transpose()?;
    if let Some(folder) = &opts.output {
        let file = folder.join(FILE);
        if let Some(table) = config.tables().find(|table| table.covers(&file)) {
            let message = format!("--output {}: the table {} is read from there", folder.display(), table.pattern());
            return Err(PipelineError::usage(format!("{message}; name another folder")).into());
        }
        twotower_artifacts::publish::create_folder(folder).map_err(PipelineError::from)?;
    }
    let settings = Settings {
        config,
        encoders,
        segment: opts.segment,
        against: opts.against,
        scratch: opts.output.clone().unwrap_or_else(std::env::temp_dir),
        memory: opts.limits.memory()?,
        progress: if quiet { Progress::Quiet } else { Progress::Shown },
        cancel: opts.limits.cancel()?,
    };
    let found = profile(&settings)?;
    let written = opts.output.as_deref().map(|folder| folder.join(FILE));
    if let Some(path) = &written {
        write_profile(path, &found)?;
    }
    if opts.json {
        say_json(&serde_json::to_value(&found)?);
    } else {
        print(&found, opts.top);
    }
    if let Some(path) = written.filter(|_| !quiet) {
        tell(&format!("wrote {}", path.display()));
    }
    Ok(())
}

fn print(profile: &Profile, top: usize) {
    print_table("users", &profile.users, top);
    print_table("items", &profile.items, top);
    print_interactions(&profile.interactions);
    profile.segments.iter().for_each(|segments| print_segments(segments, top));
    profile.drift.iter().for_each(print_drift);
}

fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// A number in few digits.
fn number(x: f64) -> String {
    match x.abs() {
        _ if x.fract() == 0.0 && x.abs() < 1e15 => format!("{x}"),
        size if (1e-3..1e9).contains(&size) => {
            let text = format!("{x:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => format!("{x:.3e}"),
    }
}

fn or_dash<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or("-".into(), text)
}

fn print_unusable(unusable: &Unusable) {
    if let Some(first) = &unusable.first {
        say!("  rows that cannot be used: {}; the first is {first}", unusable.rows);
    }
}

fn print_table(name: &str, profile: &TableProfile, top: usize) {
    say!("{name}: {} rows, {} distinct ids", profile.rows, profile.ids);
    print_unusable(&profile.unusable);
    let rows: Vec<Vec<String>> = profile
        .features
        .iter()
        .map(|feature| {
            let values = feature.values.as_ref();
            let distinct = values.map(|v| v.distinct).or(feature.numbers.as_ref().map(|n| n.distinct));
            vec![
                feature.name.clone(),
                feature.kind.clone(),
                percent(feature.missing_share()),
                or_dash(distinct, |n| n.to_string()),
                or_dash(feature.unknown_share(), percent),
            ]
        })
        .collect();
    let header = ["feature", "kind", "missing", "distinct", "unknown"];
    say_lines(table(&header, &rows).into_iter().map(|line| format!("  {line}")).collect());
    let listed = profile.features.iter().filter_map(|feature| Some((&feature.name, feature.values.as_ref()?)));
    for (name, values) in listed.filter(|(_, values)| top > 0 && !values.top.is_empty()) {
        say!("  {}: {}", escape_line(name), escape_line(&top_values(values, top)));
    }
    let numbers = profile.features.iter().flat_map(|feature| {
        let lengths = feature.lengths.iter().map(|n| (format!("{} (values a row)", feature.name), n));
        feature.numbers.iter().map(|n| (feature.name.clone(), n)).chain(lengths).collect::<Vec<_>>()
    });
    print_numbers("numbers", numbers.collect());
    say!("");
}

fn top_values(values: &Values, top: usize) -> String {
    let shown = values.top.iter().take(top).map(|top| {
        let text: String = top.value.chars().take(24).collect();
        let cut = if text.len() < top.value.len() { "…" } else { "" };
        format!("{text}{cut} {}", percent(share(top.count, values.count)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Percentiles that the report shows.
const SHOWN: [usize; 7] = [1, 5, 25, 50, 75, 95, 99];

fn print_numbers(title: &str, all: Vec<(String, &Numbers)>) {
    if all.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(name, numbers)| {
            let at = |percent: usize| numbers.percentiles.get(percent).copied().unwrap_or(f64::NAN);
            let ends = [numbers.mean, numbers.min].into_iter();
            let figures = ends.chain(SHOWN.map(at)).chain([numbers.max]);
            std::iter::once(name.clone()).chain(figures.map(number)).collect()
        })
        .collect();
    let shown = SHOWN.map(|percent| format!("{percent}%"));
    let mut header = vec![title, "mean", "min"];
    header.extend(shown.iter().map(String::as_str));
    header.push("max");
    say_lines(table(&header, &rows).into_iter().map(|line| format!("  {line}")).collect());
    for (name, numbers) in all.iter().filter(|(_, numbers)| numbers.every > 1) {
        say!("  {name}: percentiles of every {}th row", numbers.every);
    }
}

fn print_interactions(profile: &InteractionsProfile) {
    say!("interactions: {} rows{}", profile.rows, profile.times.as_ref().map_or(String::new(), times));
    print_unusable(&profile.unusable);
    let of = |name: &str, side: &Participants| {
        let strays = share(side.stray_events, profile.rows - profile.unusable.rows);
        vec![
            name.to_string(),
            side.named.to_string(),
            side.known.to_string(),
            percent(share(side.known, side.of_table)),
            side.stray_events.to_string(),
            percent(strays),
        ]
    };
    let rows = [of("users", &profile.users), of("items", &profile.items)];
    let header = ["named", "distinct", "in their table", "of the table", "events of others", "of events"];
    say_lines(table(&header, &rows).into_iter().map(|line| format!("  {line}")).collect());
    let each = [("of each user", &profile.users), ("of each item", &profile.items)];
    let each = each.into_iter().filter_map(|(name, side)| Some((name.to_string(), side.events.as_ref()?)));
    print_numbers("events", each.collect());
    say!("");
}

fn times(times: &Times) -> String {
    let Times { first, last, unit } = times;
    let known = unit.as_deref().and_then(|name| TickUnit::ALL.into_iter().find(|unit| unit.plural() == name));
    let shown = |at: i64| {
        let seconds = known.map(|unit| at.div_euclid(unit.per_second()));
        seconds.and_then(|s| u64::try_from(s).ok()).map_or_else(|| at.to_string(), |s| format!("{} UTC", utc(s)))
    };
    format!(", from {} to {}", shown(*first), shown(*last))
}

fn print_segments(segments: &Segments, top: usize) {
    say!("users by {}", segments.feature);
    let users: u64 = segments.segments.iter().map(|s| s.users).sum();
    let rows: Vec<Vec<String>> = segments
        .segments
        .iter()
        .take(top)
        .map(|segment| {
            let each = &segment.events_each;
            let mut row = vec![
                segment.value.clone().unwrap_or_else(|| "(missing)".into()),
                segment.users.to_string(),
                percent(share(segment.users, users)),
                percent(share(segment.active, segment.users)),
                segment.events.to_string(),
            ];
            row.extend([each.mean].into_iter().chain([5, 50, 95].map(|p| each.percentiles[p])).map(number));
            row
        })
        .collect();
    let header = ["segment", "users", "of users", "with events", "events", "events each", "5%", "50%", "95%"];
    say_lines(table(&header, &rows).into_iter().map(|line| format!("  {line}")).collect());
    if segments.segments.len() > top {
        say!("  … {} more (--top)", segments.segments.len() - top);
    }
    say!("");
}

fn print_drift(drift: &Drift) {
    say!("changes since {}", drift.against);
    let rows: Vec<String> =
        drift.rows.iter().map(|(table, rows)| format!("{table} {} → {}", rows.before, rows.after)).collect();
    say!("  rows: {}", rows.join(", "));
    let rows: Vec<Vec<String>> = drift.features.iter().map(drift_row).collect();
    let header = ["feature", "drift", "missing", "unknown", "distance"];
    say_lines(table(&header, &rows).into_iter().map(|line| format!("  {line}")).collect());
    for (what, names) in [("new", &drift.added), ("gone", &drift.removed)] {
        if !names.is_empty() {
            say!("  {what}: {}", names.join(", "));
        }
    }
}

fn drift_row(drift: &FeatureDrift) -> Vec<String> {
    let distances: Vec<String> =
        drift.distances.iter().map(|d| format!("{:.4} {}", d.distance, d.measure.name())).collect();
    vec![
        format!("{}.{}", drift.table, drift.feature),
        format!("{:.4}", drift.score),
        format!("{} → {}", percent(drift.missing.before), percent(drift.missing.after)),
        or_dash(drift.unknown, |unknown| format!("{} → {}", percent(unknown.before), percent(unknown.after))),
        if distances.is_empty() { "-".into() } else { distances.join(", ") },
    ]
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_shown_in_few_digits() {
        let shown = [3.0, -0.5, 1234.56789, 0.0001234, 1e20, 1e12].map(number);
        assert_eq!(shown, ["3", "-0.5", "1234.568", "1.234e-4", "1.000e20", "1000000000000"]);
    }
}
