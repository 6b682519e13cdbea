//! Slices of tensors on the CPU, and outputs that are written once.
//!
//! A fresh `vec![0.0; n]` is written twice, first with zeros and then with results. Outputs
//! here are [`MaybeUninit`] until they are written.

use std::{mem::MaybeUninit, ops::Range};

use crate::threads::{self, Blocks};
use candle_core::{
    CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor, WithDType,
    backend::BackendStorage, bail,
};
use half::{bf16, f16};

/// Elements of an output that one task writes at least.
pub(crate) const GRAIN: usize = 16 * 1024;

/// Memory that is still to be written.
pub(crate) type Unwritten = [MaybeUninit<f32>];

/// Makes a vector of `len` elements by writing each of them.
///
/// # Safety
/// `fill` must write every element.
pub(crate) unsafe fn build(len: usize, fill: impl FnOnce(&mut Unwritten)) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is at least `len`, and the caller has written all.
    unsafe { values.set_len(len) };
    values
}

/// Makes `rows · width` elements, whole rows at a time and in parallel; `fill`
/// is given the rows it must write.
///
/// # Safety
/// `fill` must write every element of the slice it is given.
pub(crate) unsafe fn build_rows(
    rows: usize,
    width: usize,
    fill: impl Fn(Range<usize>, &mut Unwritten) + Sync,
) -> Vec<f32> {
    // SAFETY: all rows are filled.
    unsafe { build(rows * width, |out| fill_rows(out, width, fill)) }
}

/// Gives `fill` all rows of `out`, `width` elements each, some at a time and in parallel.
pub(crate) fn fill_rows(
    out: &mut Unwritten,
    width: usize,
    fill: impl Fn(Range<usize>, &mut Unwritten) + Sync,
) {
    let (step, width) = (rows_of_a_task(width), width.max(1));
    threads::chunks(out, step * width, |at, out| {
        fill(at * step..at * step + out.len() / width, out);
    });
}

/// Room for `len` elements in an empty vector that is only written to.
pub(crate) fn room(values: &mut Vec<f32>, len: usize) -> &mut Unwritten {
    values.reserve_exact(len);
    &mut values.spare_capacity_mut()[..len]
}

/// Rows of several widths, still to be written, block by block.
pub(crate) struct Sheets<const N: usize> {
    values: [Vec<f32>; N],
    widths: [usize; N],
    rows: usize,
}

impl<const N: usize> Sheets<N> {
    pub(crate) fn new(rows: usize, widths: [usize; N]) -> Self {
        Self { values: widths.map(|width| Vec::with_capacity(rows * width)), widths, rows }
    }

    /// All of them, block by block.
    pub(crate) fn blocks(&mut self, blocks: Blocks) -> Vec<[&mut Unwritten; N]> {
        let Self { values, widths, rows } = self;
        assert_eq!(blocks.rows(), *rows, "rows of all blocks");
        let mut widths = widths.iter();
        let mut of_each = values.each_mut().map(|values| {
            blocks.of(values.spare_capacity_mut(), widths.next().copied().unwrap_or(0)).into_iter()
        });
        let all = (0..blocks.count())
            .map(|_| of_each.each_mut().map(|blocks| blocks.next().unwrap_or_default()));
        all.collect()
    }

    /// What was written.
    ///
    /// # Safety
    /// Every element of all blocks was written.
    pub(crate) unsafe fn written(self) -> [Vec<f32>; N] {
        let (rows, mut widths) = (self.rows, self.widths.into_iter());
        self.values.map(|mut values| {
            // SAFETY: there is room for as many, and the caller has written them.
            unsafe { values.set_len(rows * widths.next().unwrap_or(0)) };
            values
        })
    }
}

/// How many rows of `width` elements make a task worth its start.
pub(crate) fn rows_of_a_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// Elements that were written, as numbers.
///
/// # Safety
/// Every element was written.
pub(crate) unsafe fn written(values: &mut Unwritten) -> &mut [f32] {
    // SAFETY: both types have the same layout, and all elements are initialised.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [f32]) }
}

/// Numbers that are to be written again.
///
/// # Safety
/// Nothing but numbers may be written.
pub(crate) unsafe fn rewritten(values: &mut [f32]) -> &mut Unwritten {
    // SAFETY: both types have the same layout; that it holds numbers is the caller's promise.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut Unwritten) }
}

/// Part of a storage, which must be contiguous and of type `T`.
pub(crate) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, found strides {:?}", layout.stride())
    };
    let values = storage.as_slice::<T>()?;
    // A view of nothing may begin beyond the end.
    Ok(if start == end { &[] } else { &values[start..end] })
}

/// A weight as it is held, row-major.
#[derive(Clone, Copy)]
pub(crate) enum Weight<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Weight<'a> {
    /// Whether a tensor's type is one of these.
    pub(crate) fn takes(dtype: DType) -> bool {
        [DType::F32, DType::BF16, DType::F16].contains(&dtype)
    }

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::BF16,
            Self::F16(_) => DType::F16,
        }
    }

    pub(crate) fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        // By the type that it has: a slice of another is an error, which takes a backtrace.
        let dtype = BackendStorage::dtype(storage);
        if dtype == DType::BF16 {
            return Ok(Self::Bf16(slice(storage, layout)?));
        }
        if dtype == DType::F16 {
            return Ok(Self::F16(slice(storage, layout)?));
        }
        Ok(Self::F32(slice(storage, layout)?))
    }

    /// Elements `range` as f32; converted into `scratch` where they are not.
    pub(crate) fn part<'s>(self, range: Range<usize>, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::F32(values) => return &values[range],
            Self::Bf16(values) => {
                scratch.clear();
                scratch.extend(values[range].iter().map(|v| v.to_f32()));
            }
            Self::F16(values) => {
                scratch.clear();
                scratch.extend(values[range].iter().map(|v| v.to_f32()));
            }
        }
        scratch
    }
}

/// A tensor's storage while it is read.
pub(crate) struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    fn cpu(&self) -> Result<&CpuStorage> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(storage),
            Storage::Cuda(_) | Storage::Metal(_) => bail!("expected a tensor on the CPU"),
        }
    }

    pub(crate) fn slice<T: WithDType>(&self) -> Result<&[T]> {
        slice(self.cpu()?, self.layout)
    }

    pub(crate) fn weight(&self) -> Result<Weight<'_>> {
        Weight::of(self.cpu()?, self.layout)
    }
}

/// Whether the fused kernels take these activations.
pub(crate) fn fused(activations: &[&Tensor]) -> bool {
    activations.iter().all(|x| x.device().is_cpu() && x.dtype() == DType::F32)
}
