//! The local time zone: whether it jumps, and a timer at night with it.

use super::Finding;
use std::path::{Path, PathBuf};

/// The rule of a zone, as POSIX writes it: `UTC0`, `CET-1CEST,M3.5.0,M10.5.0/3`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule(String);

impl Rule {
    /// Whether there is a summer time: something follows the standard time's name and offset.
    fn jumps(&self) -> bool {
        let name = match self.0.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
            Some((_, rest)) => rest,
            None => self.0.trim_start_matches(|c: char| c.is_ascii_alphabetic()),
        };
        !name.trim_start_matches(|c: char| c.is_ascii_digit() || "+-:".contains(c)).is_empty()
    }
}

/// Whether the local zone jumps twice a year.
pub fn zone() -> Finding {
    const CHECK: &str = "time zone";
    let given = std::env::var("TZ").ok();
    match rule(given.as_deref(), Path::new("/etc/localtime"), Path::new("/usr/share/zoneinfo")) {
        Ok((from, rule)) if rule.jumps() => Finding::warning(
            CHECK,
            format!("{from} ({}) has summer time: between 2 and 3 a.m. an hour is missing or stands twice", rule.0),
            "let the timer and the names of run folders follow UTC: TZ=UTC, as deploy/nightly.sh does",
        ),
        Ok((from, rule)) => Finding::ok(CHECK, format!("{from} ({}), which does not jump", rule.0)),
        Err(found) => Finding::warning(CHECK, found, "set TZ=UTC, or install the zone files (tzdata)"),
    }
}

/// The rule of `TZ`, or else of the machine's zone, and where it stands; or why there is none.
fn rule(given: Option<&str>, machine: &Path, zones: &Path) -> Result<(String, Rule), String> {
    let utc = |from: &str| Ok((from.to_string(), Rule("UTC0".into())));
    let Some(name) = given.map(|name| name.strip_prefix(':').unwrap_or(name)) else {
        return match std::fs::read(machine) {
            Ok(content) => {
                let path: PathBuf = machine.canonicalize().unwrap_or_else(|_| machine.to_path_buf());
                Ok((path.display().to_string(), footer(&content).ok_or_else(|| unreadable(&path))?))
            }
            Err(_) => utc("no zone is set, so UTC"),
        };
    };
    if name.is_empty() {
        return utc("TZ is empty, so UTC");
    }
    let path = zones.join(name);
    match std::fs::read(&path) {
        Ok(content) => Ok((format!("TZ={name}"), footer(&content).ok_or_else(|| unreadable(&path))?)),
        // Not the name of a zone, but a rule: it has an offset.
        Err(_) if name.contains(|c: char| c.is_ascii_digit()) => Ok((format!("TZ={name}"), Rule(name.to_string()))),
        Err(_) if name == "UTC" => utc("TZ=UTC"),
        Err(error) => Err(format!("TZ={name}: {}: {error}; the C library takes UTC then", path.display())),
    }
}

fn unreadable(path: &Path) -> String {
    format!("{} is no zone file of version 2 or newer", path.display())
}

/// The rule at the end of a TZif file (RFC 9636): text between two line ends.
fn footer(content: &[u8]) -> Option<Rule> {
    let body = content.strip_prefix(b"TZif")?.strip_suffix(b"\n")?;
    let start = body.iter().rposition(|byte| *byte == b'\n')? + 1;
    let text = std::str::from_utf8(&body[start..]).ok()?;
    (!text.is_empty()).then(|| Rule(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_with_a_summer_time_jump() {
        let jumps = |rule: &str| Rule(rule.to_string()).jumps();
        for rule in ["CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT", "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1", "IST-1GMT0,M10.5.0"] {
            assert!(jumps(rule), "{rule}");
        }
        for rule in ["UTC0", "CST-8", "<+0530>-5:30", "<-03>3"] {
            assert!(!jumps(rule), "{rule}");
        }
    }

    #[test]
    fn a_zone_is_found_by_name_by_rule_and_in_the_machines_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("Europe")).unwrap();
        let file = dir.path().join("Europe/Zurich");
        std::fs::write(&file, b"TZif2\0\0binary\nTZif2\0\0\nCET-1CEST,M3.5.0,M10.5.0/3\n").unwrap();
        let absent = dir.path().join("absent");
        let of = |given: Option<&str>, machine: &Path| rule(given, machine, dir.path()).map(|(_, rule)| rule.0);
        assert_eq!(of(Some("Europe/Zurich"), &absent).unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(of(Some(":Europe/Zurich"), &absent).unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(of(None, &file).unwrap(), "CET-1CEST,M3.5.0,M10.5.0/3");
        assert_eq!(of(None, &absent).unwrap(), "UTC0");
        assert_eq!(of(Some(""), &file).unwrap(), "UTC0");
        assert_eq!(of(Some("UTC"), &file).unwrap(), "UTC0");
        assert_eq!(of(Some("EST5EDT"), &file).unwrap(), "EST5EDT");
        assert!(of(Some("Mars/Phobos"), &file).unwrap_err().contains("Mars/Phobos"));
        std::fs::write(&file, b"TZif\0").unwrap();
        assert!(of(None, &file).unwrap_err().contains("no zone file"));
    }
}
