//! Writing to a terminal or a log: text cannot steer the terminal, and a write that fails does no harm.
//!
//! Names of columns, ids, values and paths come from data. Printed as they are, they could move the cursor, change
//! colours, set the window's title, turn the direction of writing, or begin a line that looks like one of ours. So
//! whatever is printed for people goes through [`escape`], here and nowhere else.
//!
//! A log whose file system is full, or whose reader has gone, must not end the night: what cannot be written is
//! counted, and [`lost`] says how much that was.

use crate::run::mirror;
use crate::watch::limits;
use crate::watch::progress::without_bars;
use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes to the log that failed.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Text in which characters that steer a terminal, or hide, are written as escapes such as `\n` and `\u{1b}`.
///
/// A line break stays where a space follows it: such a line is indented, which tells it from a line of its own.
pub fn escape(text: &str) -> Cow<'_, str> {
    let ends_line = |rest: &str| rest.starts_with("\n ");
    escape_unless(text, ends_line)
}

/// As [`escape`], for what must stay within one line.
pub fn escape_line(text: &str) -> Cow<'_, str> {
    escape_unless(text, |_| false)
}

fn escape_unless(text: &str, stays: impl Fn(&str) -> bool) -> Cow<'_, str> {
    // People know runs in stores by their URLs.
    let text = match mirror::shown(text) {
        Cow::Borrowed(text) if !text.contains(steers) => return Cow::Borrowed(text),
        text => text,
    };
    let mut escaped = String::with_capacity(text.len() + 16);
    for (at, c) in text.char_indices() {
        match steers(c) && !stays(&text[at..]) {
            true => escaped.extend(c.escape_default()),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// JSON in which the same characters are written as `\u009b`: the same value, and safe to look at.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    let json = mirror::shown(json);
    // Those below a space are escaped by whoever writes JSON, but for line breaks between values.
    let hidden = |c: char| c > ' ' && steers(c);
    if !json.contains(hidden) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match hidden(c) {
            true => escaped.push_str(&format!("\\u{:04x}", c as u32)),
            false => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character does something else than stand there: controls (C0, DEL and C1), line and paragraph
/// separators, marks and overrides of the direction of writing.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Standard error, as the log's lines reach it: writing never fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if without_bars(|| io::stderr().write_all(bytes)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As [`Log`], for lines of JSON.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLog;

impl Write for JsonLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Log.write_all(escape_json(text).as_bytes())?,
            Err(_) => Log.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines of the log that could not be written.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Writes a line to standard error.
pub fn tell(line: &str) {
    let _ = Log.write(format!("{}\n", escape(line)).as_bytes());
}

/// An error's text, and what to do where a limit of the system is its cause.
pub fn error_text(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let advice = limits::advice(&text).map(|advice| format!("\n  {advice}"));
    // What this machine's system says is said of the working copy, and not of the store.
    let copy = mirror::copy_of(&text).filter(|_| text.contains("(os error"));
    let copy =
        copy.map(|cache| format!("\n  the working copies of runs in stores are in {} (--cache)", cache.display()));
    format!("{text}{}{}", advice.unwrap_or_default(), copy.unwrap_or_default())
}

/// Writes an error to standard error, and what to do where a limit of the system is its cause.
pub fn tell_error(error: &impl std::fmt::Display) {
    tell(&format!("error: {}", error_text(error)));
}

/// Lets panics, which are bugs, be reported as everything else is.
pub fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tell(&format!("thread `{}` {panic}", thread.name().unwrap_or("unnamed")).replace('\n', "\n  "));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_other_text_stays() {
        for (text, escaped) in [
            ("\u{1b}[31mred\u{1b}]0;title\u{7}", "\\u{1b}[31mred\\u{1b}]0;title\\u{7}"),
            ("a\r\nerror: all fine", "a\\r\\nerror: all fine"),
            ("\u{9b}2J\u{7f}\u{8}", "\\u{9b}2J\\u{7f}\\u{8}"),
            ("user\u{202e}gpj.exe\u{2066}\u{200f}", "user\\u{202e}gpj.exe\\u{2066}\\u{200f}"),
            ("\u{2028}line", "\\u{2028}line"),
        ] {
            assert_eq!(escape(text), escaped);
            assert_eq!(escape_line(text), escaped);
        }
        for text in ["北京 Zürich été", "emoji 👩‍👩‍👧", "a \\ b", "שלום", "", "a\n  continued"] {
            assert!(matches!(escape(text), Cow::Borrowed(_)) || text.contains('\n'));
            assert_eq!(escape(text), text);
        }
        assert_eq!(escape("ours\n  more\nforged"), "ours\n  more\\nforged");
        assert_eq!(escape_line("one\n  two"), "one\\n  two");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "id": "\u{9b}2J\u{1b}[0m 北京\n\u{202e}", "n": 1 });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escape_json(&text);
        assert!(escaped.chars().all(|c| c == '\n' || !steers(c)), "{escaped}");
        assert!(escaped.contains("北京"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
