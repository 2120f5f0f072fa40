//! Progress bars on a terminal; a log line now and then elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// How often a stage without a terminal says how far it is.
const LOG_EVERY: Duration = Duration::from_secs(30);

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
            "{{prefix:<16}} {{wide_bar:.cyan/dim}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} ETA {{eta}} {{msg}}"
        );
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(stage.to_string());
        let logs = self == Progress::Shown && bar.is_hidden();
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
        self.bar.finish_and_clear();
    }
}
