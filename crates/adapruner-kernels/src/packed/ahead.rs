//! Asking for memory before it is read.

use std::ops::Range;

use super::Line;
use crate::view::View;

const LINE: usize = size_of::<Line>();

/// What the next panel is made of: runs of bytes, `stride` bytes apart. It is asked
/// for line by line, between products, so that these do not wait for it.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    run: *const u8,
    runs: usize,
    bytes: usize,
    stride: usize,
    /// Bytes of the run that were asked for.
    at: usize,
    /// Steps until the next line, and from each to the one after it.
    until: usize,
    every: usize,
}

impl Ahead {
    /// Nothing.
    pub(super) const NONE: Self = Self {
        run: std::ptr::null(),
        runs: 0,
        bytes: 0,
        stride: 0,
        at: 0,
        until: usize::MAX,
        every: usize::MAX,
    };

    /// Rows and columns of a matrix, asked for in the course of so many steps.
    pub(super) fn of<T>(
        from: View<'_, T>,
        rows: Range<usize>,
        cols: Range<usize>,
        steps: usize,
    ) -> Self {
        let (row_stride, col_stride) = from.strides();
        let start = rows.start * row_stride + cols.start * col_stride;
        let (runs, len) =
            if from.turned { (cols.len(), rows.len()) } else { (rows.len(), cols.len()) };
        let (bytes, stride) = (len * size_of::<T>(), from.stride * size_of::<T>());
        let lines = runs * (bytes.div_ceil(LINE) + 1);
        let every = (steps / lines.max(1)).max(1);
        if runs == 0 {
            return Self::NONE;
        }
        let run = from.data.as_ptr().wrapping_add(start).cast();
        Self { run, runs, bytes, stride, at: 0, until: every, every }
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

    /// Asks for a line.
    #[inline(always)]
    fn next(&mut self) {
        fetch(self.run.wrapping_add(self.at));
        self.at += LINE;
        // Where runs begin within lines, they end one later.
        if self.at >= self.bytes + LINE - 1 {
            self.at = 0;
            self.run = self.run.wrapping_add(self.stride);
            self.runs -= 1;
            if self.runs == 0 {
                *self = Self::NONE;
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
