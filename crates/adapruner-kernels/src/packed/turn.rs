//! Transposes, 16 × 16 words at a time.

use super::Line;

/// Rows and columns of a square.
pub(super) const SIDE: usize = Line::WORDS;

/// Writes the columns of a block as lines, `step` lines apart; words of rows that
/// do not exist are zero.
///
/// # Shapes
/// At most [`SIDE`] rows of as many columns, `stride` numbers apart.
pub(super) fn turn(
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
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512; the block lies within both sides.
        unsafe {
            if rows == SIDE && cols == SIDE {
                x86::turn::<true>(from.as_ptr(), stride, (rows, cols), to.as_mut_ptr(), step);
            } else {
                x86::turn::<false>(from.as_ptr(), stride, (rows, cols), to.as_mut_ptr(), step);
            }
        }
        return;
    }
    scalar(from, stride, (rows, cols), to, step);
}

/// [`turn`], word by word.
fn scalar(from: &[f32], stride: usize, (rows, cols): (usize, usize), to: &mut [Line], step: usize) {
    for col in 0..cols {
        let line = &mut to[col * step];
        *line = Line::ZERO;
        for row in 0..rows {
            line.0[row] = from[row * stride + col].to_bits();
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use self::x86::square;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Line, SIDE};

    /// The columns of a square of words.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn square(rows: [__m512i; SIDE]) -> [__m512i; SIDE] {
        // Words of two rows side by side, then of four.
        let mut twos = rows;
        for at in (0..SIDE).step_by(2) {
            twos[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
            twos[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
        }
        let mut fours = twos;
        for at in (0..SIDE).step_by(4) {
            fours[at] = _mm512_unpacklo_epi64(twos[at], twos[at + 2]);
            fours[at + 1] = _mm512_unpackhi_epi64(twos[at], twos[at + 2]);
            fours[at + 2] = _mm512_unpacklo_epi64(twos[at + 1], twos[at + 3]);
            fours[at + 3] = _mm512_unpackhi_epi64(twos[at + 1], twos[at + 3]);
        }
        // Quarter `q` of `fours[4·i + j]` holds word `4·q + j` of rows `4·i` to
        // `4·i + 3`: quarters of four vectors make a column.
        let mut cols = fours;
        for j in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(fours[j], fours[4 + j]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(fours[j], fours[4 + j]);
            let later_even = _mm512_shuffle_i32x4::<0x88>(fours[8 + j], fours[12 + j]);
            let later_odd = _mm512_shuffle_i32x4::<0xdd>(fours[8 + j], fours[12 + j]);
            cols[j] = _mm512_shuffle_i32x4::<0x88>(even, later_even);
            cols[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd, later_odd);
            cols[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even, later_even);
            cols[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd, later_odd);
        }
        cols
    }

    /// # Safety
    /// As checked by [`super::turn`]; the block is a square if `WHOLE`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn turn<const WHOLE: bool>(
        from: *const f32,
        stride: usize,
        (rows, cols): (usize, usize),
        to: *mut Line,
        step: usize,
    ) {
        let mask = u16::MAX >> (SIDE - cols);
        let mut words = [_mm512_setzero_si512(); SIDE];
        for (at, words) in words.iter_mut().enumerate() {
            let from = from.wrapping_add(at * stride).cast::<i32>();
            // SAFETY: only words of the mask are read, which are the block's.
            *words = unsafe {
                if WHOLE {
                    _mm512_loadu_si512(from.cast())
                } else {
                    _mm512_maskz_loadu_epi32(if at < rows { mask } else { 0 }, from)
                }
            };
        }
        for (at, line) in square(words).into_iter().enumerate() {
            if WHOLE || at < cols {
                // SAFETY: the caller's promise.
                unsafe { _mm512_store_si512(to.add(at * step).cast(), line) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_turned_as_word_by_word() {
        let values: Vec<f32> = (0..16 * 37).map(|at| at as f32 + 0.5).collect();
        for rows in 0..=SIDE {
            for cols in 0..=SIDE {
                let (mut found, mut expected) = ([Line([7; 16]); 46], [Line([7; 16]); 46]);
                turn(&values, 37, (rows, cols), &mut found, 3);
                scalar(&values, 37, (rows, cols), &mut expected, 3);
                let expected = if rows == 0 { [Line([7; 16]); 46] } else { expected };
                assert!(found == expected, "{rows} × {cols}");
            }
        }
    }
}
