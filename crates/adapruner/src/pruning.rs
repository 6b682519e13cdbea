//! Pruning from a program, in a few lines.
//!
//! ```
//! use adapruner::prelude::*;
//! # let widths = LayerWidths { query_heads: 4, kv_heads: 2, ffn: 96 };
//! # let config = ModelConfig::new(Architecture::Llama, 32, 8, 100, vec![widths; 4]);
//! # let model = Checkpoint::random(config, 1)?;
//! # let rows = (0..8).map(|row| (0..16).map(|at| (row * 31 + at * 7) % 100).collect()).collect();
//! # let samples = TokenSet::of_rows("rows", Digest::of_bytes(b"rows"), rows);
//!
//! // let model = Checkpoint::open("SmolLM2-135M".as_ref())?;
//! // let text = text::read("c4.jsonl", &TextOptions::default())?;
//! // let samples = TokenSet::samples(&text, &model.tokenizer, 128, 128, 0)?;
//! let pruned = Pruning::new(&model, 0.2).run(&model, &samples, &())?;
//! let share = pruned.model.config.parameters() as f64 / model.config.parameters() as f64;
//! assert!((share - 0.8).abs() < 0.01);
//! // pruned.write("smaller".as_ref(), &[Format::Hf, Format::Gguf], &())?;
//! # Ok::<(), adapruner::Error>(())
//! ```

use std::{ops::Range, path::Path};

use adapruner_checkpoint::{
    Checkpoint, ModelConfig, atomic::Files, hf::StoreType, names::Projection, text::TokenSet,
};
use adapruner_model::{DTypeChoice, DeviceChoice, Placement};
use adapruner_prune::{
    ActivationMetric, Form, Importance, PlanOptions, PrunePlan, Reduction, apply, plan,
};
use serde::Serialize;

use crate::{
    compensation::{self, CompensationRecord},
    error::Result,
    manifest::{Manifest, StatisticsRecord},
    memory,
    outputs::{self, Format, OutputSettings, Stored},
    pipeline::{self, TokensRecord},
    progress::Progress,
    settings::{CalibrationSettings, CompensationSettings, ScoreSettings, TextSettings},
    statistics::{self, Wanted},
};

/// The default importance: structured Wanda, the best that was measured without gradients.
pub const IMPORTANCE: Importance = Importance::Activation(ActivationMetric::Wanda);

/// Share of the feed-forward that layers may lose before fewer are spared.
const MOST: f64 = 0.75;

/// How many first and last layers a cut of `ratio` had better spare: an eighth and a sixteenth, as
/// far as the feed-forwards of the others can give what is to go and these layers may be `allowed`
/// as the only ones that are cut.
pub fn spared(
    config: &ModelConfig,
    ratio: f64,
    allowed: impl Fn(&Range<usize>) -> bool,
) -> (usize, usize) {
    let layers = config.layers.len();
    let matrices = if config.family().has(Projection::Gate) { 3.0 } else { 2.0 };
    let (mut first, mut last) = (layers.div_ceil(8), layers.div_ceil(16));
    while first + last > 0 {
        let between = first..layers.saturating_sub(last).max(first);
        let channels: usize = config.layers[between.clone()].iter().map(|of| of.ffn).sum();
        let gives = matrices * config.hidden_size as f64 * channels as f64;
        let fits = ratio * config.parameters() as f64 <= MOST * gives;
        if fits && allowed(&between) {
            break;
        }
        (first, last) = (first / 2, last / 2);
    }
    (first, last)
}

/// What is removed, and how it is chosen. [`Pruning::new`] is `prune --fast`: one forward pass.
#[derive(Debug, Clone, Serialize)]
pub struct Pruning {
    /// What is removed.
    pub plan: PlanOptions,
    /// How units are scored.
    pub score: ScoreSettings,
    /// What is refitted afterwards on the same samples, if anything; kept only if it lowers the
    /// loss of those that are held out of the fit.
    pub compensate: Option<Form>,
    /// Seed that the samples were drawn with, for the record; of the random importance its own.
    pub seed: u64,
    /// Most bytes of memory; `None` for what the machine has free.
    pub memory: Option<u64>,
}

/// A pruned model.
#[derive(Debug)]
pub struct Pruned {
    /// The model: a [`Checkpoint`] like any other.
    pub model: Checkpoint,
    /// Which units stay.
    pub plan: PrunePlan,
    /// What was refitted, if anything.
    pub compensation: Option<CompensationRecord>,
    /// What `manifest.json` will say.
    manifest: Manifest,
}

impl Pruning {
    /// Removes `ratio` of all parameters of `model`, from the feed-forwards of all layers but the
    /// [`spared`] ones, by structured Wanda.
    pub fn new(model: &Checkpoint, ratio: f64) -> Self {
        let protect = spared(&model.config, ratio, |_| true);
        Self {
            plan: PlanOptions { protect, ..PlanOptions::new(ratio) },
            score: ScoreSettings { importance: IMPORTANCE, reduction: Reduction::default() },
            compensate: None,
            seed: 0,
            memory: None,
        }
    }

    /// Scores, plans and applies, with calibration samples from
    /// [`TokenSet::samples`](adapruner_checkpoint::text::TokenSet::samples).
    ///
    /// # Errors
    /// A ratio that cannot be reached, samples that do not fit the model, too little memory,
    /// damaged weights.
    pub fn run(
        &self,
        model: &Checkpoint,
        samples: &TokenSet,
        progress: &dyn Progress,
    ) -> Result<Pruned> {
        self.plan.check(&model.config)?;
        let mut manifest = Manifest::new("prune", self, model)?;
        let placement = Placement::resolve(DeviceChoice::Cpu, DTypeChoice::Auto, [model])?;
        let bank = match self.score.importance.terms() {
            None => None,
            Some(terms) => {
                let wanted = Wanted {
                    samples: &samples.windows,
                    terms,
                    batch: false,
                    batch_tokens: None,
                    calibration_digest: samples.digest,
                    seed: self.seed,
                };
                let memory = memory::budget(self.memory);
                let collected =
                    statistics::collect_streamed(model, &placement, &wanted, memory, progress)?;
                Some(collected.0)
            }
        };
        let scores = pipeline::scores(model, bank.as_ref(), &self.score, self.seed)?;
        let plan = plan(&scores, &model.config, model.digest()?, &self.plan)?;
        let (pruned, compensation) = match self.compensate {
            None => (apply(model, &plan)?, None),
            Some(form) => {
                let settings = self.compensation(samples, form);
                let (pruned, record) = compensation::compensate(
                    model, &plan, samples, &settings, &placement, progress,
                )?;
                (pruned, Some(record))
            }
        };
        manifest.statistics =
            bank.map(|bank| StatisticsRecord::of(bank.header(), TokensRecord::of(samples)));
        manifest.parameters = pruned.config.parameters();
        manifest.plan = Some(plan.clone());
        manifest.warnings.extend(compensation.iter().flat_map(CompensationRecord::warnings));
        manifest.compensation.clone_from(&compensation);
        Ok(Pruned { model: pruned, plan, compensation, manifest })
    }

    fn compensation(&self, samples: &TokenSet, form: Form) -> CompensationSettings {
        let text = TextSettings { text: samples.name.clone().into(), field: None, data_dir: None };
        let longest = samples.windows.iter().map(Vec::len).max();
        let samples = CalibrationSettings {
            text,
            samples: samples.windows.len(),
            sample_tokens: longest.unwrap_or(0),
            seed: self.seed,
            batch_tokens: None,
            memory: self.memory,
        };
        CompensationSettings { samples, form }
    }
}

impl Pruned {
    /// Writes the model and `manifest.json` into a new folder, whole or not at all.
    ///
    /// # Errors
    /// A folder that exists or overlaps with the model that was read, a format that cannot hold
    /// the model, damaged weights, a full disk, no permission.
    pub fn write(
        self,
        folder: &Path,
        formats: &[Format],
        progress: &dyn Progress,
    ) -> Result<Manifest> {
        let files = Files::new().read("the model", &self.manifest.model.path);
        let writer = files.folder("the folder", folder, false).claim()?;
        let stored =
            Stored { formats: formats.to_vec(), save_dtype: StoreType::Keep, gguf_type: None };
        outputs::check_fits(&stored, &self.model.config, outputs::Planned::default())?;
        let output = OutputSettings { out: folder.to_path_buf(), stored, force: false };
        outputs::finish(writer.folder(folder)?, &self.model, &output, self.manifest, progress)
    }
}
