//! What the service counts, in Prometheus' text form.

use crate::follow::State;
use hyper::StatusCode;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use twotower_pipeline::results::metrics_text::label;

/// Upper ends of the classes of latency, in seconds.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Counts since the process began.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// By route.
    latencies: Mutex<BTreeMap<&'static str, Latencies>>,
    in_flight: AtomicU64,
    opened: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Latencies {
    /// Of each class, and of what is slower.
    counts: [u64; BOUNDS.len() + 1],
    seconds: f64,
}

/// A request at work.
pub struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a request at work as long as the value lives.
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Counts an answer.
    pub fn end(&self, route: &'static str, status: StatusCode, took: Duration) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status.as_u16())).or_default() += 1;
        let mut all = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(route).or_default();
        let seconds = took.as_secs_f64();
        of.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        of.seconds += seconds;
    }

    /// Counts a run that was opened, or could not be.
    pub fn run(&self, opened: bool) {
        let count = if opened { &self.opened } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it as text, with what is known of the run.
    pub fn text(&self, state: &State) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, state);
        text
    }

    fn write(&self, out: &mut String, state: &State) -> std::fmt::Result {
        let family = |out: &mut String, name: &str, kind: &str, help: &str| {
            writeln!(out, "# HELP twotower_serve_{name} {help}\n# TYPE twotower_serve_{name} {kind}")
        };
        family(out, "requests_total", "counter", "Answers by route and status.")?;
        for ((route, code), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(out, "twotower_serve_requests_total{{route=\"{route}\",code=\"{code}\"}} {count}")?;
        }
        family(out, "request_seconds", "histogram", "Time from the head of a request to its answer.")?;
        for (route, latencies) in self.latencies.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut sum = 0;
            let ends = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_string()]);
            for (end, count) in ends.zip(latencies.counts) {
                sum += count;
                writeln!(out, "twotower_serve_request_seconds_bucket{{route=\"{route}\",le=\"{end}\"}} {sum}")?;
            }
            writeln!(out, "twotower_serve_request_seconds_sum{{route=\"{route}\"}} {}", latencies.seconds)?;
            writeln!(out, "twotower_serve_request_seconds_count{{route=\"{route}\"}} {sum}")?;
        }
        family(out, "requests_in_flight", "gauge", "Requests at work.")?;
        writeln!(out, "twotower_serve_requests_in_flight {}", self.in_flight.load(Ordering::Relaxed))?;
        family(out, "runs_opened_total", "counter", "Runs that were opened.")?;
        writeln!(out, "twotower_serve_runs_opened_total {}", self.opened.load(Ordering::Relaxed))?;
        family(out, "runs_failed_total", "counter", "Times that the run of `latest` could not be opened.")?;
        writeln!(out, "twotower_serve_runs_failed_total {}", self.failed.load(Ordering::Relaxed))?;
        family(out, "current", "gauge", "Whether the run of `latest` is the one that is served.")?;
        writeln!(out, "twotower_serve_current {}", u8::from(state.behind.is_none() && state.run.is_some()))?;
        if let Some(run) = &state.run {
            family(out, "run_info", "gauge", "The run that is served.")?;
            writeln!(out, "twotower_serve_run_info{{run=\"{}\"}} 1", label(run.name()))?;
            let seconds = |time: SystemTime, since| time.duration_since(since).unwrap_or_default().as_secs_f64();
            family(out, "run_age_seconds", "gauge", "Time since the gates of that run were asked.")?;
            writeln!(out, "twotower_serve_run_age_seconds {}", seconds(SystemTime::now(), run.published()))?;
            family(out, "run_published_timestamp_seconds", "gauge", "When the gates of that run were asked.")?;
            let at = seconds(run.published(), UNIX_EPOCH);
            writeln!(out, "twotower_serve_run_published_timestamp_seconds {at}")?;
            family(out, "run_users", "gauge", "Users with a list.")?;
            writeln!(out, "twotower_serve_run_users {}", run.users())?;
            family(out, "run_items", "gauge", "Items in the index.")?;
            writeln!(out, "twotower_serve_run_items {}", run.items())?;
        }
        Ok(())
    }
}
