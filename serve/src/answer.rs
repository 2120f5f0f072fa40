//! Answers: JSON, and errors that say what is wrong and where.

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Body, Response, StatusCode};
use serde::Serialize;
use twotower_pipeline::results::newcomer::Refusal;

/// Why a request gets no answer.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// A word for programs.
    code: &'static str,
    /// Where it is.
    at: String,
    /// What it is.
    message: String,
}

#[derive(Serialize)]
struct Told<'a> {
    error: ToldError<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
}

#[derive(Serialize)]
struct ToldError<'a> {
    code: &'a str,
    at: &'a str,
    message: &'a str,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, at: impl Into<String>, message: impl Into<String>) -> Self {
        Self { status, code, at: at.into(), message: message.into() }
    }

    /// A request that makes no sense.
    pub fn bad(at: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", at, message)
    }

    /// More than can be done now.
    pub fn busy(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "server", message)
    }

    /// What a run refused. What is wrong with the run itself is logged, and not told.
    pub fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Request { at, problem } => Self::bad(at, problem),
            Refusal::Run(error) => {
                tracing::error!("serve: {error}");
                let message = "the run could not be read; the log says why";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "server", message)
            }
        }
    }

    /// As a response, which names the run if there is one.
    pub fn response(&self, run: Option<&str>) -> Response<Body> {
        let Self { status, code, at, message } = self;
        let mut response = json(*status, &Told { error: ToldError { code, at, message }, run });
        let (header, value): (HeaderName, _) = match *status {
            StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, "1"),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        response.headers_mut().insert(header, HeaderValue::from_static(value));
        response
    }
}

/// A response of JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // Plain structs with text keys; there is nothing in them that could not be written.
    let text = serde_json::to_vec(value).unwrap_or_default();
    with_type(status, "application/json", text)
}

/// A response of some media type.
pub fn with_type(status: StatusCode, media: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
