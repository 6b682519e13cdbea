//! The unit of tiles: eight registers of 16 rows of 64 bytes, and what is done with them.
//!
//! [`multiply`] is the whole of it in one block of assembler; [`twin`] runs the same steps
//! number by number, to the same bits, on any processor.

/// Rows of a tile.
pub(in super::super) const SIDE: usize = 16;
/// Rows of a strip: two tiles, one above the other.
pub(in super::super) const ROWS: usize = 2 * SIDE;
/// Inputs of a block: what one tile holds of a row of bf16.
pub(in super::super) const BLOCK: usize = 32;
/// Bytes of a row of a tile.
const ROW_BYTES: usize = 64;

/// How many parts both sides of a product come in; see [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Counts {
    /// Of the left side.
    pub(in super::super) left: usize,
    /// Of the right side.
    pub(in super::super) right: usize,
}

/// `sums += left · right`, of a strip of two tiles' rows, or one's, and a panel of 32 columns.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(in super::super) struct Operands {
    /// First row of the strip: for each block of inputs the parts of the row, a line each.
    pub(super) left: *const u8,
    /// Bytes from one row of the strip to the next.
    pub(super) left_stride: usize,
    /// First block of the panel: for each block the parts of 16 pairs of inputs, each pair
    /// two lines.
    pub(super) right: *const u8,
    /// Bytes of a block of the panel, of which the parts that are read come first.
    pub(super) right_block: usize,
    /// Blocks of inputs, at least one.
    pub(super) blocks: usize,
    /// What the sums begin with, where there is something; zero otherwise.
    pub(super) onto: *const f32,
    /// Bytes from one row of it to the next.
    pub(super) onto_stride: usize,
    /// Where the sums go, 32 columns of all rows.
    pub(super) to: *mut f32,
    /// Bytes from one row of it to the next.
    pub(super) to_stride: usize,
    /// Whether there is a second tile of rows.
    pub(super) two: bool,
    /// What is prefetched on the way, four lines with each block.
    pub(super) ahead: *const u8,
    /// Bytes from one four to the next.
    pub(super) ahead_step: usize,
}

#[cfg(target_arch = "x86_64")]
pub(in super::super) use self::hardware::{Configured, found, multiply, permitted};

/// There is no such unit elsewhere.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn multiply(_: &Operands, _: Counts) {
    unreachable!("products of tiles without their unit")
}

#[cfg(target_arch = "x86_64")]
mod hardware {
    use std::{
        arch::{
            asm,
            x86_64::{__cpuid, __cpuid_count},
        },
        mem::offset_of,
        sync::LazyLock,
    };

    use super::{Counts, Operands, ROW_BYTES, SIDE};

    /// The tiles' shape: all of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);

    impl Configuration {
        const WHOLE: Self = {
            let mut bytes = [0; 64];
            bytes[0] = 1;
            let mut tile = 0;
            while tile < 8 {
                bytes[16 + 2 * tile] = ROW_BYTES as u8;
                bytes[48 + tile] = SIDE as u8;
                tile += 1;
            }
            Self(bytes)
        };
    }

    /// Whether the processor has tiles of bf16 and the system lets this process use them.
    /// Asked once: the state is the process's from then on.
    pub(in super::super::super) fn permitted() -> bool {
        static PERMITTED: LazyLock<bool> = LazyLock::new(|| found() && ask());
        *PERMITTED
    }

    /// Leaf 7: AMX-BF16 (bit 22 of EDX), AMX-TILE (24).
    pub(in super::super::super) fn found() -> bool {
        __cpuid(0).eax >= 7 && {
            let features = __cpuid_count(7, 0).edx;
            features >> 22 & 1 == 1 && features >> 24 & 1 == 1
        }
    }

    /// Asks the system for the tiles' state.
    #[cfg(target_os = "linux")]
    fn ask() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let answer: i64;
        // SAFETY: a system call that touches no memory of ours.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => answer,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        answer == 0
    }

    /// Elsewhere the state is not asked for, so it is not used.
    #[cfg(not(target_os = "linux"))]
    fn ask() -> bool {
        false
    }

    /// The thread's tiles while they are configured; released when dropped, as a thread
    /// with tiles is dear to switch.
    pub(in super::super::super) struct Configured(());

    impl Configured {
        /// # Safety
        /// The tiles must be [`permitted`].
        pub(in super::super::super) unsafe fn new() -> Self {
            // SAFETY: the caller's promise; a configuration is 64 bytes.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &Configuration::WHOLE, options(nostack, readonly));
            }
            Self(())
        }
    }

    impl Drop for Configured {
        fn drop(&mut self) {
            // SAFETY: whoever made this could configure tiles.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    /// Loads both tiles of a part of the panel, so many bytes into the block.
    macro_rules! right {
        ($first:literal, $second:literal) => {
            concat!(
                "tileloadd tmm6, [{b} + {bs} + ",
                $first,
                "]\ntileloadd tmm7, [{b} + {bs} + ",
                $second,
                "]"
            )
        };
    }

    /// Asks for the lines where some rows of the sums go, which are stored at the end, and
    /// goes on to the next rows.
    macro_rules! fetch_row {
        () => {
            "prefetchw [{c}]\nprefetchw [{c} + 64]\nadd {c}, {u}\n"
        };
    }

    /// Adds one part of the strip, so many bytes into the block, times what [`right`] loaded.
    macro_rules! left {
        (two, $at:literal) => {
            concat!(
                "tileloadd tmm4, [{a} + {s} + ",
                $at,
                "]\ntdpbf16ps tmm0, tmm4, tmm6\ntileloadd tmm5, [{a2} + {s} + ",
                $at,
                "]\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\n",
                fetch_row!(),
                fetch_row!(),
                "tdpbf16ps tmm3, tmm5, tmm7"
            )
        };
        (one, $at:literal) => {
            concat!(
                "tileloadd tmm4, [{a} + {s} + ",
                $at,
                "]\ntdpbf16ps tmm0, tmm4, tmm6\n",
                fetch_row!(),
                "tdpbf16ps tmm1, tmm4, tmm7"
            )
        };
    }

    /// The sums' second tiles, at 16 rows below the first.
    macro_rules! below {
        (two, $first:literal, $second:literal) => {
            concat!("mov {v}, {u}\nshl {v}, 4\nadd {t}, {v}\n", $first, "\n", $second)
        };
        (one, $first:literal, $second:literal) => {
            "/* {v} */"
        };
    }

    /// All of [`multiply`] for some numbers of parts and tiles of rows.
    macro_rules! run {
        ($o:ident, $tiles:ident, $step:literal, $($line:expr),*) => {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "mov {t}, [{o} + {onto}]",
                    "test {t}, {t}",
                    "jz 3f",
                    "mov {u}, [{o} + {onto_stride}]",
                    "tileloadd tmm0, [{t} + {u}]",
                    "tileloadd tmm1, [{t} + {u} + 64]",
                    below!(
                        $tiles,
                        "tileloadd tmm2, [{t} + {u}]",
                        "tileloadd tmm3, [{t} + {u} + 64]"
                    ),
                    "jmp 2f",
                    "3:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "mov {u}, [{o} + {to_stride}]",
                    "mov {c}, [{o} + {to}]",
                    "4:",
                    $($line,)*
                    "prefetcht1 [{f}]",
                    "prefetcht1 [{f} + 64]",
                    "prefetcht1 [{f} + 128]",
                    "prefetcht1 [{f} + 192]",
                    "add {f}, [{o} + {ahead_step}]",
                    concat!("add {a}, ", $step),
                    concat!("add {a2}, ", $step),
                    "add {b}, {bb}",
                    "dec {n}",
                    "jnz 4b",
                    "mov {t}, [{o} + {to}]",
                    "mov {u}, [{o} + {to_stride}]",
                    "tilestored [{t} + {u}], tmm0",
                    "tilestored [{t} + {u} + 64], tmm1",
                    below!(
                        $tiles,
                        "tilestored [{t} + {u}], tmm2",
                        "tilestored [{t} + {u} + 64], tmm3"
                    ),
                    o = in(reg) $o,
                    onto = const offset_of!(Operands, onto),
                    onto_stride = const offset_of!(Operands, onto_stride),
                    to = const offset_of!(Operands, to),
                    to_stride = const offset_of!(Operands, to_stride),
                    ahead_step = const offset_of!(Operands, ahead_step),
                    f = inout(reg) $o.ahead => _,
                    c = out(reg) _,
                    t = out(reg) _,
                    u = out(reg) _,
                    v = out(reg) _,
                    a = inout(reg) $o.left => _,
                    a2 = inout(reg) $o.left.wrapping_add(SIDE * $o.left_stride) => _,
                    s = in(reg) $o.left_stride,
                    b = inout(reg) $o.right => _,
                    bs = in(reg) 2 * ROW_BYTES,
                    bb = in(reg) $o.right_block,
                    n = inout(reg) $o.blocks => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        };
    }

    /// [`super::Operands`]; the products of parts whose ranks add up to less than
    /// `counts.left`, the least first.
    ///
    /// # Safety
    /// This thread's tiles must be [`Configured`]; strips, panels and what the sums begin
    /// with must be readable, and where they go writable, for all their rows.
    pub(in super::super::super) unsafe fn multiply(o: &Operands, counts: Counts) {
        debug_assert!(o.blocks > 0);
        macro_rules! of {
            ($tiles:ident) => {
                match (counts.left, counts.right) {
                    (1, 1) => run!(o, $tiles, "64", right!("0", "64"), left!($tiles, "0")),
                    (2, 1) => run!(
                        o,
                        $tiles,
                        "128",
                        right!("0", "64"),
                        left!($tiles, "64"),
                        left!($tiles, "0")
                    ),
                    (3, 1) => run!(
                        o,
                        $tiles,
                        "192",
                        right!("0", "64"),
                        left!($tiles, "128"),
                        left!($tiles, "64"),
                        left!($tiles, "0")
                    ),
                    (2, 2) => run!(
                        o,
                        $tiles,
                        "128",
                        right!("2048", "2112"),
                        left!($tiles, "0"),
                        right!("0", "64"),
                        left!($tiles, "64"),
                        left!($tiles, "0")
                    ),
                    (3, 3) => run!(
                        o,
                        $tiles,
                        "192",
                        right!("4096", "4160"),
                        left!($tiles, "0"),
                        right!("2048", "2112"),
                        left!($tiles, "64"),
                        left!($tiles, "0"),
                        right!("0", "64"),
                        left!($tiles, "128"),
                        left!($tiles, "64"),
                        left!($tiles, "0")
                    ),
                    (left, right) => unreachable!("products of {left} and {right} parts"),
                }
            };
        }
        if o.two { of!(two) } else { of!(one) }
    }
}

/// The unit in software, to the same bits.
pub(super) mod twin {
    use multiversion::multiversion;

    use super::{Counts, Operands, ROW_BYTES, SIDE};

    /// A register: rows of 16 words.
    type Tile = [[u32; SIDE]; SIDE];

    /// The unit's registers.
    struct Unit([Tile; 8]);

    impl Unit {
        /// `tileloadd`.
        ///
        /// # Safety
        /// The rows must be readable.
        unsafe fn load(&mut self, tile: usize, from: *const u8, stride: usize) {
            for (row, words) in self.0[tile].iter_mut().enumerate() {
                let from = from.wrapping_add(row * stride).cast::<[u32; SIDE]>();
                // SAFETY: the caller's promise.
                *words = unsafe { from.read_unaligned() };
            }
        }

        /// `tilezero`.
        fn zero(&mut self, tile: usize) {
            self.0[tile] = [[0; SIDE]; SIDE];
        }

        /// `tilestored`.
        ///
        /// # Safety
        /// The rows must be writable.
        unsafe fn store(&self, tile: usize, to: *mut u8, stride: usize) {
            for (row, words) in self.0[tile].iter().enumerate() {
                let to = to.wrapping_add(row * stride).cast::<[u32; SIDE]>();
                // SAFETY: the caller's promise.
                unsafe { to.write_unaligned(*words) };
            }
        }
    }

    /// `tdpbf16ps`: the products of the even numbers of the pairs are summed from zero, so are
    /// those of the odd ones, and both together added to the sum; each step is rounded once,
    /// and numbers below 2⁻¹²⁶ are zero.
    #[multiversion(targets("x86_64+avx2+fma"))]
    fn dot(sums: &mut Tile, left: &Tile, right: &Tile) {
        for (sums, left) in sums.iter_mut().zip(left) {
            let mut halves = [[0.0_f32; SIDE]; 2];
            for (a, right) in left.iter().zip(right) {
                for (half, low) in halves.iter_mut().zip([true, false]) {
                    let of = |word: u32| if low { word << 16 } else { word & HIGH };
                    let a = flushed(f32::from_bits(of(*a)));
                    for (half, b) in half.iter_mut().zip(right) {
                        let b = flushed(f32::from_bits(of(*b)));
                        *half = flushed(a.mul_add(b, *half));
                    }
                }
            }
            for ((sum, even), odd) in sums.iter_mut().zip(halves[0]).zip(halves[1]) {
                let both = flushed(even + odd);
                *sum = flushed(flushed(f32::from_bits(*sum)) + both).to_bits();
            }
        }
    }

    /// The high half of a word.
    const HIGH: u32 = 0xffff_0000;

    /// A number as the unit takes and gives it.
    #[inline(always)]
    fn flushed(value: f32) -> f32 {
        if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
    }

    /// [`super::multiply`].
    ///
    /// # Safety
    /// As there, without tiles of the processor.
    pub(in super::super) unsafe fn multiply(o: &Operands, counts: Counts) {
        let mut unit = Unit([[[0; SIDE]; SIDE]; 8]);
        let rows: &[usize] = if o.two { &[0, 1] } else { &[0] };
        for &row in rows {
            for col in 0..2 {
                let at = |start: *const u8, stride| {
                    start.wrapping_add(row * SIDE * stride + col * ROW_BYTES)
                };
                if o.onto.is_null() {
                    unit.zero(2 * row + col);
                } else {
                    // SAFETY: the caller's promise.
                    unsafe {
                        unit.load(2 * row + col, at(o.onto.cast(), o.onto_stride), o.onto_stride);
                    }
                }
            }
        }
        for block in 0..o.blocks {
            let left = o.left.wrapping_add(block * counts.left * ROW_BYTES);
            let right = o.right.wrapping_add(block * o.right_block);
            for part_of_right in (0..counts.right).rev() {
                for col in 0..2 {
                    let from = right.wrapping_add(part_of_right * 2 * SIDE * ROW_BYTES);
                    let from = from.wrapping_add(col * ROW_BYTES);
                    // SAFETY: the caller's promise.
                    unsafe { unit.load(6 + col, from, 2 * ROW_BYTES) };
                }
                for part_of_left in (0..counts.left - part_of_right).rev() {
                    for &row in rows {
                        let from = left.wrapping_add(part_of_left * ROW_BYTES);
                        let from = from.wrapping_add(row * SIDE * o.left_stride);
                        // SAFETY: the caller's promise.
                        unsafe { unit.load(4 + row, from, o.left_stride) };
                        for col in 0..2 {
                            let (left, right) = (unit.0[4 + row], unit.0[6 + col]);
                            dot(&mut unit.0[2 * row + col], &left, &right);
                        }
                    }
                }
            }
        }
        for &row in rows {
            for col in 0..2 {
                let to = o.to.cast::<u8>();
                let to = to.wrapping_add(row * SIDE * o.to_stride + col * ROW_BYTES);
                // SAFETY: the caller's promise.
                unsafe { unit.store(2 * row + col, to, o.to_stride) };
            }
        }
    }
}
