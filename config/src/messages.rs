//! What is wrong with a job, in the words of its writer: the line of the file or the flag, what was expected and found,
//! and the nearest valid name.

use toml::de::{DeTable, DeValue};

/// The line of a setting, such as `train.epochs`, in the text of a job's file, counted from 1; none for one that does
/// not stand there, or stands in several entries of a list.
pub(crate) fn line_of(text: &str, path: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut keys = path.split('.');
    let (mut at, mut value) = entry(table.get_ref(), keys.next()?)?;
    for key in keys {
        let found = match &value {
            DeValue::Table(table) => entry(table, key),
            DeValue::Array(rows) => {
                let mut having = rows.iter().filter_map(|row| entry(row.get_ref().as_table()?, key));
                having.next().filter(|_| having.next().is_none())
            }
            _ => None,
        };
        (at, value) = found?;
    }
    Some(text[..at].matches('\n').count() + 1)
}

/// Where an entry of a table begins, and its value.
fn entry<'t>(table: &DeTable<'t>, key: &str) -> Option<(usize, DeValue<'t>)> {
    let (name, value) = table.iter().find(|(name, _)| name.get_ref() == key)?;
    Some((name.span().start, value.get_ref().clone()))
}

/// The setting that a message begins with, in backticks.
pub(crate) fn setting_of(message: &str) -> Option<&str> {
    message.strip_prefix('`')?.split_once('`').map(|(setting, _)| setting)
}

/// The reader's message with its own words replaced, and the nearest valid name for an unknown one.
pub(crate) fn explain(message: &str) -> String {
    // A line that belongs to the message is indented, which tells it from a line of its own.
    let lines: Vec<String> = message.trim_end().lines().map(plain).collect();
    let message = lines.join("\n  ");
    let Some(at) = ["unknown field `", "unknown variant `"].iter().find_map(|m| message.find(m).map(|p| p + m.len()))
    else {
        return message;
    };
    let names: Vec<&str> = message[at..].split('`').collect();
    let (found, valid) = (names[0], names.iter().skip(2).step_by(2));
    let nearest = twotower_tables::nearest(found, valid.copied()).map(str::to_string);
    let message =
        message.replace("unknown field `", "unknown setting `").replace("unknown variant `", "unknown name `");
    match nearest {
        Some(name) => format!("{message}\n  did you mean `{name}`?"),
        None => message,
    }
}

/// What is wrong with the text of a job's file.
pub(crate) fn explain_file(text: &str, error: &toml::de::Error) -> String {
    let said = explain(&error.to_string());
    let key = error.span().and_then(|span| text.get(span)).map(|key| key.trim_matches(['[', ']', ' ']));
    match (said.strip_suffix("duplicate key"), key) {
        (Some(place), Some(key)) => format!("{place}`{key}` stands twice; leave one of both, or make it one section"),
        _ => said,
    }
}

/// A line of a message in which values and types are called as people call them.
fn plain(line: &str) -> String {
    if line == "wanted string or table" {
        return "expected a name, or a name with settings such as { mixed = { uniform = 1024 } }".into();
    }
    if line.ends_with(", expected string only") {
        return "expected a name".into();
    }
    let told = line.strip_prefix("invalid type: ").or_else(|| line.strip_prefix("invalid value: "));
    match told.and_then(|told| told.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("expected {}, found {}", expected_in_words(expected), found_in_words(found)),
        None => line.to_string(),
    }
}

fn expected_in_words(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "a section of settings",
        "unit variant" => "a name without settings",
        "newtype variant" | "struct variant" | "tuple variant" => "a name with settings",
        other if other.starts_with("struct ") => "a section of settings",
        other => other,
    }
}

fn found_in_words(found: &str) -> String {
    match found {
        "sequence" => "a list".into(),
        "map" => "a section of settings".into(),
        "unit value" => "nothing".into(),
        "unit variant" => "a name without settings".into(),
        "newtype variant" | "struct variant" | "tuple variant" => "a name with settings".into(),
        other => {
            let number = other.strip_prefix("integer ").or_else(|| other.strip_prefix("floating point "));
            let text = other.strip_prefix("string ").map(|text| format!("the text {text}"));
            let bare = |value: &str| value.trim_matches('`').to_string();
            number.or_else(|| other.strip_prefix("boolean ")).map(bare).or(text).unwrap_or_else(|| other.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_setting_is_found_in_every_form_of_toml() {
        let text = "# a job\n[train]\nepochs = 3\n\nloss = { mixed = {\nuniform = 5 } }\n[[features.user]]\nname = \"a\"\nbuckets = 1\n[[features.user]]\nname = \"b\"\n[index]\nm.x = 1";
        for (path, line) in [
            ("train.epochs", Some(3)),
            ("train.loss.mixed.uniform", Some(6)),
            ("features.user.buckets", Some(9)),
            // Which of both is not known.
            ("features.user.name", None),
            ("index.m.x", Some(13)),
            ("train.patience", None),
            ("recall.topk", None),
        ] {
            assert_eq!(line_of(text, path), line, "{path}");
        }
    }

    #[test]
    fn values_and_types_are_called_as_people_call_them() {
        for (said, plainly) in [
            ("invalid type: string \"three\", expected usize", "expected a whole number, found the text \"three\""),
            ("invalid type: floating point `1.5`, expected u64", "expected a whole number, found 1.5"),
            ("invalid type: sequence, expected a string", "expected a text, found a list"),
            ("invalid type: boolean `true`, expected f32", "expected a number, found true"),
            (
                "invalid type: unit variant, expected struct variant",
                "expected a name with settings, found a name without settings",
            ),
        ] {
            assert_eq!(explain(said), plainly);
        }
        let unknown = "unknown field `tpk`, expected one of `topk`, `format`";
        assert_eq!(explain(unknown), "unknown setting `tpk`, expected one of `topk`, `format`\n  did you mean `topk`?");
    }
}
