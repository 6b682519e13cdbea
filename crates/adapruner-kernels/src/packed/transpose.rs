//! Transposes, 16 × 16 words at a time.

use super::Line;

/// Rows and columns of a square.
pub(super) const SIDE: usize = Line::WORDS;

/// Writes the columns of a block as lines, `step` lines apart; words of rows that
/// do not exist are zero.
///
/// # Shapes
/// At most [`SIDE`] rows of as many columns, `stride` numbers apart.
pub(super) fn transpose(
    from: &[f32],
    stride: usize,
    (rows, cols): (usize, usize),
    to: &mut [Line],
    step: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(rows <= SIDE && cols <= SIDE);
    assert!(from.len() >= (rows - 1) * stride + cols && to.len() > (cols - 1) * step);
    if (rows, cols) == (SIDE, SIDE) {
        // SAFETY: the square lies within both sides.
        unsafe { square(from.as_ptr().cast(), stride * size_of::<f32>(), to.as_mut_ptr(), step) };
        return;
    }
    let mut block = [0.0; SIDE * SIDE];
    for (row, to) in block.chunks_exact_mut(SIDE).take(rows).enumerate() {
        to[..cols].copy_from_slice(&from[row * stride..row * stride + cols]);
    }
    let mut lines = [Line::ZERO; SIDE];
    // SAFETY: as above.
    unsafe { square(block.as_ptr().cast(), SIDE * size_of::<f32>(), lines.as_mut_ptr(), 1) };
    for (line, to) in lines.into_iter().take(cols).zip(to.iter_mut().step_by(step)) {
        *to = line;
    }
}

/// Writes the columns of a square of words as lines, `step` lines apart; its rows
/// are `stride` bytes apart.
///
/// # Safety
/// `from` must have [`SIDE`] rows of as many words, and `to` as many lines.
pub(super) unsafe fn square(from: *const u8, stride: usize, to: *mut Line, step: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the caller's promise, and the processor has AVX-512.
        return unsafe { x86::square(from, stride, to, step) };
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the caller's promise, and the processor has AVX2.
        return unsafe { x86::square_by_quarters(from, stride, to, step) };
    }
    // SAFETY: the caller's promise.
    unsafe { scalar(from, stride, to, step) };
}

/// [`square`], word by word.
///
/// # Safety
/// As [`square`].
unsafe fn scalar(from: *const u8, stride: usize, to: *mut Line, step: usize) {
    for col in 0..SIDE {
        for row in 0..SIDE {
            // SAFETY: the caller's promise.
            unsafe {
                let word = from.add(row * stride).cast::<u32>().add(col).read_unaligned();
                (*to.add(col * step)).0[row] = word;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, SIDE};

    /// # Safety
    /// As [`super::square`], and the processor must have AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn square(from: *const u8, stride: usize, to: *mut Line, step: usize) {
        for col in (0..SIDE).step_by(4) {
            // SAFETY: the caller's promise.
            let lines = unsafe { four_columns(from.add(col * size_of::<u32>()), stride) };
            for (at, line) in lines.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { _mm512_store_si512(to.add((col + at) * step).cast(), line) };
            }
        }
    }

    /// [`square`] in AVX2.
    ///
    /// # Safety
    /// As [`super::square`], and the processor must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn square_by_quarters(
        from: *const u8,
        stride: usize,
        to: *mut Line,
        step: usize,
    ) {
        const HALF: usize = SIDE / 2;
        for (row, col) in [(0, 0), (0, HALF), (HALF, 0), (HALF, HALF)] {
            let mut rows = [_mm256_setzero_si256(); HALF];
            for (at, words) in rows.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *words = unsafe {
                    let from = from.add((row + at) * stride + col * size_of::<u32>());
                    _mm256_loadu_si256(from.cast())
                };
            }
            for (at, column) in quarter(rows).into_iter().enumerate() {
                // SAFETY: the caller's promise; half a line is aligned as a register.
                unsafe {
                    let line = to.add((col + at) * step).cast::<u32>();
                    _mm256_store_si256(line.add(row).cast(), column);
                }
            }
        }
    }

    /// The columns of 8 × 8 words.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn quarter(rows: [__m256i; 8]) -> [__m256i; 8] {
        // Columns 0 to 3 of four rows in the lower halves, 4 to 7 in the upper ones.
        let four = |at: usize| {
            let first = _mm256_unpacklo_epi32(rows[at], rows[at + 1]);
            let second = _mm256_unpackhi_epi32(rows[at], rows[at + 1]);
            let later_first = _mm256_unpacklo_epi32(rows[at + 2], rows[at + 3]);
            let later_second = _mm256_unpackhi_epi32(rows[at + 2], rows[at + 3]);
            [
                _mm256_unpacklo_epi64(first, later_first),
                _mm256_unpackhi_epi64(first, later_first),
                _mm256_unpacklo_epi64(second, later_second),
                _mm256_unpackhi_epi64(second, later_second),
            ]
        };
        let (upper, lower) = (four(0), four(4));
        std::array::from_fn(|col| match col < 4 {
            true => _mm256_permute2x128_si256::<0x20>(upper[col], lower[col]),
            false => _mm256_permute2x128_si256::<0x31>(upper[col - 4], lower[col - 4]),
        })
    }

    /// Four columns of [`SIDE`] rows, `stride` bytes apart.
    ///
    /// # Safety
    /// The rows must have four words each.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn four_columns(from: *const u8, stride: usize) -> [__m512i; 4] {
        // Quarter `q` of `rows[i]` holds row `4·q + i`: read so, what is left is to
        // transpose each quarter by itself.
        let mut rows = [_mm512_setzero_si512(); 4];
        for (at, rows) in rows.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let quarter =
                |q: usize| unsafe { _mm_loadu_si128(from.add((4 * q + at) * stride).cast()) };
            let words = _mm512_castsi128_si512(quarter(0));
            let words = _mm512_inserti32x4::<1>(words, quarter(1));
            let words = _mm512_inserti32x4::<2>(words, quarter(2));
            *rows = _mm512_inserti32x4::<3>(words, quarter(3));
        }
        // Words of two rows side by side, then of four.
        let first = _mm512_unpacklo_epi32(rows[0], rows[1]);
        let second = _mm512_unpackhi_epi32(rows[0], rows[1]);
        let later_first = _mm512_unpacklo_epi32(rows[2], rows[3]);
        let later_second = _mm512_unpackhi_epi32(rows[2], rows[3]);
        [
            _mm512_unpacklo_epi64(first, later_first),
            _mm512_unpackhi_epi64(first, later_first),
            _mm512_unpacklo_epi64(second, later_second),
            _mm512_unpackhi_epi64(second, later_second),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_turned_as_word_by_word() {
        let values: Vec<f32> = (0..16 * 37).map(|at| at as f32 + 0.5).collect();
        let bits = values[..].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for rows in 1..=SIDE {
            for cols in 0..=SIDE {
                let mut found = [Line([7; 16]); 46];
                transpose(&values, 37, (rows, cols), &mut found, 3);
                for (at, line) in found.iter().enumerate() {
                    let col = at / 3;
                    let expected: [u32; 16] = std::array::from_fn(|row| match row < rows {
                        _ if at % 3 > 0 || col >= cols => 7,
                        true => bits[row * 37 + col],
                        false => 0,
                    });
                    assert_eq!(line.0, expected, "{rows} × {cols}: line {at}");
                }
            }
        }
    }

    #[test]
    fn squares_are_turned_as_word_by_word() {
        let bytes: Vec<u8> = (0..16 * 67_u32).map(|at| (at * 7 % 251) as u8).collect();
        let with = |transpose: unsafe fn(*const u8, usize, *mut Line, usize)| {
            let mut found = [Line([7; 16]); 32];
            // SAFETY: rows of 64 bytes, 67 apart, and lines two apart.
            unsafe { transpose(bytes.as_ptr(), 67, found.as_mut_ptr(), 2) };
            found
        };
        let expected = with(scalar);
        assert!(with(square) == expected);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the caller's promise, and the processor has AVX2.
            assert!(with(|f, s, t, o| unsafe { x86::square_by_quarters(f, s, t, o) }) == expected);
        }
    }
}
