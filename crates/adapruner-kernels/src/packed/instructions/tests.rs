//! Every kernel of the table against its twin, to the same bits.

use proptest::prelude::*;

use super::{
    super::{
        int16::panel_lines,
        prefetch::Ahead,
        tiles::{self, BLOCK_LINES},
    },
    *,
};

/// Numbers of about one as words, from a seed.
fn lines(count: usize, seed: u32) -> Vec<Line> {
    let word = |at: u32| (at ^ seed).wrapping_mul(0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let number = |at: u32| ((word(at) >> 8) as f32 / 8_388_608.0 - 1.0).to_bits();
    (0..count as u32).map(|at| Line(std::array::from_fn(|w| number(at * 16 + w as u32)))).collect()
}

/// Pairs of bf16 of all sizes, among them denormal and infinite ones, and not a number.
fn odd_pairs(count: usize, seed: u32) -> Vec<Line> {
    let odd = [0x0001, 0x8003, 0x7f80, 0xff80, 0x7fc1, 0x0080, 0x7f7f, 0xff7f];
    let half = |at: u32| {
        let word = (at ^ seed).wrapping_mul(0x9e37_79b9).wrapping_mul(0x85eb_ca6b) >> 7;
        match word % 61 {
            0 => odd[(word / 61 % 8) as usize],
            // About one, of either sign.
            _ => (0x3d00 + (word >> 8) % 0x400) | (word << 10 & 0x8000),
        }
    };
    let pair = |at: u32| half(2 * at) | half(2 * at + 1) << 16;
    (0..count as u32).map(|at| Line(std::array::from_fn(|w| pair(at * 16 + w as u32)))).collect()
}

/// Kernels of sets that run here.
fn kernels() -> impl Iterator<Item = &'static Kernel> {
    STATES.iter().filter(|state| state.runs).flat_map(|state| state.set.kernels)
}

/// A strip and what it is added to.
#[derive(Debug)]
struct Bench {
    a: Vec<Line>,
    rows: usize,
    cols: usize,
    scale: f32,
    add: bool,
    stride: usize,
    before: Vec<f32>,
}

impl Bench {
    fn run(
        &self,
        b: &[Line],
        steps: usize,
        counts: (usize, usize),
        held: usize,
        kernel: &Kernel,
    ) -> Vec<u32> {
        self.run_by(b, steps, counts, held, |tile| {
            // SAFETY: the result has all rows, and holds numbers; the set runs here.
            kernel.session(|| unsafe { (kernel.run)(tile, &mut { Prefetch::NONE }) });
        })
    }

    fn run_by(
        &self,
        b: &[Line],
        steps: usize,
        (left, right): (usize, usize),
        held: usize,
        product: impl FnOnce(Tile<'_>),
    ) -> Vec<u32> {
        let &Self { rows, cols, scale, add, stride, .. } = self;
        let mut result = self.before.clone();
        let to = result.as_mut_ptr();
        let onto = add.then_some((to.cast_const(), stride));
        let counts = Counts { left, right };
        product(Tile { a: &self.a, b, steps, rows, cols, to, stride, scale, onto, counts, held });
        result.iter().map(|v| v.to_bits()).collect()
    }
}

fn bench() -> impl Strategy<Value = Bench> {
    let sides = (1..=32_usize, prop_oneof![3 => Just(COLS), 2 => 1..=COLS]);
    (sides, any::<bool>(), any::<bool>(), any::<u32>()).prop_map(
        |((rows, cols), scaled, add, seed)| {
            let stride = COLS + 3;
            Bench {
                a: lines(32 * ROW_LINES, seed),
                rows,
                cols,
                scale: if scaled { 0.375 } else { 1.0 },
                add,
                stride,
                before: (0..rows * stride).map(|at| at as f32).collect(),
            }
        },
    )
}

proptest! {
    #[test]
    fn strips_have_the_twins_bits(mut bench in bench(), steps in 0..40_usize, seed: u32) {
        bench.rows = bench.rows.min(12);
        let b = lines(2 * steps * Line::OF_COLS, seed);
        let twin = |b: &[Line], steps| {
            // SAFETY: the result has all rows, and holds numbers.
            bench.run_by(b, steps, (1, 1), 1, |tile| unsafe { portable::widen(tile) })
        };
        // Pairs: the upper halves of two steps' words.
        let words = |even: &Line, odd: &Line| {
            Line(std::array::from_fn(|w| even.0[w] >> 16 | odd.0[w] & 0xffff_0000))
        };
        let rounded: Vec<Line> = b.iter().map(|l| Line(l.0.map(|w| w & 0xffff_0000))).collect();
        let paired: Vec<Line> = b
            .chunks_exact(2 * Line::OF_COLS)
            .flat_map(|step| (0..Line::OF_COLS).map(|at| words(&step[at], &step[at + 2])))
            .collect();
        // Integers: any words, and scales behind them.
        let integers = lines(panel_lines(2 * steps), seed);
        for kernel in kernels() {
            match kernel.arithmetic {
                Arithmetic::Widen => {
                    prop_assert_eq!(bench.run(&b, steps, (1, 1), 1, kernel), twin(&b, steps));
                    let pairs = kernel.pairs.unwrap();
                    // SAFETY: as above, and the set runs here.
                    let found = bench.run_by(&paired, steps, (1, 1), 1, |tile| unsafe { pairs(tile) });
                    prop_assert_eq!(found, twin(&rounded, 2 * steps));
                }
                Arithmetic::Int16 => {
                    // SAFETY: as above.
                    let twin = bench.run_by(&integers, steps, (1, 1), 1, |tile| unsafe {
                        portable::int16(tile);
                    });
                    prop_assert_eq!(bench.run(&integers, steps, (1, 1), 1, kernel), twin);
                }
                // Its sums are rounded as its maker likes: held to its bound elsewhere.
                Arithmetic::Dot
                // Held to each other below.
                | Arithmetic::Tiles(_)
                | Arithmetic::Emulated(_)
                // The twin itself.
                | Arithmetic::Scalar => {}
            }
        }
    }

    #[test]
    fn tiles_have_the_twins_bits(
        mut bench in bench(),
        blocks in 0..6_usize,
        of_bf16: bool,
        more in 0..2_usize,
        odd: bool,
        seed: u32,
    ) {
        if odd {
            bench.a = odd_pairs(32 * ROW_LINES, seed);
        }
        for kernel in kernels() {
            let Arithmetic::Tiles(parts) = kernel.arithmetic else { continue };
            let left = parts.count();
            let (right, held) = if of_bf16 { (1, 1) } else { (left, left + more) };
            let blocks = blocks.min(16 / left);
            let of = if odd { odd_pairs } else { lines };
            let b = of(blocks * held * BLOCK_LINES, !seed);
            // SAFETY: the result has all rows, and holds numbers.
            let twin = bench.run_by(&b, blocks, (left, right), held, |tile| unsafe {
                tiles::run(tile, Ahead::NONE, true);
            });
            let found = bench.run(&b, blocks, (left, right), held, kernel);
            // Which of several numbers that are none is kept is the processor's.
            let plain = |bits: Vec<u32>| -> Vec<u32> {
                let of = |bits: u32| if f32::from_bits(bits).is_nan() { u32::MAX } else { bits };
                bits.into_iter().map(of).collect()
            };
            prop_assert!(plain(found) == plain(twin), "{parts:?}");
        }
    }
}

/// What runs here is what is tested, so what does not is said.
#[test]
fn sets_that_do_not_run_here_are_said() {
    for state in STATES.iter().filter(|state| !state.runs) {
        let InstructionSet { name, note, .. } = state.shown;
        adapruner_testing::unsupported(&format!("{name}: {note}"));
    }
}

#[test]
fn what_is_used_is_there_and_has_what_it_needs() {
    let used = |flag: &str| STATES.iter().any(|state| state.set.flag == flag && state.runs);
    for State { set, runs, shown } in &*STATES {
        assert!(shown.found || !runs, "{shown:?}");
        assert!(*runs || !shown.used, "{shown:?}");
        assert!(!runs || set.needs.iter().all(|need| used(need)), "{shown:?}");
        assert_eq!(instruction_flags().iter().filter(|flag| **flag == set.flag).count(), 1);
    }
    for arithmetic in Arithmetic::ALL {
        assert!(!preferred(arithmetic) || arithmetic.runs_here(), "{arithmetic:?}");
    }
    assert!(Arithmetic::Scalar.runs_here());
}
