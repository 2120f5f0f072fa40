//! Waiting for a lock: said, and progress only as long as its holder shows life.

use super::holder::Holder;
use crate::watch::cancel::Cancel;
use crate::watch::stall::{CPU_SIGN, Doing, WatchedThread, kernel};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often its holder is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After how long waiting is said again.
const SAY: Duration = Duration::from_secs(60);

/// One that waits.
pub struct Waiting<'a> {
    lock: &'a Path,
    what: &'a str,
    cancel: &'a Cancel,
    /// While it is noted, the processor time that this process uses is no progress.
    thread: WatchedThread,
    looked: Instant,
    said: Option<Instant>,
    life: Life,
}

impl<'a> Waiting<'a> {
    /// Begins to wait for `what`, which `lock` protects.
    pub fn new(lock: &'a Path, what: &'a str, cancel: &'a Cancel) -> Self {
        let thread = cancel.watch().thread("main");
        thread.doing(Doing::WaitingForProcess, 0);
        Self { lock, what, cancel, thread, looked: Instant::now(), said: None, life: Life::default() }
    }

    /// Notes, some times a second, whether the holder shows life, and says now and then what is waited for.
    pub fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let holder = Holder::of(self.lock).into_iter().next();
        let seen = holder.as_ref().filter(|holder| holder.is_here());
        match self.life.sign(seen.map(|holder| (holder.pid, kernel::cpu_of(holder.pid)))) {
            Sign::Another(pid) => self.thread.doing(Doing::WaitingForProcess, pid.into()),
            Sign::Life => self.cancel.watch().progress(),
            Sign::Nothing => {}
        }
        if self.said.is_none_or(|said| said.elapsed() >= SAY) {
            self.said = Some(self.looked);
            self.say(holder.as_ref());
        }
    }

    fn say(&self, holder: Option<&Holder>) {
        let what = self.what;
        match holder {
            Some(holder) if holder.is_stopped() => {
                tracing::warn!("waiting for {what}, held by {holder}.{}", holder.how_to_go_on());
            }
            Some(holder) => tracing::info!("waiting for {what}, held by {holder}"),
            None => tracing::info!("waiting for {what}, held by another process"),
        }
    }
}

/// What was last seen of a lock's holder.
#[derive(Debug, Default)]
struct Life {
    pid: u32,
    cpu: u64,
}

/// What a look at a lock's holder finds.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// It is another process than before.
    Another(u32),
    /// It has used the processor, or cannot be seen, as on another machine, and is trusted: its own watchdog ends
    /// it when it stands still.
    Life,
    /// No sign of life.
    Nothing,
}

impl Life {
    /// A look at the holder: its number and the processor time it has used, where it can be seen.
    fn sign(&mut self, seen: Option<(u32, Option<u64>)>) -> Sign {
        match seen {
            Some((pid, cpu)) if pid != self.pid => {
                *self = Self { pid, cpu: cpu.unwrap_or(0) };
                Sign::Another(pid)
            }
            Some((_, Some(cpu))) if cpu < self.cpu + CPU_SIGN => Sign::Nothing,
            Some((_, cpu)) => {
                self.cpu = cpu.unwrap_or(self.cpu);
                Sign::Life
            }
            None => Sign::Life,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_works_or_cannot_be_seen_shows_life_and_one_that_stands_still_does_not() {
        let mut life = Life::default();
        assert_eq!(life.sign(None), Sign::Life, "on another machine");
        assert_eq!(life.sign(Some((7, Some(100)))), Sign::Another(7));
        assert_eq!(life.sign(Some((7, Some(100)))), Sign::Nothing);
        // Little by little is work too.
        let signs = (101..=110).filter(|cpu| life.sign(Some((7, Some(*cpu)))) == Sign::Life).count();
        assert_eq!(signs, 2);
        assert_eq!(life.sign(Some((7, Some(110)))), Sign::Nothing);
        assert_eq!(life.sign(Some((8, Some(3)))), Sign::Another(8));
        assert_eq!(life.sign(Some((8, Some(50)))), Sign::Life);
        assert_eq!(life.sign(Some((8, None))), Sign::Life, "it has just ended");
    }
}
