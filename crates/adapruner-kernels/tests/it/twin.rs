//! Runs an operation in f32 and its twin in f64 on the same numbers.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How far f32 may be from f64, relative to the largest number of a tensor:
/// sums of some hundred products round at 6·10⁻⁸ each, and errors of one step
/// pass through the next.
pub const F32: f64 = 2e-5;
/// A bf16 gradient is rounded to 8 bits.
pub const BF16: f64 = 1.0 / 256.0;

/// Numbers of about one, from a seed.
pub fn numbers(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let len = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|_| rng.random::<f32>() * 4.0 - 2.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// One operand: its values, and how it is handed in.
#[derive(Clone)]
pub struct Operand {
    pub values: Tensor,
    /// As a view whose last two axes are exchanged in memory.
    pub strided: bool,
    /// Not tracked: no gradient is compared.
    pub constant: bool,
    /// Type of the fused side; the twin has the same numbers as f64.
    pub dtype: DType,
}

impl Operand {
    pub fn new(shape: &[usize], seed: u64) -> Self {
        let values = numbers(shape, seed);
        Self { values, strided: false, constant: false, dtype: DType::F32 }
    }

    pub fn strided(self, strided: bool) -> Self {
        Self { strided, ..self }
    }

    pub fn constant(self) -> Self {
        Self { constant: true, ..self }
    }

    /// Rounds the numbers to `dtype`.
    pub fn dtype(self, dtype: DType) -> Self {
        let values = self.values.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        Self { values, dtype, ..self }
    }

    /// What an operation is given, and the variable behind it.
    fn input(&self, dtype: DType) -> Result<(Tensor, Option<Var>)> {
        let values = self.values.to_dtype(dtype)?;
        let rank = values.rank();
        let exchanged = |t: &Tensor| t.transpose(rank - 2, rank - 1);
        let values = if self.strided { exchanged(&values)?.contiguous()? } else { values };
        let variable = if self.constant { None } else { Some(Var::from_tensor(&values)?) };
        let tensor = variable.as_ref().map_or(values, |v| v.as_tensor().clone());
        Ok((if self.strided { exchanged(&tensor)? } else { tensor }, variable))
    }
}

/// Output and gradients, as f64.
fn run(
    operands: &[Operand],
    dtype: Option<DType>,
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    seed: u64,
) -> Result<Vec<(String, Tensor)>> {
    let inputs =
        operands.iter().map(|o| o.input(dtype.unwrap_or(o.dtype))).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = inputs.iter().map(|(t, _)| t.clone()).collect();
    let y = op(&tensors)?;
    let upstream = numbers(y.dims(), seed).to_dtype(y.dtype())?;
    let grads = (&y * upstream)?.sum_all()?.backward()?;
    let mut out = vec![("output".to_owned(), y.detach().to_dtype(DType::F64)?)];
    for (at, (_, variable)) in inputs.iter().enumerate() {
        if let Some(variable) = variable {
            let grad =
                grads.get(variable).unwrap_or_else(|| panic!("operand {at} has no gradient"));
            assert_eq!(grad.dtype(), variable.dtype(), "type of the gradient of operand {at}");
            out.push((format!("gradient {at}"), grad.to_dtype(DType::F64)?));
        }
    }
    Ok(out)
}

/// Holds the fused operation to its twin.
pub fn compare(
    operands: &[Operand],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    twin: impl Fn(&[Tensor]) -> Result<Tensor>,
    seed: u64,
) {
    let found = run(operands, None, fused, seed).unwrap();
    let expected = run(operands, Some(DType::F64), twin, seed).unwrap();
    assert_eq!(found.len(), expected.len());
    let variables = operands.iter().filter(|o| !o.constant);
    let types = std::iter::once(DType::F32).chain(variables.map(|o| o.dtype));
    for (((name, found), (_, expected)), dtype) in found.iter().zip(&expected).zip(types) {
        assert_eq!(found.dims(), expected.dims(), "shape of the {name}");
        let most = |t: &Tensor| -> f64 {
            if t.elem_count() == 0 {
                return 0.0;
            }
            t.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
        };
        let tolerance = if dtype == DType::F32 { F32 } else { BF16 };
        let (error, scale) = (most(&(found - expected).unwrap()), most(expected).max(1.0));
        assert!(error <= tolerance * scale, "{name}: off by {error:e} of {scale}");
    }
}
