//! The body of `POST /v1/recall`.

use crate::answer::Problem;
use hyper::body::HttpBody;
use hyper::{Body, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use twotower_pipeline::results::newcomer::{Newcomer, PastEvent};
use twotower_pipeline::results::served::Wanted;

/// What the body holds. Its keys are those of the service's description.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    user: Option<Value>,
    #[serde(default)]
    features: Map<String, Value>,
    #[serde(default)]
    history: Vec<Value>,
    #[serde(default)]
    exclude: Vec<Value>,
    #[serde(default)]
    exclude_seen: Option<bool>,
    #[serde(default)]
    k: Option<u64>,
}

/// Reads a body of at most so many bytes.
///
/// # Errors
/// 413 for a longer one, 400 for one that ends early.
pub async fn read(mut body: Body, most: usize) -> Result<Vec<u8>, Problem> {
    let too_long = || {
        let message = format!("the body has more than {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "body", message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_long());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| Problem::bad("body", "it ended before its length was reached"))?;
        if bytes.len() + chunk.len() > most {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads a body as JSON. Without `k`, `usual` items are wanted.
///
/// # Errors
/// 400, with the place of what is wrong.
pub fn parse(bytes: &[u8], usual: usize, most: usize) -> Result<(Newcomer, Wanted), Problem> {
    let asked: Asked = serde_json::from_slice(bytes).map_err(|error| {
        let at = format!("body, line {}, column {}", error.line(), error.column());
        let whole = error.to_string();
        let problem = whole.rsplit_once(" at line ").map_or(&*whole, |(problem, _)| problem);
        Problem::bad(at, problem.chars().take(200).collect::<String>())
    })?;
    // A list of values would be taken for them in order.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::bad("body", "expected an object"));
    }
    let k = match asked.k {
        None => usual.min(most),
        Some(k) => usize::try_from(k)
            .ok()
            .filter(|k| (1..=most).contains(k))
            .ok_or_else(|| Problem::bad("k", format!("expected a whole number from 1 to {most}")))?,
    };
    let history = asked.history.into_iter().enumerate().map(|(at, event)| past(event, at)).collect::<Result<_, _>>()?;
    let newcomer = Newcomer { user: asked.user, features: asked.features, history };
    Ok((newcomer, Wanted { k, exclude: asked.exclude, exclude_seen: asked.exclude_seen }))
}

/// An event of the history: the id of an item, or an object with it and a time.
fn past(event: Value, at: usize) -> Result<PastEvent, Problem> {
    let Value::Object(mut event) = event else { return Ok(PastEvent { item: event, time: None }) };
    let place = |key: &str| format!("history[{at}].{key}");
    let item = event.remove("item").ok_or_else(|| Problem::bad(place("item"), "it is missing"))?;
    let time = match event.remove("time") {
        None => None,
        Some(time) => {
            let whole = time.as_i64().ok_or_else(|| Problem::bad(place("time"), "expected a whole number"))?;
            Some(whole)
        }
    };
    match event.is_empty() {
        true => Ok(PastEvent { item, time }),
        false => Err(Problem::bad(format!("history[{at}]"), "unknown key; there are `item` and `time`")),
    }
}
