//! Which names objects of a run may have, and where what is known of them stands.

use super::STORED;

/// Whether a path has a part that begins with a dot: locks, temporary files, and what the mirror keeps for itself.
pub fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.'))
}

/// Whether a path can be one of a file in a folder. Objects of other names are no stage's.
pub fn is_plain(name: &str) -> bool {
    name.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0') && part.len() <= 200)
}

/// Where the hash of an object stands: in the folder of its run.
pub fn stored(name: &str) -> String {
    match name.split_once('/') {
        Some((run, rest)) => format!("{run}/{STORED}/{rest}"),
        None => format!("{STORED}/{name}"),
    }
}

/// The run that the object `latest` names, if it names one.
pub fn run_named(bytes: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(bytes).ok()?.trim();
    (is_plain(name) && !name.contains('/') && !is_hidden(name)).then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_an_object_leads_out_of_the_working_copy_and_latest_names_a_run_beside_it() {
        for name in ["../x", "a/../b", "a//b", "/a", "", "a/./b", "a/"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(
            is_plain("run/recall/part-00000-of-00001.parquet") && is_hidden("run/.stored/a") && !is_hidden("a.b/c")
        );
        assert_eq!(stored("run/recall/a"), "run/.stored/recall/a");
        assert_eq!(run_named(b"2026-12-01\n").as_deref(), Some("2026-12-01"));
        for text in [&b"\n"[..], b"a/b", b"..", b".hidden", b"\xff"] {
            assert_eq!(run_named(text), None);
        }
    }
}
