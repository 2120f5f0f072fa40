//! Settings of the command line, which override those of the job's file.

use crate::error::ConfigError;
use crate::job::Config;
use serde::Deserialize;

/// The value of an override.
pub use toml::Value;

/// A setting given on the command line: a dotted key and a TOML value.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Path of the setting: `train.epochs`.
    pub key: String,
    /// Its value.
    pub value: toml::Value,
    /// What was typed, as messages name it.
    typed: String,
}

impl Override {
    /// An override of a known key, by a flag that is named after it.
    pub fn new(key: &str, value: impl Into<toml::Value>) -> Self {
        let (value, name) = (value.into(), key.rsplit('.').next().unwrap_or(key).replace('_', "-"));
        let name = if key == "index.kind" { "index".to_string() } else { name };
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        Self { key: key.to_string(), typed: format!("--{name} {shown}"), value }
    }

    /// Parses `key=value`; the value is TOML, or else taken as a string.
    ///
    /// # Errors
    /// [`ConfigError::Usage`] without a `=`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let Some((key, value)) = text.split_once('=') else {
            return Err(ConfigError::usage(format!("--set {text}: expected key=value, such as train.epochs=3")));
        };
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
        Ok(Self {
            key: key.trim().to_string(),
            value: parsed.unwrap_or_else(|| toml::Value::String(value.to_string())),
            typed: format!("--set {text}"),
        })
    }

    /// Whether it gives a setting, or a section that the setting is in.
    pub(crate) fn gives(&self, setting: &str) -> bool {
        setting.strip_prefix(&*self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// An error about what was typed.
    pub(crate) fn refuse(&self, why: impl std::fmt::Display) -> ConfigError {
        ConfigError::usage(format!("{}: {why}", self.typed))
    }
}

/// The override with which a job first has this error; none where the file alone has it.
pub(crate) fn blamed<'o>(mut table: toml::Table, overrides: &'o [Override], message: &str) -> Option<&'o Override> {
    let fails = |table: &toml::Table| {
        Config::deserialize(toml::Value::Table(table.clone())).is_err_and(|error| error.message() == message)
    };
    if fails(&table) {
        return None;
    }
    overrides.iter().find(|given| apply(&mut table, given).is_err() || fails(&table))
}

/// Puts an override into a job's table.
///
/// # Errors
/// What stands in the way: a setting where the key has a section.
pub(crate) fn apply(table: &mut toml::Table, change: &Override) -> Result<(), String> {
    let mut keys: Vec<&str> = change.key.split('.').collect();
    let last = keys.pop().unwrap_or_default();
    let mut at = table;
    for key in keys {
        let next = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let kind = next.type_str();
        at = next
            .as_table_mut()
            .ok_or_else(|| format!("setting `{}`: `{key}` is a {kind}, not a section", change.key))?;
    }
    at.insert(last.to_string(), change.value.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::{MINIMAL, load};

    #[test]
    fn overrides_reach_nested_settings_and_are_checked_too() {
        let config = load(MINIMAL, &[Override::parse("recall.topk=7").unwrap()]).unwrap();
        assert_eq!(config.recall.topk, 7);
        assert!(load(MINIMAL, &[Override::new("recall.topk", 0)]).unwrap_err().to_string().contains("recall.topk"));
        assert!(load(MINIMAL, &[Override::new("recall.tpk", 1)]).is_err());
    }

    #[test]
    fn errors_name_the_flag_or_the_line_in_plain_words() {
        let set = |texts: &[&str]| texts.iter().map(|text| Override::parse(text).unwrap()).collect::<Vec<_>>();
        let refused = |text: &str, overrides: &[Override]| load(text, overrides).unwrap_err().to_string();
        for (given, says) in [
            (
                &["recall.topk=3", "train.epochs=many"][..],
                "--set train.epochs=many: expected a whole number, found the text \"many\"",
            ),
            (
                &["train.epochs=0", "recall.topk=3"],
                "--set train.epochs=0: `train.epochs` = 0: expected a whole number from 1",
            ),
            (&["recall.tpk=3"], "--set recall.tpk=3: unknown setting `tpk`"),
            (
                &["tables.users.id.x=3"],
                "--set tables.users.id.x=3: setting `tables.users.id.x`: `id` is a string, not a section",
            ),
            (&["recall.topk=3", "train.loss=mixd"], "--set train.loss=mixd: "),
            (&["train.loss=mixed"], "--set train.loss=mixed: "),
            (&["index.kind=3"], "--set index.kind=3: "),
        ] {
            let said = refused(MINIMAL, &set(given));
            assert!(said.starts_with(says), "{said}");
            for word in ["variant", "usize", "unit", "invalid type", "unknown field"] {
                assert!(!said.contains(word), "{said}");
            }
        }
        let flag = refused(MINIMAL, &[Override::new("train.patience", -1)]);
        assert!(flag.starts_with("--patience -1: `train.patience` = -1"), "{flag}");
        // What is wrong in the file has its line, whatever flags there are.
        let lines = MINIMAL.lines().count();
        for (section, line) in [
            ("[train]\nepochs = 0\n", lines + 2),
            ("[recall]\ntpk = 0\n", lines + 2),
            ("[train]\nepochs = \"x\"", lines + 2),
        ] {
            for overrides in [&[][..], &set(&["recall.format=jsonl"])] {
                let said = refused(&format!("{MINIMAL}{section}"), overrides);
                assert!(said.contains(&format!("line {line}")) && said.contains("pipeline.toml"), "{section}: {said}");
            }
        }
    }
}
