//! Work on all threads, or on one alone.
//!
//! Operations spread over all threads. Where a row needs nothing of the others through
//! several operations, blocks of rows run side by side instead, each through all of them
//! on one thread: what one operation leaves is still in that core's cache for the next,
//! and threads wait for each other once. No result depends on it.

use std::{
    cell::Cell,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use candle_core::Result;
use rayon::prelude::*;

use crate::{packed::strip, view::share};

/// Rows of a block: about at most, so that what it leaves stays in the second-level cache,
/// and at least, so that reading the weights anew is cheap.
const BLOCK_ROWS: (usize, usize) = (48, 128);
/// Parts for each thread, so that they end together.
pub(crate) const PARTS_OF_A_THREAD: usize = 4;

/// How many threads candle takes for element-wise operations on large tensors.
const THREADS_OF_CANDLE: &str = "CANDLE_NUM_THREADS";

/// Keeps candle's element-wise operations to the thread that calls them. It has a pool of
/// its own for large tensors, a thread for each core whatever our pool was told, whose
/// threads spin while they wait, on cores that ours then share.
///
/// To be called at the start of a program. What `CANDLE_NUM_THREADS` says stays; nothing is
/// done where other threads run already, which may read the environment, or where the
/// system does not tell.
pub fn keep_to_one_pool() {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if std::env::var_os(THREADS_OF_CANDLE).is_none() && threads.is_ok_and(|count| count == 1) {
        // SAFETY: nobody reads the environment meanwhile, as there is nobody else.
        unsafe { std::env::set_var(THREADS_OF_CANDLE, "1") };
    }
}

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

/// Rows, cut into blocks that are almost equal and whole strips of products, but for the
/// last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    rows: usize,
    count: usize,
}

impl Blocks {
    /// So many blocks, or as many as there are strips.
    pub(crate) fn new(rows: usize, count: usize) -> Self {
        Self { rows, count: count.min(rows.div_ceil(strip())).max(1) }
    }

    /// All rows as one block.
    pub(crate) fn one(rows: usize) -> Self {
        Self::new(rows, 1)
    }

    /// Those that are best run side by side, the same for each thread; all rows as one where
    /// there are too few for all threads. `laid_out`: whether weights are read as they are
    /// held.
    pub(crate) fn side_by_side(rows: usize, laid_out: bool) -> Self {
        let (least, most) = BLOCK_ROWS;
        let threads = available();
        if !laid_out || rows < least * threads {
            return Self::one(rows);
        }
        let count = rows.div_ceil(most).max(PARTS_OF_A_THREAD * threads).min(rows / least);
        Self::new(rows, count / threads * threads)
    }

    /// Of all blocks.
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// Which rows are the block's.
    pub(crate) fn range(self, block: usize) -> Range<usize> {
        share(self.rows, strip(), self.count, block)
    }

    /// The blocks of a matrix of rows `width` wide.
    pub(crate) fn of<T>(self, mut values: &mut [T], width: usize) -> Vec<&mut [T]> {
        let blocks = (0..self.count).map(|block| {
            let len = self.range(block).len() * width;
            values.split_off_mut(..len).unwrap_or_default()
        });
        blocks.collect()
    }
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

    /// Tests run beside other threads, which may read the environment.
    #[test]
    fn the_environment_is_left_alone_beside_other_threads() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let before = std::env::var_os(THREADS_OF_CANDLE);
        keep_to_one_pool();
        assert_eq!(std::env::var_os(THREADS_OF_CANDLE), before);
        drop(done);
        other.join().unwrap().unwrap_err();
    }

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
    fn blocks_are_whole_strips_alike_and_enough_for_all_threads() {
        let (least, most) = BLOCK_ROWS;
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for rows in [1, 47, 48, 96, 240, 512, 1000, 5000] {
                let blocks = pool.install(|| Blocks::side_by_side(rows, true));
                let mut end = 0;
                for block in 0..blocks.count() {
                    let range = blocks.range(block);
                    assert!(range.start == end && !range.is_empty());
                    end = range.end;
                    let strips = rows.div_ceil(strip()) / blocks.count();
                    assert!([strips, strips + 1].contains(&range.len().div_ceil(strip())));
                    assert!(end == rows || range.len() % strip() == 0);
                    assert!(blocks.count() == 1 || range.len() <= most + 2 * strip());
                }
                assert_eq!(end, rows);
                let enough = rows >= least * threads;
                assert!(if enough { blocks.count() % threads == 0 } else { blocks.count() == 1 });
                assert_eq!(pool.install(|| Blocks::side_by_side(rows, false)), Blocks::one(rows));
            }
        }
    }
}
