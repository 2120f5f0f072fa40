//! Routes, and what every request goes through: token, limits, the pool of threads, counts.

use crate::answer::{Problem, json, with_type};
use crate::follow::{Follower, State};
use crate::metrics::Metrics;
use crate::path::{decoded, k_of};
use crate::{OPENAPI, Options, body};
use hyper::header::{ALLOW, AUTHORIZATION, HeaderValue};
use hyper::{Body, Method, Request, Response, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use twotower_pipeline::results::served::{ServedItem, ServedRun};

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Health,
    Ready,
    Metrics,
    OpenApi,
    UserItems(String),
    Similar(String),
    Recall,
}

/// The service: a run, and limits.
pub struct Service {
    options: Options,
    follower: Follower,
    metrics: Arc<Metrics>,
    /// Requests at work or waiting.
    admitted: Semaphore,
    /// Threads that are free.
    workers: Arc<Semaphore>,
}

#[derive(Serialize)]
struct Items<'a> {
    run: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a str>,
    items: &'a [ServedItem],
    /// Events of the history that did not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    history_passed_over: Option<usize>,
}

#[derive(Serialize)]
struct Ready<'a> {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<&'a str>,
    /// Why it is not the run that `latest` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<&'a str>,
}

impl Route {
    /// The route of a path.
    ///
    /// # Errors
    /// 404 for a path that names none, 400 for one that is no text.
    fn of(path: &str) -> Result<Self, Problem> {
        let id = |segment: &str| {
            let id = decoded(segment, false).map_err(|problem| Problem::bad("path", problem))?;
            if id.is_empty() { Err(Problem::bad("path", "the id is empty")) } else { Ok(id) }
        };
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        match segments[..] {
            ["healthz"] => Ok(Route::Health),
            ["readyz"] => Ok(Route::Ready),
            ["metrics"] => Ok(Route::Metrics),
            ["openapi.json"] => Ok(Route::OpenApi),
            ["v1", "users", user, "items"] => id(user).map(Route::UserItems),
            ["v1", "items", item, "similar"] => id(item).map(Route::Similar),
            ["v1", "recall"] => Ok(Route::Recall),
            _ => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "no_such_path",
                "path",
                "there is no such path; /openapi.json describes those that there are",
            )),
        }
    }

    /// The route as it is counted, without ids.
    fn name(&self) -> &'static str {
        match self {
            Route::Health => "/healthz",
            Route::Ready => "/readyz",
            Route::Metrics => "/metrics",
            Route::OpenApi => "/openapi.json",
            Route::UserItems(_) => "/v1/users/{id}/items",
            Route::Similar(_) => "/v1/items/{id}/similar",
            Route::Recall => "/v1/recall",
        }
    }

    /// The methods it has.
    fn methods(&self) -> &'static str {
        match self {
            Route::Recall => "POST",
            Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::OpenApi
            | Route::UserItems(_)
            | Route::Similar(_) => "GET, HEAD",
        }
    }

    fn has(&self, method: &Method) -> bool {
        match self.methods() {
            "POST" => method == Method::POST,
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    /// Whether who has no token may ask: probes of the machine that the service runs on have none.
    fn is_open(&self) -> bool {
        matches!(self, Route::Health | Route::Ready)
    }
}

impl Service {
    pub fn new(options: Options, follower: Follower, metrics: Arc<Metrics>) -> Self {
        let admitted = Semaphore::new(options.concurrency);
        let workers = Arc::new(Semaphore::new(options.workers));
        Self { options, follower, metrics, admitted, workers }
    }

    /// Answers a request, whatever it is.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let at_work = self.metrics.begin();
        // Once for the whole request.
        let state = self.follower.state();
        let route = Route::of(request.uri().path());
        let name = route.as_ref().map_or("other", Route::name);
        let answered = match route {
            Ok(route) => self.routed(route, request, &state).await,
            Err(problem) => Err(problem),
        };
        let response = answered.unwrap_or_else(|problem| {
            let run = state.run.as_ref().filter(|_| problem.status == StatusCode::NOT_FOUND);
            problem.response(run.map(|run| run.name()))
        });
        drop(at_work);
        self.metrics.end(name, response.status(), started.elapsed());
        response
    }

    async fn routed(&self, route: Route, request: Request<Body>, state: &State) -> Result<Response<Body>, Problem> {
        if let Some(token) = self.options.token.as_ref().filter(|_| !route.is_open())
            && !token.is_in(request.headers().get(AUTHORIZATION))
        {
            let message = "expected `Authorization: Bearer` with the service's token";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "header Authorization", message));
        }
        if !route.has(request.method()) {
            let allowed = route.methods();
            let message = format!("this path has {allowed}");
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "method", message);
            let mut response = problem.response(None);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            return Ok(response);
        }
        match route {
            Route::Health => Ok(with_type(StatusCode::OK, "text/plain; charset=utf-8", "ok\n")),
            Route::Ready => Ok(ready(state)),
            Route::Metrics => {
                Ok(with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", self.metrics.text(state)))
            }
            Route::OpenApi => Ok(with_type(StatusCode::OK, "application/json", OPENAPI)),
            Route::UserItems(_) | Route::Similar(_) | Route::Recall => {
                let Some(run) = state.run.clone() else {
                    return Err(Problem::busy("no_run", "no run is served yet; /readyz says why"));
                };
                let _place = self.admitted.try_acquire().map_err(|_| {
                    Problem::busy("busy", format!("{} requests are at work already", self.options.concurrency))
                })?;
                let limit = self.options.timeout;
                tokio::time::timeout(limit, self.worked(route, request, run)).await.unwrap_or_else(|_| {
                    Err(Problem::busy("timeout", format!("no answer within {} s", limit.as_secs_f64())))
                })
            }
        }
    }

    /// Answers from a run, on a thread of the pool.
    async fn worked(
        &self,
        route: Route,
        request: Request<Body>,
        run: Arc<ServedRun>,
    ) -> Result<Response<Body>, Problem> {
        let most = self.options.most_items;
        let (parts, content) = request.into_parts();
        let k = k_of(parts.uri.query(), most).map_err(|(at, problem)| Problem::bad(at, problem))?;
        let bytes = match route {
            Route::Recall if k.is_some() => return Err(Problem::bad("query.k", "here `k` stands in the body")),
            Route::Recall => body::read(content, self.options.body_bytes).await?,
            Route::UserItems(_)
            | Route::Similar(_)
            | Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::OpenApi => Vec::new(),
        };
        let free = self.workers.clone().acquire_owned().await;
        let free = free.map_err(|_| Problem::busy("stopping", "the service is stopping"))?;
        let work = tokio::task::spawn_blocking(move || {
            let answer = answer_from(&run, route, k, &bytes, most);
            // The thread counts as taken until it is done, even if nobody waits for it any more.
            drop(free);
            answer
        });
        work.await.unwrap_or_else(|_| {
            let message = "a thread panicked; the log says why; please report this as a bug";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "server", message))
        })
    }
}

/// The answer of a run.
fn answer_from(
    run: &ServedRun,
    route: Route,
    k: Option<usize>,
    bytes: &[u8],
    most: usize,
) -> Result<Response<Body>, Problem> {
    let usual = run.topk().min(most);
    let k = k.unwrap_or(usual);
    let mut answer = Items { run: run.name(), user: None, item: None, items: &[], history_passed_over: None };
    let unknown = |code, message| Problem::new(StatusCode::NOT_FOUND, code, "path", message);
    let items;
    match &route {
        Route::UserItems(user) => {
            let found = run.list(user, k).map_err(Problem::of)?;
            items = found.ok_or_else(|| unknown("unknown_user", "this run has no list of such a user"))?;
            answer.user = Some(user);
        }
        Route::Similar(item) => {
            let found = run.similar(item, k).map_err(Problem::of)?;
            items = found.ok_or_else(|| unknown("unknown_item", "this run has no such item"))?;
            answer.item = Some(item);
        }
        Route::Recall | Route::Health | Route::Ready | Route::Metrics | Route::OpenApi => {
            let (user, wanted) = body::parse(bytes, usual, most)?;
            let found = run.recall(&user, &wanted).map_err(Problem::of)?;
            items = found.items;
            answer.history_passed_over = Some(found.passed_over);
        }
    }
    answer.items = &items;
    Ok(json(StatusCode::OK, &answer))
}

fn ready(state: &State) -> Response<Body> {
    let run = state.run.as_ref().map(|run| run.name());
    let status = if run.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &Ready { ready: run.is_some(), run, behind: state.behind.as_deref() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_described_ones() {
        let of = |path: &str| Route::of(path).map_err(|problem| problem.status.as_u16());
        assert_eq!(of("/v1/users/a%2Fb/items"), Ok(Route::UserItems("a/b".into())));
        assert_eq!(of("/v1/items/7/similar"), Ok(Route::Similar("7".into())));
        for (path, status) in
            [("/", 404), ("/v1/users//items", 400), ("/v1/users/%ff/items", 400), ("/v1/users/1", 404)]
        {
            assert_eq!(of(path), Err(status), "{path}");
        }
        let described: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut paths: Vec<&str> = described["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = [
            Route::Health,
            Route::Ready,
            Route::Metrics,
            Route::OpenApi,
            Route::UserItems(String::new()),
            Route::Similar(String::new()),
            Route::Recall,
        ];
        let mut names: Vec<&str> = routes.iter().map(Route::name).collect();
        paths.sort_unstable();
        names.sort_unstable();
        assert_eq!(paths, names);
    }
}
