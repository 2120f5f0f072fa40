//! Memory of batches that is used over and over.

use crate::watch::stall::locked;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Buffers that are out of use. The one that has been out of use the longest is taken first. So all buffers are touched
/// within the first batches, once there are as many as can be needed at a time, and the peak of memory does not depend
/// on how often a thread has to wait.
#[derive(Debug)]
pub struct Spare<T>(Mutex<VecDeque<T>>);

impl<T> Default for Spare<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Spare<T> {
    /// Makes buffers until `count` are out of use.
    pub fn reserve(&self, count: usize, make: impl Fn() -> T) {
        let mut spare = locked(&self.0);
        let missing = count.saturating_sub(spare.len());
        spare.extend((0..missing).map(|_| make()));
    }

    /// A buffer with whatever it held, or a new one where none is out of use.
    pub fn take(&self) -> T
    where
        T: Default,
    {
        locked(&self.0).pop_front().unwrap_or_default()
    }

    /// Buffers that are out of use again.
    pub fn give(&self, buffers: impl IntoIterator<Item = T>) {
        locked(&self.0).extend(buffers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_taken_in_turn_and_more_are_made_when_none_is_left() {
        let spare = Spare::default();
        spare.reserve(3, || Vec::<u8>::with_capacity(100));
        spare.reserve(2, Vec::new);
        let taken: Vec<*const u8> = (0..6)
            .map(|_| {
                let buffer = spare.take();
                let at = buffer.as_ptr();
                assert!(buffer.capacity() >= 100);
                spare.give([buffer]);
                at
            })
            .collect();
        assert_eq!(taken[..3], taken[3..]);
        assert!(taken[0] != taken[1] && taken[1] != taken[2] && taken[0] != taken[2]);
        let all = [spare.take(), spare.take(), spare.take()];
        assert_eq!(spare.take().capacity(), 0);
        drop(all);
    }
}
