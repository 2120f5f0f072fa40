//! When no progress has lasted too long.

use std::time::Duration;

/// Clock ticks of processor time (mostly 10 ms each) that are a sign of life where nothing is counted. A process
/// that only waits uses less in any timeout; one that reads a slow disk uses more.
pub const CPU_SIGN: u64 = 5;
/// The longest time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Adds up the time without progress, look by look.
#[derive(Debug)]
pub struct Patience {
    timeout: Duration,
    idle: Duration,
    signs: u64,
    cpu: u64,
}

impl Patience {
    /// Patience for `timeout`.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, idle: Duration::ZERO, signs: 0, cpu: 0 }
    }

    /// The time from one look to the next.
    pub fn period(&self) -> Duration {
        PERIOD.min(self.timeout / 8)
    }

    /// A look, `elapsed` after the one before: whether patience has come to an end.
    ///
    /// `signs` and `cpu` are totals. With `counted_only` the use of processor time is no progress; without it, and
    /// where that is unknown, it is taken for granted.
    ///
    /// If a look comes very late, only two periods of it count: the process was stopped, or the machine slept.
    pub fn tick(&mut self, elapsed: Duration, signs: u64, counted_only: bool, cpu: Option<u64>) -> bool {
        let worked = !counted_only && cpu.is_none_or(|cpu| cpu >= self.cpu + CPU_SIGN);
        if signs != self.signs || worked {
            self.signs = signs;
            self.cpu = cpu.unwrap_or(self.cpu);
            self.idle = Duration::ZERO;
            return false;
        }
        self.idle += elapsed.min(2 * self.period());
        self.idle >= self.timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Looks, a second each, until patience ends, 100 at the most.
    fn looks(mut next: impl FnMut(u64) -> (u64, bool, Option<u64>)) -> Option<u64> {
        let mut patience = Patience::new(10 * SECOND);
        (1..=100).find(|at| {
            let (signs, counted_only, cpu) = next(*at);
            patience.tick(SECOND, signs, counted_only, cpu)
        })
    }

    #[test]
    fn patience_ends_when_nothing_is_counted_for_the_timeout() {
        assert_eq!(looks(|_| (0, true, Some(0))), Some(10));
        assert_eq!(looks(|at| (at.min(20), true, Some(0))), Some(30));
        assert_eq!(looks(|at| (at / 9, true, Some(0))), None, "a sign every nine seconds");
    }

    #[test]
    fn processor_time_is_a_sign_of_life_only_where_nothing_counts() {
        assert_eq!(looks(|at| (0, true, Some(100 * at))), Some(10), "a live-lock of a stream");
        assert_eq!(looks(|at| (0, false, Some(100 * at))), None, "a long join");
        assert_eq!(looks(|at| (0, false, Some(at / 9))), Some(10), "what idle threads use");
        assert_eq!(looks(|_| (0, false, None)), None, "unknown");
        assert_eq!(looks(|at| (0, at > 50, Some(100 * at))), Some(60));
    }

    #[test]
    fn time_in_which_the_process_was_stopped_does_not_count() {
        let mut patience = Patience::new(10 * SECOND);
        assert!(!patience.tick(SECOND, 0, true, None));
        assert!(!patience.tick(3600 * SECOND, 0, true, None));
        assert!(!patience.tick(3600 * SECOND, 0, true, None));
        // One and two periods of two seconds each: five are left.
        assert!((0..4).all(|_| !patience.tick(SECOND, 0, true, None)));
        assert!(patience.tick(SECOND, 0, true, None));
    }
}
