//! Bytes that are held beyond what every reader and upload needs, bounded for the whole process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes; clones share it.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Bound>);

#[derive(Debug)]
struct Bound {
    limit: usize,
    taken: AtomicUsize,
}

/// Some bytes of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Bound { limit, taken: AtomicUsize::new(0) }))
    }

    /// Takes some bytes, if they are left.
    pub fn take(&self, bytes: usize) -> Option<Permit> {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= self.0.limit);
        let taken = self.0.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.is_ok().then(|| Permit { budget: self.clone(), bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_is_given_and_what_is_dropped_is_given_again() {
        let budget = Budget::new(10);
        let first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let second = budget.take(4).unwrap();
        drop(first);
        assert!(budget.take(6).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
    }
}
