//! Numbers split into bf16 parts, as strips and panels hold them.

use std::num::FpCategory;

use super::{
    super::{Line, activations::ROW_LINES},
    BLOCK, BLOCK_LINES, SIDE,
};

/// Writes a row: for each block of inputs its parts, the last block filled with zeros.
pub(in super::super) fn row(from: &[f32], parts: usize, to: &mut [Line]) {
    assert!(from.len().div_ceil(BLOCK) * parts <= to.len());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: there are lines for all blocks, and the processor has the instructions.
        return unsafe { x86::row(from, parts, to) };
    }
    row_scalar(from, parts, to);
}

/// The scalar twin of [`row`], to the same bits.
fn row_scalar(from: &[f32], parts: usize, to: &mut [Line]) {
    for (from, to) in from.chunks(BLOCK).zip(to.chunks_exact_mut(parts)) {
        let mut rest = [0.0; BLOCK];
        rest[..from.len()].copy_from_slice(from);
        for to in to {
            for (word, pair) in to.0.iter_mut().zip(rest.as_chunks_mut::<2>().0) {
                let [even, odd] = pair.each_mut().map(take);
                *word = even >> 16 | odd;
            }
        }
    }
}

/// Takes the next part off a number: its bits in the high half of a word.
#[inline(always)]
fn take(rest: &mut f32) -> u32 {
    let part = rounded(*rest);
    let value = f32::from_bits(part);
    *rest = if value.is_finite() { *rest - value } else { 0.0 };
    part
}

/// A number rounded to bf16 (ties to even; NaN stays, what is below 2⁻¹²⁶ is zero), in the
/// high half of a word.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let bits = value.to_bits();
    let near = match value.classify() {
        FpCategory::Nan => bits | 0x0040_0000,
        FpCategory::Subnormal => bits & 0x8000_0000,
        FpCategory::Infinite | FpCategory::Zero | FpCategory::Normal => {
            bits.wrapping_add(0x7fff + (bits >> 16 & 1))
        }
    };
    near & 0xffff_0000
}

/// A block of inputs of some rows: both halves have a line of 16 inputs for each row; `to`
/// begins with the block of the first row, the others follow [`ROW_LINES`] apart.
pub(in super::super) fn turned(
    halves: &[[Line; SIDE]; 2],
    rows: usize,
    parts: usize,
    to: &mut [Line],
) {
    for row in 0..rows {
        let mut values = [0.0; BLOCK];
        for (half, values) in halves.iter().zip(values.as_chunks_mut::<SIDE>().0) {
            *values = half[row].0.map(f32::from_bits);
        }
        self::row(&values, parts, &mut to[row * ROW_LINES..][..parts]);
    }
}

/// Writes a panel from rows of f32, two lines each: for each block of inputs the pairs of
/// each part, the last block filled with zeros.
pub(in super::super) fn panel(from: &[Line], parts: usize, to: &mut [Line]) {
    let blocks = from.chunks(BLOCK * Line::OF_COLS);
    for (rows, to) in blocks.zip(to.chunks_exact_mut(parts * BLOCK_LINES)) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the block is as long, and the processor has the instructions.
            unsafe { x86::block(rows, parts, to) };
            continue;
        }
        block_scalar(rows, parts, to);
    }
}

/// A line of a block's rows; those that do not exist are zero.
#[inline(always)]
fn line(rows: &[Line], row: usize, half: usize) -> Line {
    rows.get(row * Line::OF_COLS + half).copied().unwrap_or(Line::ZERO)
}

/// One block of [`panel`].
fn block_scalar(rows: &[Line], parts: usize, to: &mut [Line]) {
    for at in 0..BLOCK_LINES {
        let (pair, half) = (at / Line::OF_COLS, at % Line::OF_COLS);
        let values = |row: usize| line(rows, row, half).0.map(f32::from_bits);
        let (mut even, mut odd) = (values(2 * pair), values(2 * pair + 1));
        for to in to[at..].iter_mut().step_by(BLOCK_LINES).take(parts) {
            for (word, (even, odd)) in to.0.iter_mut().zip(even.iter_mut().zip(&mut odd)) {
                *word = take(even) >> 16 | take(odd);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{BLOCK, BLOCK_LINES, Line};
    use crate::packed::int16::PREFETCH;

    /// Two registers of numbers, of which parts are taken.
    struct Rest([__m512; 2]);

    impl Rest {
        /// The next part of all numbers, those of the first register in the lower half; taken
        /// off them unless it is the last.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn take(&mut self, last: bool) -> __m512i {
            let Self([low, high]) = self;
            let part = _mm512_cvtne2ps_pbh(*high, *low);
            // SAFETY: both types are 64 bytes that may be anything.
            let words: __m512i = unsafe { std::mem::transmute(part) };
            if last {
                return words;
            }
            let infinite = _mm512_set1_ps(f32::INFINITY);
            let rest = |rest: __m512, words: __m256i| {
                let words = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(words));
                let value = _mm512_castsi512_ps(words);
                let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(value), infinite);
                _mm512_maskz_sub_ps(finite, rest, value)
            };
            *low = rest(*low, _mm512_castsi512_si256(words));
            *high = rest(*high, _mm512_extracti64x4_epi64::<1>(words));
            words
        }
    }

    /// # Safety
    /// The processor must have AVX-512F and AVX512-BF16; `to` has lines for all parts.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn row(from: &[f32], parts: usize, to: &mut [Line]) {
        for (from, to) in from.chunks(BLOCK).zip(to.chunks_exact_mut(parts)) {
            let half = |start: usize| {
                let left = from.len().saturating_sub(start).min(Line::WORDS);
                let mask = (0xffff_u32 >> (Line::WORDS - left)) as __mmask16;
                // SAFETY: only numbers of the mask are read.
                unsafe { _mm512_maskz_loadu_ps(mask, from.as_ptr().wrapping_add(start)) }
            };
            // The numbers may be far away; rows mostly follow each other.
            for next in [0, Line::WORDS] {
                _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(PREFETCH + next).cast());
            }
            let mut rest = Rest([half(0), half(Line::WORDS)]);
            for (part, to) in to.iter_mut().enumerate() {
                let words = rest.take(part + 1 == parts);
                // SAFETY: a line is as long, and aligned.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), words) };
            }
        }
    }

    /// # Safety
    /// The processor must have AVX-512BW and AVX512-BF16; `to` has lines for all parts.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn block(rows: &[Line], parts: usize, to: &mut [Line]) {
        // Numbers of both rows in turns.
        let turns: [u16; 32] = std::array::from_fn(|at| (at / 2 + at % 2 * Line::WORDS) as u16);
        // SAFETY: as long.
        let turns = unsafe { _mm512_loadu_si512(turns.as_ptr().cast()) };
        for at in 0..BLOCK_LINES {
            let (pair, half) = (at / Line::OF_COLS, at % Line::OF_COLS);
            let row = |row: usize| {
                let line = super::line(rows, row, half);
                // SAFETY: a line is as long.
                unsafe { _mm512_loadu_ps(line.0.as_ptr().cast()) }
            };
            let mut rest = Rest([row(2 * pair), row(2 * pair + 1)]);
            for (part, to) in to[at..].iter_mut().step_by(BLOCK_LINES).take(parts).enumerate() {
                let words = _mm512_permutexvar_epi16(turns, rest.take(part + 1 == parts));
                // SAFETY: a line is as long, and aligned.
                unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), words) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::{super::super::COLS, *};

    #[test]
    fn numbers_round_as_those_of_half() {
        let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-40, -1e-40, 0.1];
        let all = (0..1_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for value in specials.into_iter().chain(all) {
            let found = bf16::from_bits((rounded(value) >> 16) as u16);
            let value = if value.is_subnormal() { 0.0_f32.copysign(value) } else { value };
            let expected = bf16::from_f32(value);
            assert!(
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(),
                "{value}: {found} for {expected}"
            );
        }
    }

    /// Numbers of all sizes.
    fn number(at: usize) -> f32 {
        let specials = [f32::NAN, f32::INFINITY, f32::MAX, 1e-40, -1e-40, f32::MIN_POSITIVE, -0.0];
        match at % 7 {
            0 => specials[at / 7 % specials.len()],
            _ => f32::from_bits((at as u32).wrapping_mul(0x9e37_79b9)),
        }
    }

    #[test]
    fn rows_of_parts_are_the_twins() {
        for len in [0, 1, 15, 16, 17, 31, 32, 33, 100, 160, 511, 512] {
            let from: Vec<f32> = (len..2 * len).map(number).collect();
            // As many lines as a row has room for.
            for parts in (1..=3).filter(|parts| len.div_ceil(BLOCK) * parts <= 17) {
                let (mut found, mut twin) = ([Line([7; 16]); 17], [Line([7; 16]); 17]);
                row(&from, parts, &mut found);
                row_scalar(&from, parts, &mut twin);
                assert!(found == twin, "{len} numbers in {parts} parts");
            }
        }
    }

    /// All 24 bits, but of what is so small that a part would be below 2⁻¹²⁶.
    #[test]
    fn three_parts_are_the_number() {
        let all = (0..1_000_000_u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9)));
        for value in all.filter(|v| (1e-30..3.3e38).contains(&v.abs())) {
            let mut rest = value;
            let parts = [(); 3].map(|()| f64::from(f32::from_bits(take(&mut rest))));
            assert_eq!(parts.iter().sum::<f64>(), f64::from(value));
            assert!((f64::from(value) - parts[0]).abs() <= f64::from(value.abs()) * 2_f64.powi(-8));
            let two = (f64::from(value) - parts[0] - parts[1]).abs();
            assert!(two <= f64::from(value.abs()) * 2_f64.powi(-16));
        }
    }

    #[test]
    fn panels_are_rows_standing() {
        for (rows, parts) in [(1, 1), (31, 2), (32, 3), (45, 3), (64, 2)] {
            let from: Vec<Line> = (0..rows * Line::OF_COLS)
                .map(|at| Line(std::array::from_fn(|w| number(at * 16 + w).to_bits())))
                .collect();
            let blocks = rows.div_ceil(BLOCK);
            let mut to = vec![Line([7; 16]); blocks * parts * BLOCK_LINES];
            panel(&from, parts, &mut to);
            let mut twin = vec![Line([7; 16]); to.len()];
            for (rows, to) in
                from.chunks(BLOCK * Line::OF_COLS).zip(twin.chunks_mut(parts * BLOCK_LINES))
            {
                block_scalar(rows, parts, to);
            }
            assert!(to == twin, "the twin's bits");
            for col in 0..COLS {
                let of =
                    |lines: &[Line], at: usize| lines[at * Line::OF_COLS + col / 16].0[col % 16];
                let column: Vec<f32> = (0..rows).map(|at| f32::from_bits(of(&from, at))).collect();
                let mut expected = vec![Line::ZERO; blocks * parts];
                row(&column, parts, &mut expected);
                for (at, line) in expected.iter().enumerate() {
                    for pair in 0..BLOCK / 2 {
                        assert_eq!(of(&to, at * BLOCK / 2 + pair), line.0[pair], "{rows}: {col}");
                    }
                }
            }
        }
    }
}
