//! What `prune` does where nothing else is said: a recipe fills in the options that are not
//! given, and an option that is given always wins. docs/measurements has the figures that
//! the recipes rest on.

use std::{fmt::Display, ops::Range, path::PathBuf};

use adapruner::{
    caution::Caution,
    depth::LayerMetric,
    kv_cache::CacheBy,
    pipeline,
    pruning::{IMPORTANCE, spared},
    room::{Room, room},
    settings::{Chosen, Recipe},
};
use adapruner_checkpoint::{Checkpoint, LayerWidths, ModelConfig};
use adapruner_prune::{ExpertMetric, Layout};
use anyhow::Result;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    args::{CalibrationArgs, CompensationArgs, EvalArgs, ImportanceArgs},
    budget_args::BudgetArgs,
    combine::combine,
    depth_args::DepthArgs,
    expert_args::ExpertArgs,
    failure::advised,
    mask_args::{MaskArgs, SAMPLES},
    plan_args::{Ends, PlanArgs, Share, Spread},
    typed::{Named, Proportion, Shares},
};

/// Which recipe it is.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Recipe")]
pub struct RecipeArgs {
    /// The best result in seconds: structured Wanda by one forward pass, without gradients.
    /// Without it, what is not given is what gave the best result in minutes: masks are
    /// learned from there
    #[arg(long)]
    pub fast: Option<bool>,
}

combine!(RecipeArgs { fast });

impl RecipeArgs {
    /// Fills in the default.
    pub fn resolve(&self) -> Recipe {
        if self.fast.unwrap_or(false) { Recipe::Fast } else { Recipe::Default }
    }
}

/// Text where none is named.
const TEXT: &str = "c4";
/// Calibration samples and their tokens.
const CALIBRATION: (usize, usize) = (128, 128);
/// Steps of learned masks.
const STEPS: u64 = 60;
/// Samples without which no masks are learned: too few to hold some out and learn.
const LEAST: usize = 64;
/// The options that a recipe fills in.
#[derive(Debug, Clone)]
pub struct Given {
    /// What is removed.
    pub plan: PlanArgs,
    /// What the result may take.
    pub budget: BudgetArgs,
    /// Which layers are removed whole.
    pub depth: DepthArgs,
    /// Which experts are removed whole.
    pub experts: ExpertArgs,
    /// The calibration set.
    pub calibration: CalibrationArgs,
    /// How units are scored.
    pub importance: ImportanceArgs,
    /// How masks are learned.
    pub masks: MaskArgs,
    /// How the rest is fitted.
    pub compensation: CompensationArgs,
    /// Numbers of a block of the type that is written, where it has blocks.
    pub block: Option<usize>,
}

/// Options as they are filled in.
struct Filling(Chosen);

impl Filling {
    /// Fills in an option that is not given.
    fn fill<T: Display>(&mut self, option: &mut Option<T>, name: &str, value: T) {
        if option.is_none() {
            self.0.options.push(format!("--{name} {value}"));
            *option = Some(value);
        }
    }
}

impl Given {
    /// Fills in what is not given, without a model as far as that goes; what was chosen.
    /// `widths` says whether widths are cut, or whole tokens, layers and experts go and nothing else.
    ///
    /// # Errors
    /// A text or file of statistics that cannot be read.
    pub fn fill(
        &mut self,
        recipe: Recipe,
        eval: &EvalArgs,
        (model, widths): (Option<&Checkpoint>, bool),
    ) -> Result<(Chosen, Option<Caution>)> {
        let mut filling = Filling(Chosen { recipe, options: Vec::new() });
        let masks = widths && recipe == Recipe::Default && self.gates();
        if !widths || (self.masks.learn_masks.is_none() && !masks) {
            self.masks.learn_masks = Some(0);
        }
        if self.depth.is_measured() {
            let metric = LayerMetric::default();
            filling.fill(&mut self.depth.drop_layers_by, "drop-layers-by", Named(metric));
        }
        if self.experts.drop_experts.is_some() {
            let metric = ExpertMetric::default();
            filling.fill(&mut self.experts.drop_experts_by, "drop-experts-by", Named(metric));
        }
        if let Some(by) = self.cache_by() {
            filling.fill(&mut self.budget.kv_cache_by, "kv-cache-by", Named(by));
        }
        if widths || self.cache_by().is_some() {
            filling.fill(&mut self.importance.importance, "importance", Named(IMPORTANCE));
        }
        let experts = model.is_some_and(|model| model.config.experts.is_some());
        let without = experts && self.masks.learn_masks.is_none();
        if without {
            self.masks.learn_masks = Some(0);
        }
        let (named, needed) = (self.calibration.calibration.is_some(), self.needs_text(widths));
        if needed && !named {
            filling.0.options.push(format!("--calibration {TEXT}"));
            self.calibration.calibration = Some(PathBuf::from(TEXT));
        }
        if let Some(model) = model {
            if self.calibration.calibration.is_some() && (widths || needed) {
                self.fill_samples(&mut filling, (eval, named), model)?;
            }
            if let Some(multiple) = self.multiple(&model.config).filter(|_| widths) {
                filling.fill(&mut self.plan.multiple_of, "multiple-of", multiple);
            }
            if let Some(ends) = self.spared(&model.config).filter(|_| widths) {
                filling.fill(&mut self.plan.protect, "protect", Named(ends));
            }
        }
        let caution = match self.masks.learn_masks {
            Some(0) => without.then(of_experts),
            Some(_) | None => self.fill_masks(&mut filling, eval, model)?,
        };
        Ok((filling.0, caution))
    }

    /// As many steps and samples of learned masks as the text gives.
    fn fill_masks(
        &mut self,
        filling: &mut Filling,
        eval: &EvalArgs,
        model: Option<&Checkpoint>,
    ) -> Result<Option<Caution>> {
        let room = match model {
            Some(model) => self.mask_room(eval, model)?,
            None => Room { samples: SAMPLES.0, tokens: SAMPLES.1 },
        };
        let MaskArgs { learn_masks, mask_samples, mask_tokens, .. } = &mut self.masks;
        if room.samples < LEAST && learn_masks.is_none() && mask_samples.is_none() {
            *learn_masks = Some(0);
            return Ok(Some(too_short(room)));
        }
        filling.fill(learn_masks, "learn-masks", STEPS);
        if room.samples < SAMPLES.0 {
            filling.fill(mask_samples, "mask-samples", room.samples);
        }
        if room.tokens < SAMPLES.1 {
            filling.fill(mask_tokens, "mask-tokens", room.tokens);
        }
        Ok(None)
    }

    /// Refuses options that only mean something where widths are cut.
    ///
    /// # Errors
    /// The first of them that is given.
    pub fn refuse_without_widths(&self) -> Result<()> {
        let layers = self.depth.drop_layers.is_some();
        let experts = self.experts.drop_experts.is_some();
        let attention = self.cache_by().is_some();
        let given = [
            // These two are refused of models of experts, whatever is removed.
            ("learn-masks", self.masks.learn_masks.is_some_and(|steps| steps > 0) && !experts),
            (
                "compensate",
                self.compensation.compensate.is_some() && !layers && !experts && !attention,
            ),
            ("drop-attention", self.plan.drop_attention.is_some() && !attention),
            ("sensitivity", self.plan.sensitivity.is_some()),
        ];
        let removed = match (layers, experts) {
            (_, _) if attention => "attention is",
            (true, false) => "whole layers are",
            (false, true) => "whole experts are",
            (true, true) => "whole layers and experts are",
            (false, false) => "tokens are",
        };
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((name, _)) => Err(advised(
                format!("{name}: given, but only {removed} removed"),
                "say what share of all parameters to remove, with what these take: --ratio 0.2",
            )),
        }
    }

    /// Refuses budgets of which one would have to give way, from the file too.
    ///
    /// # Errors
    /// A speedup beside another target, or beside a spread that is measured step by step.
    pub fn refuse_several_targets(&self) -> Result<()> {
        let PlanArgs { ratio, target_params, target_size, allocation, .. } = &self.plan;
        let measured = *allocation == Some(Named(Spread::Measured));
        let speedup = self.budget.target_speedup.is_some();
        let pairs = [
            ("target-speedup", "a ratio", speedup && ratio.is_some()),
            ("target-speedup", "target-params", speedup && target_params.is_some()),
            ("target-speedup", "target-size", speedup && target_size.is_some()),
            ("target-speedup", "--allocation measured", speedup && measured),
            (
                "target-kv-cache",
                "--allocation measured, which chooses the attention itself",
                self.budget.target_kv_cache.is_some() && measured,
            ),
        ];
        match pairs.into_iter().find(|(_, _, both)| *both) {
            None => Ok(()),
            Some((budget, other, _)) => Err(advised(
                format!("{budget}: given together with {other}"),
                "leave one of the two out",
            )),
        }
    }

    /// Whether channels are cut, so that there are gates to learn.
    fn gates(&self) -> bool {
        let all = Some(Named(Share(Some(1.0))));
        self.plan.attention_share != all || self.masks.learn_units.is_some()
    }

    /// How what leaves the key-value cache is chosen, where something does.
    fn cache_by(&self) -> Option<CacheBy> {
        self.budget.target_kv_cache?;
        Some(self.budget.by(self.plan.layout.map(|Named(layout)| layout)))
    }

    /// Whether anything is computed from a calibration text.
    fn needs_text(&self, widths: bool) -> bool {
        let widths = widths || self.cache_by().is_some();
        let scored = self.importance.importance.is_some_and(|of| of.0.terms().is_some());
        let learned = self.masks.learn_masks != Some(0) && self.masks.mask_text.is_none();
        let fitted =
            self.compensation.compensate.is_some() && self.compensation.compensate_text.is_none();
        let measured = self.plan.sensitivity.is_some()
            || self.plan.allocation == Some(Named(Spread::Measured));
        let cut = scored || learned || measured;
        (widths && cut)
            || self.cache_by() == Some(CacheBy::Loss)
            || fitted
            || self.depth.is_measured()
            || self.experts.is_measured()
    }

    /// As many calibration samples as there are, or as the statistics are of.
    fn fill_samples(
        &mut self,
        filling: &mut Filling,
        (eval, named): (&EvalArgs, bool),
        model: &Checkpoint,
    ) -> Result<()> {
        let calibration = &mut self.calibration;
        let room = match calibration.stats.as_ref().filter(|path| path.exists()) {
            Some(path) => {
                let bank = pipeline::read_statistics(path)?;
                let lengths = &bank.header().sample_tokens;
                let tokens = lengths.iter().copied().max().unwrap_or(CALIBRATION.1);
                Room { samples: lengths.len(), tokens }
            }
            None => {
                let most = calibration.samples.unwrap_or(CALIBRATION.0);
                let tokens = calibration.sample_tokens.unwrap_or(CALIBRATION.1);
                let Some(of) = calibration.resolve(eval)? else { return Ok(()) };
                room(model, &of.text, tokens, most).map_err(|error| match named {
                    true => anyhow::Error::from(error),
                    false => missing(&error.into()),
                })?
            }
        };
        // A text that gives none is refused where it is drawn from.
        filling.fill(&mut calibration.samples, "samples", room.samples.max(1));
        filling.fill(&mut calibration.sample_tokens, "sample-tokens", room.tokens);
        Ok(())
    }

    /// What the text that masks are learned on gives.
    fn mask_room(&self, eval: &EvalArgs, model: &Checkpoint) -> Result<Room> {
        let text = self.masks.mask_text.clone().or_else(|| self.calibration.calibration.clone());
        let text = CalibrationArgs { calibration: text, ..self.calibration.clone() };
        let most = self.masks.mask_samples.unwrap_or(SAMPLES.0);
        let tokens = self.masks.mask_tokens.unwrap_or(SAMPLES.1);
        match text.resolve(eval)? {
            Some(of) => Ok(room(model, &of.text, tokens, most)?),
            None => Ok(Room { samples: 0, tokens }),
        }
    }

    /// What widths are rounded to so that rows are whole blocks of the type that is written: a
    /// block of it, or of the type with blocks of 32 that takes its place.
    fn multiple(&self, config: &ModelConfig) -> Option<usize> {
        let width = |of| config.expert_width(of);
        let fits =
            |block: &usize| config.layers.iter().map(width).all(|w| w.is_multiple_of(*block));
        let block = self.block?;
        [block, block.min(32)].into_iter().find(fits)
    }

    /// Layers to spare: an eighth first and a sixteenth last, as far as the others can give
    /// what is to go.
    fn spared(&self, config: &ModelConfig) -> Option<Ends> {
        let PlanArgs { ratio, layout, drop_attention, sensitivity, allocation, .. } = &self.plan;
        let uniform = layout.is_some_and(|layout| layout.0 == Layout::Uniform);
        // What is measured needs no rule of thumb.
        if uniform || sensitivity.is_some() || *allocation == Some(Named(Spread::Measured)) {
            return None;
        }
        let dropped = drop_attention.as_deref().unwrap_or_default();
        let allowed = |cut: &Range<usize>| {
            self.cache_fits(config, cut) && dropped.iter().all(|layer| cut.contains(layer))
        };
        let (first, last) = spared(config, ratio.and_then(Shares::one)?, allowed);
        (first + last > 0).then_some(Ends(first, last))
    }

    /// Whether the layers `cut` can give what has to leave the key-value cache, with as much to
    /// spare as the others hold.
    fn cache_fits(&self, config: &ModelConfig, cut: &Range<usize>) -> bool {
        let Some(Proportion(share)) = self.budget.target_kv_cache else { return true };
        let heads = |layers: &[LayerWidths]| layers.iter().map(|of| of.kv_heads).sum::<usize>();
        let all = heads(&config.layers);
        2.0 * (all - heads(&config.layers[cut.clone()])) as f64 <= share * all as f64
    }
}

/// No text is named, and the one in its place cannot be read.
fn missing(error: &anyhow::Error) -> anyhow::Error {
    advised(
        format!("calibration: no text is named, and {error:#}"),
        "name a text: --calibration FILE; or the folder that holds c4: --data-dir DIR",
    )
}

/// Masks of experts are not learned.
fn of_experts() -> Caution {
    Caution {
        message: "no masks were learned: that is not supported for models of experts".to_owned(),
        hint: "what was cut can be trained with recover".to_owned(),
    }
}

/// A calibration text that gives too little to learn masks on.
fn too_short(room: Room) -> Caution {
    Caution {
        message: format!(
            "no masks were learned: the calibration text gives {} samples of {} tokens, and {LEAST} \
             are needed to hold some out",
            room.samples, room.tokens
        ),
        hint: "name a longer one with --calibration or --mask-text, or give --fast".to_owned(),
    }
}
