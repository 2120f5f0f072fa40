//! Cuts an epoch into batches.

use std::ops::Range;

/// The windows of a step, and their targets, both counted from the beginning of the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub windows: Range<usize>,
    pub targets: Range<usize>,
}

/// Cuts windows, given the number of targets of each, into batches of about `size` targets. A window belongs to the
/// batch in which its last target falls if batches are cut exactly. So each batch but the last has `size` targets, more
/// or less those of one window; and however windows are ordered, there are as many batches, unless a window has more
/// than `size` targets.
pub(super) fn batches(targets: impl Iterator<Item = usize>, size: usize) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let (mut all, mut open) = (0usize, None);
    for (window, targets) in targets.enumerate() {
        let first = all;
        all += targets;
        let place = all.saturating_sub(1) / size;
        if open != Some(place) {
            open = Some(place);
            batches.push(Batch { windows: window..window, targets: first..first });
        }
        if let Some(batch) = batches.last_mut() {
            (batch.windows.end, batch.targets.end) = (window + 1, all);
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn windows_of_one_target_are_cut_exactly() {
        let cut = batches([1; 7].into_iter(), 3);
        let ranges: Vec<Range<usize>> = cut.iter().map(|batch| batch.windows.clone()).collect();
        assert_eq!(ranges, [0..3, 3..6, 6..7]);
        assert!(cut.iter().all(|batch| batch.windows == batch.targets));
    }

    #[test]
    fn batches_are_of_about_their_size_and_their_number_does_not_depend_on_the_order() {
        let mut rng = Rng::at(6, &[]);
        let mut targets: Vec<usize> = (0..200).map(|_| 1 + rng.below(21)).collect();
        let all: usize = targets.iter().sum();
        for _ in 0..20 {
            rng.shuffle(&mut targets);
            let cut = batches(targets.iter().copied(), 50);
            assert_eq!(cut.len(), all.div_ceil(50));
            assert_eq!((cut[0].windows.start, cut[cut.len() - 1].windows.end), (0, 200));
            assert_eq!((cut[0].targets.start, cut[cut.len() - 1].targets.end), (0, all));
            for batch in &cut {
                assert_eq!(batch.targets.len(), targets[batch.windows.clone()].iter().sum::<usize>());
                assert!(batch.targets.len() < 50 + 21 && !batch.windows.is_empty());
            }
            assert!(cut.windows(2).all(|pair| pair[0].windows.end == pair[1].windows.start));
            assert!(cut[..cut.len() - 1].iter().all(|batch| batch.targets.len() > 50 - 21));
        }
        // No batch is empty, though windows are longer than a batch.
        let ranges = batches([9, 9, 1].into_iter(), 4).into_iter().map(|batch| batch.windows);
        assert_eq!(ranges.collect::<Vec<_>>(), [0..1, 1..3]);
    }
}
