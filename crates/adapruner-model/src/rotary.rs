//! Rotary position embedding (Su et al., arXiv 2104.09864) in Hugging Face's
//! half-split form: pairs are `(x[d], x[d + R/2])` of the `R` of each head that are rotated.
//!
//! Angles are computed in f64 and rounded once.

use std::{
    f64::consts::TAU,
    sync::{Mutex, PoisonError},
};

use adapruner_checkpoint::{ModelConfig, Rope, RopeScaling};
use adapruner_kernels::sublayer::Rotation;
use candle_core::{DType, Device, Result, Tensor};

use crate::placement::Placement;

/// By which of a model's rotary embeddings a layer turns queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// None.
    No,
    /// The model's.
    Global,
    /// That of layers with a window.
    Local,
}

impl Turn {
    /// That of layer `layer`.
    pub fn of(config: &ModelConfig, layer: usize) -> Self {
        match config.rope_of(layer) {
            None => Self::No,
            Some(_) if config.local_rope.is_some() && config.window(layer).is_some() => Self::Local,
            Some(_) => Self::Global,
        }
    }
}

/// Cosines and sines of some positions, for every rotary embedding of a model.
#[derive(Debug, Clone)]
pub struct Rotations {
    global: Rotation,
    local: Option<Rotation>,
}

impl Rotations {
    /// Those that a layer takes.
    pub fn of(&self, turn: Turn) -> Option<Rotation> {
        match turn {
            Turn::No => None,
            Turn::Global => Some(self.global.clone()),
            Turn::Local => self.local.clone(),
        }
    }

    /// Some rows of them, in any order.
    ///
    /// # Shapes
    /// u32 `[R]`.
    ///
    /// # Errors
    /// A row that is not there.
    pub fn rows(&self, rows: &Tensor) -> Result<Self> {
        let of = |Rotation { cos, sin }: &Rotation| -> Result<Rotation> {
            Ok(Rotation { cos: cos.index_select(rows, 0)?, sin: sin.index_select(rows, 0)? })
        };
        Ok(Self { global: of(&self.global)?, local: self.local.as_ref().map(of).transpose()? })
    }
}

/// The tables of all rotary embeddings of a model.
#[derive(Debug)]
pub struct RotaryTables {
    global: RotaryTable,
    local: Option<RotaryTable>,
}

impl RotaryTables {
    /// Tables of which nothing is made yet.
    pub fn new(config: &ModelConfig, placement: &Placement) -> Self {
        let table = |rope: &Rope| {
            RotaryTable::new(rope, config.rotated(), placement.activations(), &placement.device)
        };
        Self { global: table(&config.rope), local: config.local_rope.as_ref().map(table) }
    }

    /// Those of positions `start..start + tokens`.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn positions(&self, start: usize, tokens: usize) -> Result<Rotations> {
        let of = |table: &RotaryTable| -> Result<Rotation> {
            let (cos, sin) = table.positions(start, tokens)?;
            Ok(Rotation { cos, sin })
        };
        Ok(Rotations { global: of(&self.global)?, local: self.local.as_ref().map(of).transpose()? })
    }
}

/// Inverse frequencies in radians per token, `[R/2]`, scaling of short texts applied.
pub fn inverse_frequencies(rope: &Rope, rotated: usize) -> Vec<f64> {
    let plain = (0..rotated / 2).map(|i| rope.theta.powf(-2.0 * i as f64 / rotated as f64));
    match &rope.scaling {
        RopeScaling::None => plain.collect(),
        RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        RopeScaling::Factors { divisors } | RopeScaling::Long { short: divisors, .. } => {
            plain.zip(divisors).map(|(f, &divisor)| f / f64::from(divisor)).collect()
        }
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings as f64;
            plain
                .map(|frequency| {
                    let turns = original * frequency / TAU;
                    if turns > high_freq_factor {
                        frequency
                    } else if turns < low_freq_factor {
                        frequency / factor
                    } else {
                        let smooth =
                            (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                })
                .collect()
        }
    }
}

/// Positions of the smallest table.
const FIRST: usize = 256;

/// Cosines and sines of positions, made as far as they are asked for: a
/// configuration may allow a million positions that no text reaches.
#[derive(Debug)]
pub struct RotaryTable {
    frequencies: Vec<f64>,
    /// Factor of cosines and sines.
    factor: f64,
    dtype: DType,
    device: Device,
    /// Cosines and sines of the first positions.
    made: Mutex<Option<(Tensor, Tensor)>>,
}

impl RotaryTable {
    /// A table of which nothing is made yet.
    pub fn new(rope: &Rope, rotated: usize, dtype: DType, device: &Device) -> Self {
        Self {
            frequencies: inverse_frequencies(rope, rotated),
            factor: match rope.scaling {
                RopeScaling::Long { attention_factor, .. } => attention_factor,
                RopeScaling::None
                | RopeScaling::Linear { .. }
                | RopeScaling::Llama3 { .. }
                | RopeScaling::Factors { .. } => 1.0,
            },
            dtype,
            device: device.clone(),
            made: Mutex::new(None),
        }
    }

    /// The rows of positions `start..start + tokens`.
    ///
    /// # Shapes
    /// `([tokens, R/2], [tokens, R/2])`.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn positions(&self, start: usize, tokens: usize) -> Result<(Tensor, Tensor)> {
        let end = start + tokens;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (cos, sin) = match made.take() {
            Some(tables) if tables.0.dim(0)? >= end => made.insert(tables),
            Some(_) | None => {
                let rows = end.next_power_of_two().max(FIRST);
                made.insert((self.table(rows, f64::cos)?, self.table(rows, f64::sin)?))
            }
        };
        Ok((cos.narrow(0, start, tokens)?, sin.narrow(0, start, tokens)?))
    }

    fn table(&self, rows: usize, f: fn(f64) -> f64) -> Result<Tensor> {
        let values: Vec<f32> = (0..rows)
            .flat_map(|t| {
                self.frequencies.iter().map(move |w| (f(t as f64 * w) * self.factor) as f32)
            })
            .collect();
        Tensor::from_vec(values, (rows, self.frequencies.len()), &self.device)?.to_dtype(self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::RopeScaling;

    use super::*;

    #[test]
    fn tables_grow_and_rows_stay() {
        let rope = Rope { theta: 1e4, scaling: RopeScaling::None };
        let table = RotaryTable::new(&rope, 8, DType::F32, &Device::Cpu);
        let rows = |start, tokens| {
            let (cos, sin) = table.positions(start, tokens).unwrap();
            (cos.to_vec2::<f32>().unwrap(), sin.to_vec2::<f32>().unwrap())
        };
        let first = rows(0, 5);
        assert_eq!(rows(900, 200).0.len(), 200);
        assert_eq!(rows(0, 5), first);
        assert_eq!(rows(3, 2).0, first.0[3..]);
        for (t, (cos, sin)) in first.0.iter().zip(&first.1).enumerate() {
            for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
                let angle = t as f64 * 1e4_f64.powf(-(i as f64) / 4.0);
                assert_eq!((*cos, *sin), (angle.cos() as f32, angle.sin() as f32));
            }
        }
    }
}
