//! Prefetching memory.

use std::ops::Range;

use super::Line;
use crate::view::{Target, View};

const LINE: usize = size_of::<Line>();

/// Runs of bytes, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    start: *const u8,
    count: usize,
    bytes: usize,
    stride: usize,
}

impl Runs {
    pub(super) const NONE: Self = Self { start: std::ptr::null(), count: 0, bytes: 0, stride: 0 };

    /// Rows and columns of a matrix that is read.
    pub(super) fn of<T>(from: View<'_, T>, rows: Range<usize>, cols: Range<usize>) -> Self {
        let (row_stride, col_stride) = from.strides();
        let start = rows.start * row_stride + cols.start * col_stride;
        let (count, len) =
            if from.transposed { (cols.len(), rows.len()) } else { (rows.len(), cols.len()) };
        Self {
            start: from.data.as_ptr().wrapping_add(start).cast(),
            count,
            bytes: len * size_of::<T>(),
            stride: from.stride * size_of::<T>(),
        }
    }

    /// Lines that follow each other.
    pub(super) fn lines(lines: &[Line]) -> Self {
        Self { start: lines.as_ptr().cast(), count: 1, bytes: size_of_val(lines), stride: 0 }
    }

    /// Some rows of where a product goes, `cols` numbers of each.
    pub(super) fn to(target: Target, rows: Range<usize>, cols: usize) -> Self {
        Self {
            start: target.offset(rows.start * target.stride).start.cast_const().cast(),
            count: rows.len(),
            bytes: cols * size_of::<f32>(),
            stride: target.stride * size_of::<f32>(),
        }
    }

    /// At most: runs may begin within a line.
    fn most(self) -> usize {
        self.count * (self.bytes.div_ceil(LINE) + 1)
    }
}

/// Lines that follow each other, to be prefetched.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) start: *const u8,
    pub(super) lines: usize,
}

impl Ahead {
    pub(super) const NONE: Self = Self { start: std::ptr::null(), lines: 0 };
}

/// Prefetches the next panel's source, then the memory of its results. It is requested line by
/// line, between products, so that these do not wait for it.
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    now: Runs,
    then: Runs,
    /// Bytes of the run that were prefetched.
    at: usize,
    /// Steps until the next line, and from each to the one after it.
    until: usize,
    every: usize,
}

impl Prefetch {
    /// Nothing.
    pub(super) const NONE: Self =
        Self { now: Runs::NONE, then: Runs::NONE, at: 0, until: usize::MAX, every: usize::MAX };

    /// Both, in the course of so many steps.
    pub(super) fn new(now: Runs, then: Runs, steps: usize) -> Self {
        let (now, then) = if now.count == 0 { (then, now) } else { (now, then) };
        if now.count == 0 {
            return Self::NONE;
        }
        let every = (steps / (now.most() + then.most())).max(1);
        Self { now, then, at: 0, until: every, every }
    }

    /// A step is done.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        self.until -= 1;
        if self.until == 0 {
            self.until = self.every;
            self.next();
        }
    }

    /// What is to be asked for in the course of so many steps: lines that follow each other,
    /// for who multiplies; others are asked for now.
    pub(super) fn ahead(&mut self, steps: usize) -> Ahead {
        if self.now.count != 1 {
            self.steps(steps);
            return Ahead::NONE;
        }
        let left = (self.now.bytes + LINE - 1 - self.at).div_ceil(LINE);
        let due = (steps / self.every).clamp(1, left);
        let ahead = Ahead { start: self.now.start.wrapping_add(self.at), lines: due };
        self.at += (due - 1) * LINE;
        // The last of them takes care of what comes then.
        self.next();
        ahead
    }

    /// So many steps are done, one after the other.
    fn steps(&mut self, mut count: usize) {
        while self.until <= count {
            count -= self.until;
            self.until = self.every;
            self.next();
        }
        self.until -= count;
    }

    /// Asks for a line.
    #[inline(always)]
    fn next(&mut self) {
        fetch(self.now.start.wrapping_add(self.at));
        self.at += LINE;
        // Where runs begin within lines, they end one later.
        if self.at >= self.now.bytes + LINE - 1 {
            self.at = 0;
            self.now.start = self.now.start.wrapping_add(self.now.stride);
            self.now.count -= 1;
            if self.now.count == 0 {
                let until = self.every;
                *self = if self.then.count == 0 {
                    Self::NONE
                } else {
                    Self { now: self.then, then: Runs::NONE, until, ..*self }
                };
            }
        }
    }
}

/// Asks for a line, for the second-level cache.
#[inline(always)]
pub(super) fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    let _ = line;
}
