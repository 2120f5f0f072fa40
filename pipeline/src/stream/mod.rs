//! reader → bounded queue → workers → bounded queue → writer, in input order and bounded memory.

pub(crate) mod distinct;
pub(crate) mod earlier;
pub mod memory;
pub mod part_folder;
pub(crate) mod parts;
pub(crate) mod row_hashes;
pub(crate) mod sample;
pub mod shard;
pub(crate) mod spare;

use crate::error::PipelineError;
use crate::watch::allocator;
use crate::watch::cancel::Cancel;
use crate::watch::stall::Doing;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time after which free memory goes back to the kernel. Gaps between buffers of unlike sizes would add up otherwise, so
/// that a longer table would have a higher peak.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(3);

/// How wide a stream is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Width {
    /// Worker threads, at least 1.
    pub workers: usize,
    /// Batches in flight between reader and writer, at least `workers`.
    pub in_flight: usize,
}

impl Width {
    /// Results that may wait for the writer.
    fn waiting(self) -> usize {
        self.workers.max(1) + 1
    }
}

/// Runs every item of `source` through a pool of workers and hands the results to `sink` in the
/// order of the source.
///
/// A ticket is taken before an item is read and given back after its result is written, so at most
/// `in_flight` items exist at a time, whatever the number of items and however uneven the workers.
/// `make_worker` runs on the worker's own thread, once.
///
/// # Errors
/// The first error of source, worker or sink; the other threads then stop at their next item.
pub(crate) fn ordered<I, O, W>(
    stage: &'static str,
    width: Width,
    cancel: &Cancel,
    source: impl Iterator<Item = Result<I, PipelineError>> + Send,
    make_worker: impl Fn() -> Result<W, PipelineError> + Sync,
    mut sink: impl FnMut(O) -> Result<(), PipelineError>,
) -> Result<(), PipelineError>
where
    I: Send,
    O: Send,
    W: FnMut(I) -> Result<O, PipelineError>,
{
    let in_flight = width.in_flight.max(width.workers).max(1);
    let (ticket_back, tickets) = crossbeam_channel::bounded(in_flight);
    (0..in_flight).for_each(|_| ticket_back.send(()).unwrap_or(()));
    let (to_workers, work) = crossbeam_channel::bounded::<(u64, I)>(in_flight);
    // Results are larger than rows: where the writer waits for the disk, workers wait for it rather than pile them up.
    let (to_writer, results) = crossbeam_channel::bounded::<Result<(u64, O), PipelineError>>(width.waiting());

    std::thread::scope(|scope| {
        let watch = cancel.watch();
        let reader_errors = to_writer.clone();
        std::thread::Builder::new()
            .name(format!("{stage}-read"))
            .spawn_scoped(scope, move || {
                let me = watch.thread(format!("{stage}-read"));
                let mut source = source;
                for number in 0.. {
                    me.doing(Doing::WaitingForRoom, number);
                    // A closed channel means that the writer has failed and gone: just stop.
                    if tickets.recv().is_err() {
                        return;
                    }
                    me.doing(Doing::Reading, number);
                    let Some(item) = source.next() else { return };
                    match cancel.check(stage).and(item) {
                        Ok(item) => {
                            me.doing(Doing::HandingOn, number);
                            if to_workers.send((number, item)).is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            let _ = reader_errors.send(Err(error));
                            return;
                        }
                    }
                }
            })
            .map_err(PipelineError::io("start a reader thread of", stage))?;
        for number in 0..width.workers.max(1) {
            let (work, to_writer, make_worker) = (work.clone(), to_writer.clone(), &make_worker);
            std::thread::Builder::new()
                .name(format!("{stage}-work-{number}"))
                .spawn_scoped(scope, move || {
                    let me = watch.thread(format!("{stage}-work-{number}"));
                    let mut worker = match make_worker() {
                        Ok(worker) => worker,
                        Err(error) => {
                            let _ = to_writer.send(Err(error));
                            return;
                        }
                    };
                    me.doing(Doing::WaitingForBatch, 0);
                    for (number, item) in work {
                        me.doing(Doing::Working, number);
                        // A panic must not leave reader and writer waiting for this item for ever.
                        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker(item)))
                            .unwrap_or(Err(PipelineError::WorkerPanicked { stage }))
                            .map(|out| (number, out));
                        let failed = result.is_err();
                        me.doing(Doing::HandingOn, number);
                        if to_writer.send(result).is_err() || failed {
                            return;
                        }
                        me.doing(Doing::WaitingForBatch, 0);
                    }
                })
                .map_err(PipelineError::io("start a worker thread of", stage))?;
        }
        drop((work, to_writer));

        let write = || {
            let me = watch.thread(format!("{stage}-write"));
            let mut next = 0u64;
            let mut early = BTreeMap::new();
            let mut given_back = Instant::now();
            me.doing(Doing::WaitingForResult, next);
            for result in results {
                let (number, out) = result?;
                early.insert(number, out);
                while let Some(out) = early.remove(&next) {
                    me.doing(Doing::Writing, next);
                    sink(out)?;
                    next += 1;
                    if given_back.elapsed() >= GIVE_BACK_EVERY {
                        allocator::give_back();
                        given_back = Instant::now();
                    }
                    let _ = ticket_back.try_send(());
                }
                me.doing(Doing::WaitingForResult, next);
            }
            Ok(())
        };
        let outcome = write();
        // On an error, a reader waiting for a ticket must find the channel closed.
        drop(ticket_back);
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_keep_the_source_order_and_at_most_in_flight_items_exist() {
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let source = (0..500u64).map(|i| {
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Ok(i)
        });
        let mut seen = Vec::new();
        let width = Width { workers: 4, in_flight: 6 };
        ordered(
            "test",
            width,
            &Cancel::default(),
            source,
            || {
                Ok(|i: u64| {
                    if i.is_multiple_of(50) {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                    }
                    Ok(i * 2)
                })
            },
            |o| {
                alive.fetch_sub(1, Ordering::SeqCst);
                seen.push(o);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, (0..500).map(|i| i * 2).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= 6, "{}", most.load(Ordering::SeqCst));
    }

    #[test]
    fn few_results_wait_for_a_slow_writer() {
        let made = AtomicUsize::new(0);
        let width = Width { workers: 1, in_flight: 20 };
        let worker = || {
            Ok(|i: u64| {
                made.fetch_add(1, Ordering::SeqCst);
                Ok(i)
            })
        };
        let mut early = 0;
        let sink = |i: u64| {
            if i == 0 {
                std::thread::sleep(std::time::Duration::from_millis(100));
                early = made.load(Ordering::SeqCst);
            }
            Ok(())
        };
        ordered("test", width, &Cancel::default(), (0..40u64).map(Ok), worker, sink).unwrap();
        // The one being written, two in the queue, and one in the worker's hands.
        assert!(early <= 4, "{early}");
        assert_eq!(made.into_inner(), 40);
    }

    #[test]
    fn an_error_anywhere_ends_the_stream_with_that_error() {
        let width = Width { workers: 2, in_flight: 3 };
        let fail = || PipelineError::Data("planted".into());
        let never = Cancel::default();
        let numbers = || (0..100u64).map(Ok);
        let in_source = ordered(
            "t",
            width,
            &never,
            (0..100u64).map(|i| if i == 7 { Err(fail()) } else { Ok(i) }),
            || Ok(Ok),
            |_: u64| Ok(()),
        );
        let in_worker = ordered(
            "t",
            width,
            &never,
            numbers(),
            || Ok(|i| if i == 7 { Err(fail()) } else { Ok(i) }),
            |_: u64| Ok(()),
        );
        let in_setup = ordered(
            "t",
            width,
            &never,
            numbers(),
            || Err::<fn(u64) -> Result<u64, PipelineError>, _>(fail()),
            |_| Ok(()),
        );
        let in_sink =
            ordered("t", width, &never, numbers(), || Ok(Ok), |i: u64| if i == 7 { Err(fail()) } else { Ok(()) });
        for result in [in_source, in_worker, in_setup, in_sink] {
            assert_eq!(result.unwrap_err().to_string(), "planted");
        }
    }

    #[test]
    fn a_stop_request_ends_the_stream_as_interrupted() {
        let cancel = Cancel::default();
        let width = Width { workers: 2, in_flight: 3 };
        let source = (0..1_000_000u64).map(|i| {
            if i == 20 {
                cancel.stop(15);
            }
            Ok(i)
        });
        let error = ordered("infer", width, &cancel, source, || Ok(Ok), |_: u64| Ok(())).unwrap_err();
        assert_eq!(error.exit_code(), 143);
    }
}
