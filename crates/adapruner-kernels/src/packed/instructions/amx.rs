//! AMX: a unit that multiplies tiles of bf16 ([`super::super::tiles`]).
//!
//! A strip is two tiles of 16 rows, a panel two of 16 columns: four tiles of sums, for which a
//! block of 32 inputs takes four loads and four products of 16 cycles each.

use super::{
    super::{
        Arithmetic,
        prefetch::Prefetch,
        tiles::{self, Parts, unit},
    },
    Kernel, Set, Tile,
};

pub(super) const SET: Set = Set {
    name: "AMX-BF16",
    flag: "amx",
    purpose: "products of bf16 parts, in every precision",
    needs: &["avx512"],
    found: unit::found,
    barred: || (!unit::permitted()).then_some("the system does not let this process use its state"),
    kernels: &[of(Parts::One), of(Parts::Two), of(Parts::Three)],
    ..Set::PLAIN
};

const fn of(parts: Parts) -> Kernel {
    Kernel {
        arithmetic: Arithmetic::Tiles(parts),
        strip: tiles::ROWS,
        run,
        pairs: None,
        session: Some(session),
    }
}

/// # Safety
/// As [`tiles::run`] by the unit.
unsafe fn run(tile: Tile<'_>, prefetch: &mut Prefetch) {
    let ahead = prefetch.ahead(tile.steps * tiles::BLOCK);
    // SAFETY: the caller's promise.
    unsafe { tiles::run(tile, ahead, false) }
}

fn session(work: &mut dyn FnMut()) {
    // SAFETY: kernels are only run where the unit is permitted.
    let _configured = unsafe { unit::Configured::new() };
    work();
}
