//! Bounded parallel work, in which a panic does not affect other jobs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

/// Runs `job` on every item, `most` at a time; returns the results in the order of the items.
pub fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    most: usize,
    job: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..most.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = job(item);
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The results of two jobs that run at the same time, the second one in a thread of its own.
pub fn both<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let there = scope.spawn(there);
        let here = here();
        (
            here,
            there.join().unwrap_or_else(|panic| resume_unwind(panic)),
        )
    })
}

/// The result of `job`. A panic is an error of this job, and others continue.
pub fn contained<R>(job: impl FnOnce() -> R) -> Result<R> {
    // The data that it was working on is not used again, or only read.
    catch_unwind(AssertUnwindSafe(job)).map_err(|_| anyhow!("this is a bug in cyyber"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_breaks_off_is_the_only_one_that_fails() {
        let items = [1_u64, 0, 4];
        let divided = side_by_side(&items, 2, |n| contained(|| 8 / n).ok());
        assert_eq!(divided, [Some(8), None, Some(2)]);
    }

    #[test]
    fn results_keep_the_order_of_their_items() {
        let items: Vec<u64> = (0..20).collect();
        let doubled = side_by_side(&items, 4, |n| {
            std::thread::sleep(std::time::Duration::from_millis(20 - n));
            n * 2
        });
        assert_eq!(doubled, items.iter().map(|n| n * 2).collect::<Vec<_>>());
    }
}
