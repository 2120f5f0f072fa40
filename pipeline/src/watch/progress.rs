//! Progress bars on a terminal; a log line now and then elsewhere.

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How often a stage without a terminal says how far it is.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// The bars that are drawn at this moment.
static DRAWN: Mutex<Vec<ProgressBar>> = Mutex::new(Vec::new());

/// Writes to the screen while no bar stands there, so that none is left behind between what is written.
pub(crate) fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    let drawn = match DRAWN.try_lock() {
        Ok(drawn) => drawn.last().cloned(),
        Err(TryLockError::Poisoned(drawn)) => drawn.into_inner().last().cloned(),
        // Whoever has it is about to draw or to clear one.
        Err(TryLockError::WouldBlock) => None,
    };
    match drawn {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Changes the list of bars that are drawn.
fn drawn(change: impl FnOnce(&mut Vec<ProgressBar>)) {
    change(&mut DRAWN.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Whole units a second.
fn rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    let _ = write!(out, "{}/s", HumanCount(state.per_sec().round() as u64));
}

/// Whether bars are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bars on standard error when it is a terminal, log lines otherwise.
    Shown,
    /// Neither.
    Quiet,
}

impl Progress {
    /// A bar for `total` units of work.
    pub fn bar(self, stage: &str, total: u64, unit: &'static str) -> Bar {
        let target = match self {
            Progress::Shown => ProgressDrawTarget::stderr(),
            Progress::Quiet => ProgressDrawTarget::hidden(),
        };
        let template = format!(
            "{{prefix:<16}} {{wide_bar:.cyan/dim}} {{human_pos}}/{{human_len}} {unit} {{rate}} ETA {{eta}} {{msg}}"
        );
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let style = style.with_key("rate", rate);
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(stage.to_string());
        let logs = self == Progress::Shown && bar.is_hidden();
        if !bar.is_hidden() {
            drawn(|bars| bars.push(bar.clone()));
        }
        Bar { bar, stage: stage.to_string(), unit, logs, started: Instant::now(), logged: Instant::now() }
    }
}

/// Progress of one stage.
pub struct Bar {
    bar: ProgressBar,
    stage: String,
    unit: &'static str,
    logs: bool,
    started: Instant,
    logged: Instant,
}

impl Bar {
    /// Advances by `n` units.
    pub fn advance(&mut self, n: u64) {
        self.bar.inc(n);
        if self.logs && self.logged.elapsed() >= LOG_EVERY {
            self.logged = Instant::now();
            let (at, total) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let rate = at as f64 / self.started.elapsed().as_secs_f64();
            let left = total.saturating_sub(at) as f64 / rate.max(1e-9);
            let message = self.bar.message();
            tracing::info!("{}: {at}/{total} {}, {rate:.0}/s, ETA {left:.0} s {message}", self.stage, self.unit);
        }
    }

    /// Moves to an absolute position.
    pub(crate) fn set(&mut self, position: u64) {
        let ahead = position.saturating_sub(self.bar.position());
        self.advance(ahead);
    }

    /// Text behind the bar, such as the loss.
    pub fn message(&self, text: String) {
        self.bar.set_message(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if !self.bar.is_hidden() {
            // Bars of a stage end in the reverse order of their beginning.
            drawn(|bars| _ = bars.pop());
        }
        self.bar.finish_and_clear();
    }
}
