//! Products of bf16 parts on the processor's unit of tiles (AMX).
//!
//! The unit multiplies bf16 alone, at ten times the speed of f32 units. Numbers of f32 are
//! therefore split into bf16 parts, `x = x₁ + x₂ + x₃`, each of which is the rest of those
//! before it, rounded to nearest: `abs(x − x₁) ≤ 2⁻⁸·abs(x)`, `abs(x − x₁ − x₂) ≤
//! 2⁻¹⁶·abs(x)`, and three parts are all 24 bits. Of `p` parts, the products `xᵢ·wⱼ` with `i +
//! j ≤ p + 1` are summed, in f32:
//!
//! | parts `p` | f32 weights | bf16 weights | error of `x·w` by products left out |
//! |---|---|---|---|
//! | 1 | `x₁w₁` | `x₁w` | `(2⁻⁷ + 2⁻¹⁶)·abs(x·w)`, bf16 weights `2⁻⁸` |
//! | 2 | `x₁w₁, x₁w₂, x₂w₁` | `x₁w, x₂w` | `3.1·2⁻¹⁶·abs(x·w)`, bf16 weights `2⁻¹⁶` |
//! | 3 | six | `x₁w, x₂w, x₃w` | `2.1·2⁻²⁴·abs(x·w)`, bf16 weights none |
//!
//! The unit sums the 16 even and the 16 odd inputs of a block from zero, adds both sums, and
//! adds that to what it has; each step is rounded once. So a sum of `n` inputs and `q` products
//! of parts takes at most `m = 18 + q·⌈n/32⌉` roundings, whose error is at most `γ·Σ abs(x·w)`
//! with `γ = 1.02·m·u / (1 − m·u)`, `u = 2⁻²⁴`, where 1.02 is what parts add up to. Numbers,
//! products and sums below 2⁻¹²⁶ are taken as zero, parts too: at most `4q·n·2⁻¹²⁶·(1 + max
//! abs(x) + max abs(w))` more. Numbers above 3.39·10³⁸, the largest of bf16, count as infinite.
//! ([`Arithmetic::error`](super::Arithmetic::error) is the sum of these.)
//!
//! Rows keep the parts of a block side by side, 32 inputs of each in one line; panels keep 16
//! pairs of inputs of a part, two lines each, and then those of the next part.

mod split;
pub(super) mod unit;

use std::mem::MaybeUninit;

use multiversion::multiversion;

use self::unit::Operands;
pub(super) use self::{
    split::{panel, row, turned},
    unit::{BLOCK, ROWS, SIDE},
};
use super::{COLS, Line, activations::ROW_LINES, instructions::Tile, prefetch::Ahead};

/// Bf16 parts that numbers are split into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parts {
    /// Numbers rounded to bf16.
    One,
    /// Sixteen bits of each.
    Two,
    /// All of f32.
    Three,
}

impl Parts {
    /// How many.
    pub const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// Products of parts for a product of numbers, with so many parts of the weight.
    pub(super) const fn products(self, of_weight: usize) -> usize {
        let left = self.count();
        // Of ranks that add up to less than `left`.
        let (mut sum, mut rank) = (0, 0);
        while rank < of_weight {
            sum += left - rank;
            rank += 1;
        }
        sum
    }
}

/// What the products that are left out come to, relative to `Σ abs(x·w)`, and how many are
/// made; `exact` is whether the weight is bf16.
pub(super) fn left_out(parts: Parts, exact: bool) -> (f64, usize) {
    let of = |digits: i32| 2_f64.powi(-digits);
    let error = match (parts, exact) {
        (Parts::One, true) => of(8),
        (Parts::One, false) => of(7) + of(16),
        (Parts::Two, true) => of(16),
        (Parts::Two, false) => 3.1 * of(16),
        (Parts::Three, true) => 0.0,
        (Parts::Three, false) => 2.1 * of(24),
    };
    (error, parts.products(if exact { 1 } else { parts.count() }))
}

/// Lines of a panel's block of inputs, of one part.
pub(super) const BLOCK_LINES: usize = BLOCK / 2 * Line::OF_COLS;

/// Bytes that are prefetched with a block, at most.
const AHEAD: usize = 4 * size_of::<Line>();

/// A strip times a panel, whole blocks of inputs (`tile.steps`), by the processor's unit or in
/// software.
///
/// # Safety
/// As [`widen`](super::instructions::portable::widen); by the unit, this thread's tiles must be configured.
pub(super) unsafe fn run(tile: Tile<'_>, ahead: Ahead, by_twin: bool) {
    let Tile { rows, cols, steps, counts, .. } = tile;
    let two = rows > SIDE;
    let held = if two { ROWS } else { SIDE };
    assert!(rows <= ROWS && (1..=COLS).contains(&cols), "a strip of {rows} × {cols}");
    assert!(steps * counts.left < ROW_LINES && tile.a.len() >= held * ROW_LINES);
    assert!(tile.b.len() >= steps * tile.held * BLOCK_LINES && counts.right <= tile.held);
    let scaled = tile.scale != 1.0;
    // The sums of a whole strip go where they belong; others by way of a buffer.
    let whole = cols == COLS && rows == held;
    let mut buffer = Buffer([const { MaybeUninit::uninit() }; ROWS * COLS]);
    let room = buffer.0.as_mut_ptr().cast::<f32>();
    let stride_of_room = COLS * size_of::<f32>();
    let onto = match tile.onto {
        _ if scaled || steps == 0 => None,
        Some((onto, stride)) if !whole => {
            // SAFETY: the caller's promise, and the buffer is as large.
            unsafe { copy((onto, stride), (room, COLS), rows, cols) };
            Some((room.cast_const(), stride_of_room))
        }
        Some((onto, stride)) => Some((onto, stride * size_of::<f32>())),
        None => None,
    };
    let direct = whole && !scaled && steps > 0;
    let (to, to_stride) = match direct {
        true => (tile.to, tile.stride * size_of::<f32>()),
        false => (room, stride_of_room),
    };
    let operands = Operands {
        left: tile.a.as_ptr().cast(),
        left_stride: size_of::<Line>() * ROW_LINES,
        right: tile.b.as_ptr().cast(),
        right_block: tile.held * BLOCK_LINES * size_of::<Line>(),
        blocks: steps,
        onto: onto.map_or(std::ptr::null(), |(onto, _)| onto),
        onto_stride: onto.map_or(0, |(_, stride)| stride),
        to,
        to_stride,
        two,
        ahead: if ahead.lines > 0 { ahead.start } else { tile.a.as_ptr().cast() },
        ahead_step: (ahead.lines.div_ceil(steps.max(1)) * size_of::<Line>()).min(AHEAD),
    };
    // SAFETY: the caller's promise, and the assertions above.
    unsafe {
        match (steps, by_twin) {
            (0, _) => room.write_bytes(0, ROWS * COLS),
            (_, true) => unit::twin::multiply(&operands, counts),
            (_, false) => unit::multiply(&operands, counts),
        }
        if !direct {
            let onto = if scaled || steps == 0 { tile.onto } else { None };
            finish(room, tile, onto);
        }
    }
}

/// Room for the sums of a strip; where these begin with nothing it is not cleared.
#[repr(align(64))]
struct Buffer([MaybeUninit<f32>; ROWS * COLS]);

/// Copies some rows of numbers, each side's a stride apart.
///
/// # Safety
/// The rows must be readable and writable.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
unsafe fn copy(from: (*const f32, usize), to: (*mut f32, usize), rows: usize, cols: usize) {
    for row in 0..rows {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0.add(row * from.1), to.0.add(row * to.1), cols);
        }
    }
}

/// Scales the sums and adds them to `onto`, if there is one, where they belong.
///
/// # Safety
/// As [`run`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2+fma"))]
unsafe fn finish(sums: *const f32, tile: Tile<'_>, onto: Option<(*const f32, usize)>) {
    for row in 0..tile.rows {
        for col in 0..tile.cols {
            // SAFETY: the caller's promise.
            unsafe {
                let sum = tile.scale * *sums.add(row * COLS + col);
                let sum = match onto {
                    Some((onto, stride)) => onto.add(row * stride + col).read() + sum,
                    None => sum,
                };
                tile.to.add(row * tile.stride + col).write(sum);
            }
        }
    }
}
