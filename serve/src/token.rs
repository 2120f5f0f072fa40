//! The bearer token that requests must have.

use hyper::header::HeaderValue;
use subtle::ConstantTimeEq;
use twotower_pipeline::error::PipelineError;

/// A secret that the requests of a service bear.
pub struct Token(String);

impl Token {
    /// Bytes of a token at the least, so that it cannot be guessed.
    pub const LEAST_BYTES: usize = 16;

    /// A token as it stands in a file or a variable, which `from` names; white space around it does not count.
    ///
    /// # Errors
    /// One that is too short, or that no header can hold.
    pub fn new(text: &str, from: &str) -> Result<Self, PipelineError> {
        let text = text.trim();
        if text.len() < Self::LEAST_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PipelineError::usage(format!(
                "serve: the token in {from} has {} bytes; expected {} or more visible ASCII characters, such as `openssl rand -hex 32` prints",
                text.len(),
                Self::LEAST_BYTES
            )));
        }
        Ok(Self(text.to_string()))
    }

    /// Whether a request's `Authorization` bears it. How long that takes does not depend on where two tokens differ.
    pub(crate) fn is_in(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(value) = authorization.map(HeaderValue::as_bytes) else { return false };
        let Some((scheme, token)) = value.split_at_checked(7) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(token.trim_ascii().ct_eq(self.0.as_bytes()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_passes_and_no_message_holds_it() {
        let secret = "0123456789abcdef";
        let token = Token::new(&format!(" {secret}\n"), "a file").unwrap();
        let passes = |value: &str| token.is_in(Some(&HeaderValue::from_str(value).unwrap()));
        assert!(passes(&format!("Bearer {secret}")) && passes(&format!("bearer  {secret} ")));
        for wrong in ["", "Bearer", "Bearer ", secret, "Basic 0123456789abcdef", "Bearer 0123456789abcdeF"] {
            assert!(!passes(wrong), "{wrong}");
        }
        assert!(!token.is_in(None) && !passes(&format!("Bearer {secret}0")));
        assert!(!format!("{token:?}").contains(secret));
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcdéf0"] {
            let error = Token::new(bad, "TWOTOWER_TOKEN").unwrap_err().to_string();
            assert!(error.contains("TWOTOWER_TOKEN") && (bad.is_empty() || !error.contains(bad)), "{error}");
        }
    }
}
