//! Takes secrets out of text that people may read.

use std::borrow::Cow;

/// Variables whose values must never be shown.
const SECRETS: [&str; 12] = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_TOKEN",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
];
/// Parameters of a query that sign a request.
const PARAMETERS: [&str; 8] = [
    "sig=",
    "X-Amz-Signature=",
    "X-Amz-Credential=",
    "X-Amz-Security-Token=",
    "X-Goog-Signature=",
    "X-Goog-Credential=",
    "AWSAccessKeyId=",
    "Signature=",
];
/// What stands in the place of a secret.
const HIDDEN: &str = "…";
/// Shorter values are no secrets, but would make holes everywhere.
const SHORTEST: usize = 6;

/// The text without secrets: values of the environment, signatures of URLs.
pub fn redact(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    for name in SECRETS {
        if let Ok(value) = std::env::var(name)
            && value.len() >= SHORTEST
            && text.contains(&value)
        {
            text = text.replace(&value, HIDDEN).into();
        }
    }
    for parameter in PARAMETERS {
        text = without(text, parameter);
    }
    text.into_owned()
}

/// The text with the values of a parameter hidden.
fn without<'t>(text: Cow<'t, str>, parameter: &str) -> Cow<'t, str> {
    if !text.contains(parameter) {
        return text;
    }
    let mut parts = text.split(parameter);
    let mut clean = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(|c: char| c == '&' || c == '<' || c == '"' || c == ')' || c.is_whitespace());
        clean.push_str(parameter);
        clean.push_str(HIDDEN);
        clean.push_str(&part[end.unwrap_or(part.len())..]);
    }
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_hidden_and_the_rest_stays() {
        let text = "GET https://a.blob.core.windows.net/c/k?sv=1&sig=abc%2Bd&se=2 failed (X-Amz-Signature=ff00)";
        let expected = "GET https://a.blob.core.windows.net/c/k?sv=1&sig=…&se=2 failed (X-Amz-Signature=…)";
        assert_eq!(redact(text), expected);
        assert_eq!(redact("nothing to hide"), "nothing to hide");
    }
}
