//! Patterns, in the syntax of RE2, that fit the texts which the encoders trim and compare with a value.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A character in a pattern.
fn quote(c: char, pattern: &mut String) {
    match c.is_ascii_alphanumeric() {
        true => pattern.push(c),
        false => write!(pattern, "\\x{{{:x}}}", u32::from(c)).unwrap_or_default(),
    }
}

/// The pattern of exactly this text.
pub(super) fn quoted(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    text.chars().for_each(|c| quote(c, &mut pattern));
    pattern
}

/// The most bytes of the values in one pattern. RE2 finds texts slowly by larger ones, and complains of each.
const MOST_BYTES: usize = 12 << 10;

/// For each bit of the codes, patterns of the texts that, trimmed, fit the pattern of a code with this bit.
pub(super) fn trimmed(entries: impl Iterator<Item = (String, u32)>) -> Vec<(u32, String)> {
    let white = white();
    let mut bits = Vec::new();
    let mut finish = |entries: &mut Vec<(String, u32)>| {
        for bit in 0..u32::BITS {
            let fitting: Vec<&str> = entries
                .iter()
                .filter(|(_, code)| (code >> bit) & 1 == 1)
                .map(|(pattern, _)| pattern.as_str())
                .collect();
            if !fitting.is_empty() {
                bits.push((bit, format!("{white}(?:{}){white}", fitting.join("|"))));
            }
        }
        entries.clear();
    };
    let (mut part, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let size = 2 + entry.0.len();
        if bytes + size > MOST_BYTES {
            finish(&mut part);
            bytes = 0;
        }
        bytes += size;
        part.push(entry);
    }
    finish(&mut part);
    bits
}

/// Any number of the characters that trimming takes off.
fn white() -> String {
    let mut class = "[".to_string();
    ('\0'..=char::MAX).filter(|c| c.is_whitespace()).for_each(|c| quote(c, &mut class));
    class + "]*"
}

/// Which characters become which when they are brought to lower case one by one.
pub(super) struct Folds {
    /// By the character that they become.
    single: BTreeMap<char, Vec<char>>,
    /// By the first of the two characters that they become.
    double: BTreeMap<char, Vec<(char, char)>>,
}

impl Folds {
    pub(super) fn new() -> Self {
        let (mut single, mut double) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for c in '\0'..=char::MAX {
            let mut lower = c.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(a), None) => single.entry(a).or_default().push(c),
                (Some(a), Some(b)) => double.entry(a).or_default().push((b, c)),
                (None, _) => {}
            }
        }
        Self { single, double }
    }

    /// A pattern of the texts that are `folded` in lower case; none if there are none.
    pub(super) fn pattern(&self, folded: &str) -> Option<String> {
        let mut pattern = String::new();
        let mut rest = folded.chars().peekable();
        while let Some(c) = rest.next() {
            let mut one = "[".to_string();
            self.single.get(&c)?.iter().for_each(|c| quote(*c, &mut one));
            one.push(']');
            let next = rest.peek().copied();
            let pairs = self.double.get(&c).into_iter().flatten().filter(|(b, _)| Some(*b) == next);
            let whole: Vec<char> = pairs.map(|(_, whole)| *whole).collect();
            if whole.is_empty() {
                pattern.push_str(&one);
                continue;
            }
            // Either the two characters, or one that becomes both.
            pattern.push_str("(?:[");
            whole.iter().for_each(|c| quote(*c, &mut pattern));
            write!(pattern, "]|{one}[").ok()?;
            self.single.get(&rest.next()?)?.iter().for_each(|c| quote(*c, &mut pattern));
            pattern.push_str("])");
        }
        Some(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_quote_all_but_letters_and_digits_and_take_every_case() {
        assert_eq!(quoted("a.|是\0"), "a\\x{2e}\\x{7c}\\x{662f}\\x{0}");
        let folds = Folds::new();
        assert_eq!(folds.pattern("1"), Some("[1]".into()));
        // The Kelvin sign is a k in lower case, and a dotted capital I two characters.
        assert_eq!(folds.pattern("k"), Some("[Kk\\x{212a}]".into()));
        assert_eq!(folds.pattern("i\u{307}x"), Some("(?:[\\x{130}]|[Ii][\\x{307}])[Xx]".into()));
        assert_eq!(folds.pattern("K"), None);
    }

    #[test]
    fn a_code_is_told_by_the_bits_whose_patterns_fit() {
        let bits = trimmed([("a".to_string(), 4), ("b".to_string(), 5)].into_iter());
        let inner: Vec<(u32, &str)> = bits.iter().map(|(bit, p)| (*bit, &p[p.find("(?:").unwrap_or(0)..])).collect();
        assert_eq!(inner.len(), 2);
        assert!(inner[0].0 == 0 && inner[0].1.starts_with("(?:b)["), "{inner:?}");
        assert!(inner[1].0 == 2 && inner[1].1.starts_with("(?:a|b)["), "{inner:?}");
        assert!(white().starts_with("[\\x{9}\\x{a}") && white().contains("\\x{3000}"));
        // Many values are parted, so that no pattern is large, and none is lost.
        let many = trimmed((0..5000u32).map(|value| (format!("v{value}"), 4 + value)));
        assert!(many.iter().all(|(_, pattern)| pattern.len() < MOST_BYTES + 1000));
        let of_bit_2 = many.iter().filter(|(bit, _)| *bit == 2).map(|(_, pattern)| pattern.matches('v').count());
        assert_eq!(of_bit_2.sum::<usize>(), 2500);
    }
}
