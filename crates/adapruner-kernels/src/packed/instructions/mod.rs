//! Sets of instructions: one file each, which says what arithmetic it offers and how.
//!
//! Everything else goes over the table, [`ALL`]: what runs here, what is preferred, what
//! `doctor` prints, what tests hold to the twins. A set is used where the processor has it, the
//! system lets this process use it and nobody has switched it off ([`switch_off`]).
//!
//! | set | arithmetic | strip | how a panel is packed |
//! |---|---|---|---|
//! | portable | `Scalar`, `Emulated` | 12, 32 | as that of what it is the twin of |
//! | AVX2, AVX-512 | `Widen` | 12 | rows of f32; few rows read pairs of bf16 |
//! | AVX512-BF16 | `Dot` | 12 | pairs of bf16 |
//! | AVX-VNNI, AVX512-VNNI | `Int16` | 12 | pairs of integers, then scales |
//! | AMX | `Tiles` | 32 | blocks of 16 pairs of bf16, part after part |
//!
//! Their bounds are [`Arithmetic::error`]'s.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(super) mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::sync::{LazyLock, OnceLock};

use super::{
    Arithmetic, COLS, Line, activations::ROW_LINES, int16, prefetch::Prefetch, tiles::unit::Counts,
};

/// Words from one row of a strip to the next.
const ROW: usize = ROW_LINES * 16;

/// A set of instructions.
pub(super) struct Set {
    /// Its name.
    name: &'static str,
    /// What it is switched off by.
    flag: &'static str,
    /// What products use it for.
    purpose: &'static str,
    /// Flags of the sets that it builds on.
    needs: &'static [&'static str],
    /// Whether the processor has it.
    found: fn() -> bool,
    /// Why it cannot be used, though found.
    barred: fn() -> Option<&'static str>,
    /// Why others are preferred, though it can be used.
    slow: fn() -> Option<&'static str>,
    /// The products it offers.
    kernels: &'static [Kernel],
}

impl Set {
    /// What a set without quirks is made of.
    const PLAIN: Self = Self {
        name: "",
        flag: "",
        purpose: "",
        needs: &[],
        found: || false,
        barred: || None,
        slow: || None,
        kernels: &[],
    };
}

/// From the most capable to the least, those that build on others before these.
#[cfg(target_arch = "x86_64")]
const ALL: [&Set; 7] = [
    &amx::SET,
    &vnni::AVX512,
    &avx512_bf16::SET,
    &avx512::SET,
    &vnni::AVX,
    &avx2::SET,
    &portable::SET,
];
#[cfg(target_arch = "aarch64")]
const ALL: [&Set; 2] = [&neon::SET, &portable::SET];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ALL: [&Set; 1] = [&portable::SET];

/// How a strip is multiplied with a panel by one arithmetic.
pub(super) struct Kernel {
    pub(super) arithmetic: Arithmetic,
    /// Rows of a strip, at most.
    pub(super) strip: usize,
    /// A strip times a panel; prefetches what it is given on the way.
    ///
    /// # Safety
    /// As [`portable::widen`]; the set must run here.
    pub(super) run: unsafe fn(Tile<'_>, &mut Prefetch),
    /// The same with a panel of pairs of bf16, if it reads those too.
    pub(super) pairs: Option<unsafe fn(Tile<'_>)>,
    /// What must be around the products of a thread, if anything.
    pub(super) session: Option<fn(&mut dyn FnMut())>,
}

impl Kernel {
    /// Runs the products of a thread.
    pub(super) fn session(&self, mut work: impl FnMut()) {
        match self.session {
            None => work(),
            Some(session) => session(&mut work),
        }
    }
}

/// A set on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet {
    /// Its name.
    pub name: &'static str,
    /// What it is switched off by.
    pub flag: &'static str,
    /// Whether the processor has it.
    pub found: bool,
    /// Whether products use it here.
    pub used: bool,
    /// What it is used for, or why it is not.
    pub note: &'static str,
}

/// A set's state, found out once.
struct State {
    set: &'static Set,
    /// Whether its products run here.
    runs: bool,
    shown: InstructionSet,
}

/// The environment variable that names sets which are switched off, with commas between.
pub const SWITCHED_OFF: &str = "ADAPRUNER_WITHOUT_INSTRUCTIONS";

/// Sets that [`switch_off`] was given.
static OFF: OnceLock<Vec<String>> = OnceLock::new();

static STATES: LazyLock<Vec<State>> = LazyLock::new(|| {
    let off = switched_off();
    let mut states: Vec<State> = Vec::new();
    // Those that others build on come last in the table.
    for set in ALL.into_iter().rev() {
        let found = (set.found)();
        let without = set
            .needs
            .iter()
            .any(|need| states.iter().any(|state| state.set.flag == *need && !state.runs));
        let barred = match () {
            () if !found => Some("not on this processor"),
            () if off.iter().any(|flag| flag == set.flag) => Some("switched off"),
            () if without => Some("what it builds on is not used"),
            () => (set.barred)(),
        };
        let slow = (set.slow)();
        let shown = InstructionSet {
            name: set.name,
            flag: set.flag,
            found,
            used: barred.is_none() && slow.is_none(),
            note: barred.or(slow).unwrap_or(set.purpose),
        };
        states.push(State { set, runs: barred.is_none(), shown });
    }
    states.reverse();
    states
});

/// The sets of this kind of processor, from the least to the most capable.
pub fn instruction_sets() -> Vec<InstructionSet> {
    STATES.iter().rev().map(|state| state.shown).collect()
}

/// Names by which sets are switched off, from the least to the most capable.
pub fn instruction_flags() -> Vec<&'static str> {
    ALL.into_iter().rev().map(|set| set.flag).collect()
}

/// Switches sets off by their [flags](instruction_flags), and with them those that build on
/// them: for comparisons, or where a processor's are faulty. Products alone go by it.
///
/// To be called before the first product; whether it was.
pub fn switch_off(flags: Vec<String>) -> bool {
    OFF.set(flags).is_ok() && LazyLock::get(&STATES).is_none()
}

/// What was switched off, by [`switch_off`] or [`SWITCHED_OFF`].
pub fn switched_off() -> Vec<String> {
    let by_variable = std::env::var(SWITCHED_OFF).unwrap_or_default();
    let by_variable = by_variable.split(',').map(|flag| flag.trim().to_owned());
    let all = by_variable.chain(OFF.get().into_iter().flatten().cloned());
    all.filter(|flag| !flag.is_empty()).collect()
}

/// The kernel of an arithmetic here.
pub(super) fn kernel(arithmetic: Arithmetic) -> Option<&'static Kernel> {
    static KERNELS: LazyLock<Vec<&'static Kernel>> = LazyLock::new(|| {
        STATES.iter().filter(|state| state.runs).flat_map(|state| state.set.kernels).collect()
    });
    KERNELS.iter().find(|kernel| kernel.arithmetic == arithmetic).copied()
}

/// Whether an arithmetic is one that is chosen here.
pub(super) fn preferred(arithmetic: Arithmetic) -> bool {
    let used = STATES.iter().filter(|state| state.shown.used);
    used.flat_map(|state| state.set.kernels).any(|kernel| kernel.arithmetic == arithmetic)
}

/// One strip times one panel.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Rows of [`ROW_LINES`] each.
    pub(super) a: &'a [Line],
    /// Two lines for each step; for tiles a block of inputs, part after part.
    pub(super) b: &'a [Line],
    pub(super) steps: usize,
    /// Of the strip.
    pub(super) rows: usize,
    /// Outputs of the panel that exist.
    pub(super) cols: usize,
    /// Where the result goes.
    pub(super) to: *mut f32,
    /// From one row of the result to the next.
    pub(super) stride: usize,
    /// What the sums are multiplied with.
    pub(super) scale: f32,
    /// What the result is added to, and how far its rows are apart.
    pub(super) onto: Option<(*const f32, usize)>,
    /// Parts that are multiplied, and those that the panel holds: of tiles alone.
    pub(super) counts: Counts,
    pub(super) held: usize,
}

impl Tile<'_> {
    /// What every way to multiply relies on.
    fn check(&self, steps_of_a: usize) {
        assert!((1..=COLS).contains(&self.cols) && steps_of_a <= ROW - Line::WORDS);
        assert!(self.a.len() >= self.rows * ROW_LINES);
        assert!(self.b.len() >= self.steps * Line::OF_COLS);
    }

    /// What products of integers rely on.
    fn check_int16(&self) {
        self.check(self.steps);
        assert!(self.b.len() >= int16::panel_lines(2 * self.steps));
    }
}

#[cfg(test)]
mod tests;
