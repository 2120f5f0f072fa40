//! The path and the query of a request.

/// A segment of a path or a value of a query, with `%` escapes resolved.
///
/// # Errors
/// What is wrong with it.
pub fn decoded(text: &str, plus_is_space: bool) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err("a `%` without two hexadecimal digits"),
                }
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| "bytes that are no UTF-8")
}

/// The value of `k` in a query, which has no other keys: none where it is not there.
///
/// # Errors
/// What is wrong with the query, as `(where, what)`.
pub fn k_of(query: Option<&str>, most: usize) -> Result<Option<usize>, (String, String)> {
    let mut found = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let read = |text| decoded(text, true).map_err(|problem| ("query".to_string(), problem.to_string()));
        let (key, value) = (read(key)?, read(value)?);
        if key != "k" {
            return Err(("query".into(), "unknown key; there is `k` alone".into()));
        }
        if found.is_some() {
            return Err(("query.k".into(), "it stands there twice".into()));
        }
        let number = value.parse().ok().filter(|k| (1..=most).contains(k));
        found = Some(number.ok_or_else(|| ("query.k".into(), format!("expected a whole number from 1 to {most}")))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_and_what_is_no_text_is_refused() {
        assert_eq!(decoded("a%2Fb%20c+d", false).unwrap(), "a/b c+d");
        assert_eq!(decoded("a+b", true).unwrap(), "a b");
        assert_eq!(decoded("%E4%BA%AC", false).unwrap(), "京");
        for bad in ["%", "%4", "%zz", "%ff", "%E4%BA"] {
            assert!(decoded(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn k_is_a_number_in_range_and_stands_alone() {
        assert_eq!(k_of(None, 9).unwrap(), None);
        assert_eq!(k_of(Some(""), 9).unwrap(), None);
        assert_eq!(k_of(Some("k=9&"), 9).unwrap(), Some(9));
        for bad in
            ["k=0", "k=10", "k=-1", "k=1.5", "k=", "k", "k=1&k=1", "n=1", "k=1&n=2", "k=%", "k=99999999999999999999"]
        {
            assert!(k_of(Some(bad), 9).is_err(), "{bad}");
        }
    }
}
