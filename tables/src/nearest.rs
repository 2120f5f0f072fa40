//! The name most like a mistyped one.

/// The candidate fewest edits away from `name` (letter case aside), if any is near enough to be meant; the first of
/// several.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let limit = (name.chars().count() / 3).max(1);
    let scored = candidates.into_iter().map(|c| (strsim::levenshtein(&name, &c.to_lowercase()), c));
    scored.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_a_stranger_finds_none() {
        let columns = ["user_id", "city", "age"];
        assert_eq!(nearest("userid", columns), Some("user_id"));
        assert_eq!(nearest("City", columns), Some("city"));
        assert_eq!(nearest("timestamp", columns), None);
    }
}
