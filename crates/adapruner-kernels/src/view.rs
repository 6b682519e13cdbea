//! Matrices as products read and write them.

use std::ops::Range;

/// A matrix that is read: row-major, or the transpose of one that is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// From one row to the next, or from one column to the next if `transposed`.
    pub(crate) stride: usize,
    /// Whether columns are what lies together.
    pub(crate) transposed: bool,
}

impl<'a, T> View<'a, T> {
    /// Rows of `cols` elements each, `stride` apart.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!(
                (rows - 1) * stride + cols <= data.len(),
                "a matrix of {rows} × {cols} does not fit {} elements",
                data.len()
            );
        }
        Self { data, rows, cols, stride, transposed: false }
    }

    /// Rows that follow each other.
    pub(crate) fn dense(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::new(data, rows, cols, cols)
    }

    /// The transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Steps from one row to the next and from one column to the next.
    pub(crate) fn strides(&self) -> (usize, usize) {
        if self.transposed { (1, self.stride) } else { (self.stride, 1) }
    }

    pub(crate) fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let (row_stride, col_stride) = self.strides();
        let start = rows.start * row_stride + cols.start * col_stride;
        let data = self.data.get(start..).unwrap_or_default();
        let (lines, len) =
            if self.transposed { (cols.len(), rows.len()) } else { (rows.len(), cols.len()) };
        let part = View::new(data, lines, len, self.stride);
        if self.transposed { part.t() } else { part }
    }
}

/// Where a product goes: rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) start: *mut f32,
    pub(crate) stride: usize,
}

impl Target {
    pub(crate) fn offset(self, by: usize) -> Self {
        Self { start: self.start.wrapping_add(by), stride: self.stride }
    }
}

// SAFETY: a target is only used by products, whose callers give every thread
// another part of the matrix.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

/// The `at`-th of `parts` almost equal parts of `0..len`, cut at multiples of
/// `unit`.
pub(crate) fn share(len: usize, unit: usize, parts: usize, at: usize) -> Range<usize> {
    let cut = |at: usize| (len.div_ceil(unit) * at / parts * unit).min(len);
    cut(at)..cut(at + 1)
}
