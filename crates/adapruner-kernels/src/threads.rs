//! Work on all threads, or on one alone.
//!
//! Operations spread over all threads. Where a row needs nothing of the others through
//! several operations, blocks of rows run side by side instead, each through all of them
//! on one thread: what one operation leaves is still in that core's cache for the next,
//! and threads wait for each other once. No result depends on it.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

use candle_core::Result;
use rayon::prelude::*;

/// Rows of a block: at most, so that what it leaves stays in the second-level cache, and
/// at least, so that reading the weights anew is cheap.
const BLOCK_ROWS: (usize, usize) = (48, 128);
/// Blocks are multiples of the rows that products take at a time.
const UNIT: usize = 12;
/// Parts for each thread, so that they end together.
pub(crate) const PARTS_OF_A_THREAD: usize = 4;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Threads that an operation may run on.
pub(crate) fn available() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// Runs work whose operations stay on this thread.
fn alone<R>(work: impl FnOnce() -> R) -> R {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

/// `work` on all of `0..count`, each thread taking the next when it is done. The
/// calling thread is one of them: others may be slow to wake, or have other work.
pub(crate) fn side_by_side(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let take = || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && at < count
        {
            work(at);
        }
    };
    let others = available().min(count).saturating_sub(1);
    if others == 0 {
        return take();
    }
    rayon::in_place_scope(|scope| {
        for _ in 0..others {
            scope.spawn(|_| take());
        }
        take();
    });
}

/// `work` on each of some parts.
pub(crate) fn each<T: Send>(parts: Vec<T>, work: impl Fn(usize, T) + Sync) {
    if parts.len() == 1 || available() == 1 {
        return parts.into_iter().enumerate().for_each(|(at, part)| work(at, part));
    }
    parts.into_par_iter().enumerate().for_each(|(at, part)| work(at, part));
}

/// `work` on chunks of some numbers.
pub(crate) fn chunks<T: Send>(
    values: &mut [T],
    size: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    each(values.chunks_mut(size).collect(), work);
}

/// Rows of the blocks that are best run side by side; all of them where there are too
/// few for all threads. `laid_out`: whether weights are read as they are held.
pub(crate) fn rows_of_a_block(rows: usize, laid_out: bool) -> usize {
    let (least, most) = BLOCK_ROWS;
    let threads = available();
    if !laid_out || rows < least * threads {
        return rows.max(1);
    }
    rows.div_ceil(PARTS_OF_A_THREAD * threads).clamp(least, most).next_multiple_of(UNIT)
}

/// `work` on blocks, each on one thread if there are several; what it gives in their
/// order.
///
/// # Errors
/// The first block's that has one.
pub(crate) fn blocks<T: Send, R: Send>(
    blocks: Vec<T>,
    work: impl Fn(usize, T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if blocks.len() == 1 || available() == 1 {
        return blocks.into_iter().enumerate().map(|(at, block)| work(at, block)).collect();
    }
    let blocks = blocks.into_par_iter().enumerate().with_max_len(1);
    let done: Vec<_> = blocks.map(|(at, block)| alone(|| work(at, block))).collect();
    done.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_a_block_stay_on_its_thread() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        pool.install(|| {
            assert_eq!(available(), 3);
            let threads = blocks(vec![(); 7], |_, ()| {
                assert_eq!(available(), 1);
                let here = std::thread::current().id();
                side_by_side(5, |_| assert_eq!(std::thread::current().id(), here));
                chunks(&mut [0; 9], 2, |_, _| assert_eq!(std::thread::current().id(), here));
                Ok(())
            });
            threads.unwrap();
            assert_eq!(available(), 3);
            let alone = blocks(vec![()], |_, ()| {
                assert_eq!(available(), 3);
                Ok(())
            });
            alone.unwrap();
        });
    }

    #[test]
    fn blocks_are_whole_strips_and_enough_for_all_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for rows in [1, 47, 48, 96, 240, 1000, 5000] {
                let block = pool.install(|| rows_of_a_block(rows, true));
                assert!(block == rows || block.is_multiple_of(UNIT) && block <= 132);
                assert!(block == rows || rows.div_ceil(block) >= threads);
                assert_eq!(pool.install(|| rows_of_a_block(rows, false)), rows);
            }
        }
    }
}
