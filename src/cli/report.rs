//! How results are printed.

use serde_json::{Value, json};
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use twotower_artifacts::Manifest;
use twotower_pipeline::stages::Outcome;
use twotower_pipeline::watch::terminal::{error_text, escape, escape_json, escape_line, lost, tell, tell_error};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Why standard output could not be written, once that has failed.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);
/// Whether the command has printed the object that is its result.
static ANSWERED: AtomicBool = AtomicBool::new(false);

/// Columns that a line has, at the most, where its words allow it.
pub const COLUMNS: usize = 80;

/// Writes a line to standard output, in which what steers a terminal is escaped. Use `say!`.
pub fn say(line: std::fmt::Arguments<'_>) {
    let line = line.to_string();
    write_out(|out| writeln!(out, "{}", escape(&line)));
}

/// Writes lines to standard output.
pub fn say_lines(lines: Vec<String>) {
    lines.iter().for_each(|line| say(format_args!("{line}")));
}

/// Writes the result of a command to standard output, as JSON on a line.
pub fn say_json(value: &Value) {
    ANSWERED.store(true, Ordering::Relaxed);
    say_json_line(value);
}

/// Writes the error that ended a command to standard output, as JSON on a line, unless its result stands there, which
/// then says what is wrong.
pub fn say_json_error(error: &anyhow::Error, code: u8) {
    if !ANSWERED.load(Ordering::Relaxed) {
        say_json(&error_json(error, code));
    }
}

/// An error as JSON: its text, and the exit code.
pub fn error_json(error: &anyhow::Error, code: u8) -> Value {
    json!({ "error": error_text(error), "exit_code": code })
}

/// Writes the error that ended a command to standard error: as one more line of the log where that is JSON.
pub fn tell_failure(error: &anyhow::Error, code: u8, json_log: bool) {
    if json_log && tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(exit_code = code, "{}", error_text(error));
    } else {
        // Every error's text holds those below it, so the chain is not printed again.
        tell_error(error);
    }
}

/// Writes a value to standard output, as JSON on a line: one of several.
pub fn say_json_line(value: &Value) {
    let line = value.to_string();
    write_out(|out| writeln!(out, "{}", escape_json(&line)));
}

/// Writes to standard output. A write that fails ends nothing, since the work is worth more than its report: it is
/// remembered for [`finish`], and what comes after it is left out.
pub fn write_out(write: impl FnOnce(&mut io::StdoutLock<'static>) -> io::Result<()>) {
    let mut failed = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if failed.is_none() {
        let mut out = io::stdout().lock();
        *failed = write(&mut out).and_then(|()| out.flush()).err();
    }
}

/// The exit code of a command that ended with `code`: 1 where that was 0, but standard output could not be written.
/// A reader that has gone away (`| head`) has seen all that it wanted.
pub fn finish(code: u8) -> u8 {
    match FAILED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let done = if code == 0 { "; what the command had to do is done" } else { "" };
            tell_error(&format!("write to standard output: {error}{done}"));
            code.max(1)
        }
        _ => code,
    }
}

/// Prints what clap has to say, and returns the exit code: help on standard output, errors on standard error.
pub fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        write_out(|_| error.print());
        return ExitCode::from(finish(0));
    }
    // What was typed stands in it, and may be a path that a shell found.
    let text = error.render().to_string();
    for line in text.lines() {
        tell(line);
    }
    ExitCode::from(2)
}

/// The most memory that this process has held since it began, or since this was asked last, in MiB.
pub fn take_peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    // Where the kernel does not let it be reset, the next stage reports the larger of both.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    Some((kib / 1024.0).round())
}

/// One stage's result as a JSON object, with the most memory it held.
pub fn outcome_json(stage: &str, outcome: &Outcome, peak_rss_mib: Option<f64>) -> Value {
    let mut object = json!({
        "stage": stage,
        "shard": outcome.part().map(|shard| shard.to_string()),
        "skipped": outcome.skipped,
        "rows": outcome.manifest.rows,
        "seconds": outcome.manifest.seconds,
        "peak_rss_mib": peak_rss_mib,
        "fingerprint": outcome.manifest.fingerprint,
        "warnings": outcome.manifest.warnings,
        "details": outcome.manifest.details,
    });
    if lost() > 0 {
        object["log_lines_lost"] = lost().into();
    }
    object
}

/// Prints one stage's result on standard output: JSON, or a line of counts and seconds.
pub fn print_outcome(stage: &str, outcome: &Outcome, as_json: bool) {
    if as_json {
        return say_json_line(&outcome_json(stage, outcome, take_peak_rss_mib()));
    }
    let mut how =
        vec![if outcome.skipped { "current, skipped".into() } else { format!("{:.1} s", outcome.manifest.seconds) }];
    how.extend(take_peak_rss_mib().map(|mib| format!("at most {mib} MiB")));
    if lost() > 0 {
        how.push(format!("{} lines of the log could not be written", lost()));
    }
    let stage = outcome.part().map_or(stage.to_string(), |shard| format!("{stage} {shard}"));
    say_lines(stage_lines(&stage, counts(&outcome.manifest), how));
}

/// The counts of a manifest that tell a person something: none that are 0, or that say the same as another. Of a
/// training, the epoch that was kept too.
fn counts(manifest: &Manifest) -> Vec<String> {
    let of = |name: &str| manifest.rows.get(name).copied();
    let all = |name: &str, whole: &str| of(name).is_some() && of(name) == of(whole);
    let told = manifest.rows.iter().filter(|(name, n)| match name.as_str() {
        // The rows of the whole table; those of the part are told.
        "table rows" => false,
        "interactions kept" => !all(name, "interactions"),
        _ => **n > 0,
    });
    let mut told: Vec<String> = told.map(|(name, n)| format!("{n} {name}")).collect();
    let epoch = |at: &str| manifest.details.pointer(at).and_then(Value::as_u64);
    if let (Some(best), Some(last)) = (epoch("/best_epoch"), epoch("/last_epoch/epoch")) {
        told.push(format!("epoch {best} of {last} kept"));
    }
    if told.is_empty() { vec!["nothing".into()] } else { told }
}

/// `stage: counts (how)` in lines of [`COLUMNS`], those after the first indented.
fn stage_lines(stage: &str, counts: Vec<String>, mut how: Vec<String>) -> Vec<String> {
    if let Some(first) = how.first_mut() {
        first.insert(0, '(');
    }
    if let Some(last) = how.last_mut() {
        last.push(')');
    }
    let ends = counts.len();
    let mut lines = vec![format!("{stage}:")];
    for (at, word) in counts.into_iter().chain(how).enumerate() {
        let between = if at == 0 || at == ends { " " } else { ", " };
        match lines.last_mut() {
            // One column stays for the comma after the word.
            Some(line) if at > 0 && line.width() + between.len() + word.width() >= COLUMNS => {
                line.push_str(between.trim_end());
                lines.push(format!("  {word}"));
            }
            Some(line) => {
                line.push_str(between);
                line.push_str(&word);
            }
            None => {}
        }
    }
    lines
}

/// The lines of a table with right-aligned numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    // Escaped before they are measured, and each within its line.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| escape_line(cell).into_owned()).collect()).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|c| rows.iter().map(|r| r[c].width()).chain([header[c].width()]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<&str>| -> String {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, width))| if c == 0 { left(cell, *width) } else { right(cell, *width) })
            .collect();
        cells.join("  ").trim_end().to_string()
    };
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(rows).collect()
}

/// Text filled up with spaces to a number of columns on the screen, of which a Chinese character takes two.
pub fn left(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(text.width())))
}

/// As [`left`], with the spaces before the text.
pub fn right(text: &str, columns: usize) -> String {
    format!("{}{text}", " ".repeat(columns.saturating_sub(text.width())))
}

/// Text cut to a number of columns on the screen, with what steers a terminal escaped.
pub fn clipped(text: &str, columns: usize) -> String {
    let text = escape_line(text);
    if text.width() <= columns {
        return text.into_owned();
    }
    let (mut cut, mut width) = (String::new(), 1);
    for c in text.chars() {
        width += c.width().unwrap_or(0);
        if width > columns {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Words in lines of [`COLUMNS`]: the first begins with `begin`, the others with as many spaces.
pub fn wrapped(begin: &str, text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{}{word}", " ".repeat(begin.width()))),
            None => lines.push(format!("{begin}{word}")),
        }
    }
    lines
}

/// A command, or a part of one, in lines of [`COLUMNS`] that a shell reads as one: a line ends between words alone, by a
/// backslash. A word that is longer takes a line of its own, however long.
pub fn command_lines(words: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            // Two columns stay for the backslash.
            Some(line) if line.width() + 1 + word.width() + 2 <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            Some(line) => {
                line.push_str(" \\");
                lines.push(format!("        {word}"));
            }
            None => lines.push(format!("      {word}")),
        }
    }
    lines
}

/// A word as a shell reads it: in quotes where it has more than letters, digits and marks that mean nothing there.
pub fn for_shell(word: &str) -> String {
    let means_nothing = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    match !word.is_empty() && word.chars().all(means_nothing) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// A time in seconds since 1970 as `2026-01-31 03:12`, in UTC.
pub fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Days from civil, reversed (Howard Hinnant): eras of 400 years that begin on 1 March.
    let from_march = days + 719_468;
    let (era, day_of_era) = (from_march / 146_097, from_march % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month < 3);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_lines_fit_the_screen_and_leave_no_word_out() {
        let words = |n: usize| (0..n).map(|i| format!("{} interactions of kind {i}", 198_788 + i)).collect::<Vec<_>>();
        for n in [1, 2, 3, 4, 9] {
            let how = vec!["1.2 s".to_string(), "at most 210 MiB".into()];
            let lines = stage_lines("encode-features", words(n), how);
            assert!(lines.iter().all(|line| line.width() <= COLUMNS), "{lines:?}");
            assert!(lines[1..].iter().all(|line| line.starts_with("  ")), "{lines:?}");
            let one: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
            assert_eq!(one.join(" "), format!("encode-features: {} (1.2 s, at most 210 MiB)", words(n).join(", ")));
        }
        let one = stage_lines("check", vec!["14 gates passed".into()], vec!["current, skipped".into()]);
        assert_eq!(one, ["check: 14 gates passed (current, skipped)"]);
    }

    #[test]
    fn columns_align_by_what_characters_take_on_the_screen() {
        let rows = [["北京", "1"], ["Zürich", "23"], ["上海市", "456"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(
            table(&["city", "users"], &rows),
            ["city    users", "北京        1", "Zürich     23", "上海市    456",]
        );
        assert_eq!(clipped("上海市", 6), "上海市");
        assert_eq!(clipped("上海市", 5), "上海…");
        assert_eq!(clipped("上海市", 4), "上…");
        assert_eq!(clipped("a\nb\u{1b}", 20), "a\\nb\\u{1b}");
    }

    #[test]
    fn wrapped_words_are_the_same_words() {
        let text = "compare with all items in training: --set train.loss=full_softmax ".repeat(4);
        let lines = wrapped("  - ", &text);
        assert!(lines.len() > 3 && lines.iter().all(|line| line.width() <= COLUMNS), "{lines:?}");
        assert!(lines[1..].iter().all(|line| line.starts_with("    ") && !line.starts_with("     ")), "{lines:?}");
        assert_eq!(lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "), format!("- {}", text.trim()));
    }

    #[test]
    fn commands_are_broken_between_words_and_the_shell_reads_one() {
        let words: Vec<String> =
            ["a=1", "b=[2]", "c={d={e=3}}", "f=\"g h\""].map(|s| format!("--set 'model.setting.{s}'")).to_vec();
        let lines = command_lines(&words);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.width() <= COLUMNS), "{lines:?}");
        assert!(
            lines[0].ends_with(" \\") && words.iter().all(|word| lines.iter().any(|l| l.contains(word))),
            "{lines:?}"
        );
        let script = format!("printf '%s\\n' {}", lines.join("\n"));
        let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let read = String::from_utf8(shell.stdout).unwrap();
        let expected: Vec<String> =
            words.iter().flat_map(|word| word.splitn(2, ' ').map(|part| part.replace('\'', ""))).collect();
        assert_eq!(read.lines().collect::<Vec<_>>(), expected);
        assert_eq!(command_lines(&["x".repeat(200)]), [format!("      {}", "x".repeat(200))]);
    }

    #[test]
    fn a_word_is_what_the_shell_reads() {
        for word in ["runs/2026-01-31", "用户 7", "it's", "$HOME", "a;b", "", "*", "北京"] {
            let script = format!("printf %s {}", for_shell(word));
            let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), word);
        }
        assert_eq!((for_shell("runs/a"), for_shell("北京")), ("runs/a".to_string(), "北京".to_string()));
    }

    #[test]
    fn times_are_told_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_199, "2024-02-29 23:59"),
            (1_767_225_600, "2026-01-01 00:00"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
