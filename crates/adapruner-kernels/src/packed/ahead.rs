//! Asking for memory before it is read.

use std::ops::Range;

use super::Line;
use crate::view::{View, share};

/// What the next panel is made of: runs of bytes, `stride` bytes apart.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    start: *const u8,
    runs: usize,
    bytes: usize,
    stride: usize,
}

impl Ahead {
    /// Rows and columns of a matrix.
    pub(super) fn of<T>(from: View<'_, T>, rows: Range<usize>, cols: Range<usize>) -> Self {
        let (row_stride, col_stride) = from.strides();
        let start =
            from.data.as_ptr().wrapping_add(rows.start * row_stride + cols.start * col_stride);
        let (runs, len) =
            if from.turned { (cols.len(), rows.len()) } else { (rows.len(), cols.len()) };
        let (bytes, stride) = (len * size_of::<T>(), from.stride * size_of::<T>());
        Self { start: start.cast(), runs, bytes, stride }
    }

    /// Asks for the `at`-th of `parts` shares.
    pub(super) fn fetch(self, parts: usize, at: usize) {
        for run in share(self.runs, 1, parts, at) {
            let start = self.start.wrapping_add(run * self.stride);
            for at in (0..self.bytes).step_by(size_of::<Line>()) {
                fetch(start.wrapping_add(at));
            }
            // Where runs begin within lines, they end one later.
            fetch(start.wrapping_add(self.bytes.saturating_sub(1)));
        }
    }
}

/// Asks for a line, for the second-level cache.
#[inline(always)]
fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: a hint, which may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    let _ = line;
}
