//! The calibration of a cost model on this machine.

use std::{fmt, path::Path};

use adapruner_checkpoint::{Checkpoint, ModelConfig, atomic::Writer, input, sealed};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_prune::{PrunePlan, apply};
use serde::{Deserialize, Serialize};

use super::{
    SpeedOf,
    fit::non_negative,
    model::Work,
    shapes::{Slim, shapes},
    timing::{Timer, in_turns},
};
use crate::{
    advice::advised,
    error::{Context, Result, ensure},
    latency::Spread,
    memory,
    progress::Progress,
    search::compare::median,
};

/// Version of the form of a calibration; a reader refuses any other.
const VERSION: u32 = 1;
/// Rounds in which a shape runs beside the dense model.
const ROUNDS: usize = 5;
/// Rounds in which a written model runs beside the dense model.
const MEASURED: usize = 9;
/// Weight of the dense model among the samples: every speedup is a ratio to it.
const DENSE: f64 = 3.0;

/// Where passes are timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the processor, where it is known.
    pub processor: Option<String>,
    /// Device of the weights.
    pub device: String,
    /// Type of the weights.
    pub dtype: String,
    /// Precision of matrix multiplication.
    pub matmul_precision: String,
    /// Threads.
    pub threads: usize,
}

impl Machine {
    /// This one, as models run on it now.
    pub fn here(placement: &Placement) -> Self {
        let device = match (placement.device.is_cpu(), placement.device.is_cuda()) {
            (true, _) => "cpu",
            (false, true) => "cuda",
            (false, false) => "metal",
        };
        Self {
            processor: memory::processor(),
            device: device.to_owned(),
            dtype: placement.dtype.as_str().to_owned(),
            matmul_precision: MatmulPrecision::current().to_string(),
            threads: rayon::current_num_threads(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, device, dtype, matmul_precision, threads } = self;
        let processor = processor.as_deref().unwrap_or("an unknown processor");
        write!(f, "{processor} ({device}, {dtype}, {matmul_precision}, {threads} threads)")
    }
}

/// A shape that was timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What it is.
    pub name: String,
    /// What a pass of it consists of.
    pub work: Work,
    /// Seconds of a pass, were the machine as the dense model's median found it.
    pub seconds: Spread,
}

/// How far predictions are from what was timed, relative to that.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Residual {
    /// Mean over the samples.
    pub mean: f64,
    /// The largest.
    pub largest: f64,
}

/// A cost model, and what it was fitted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Version of this form.
    pub version: u32,
    /// Where it was timed.
    pub machine: Machine,
    /// Which speed.
    pub speed: SpeedOf,
    /// Hidden size of the model.
    pub hidden_size: usize,
    /// Width of its heads.
    pub head_dim: usize,
    /// The dense model, then the slimmer shapes.
    pub samples: Vec<Sample>,
    /// Seconds of a unit.
    pub costs: Work,
    /// How well that fits the samples.
    pub residual: Residual,
}

impl Calibration {
    /// Times a model and slimmer shapes of it, each in turns with the model.
    ///
    /// # Errors
    /// Damaged weights, or no memory for two models.
    pub fn measure(
        checkpoint: &Checkpoint,
        speed: SpeedOf,
        placement: &Placement,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let model = checkpoint.resident();
        let config = &model.config;
        let dense = Timer::new(Decoder::load(&model, placement, Residency::Resident)?, speed)?;
        let shapes = shapes(config);
        let (mut alone, mut ratios) = (Vec::new(), Vec::new());
        for (at, Slim { layers, tokens, .. }) in shapes.iter().enumerate() {
            let plan = PrunePlan::keeping(config, model.digest()?, layers.clone());
            // Fewer tokens alone are no plan of layers.
            let cut = plan.parameters_after < plan.parameters_before;
            let pruned = if cut { apply(&model, &plan)? } else { model.clone() };
            let slim = dense.decoder().load_beside(&pruned)?;
            let slim =
                if *tokens < config.vocab_size { slim.with_first_tokens(*tokens)? } else { slim };
            let work = Work::of(slim.config(), speed.timed, speed.tokens);
            let pairs = in_turns(&dense, &Timer::new(slim, speed)?, ROUNDS)?;
            alone.extend(pairs.iter().map(|pair| pair.0));
            ratios.push((work, pairs.iter().map(|pair| pair.1 / pair.0).collect::<Vec<f64>>()));
            progress.at("speed calibration", at as u64 + 1, shapes.len() as u64);
        }
        let typical = median(alone.iter().copied());
        let mut samples = vec![Sample {
            name: "dense".to_owned(),
            work: Work::of(config, speed.timed, speed.tokens),
            seconds: Spread::of(&alone),
        }];
        for (slim, (work, ratios)) in shapes.into_iter().zip(ratios) {
            let seconds: Vec<f64> = ratios.iter().map(|ratio| ratio * typical).collect();
            samples.push(Sample { name: slim.name, work, seconds: Spread::of(&seconds) });
        }
        Self::fitted(Machine::here(placement), speed, config, samples)
    }

    /// The costs that explain samples best, relative to their seconds; the dense model first.
    ///
    /// # Errors
    /// Samples without a time.
    pub fn fitted(
        machine: Machine,
        speed: SpeedOf,
        config: &ModelConfig,
        samples: Vec<Sample>,
    ) -> Result<Self> {
        let timed = samples.iter().all(|of| of.seconds.median > 0.0);
        ensure!(timed && !samples.is_empty(), "speed calibration: a pass took no time");
        let weight = |at: usize| if at == 0 { DENSE } else { 1.0 };
        let row = |(at, of): (usize, &Sample)| -> Vec<f64> {
            let by = weight(at) / of.seconds.median;
            of.work.values().iter().map(|units| units * by).collect()
        };
        let rows: Vec<Vec<f64>> = samples.iter().enumerate().map(row).collect();
        let targets: Vec<f64> = (0..samples.len()).map(weight).collect();
        let found = non_negative(&rows, &targets);
        let mut costs = [0.0; 7];
        costs.copy_from_slice(&found);
        let costs = Work::from_values(costs);
        let errors: Vec<f64> = samples
            .iter()
            .map(|of| (of.work.seconds(&costs) / of.seconds.median - 1.0).abs())
            .collect();
        let residual = Residual {
            mean: errors.iter().sum::<f64>() / errors.len() as f64,
            largest: errors.iter().copied().fold(0.0, f64::max),
        };
        let (hidden_size, head_dim) = (config.hidden_size, config.head_dim);
        Ok(Self {
            version: VERSION,
            machine,
            speed,
            hidden_size,
            head_dim,
            samples,
            costs,
            residual,
        })
    }

    /// Seconds that a pass of a model of `config` is predicted to take.
    pub fn seconds(&self, config: &ModelConfig) -> f64 {
        Work::of(config, self.speed.timed, self.speed.tokens).seconds(&self.costs)
    }

    /// How many times as fast as the model that it was made for a model of `config` is predicted
    /// to be.
    pub fn speedup(&self, config: &ModelConfig) -> f64 {
        self.dense_seconds() / self.seconds(config)
    }

    /// Seconds that a pass of the model that it was made for is predicted to take.
    pub fn dense_seconds(&self) -> f64 {
        self.samples.first().map_or(0.0, |dense| dense.work.seconds(&self.costs))
    }

    /// The calibration in the file `path` if it exists, otherwise a new one, which is written
    /// there; without a path a new one.
    ///
    /// # Errors
    /// A file of another model or another speed; those of [`Calibration::measure`].
    pub fn stored(
        path: Option<&Path>,
        checkpoint: &Checkpoint,
        speed: SpeedOf,
        placement: &Placement,
        (writer, progress): (&Writer, &dyn Progress),
    ) -> Result<Self> {
        if let Some(path) = path.filter(|path| path.exists()) {
            return Self::read(path, &checkpoint.config, speed);
        }
        let made = Self::measure(checkpoint, speed, placement, progress)?;
        if let Some(path) = path {
            writer.file(path)?.write(&sealed::json(&made)?)?;
        }
        Ok(made)
    }

    /// Reads a calibration of a speed of a model of `config`.
    ///
    /// # Errors
    /// A file that is missing, was changed, or is of another model or another speed.
    pub fn read(path: &Path, config: &ModelConfig, speed: SpeedOf) -> Result<Self> {
        let found: Self = sealed::from_json(path, &input::read(path, input::RECORD)?)?;
        found.check(config, speed).with_context(|| path.display().to_string())?;
        Ok(found)
    }

    /// Refuses a calibration of another model or another speed.
    ///
    /// # Errors
    /// What it is of, and what was expected.
    pub fn check(&self, config: &ModelConfig, speed: SpeedOf) -> Result<()> {
        const HINT: &str = "name another file, or delete this one to calibrate anew: \
                            --speed-calibration FILE";
        ensure!(
            self.version == VERSION,
            "expected a calibration of version {VERSION}, found version {}",
            self.version
        );
        if self.speed != speed {
            return Err(advised(format!("it is of {}, expected one of {speed}", self.speed), HINT));
        }
        let work = Work::of(config, speed.timed, speed.tokens);
        let same = self.samples.first().is_some_and(|dense| dense.work == work)
            && (self.hidden_size, self.head_dim) == (config.hidden_size, config.head_dim);
        if !same {
            return Err(advised("it is of a model of another shape", HINT));
        }
        let sound = self.costs.values().iter().all(|cost| *cost >= 0.0 && cost.is_finite());
        ensure!(
            sound && work.seconds(&self.costs) > 0.0,
            "expected costs of at least 0 that are not all 0, found {:?}",
            self.costs.values()
        );
        Ok(())
    }
}

/// How many times as fast as `dense` the model `pruned` is, in rounds in which both run in turns.
///
/// # Errors
/// Damaged weights, or no memory for both.
pub fn measured(
    (dense, pruned): (&Checkpoint, &Checkpoint),
    speed: SpeedOf,
    placement: &Placement,
    progress: &dyn Progress,
) -> Result<Spread> {
    let timer = |model: &Checkpoint| {
        Timer::new(Decoder::load(model, placement, Residency::Resident)?, speed)
    };
    progress.at("speed", 0, 1);
    let pairs = in_turns(&timer(dense)?, &timer(pruned)?, MEASURED)?;
    progress.at("speed", 1, 1);
    Ok(Spread::of(&pairs.iter().map(|pair| pair.0 / pair.1).collect::<Vec<f64>>()))
}

#[cfg(test)]
mod tests {
    use adapruner_checkpoint::{Architecture, LayerWidths};

    use super::*;
    use crate::speed::Timed;

    /// Samples of a machine on which every unit costs what it costs.
    fn samples(config: &ModelConfig, speed: SpeedOf, costs: &Work) -> Vec<Sample> {
        let of = |name: String, config: &ModelConfig| {
            let work = Work::of(config, speed.timed, speed.tokens);
            let seconds = work.seconds(costs);
            Sample { name, work, seconds: Spread::of(&[seconds]) }
        };
        let mut all = vec![of("dense".to_owned(), config)];
        all.extend(shapes(config).into_iter().map(|Slim { name, layers, tokens }| {
            let widths = layers.iter().map(adapruner_prune::LayerPlan::widths).collect();
            of(name, &ModelConfig { vocab_size: tokens, ..config.with_layers(widths) })
        }));
        all
    }

    #[test]
    fn shapes_tell_the_costs_apart() {
        let widths = LayerWidths { query_heads: 9, kv_heads: 3, ffn: 1536 };
        let config = ModelConfig::new(Architecture::Llama, 576, 64, 49152, vec![widths; 30]);
        let config = ModelConfig { tie_word_embeddings: true, ..config };
        let machine = Machine::here(&Placement::cpu());
        for (timed, weight) in [(Timed::Decode, 4e-10), (Timed::Prompt, 1e-11)] {
            let speed = SpeedOf { timed, tokens: 512 };
            let costs = Work::from_values([1e-3, 5e-5, 1e-4, weight, 3e-10, 1e-9, 2e-11]);
            let made = samples(&config, speed, &costs);
            let found = Calibration::fitted(machine.clone(), speed, &config, made).unwrap();
            assert!(found.residual.largest < 1e-4, "{found:?}");
            // What the samples do not have: other widths, fewer tokens and layers.
            let other = LayerWidths { query_heads: 6, kv_heads: 2, ffn: 700 };
            let other = ModelConfig { vocab_size: 20_000, ..config.with_layers(vec![other; 22]) };
            let truth = Work::of(&other, timed, 512).seconds(&costs);
            let predicted = found.seconds(&other);
            assert!((predicted / truth - 1.0).abs() < 1e-3, "{predicted} {truth}");
            assert!((found.speedup(&config) - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_calibration_of_another_model_or_speed_is_refused() {
        let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 9 };
        let config = ModelConfig::new(Architecture::Llama, 8, 2, 40, vec![widths; 4]);
        let speed = SpeedOf { timed: Timed::Decode, tokens: 7 };
        let costs = Work::from_values([1.0; 7]);
        let made = samples(&config, speed, &costs);
        let machine = Machine::here(&Placement::cpu());
        let found = Calibration::fitted(machine, speed, &config, made).unwrap();
        found.check(&config, speed).unwrap();
        let back: Calibration =
            serde_json::from_slice(&serde_json::to_vec(&found).unwrap()).unwrap();
        assert_eq!(back, found);
        assert!(found.check(&config, SpeedOf { tokens: 8, ..speed }).is_err());
        assert!(found.check(&config, SpeedOf { timed: Timed::Prompt, ..speed }).is_err());
        assert!(found.check(&config.of_layers(&[0, 1]), speed).is_err());
        for costs in [[-1.0; 7], [0.0; 7], [f64::NAN; 7]] {
            let costs = Work::from_values(costs);
            assert!(Calibration { costs, ..found.clone() }.check(&config, speed).is_err());
        }
    }
}
