//! The result of a search: `results/NAME.json`.

use std::{cell::OnceCell, path::Path, sync::Arc};

use adapruner_checkpoint::{Checkpoint, Digest, text::TokenSet};
use adapruner_eval::Perplexity;
use adapruner_prune::{PlanTable, PrunePlan};
use adapruner_study::{Study, Trial, TrialState, effects::item_effects};
use serde::{Deserialize, Serialize};

use super::{
    compare::median,
    configuration::Configuration,
    diagnose,
    dimension::Dimension,
    folder::StudyFolder,
    objective::{Cost, Objective, TrialCost},
    pool::PoolSample,
    run::{COST, DIRECTION, Search},
    space::{SearchSpace, Varied},
};
use crate::{
    VERSION,
    error::{Context, Result},
    memory, pipeline,
    pipeline::TokensRecord,
    progress::Progress,
};

/// The best trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestTrial {
    /// Its number.
    pub number: u64,
    /// Loss on the search-evaluation text, in nats per predicted token.
    pub loss: f64,
    /// Its configuration.
    pub configuration: Configuration,
}

/// A chosen sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenSample {
    /// Which.
    #[serde(flatten)]
    pub sample: PoolSample,
    /// The dense model's loss on it, in nats per predicted token.
    pub loss: f64,
    /// Effect of choosing it on a trial's loss, in nats per predicted token, by a linear model
    /// of all trials; negative is good.
    pub influence: Option<f64>,
    /// Standard deviation of that.
    pub deviation: Option<f64>,
    /// Whether the best trial chose it.
    pub chosen: bool,
}

/// Perplexity on a text that the search has not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// The text.
    pub text: TokensRecord,
    /// Perplexity of the dense model.
    pub dense: f64,
    /// Perplexity of the best trial's model.
    pub pruned: f64,
    /// Bits per byte of the dense model; absent in older results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense_bits_per_byte: Option<f64>,
    /// Bits per byte of the best trial's model; absent in older results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_bits_per_byte: Option<f64>,
}

/// Cost of a search, by phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Collecting the statistics of the pool, once.
    pub bank: Cost,
    /// Measuring the value of each attention sublayer, once.
    pub attention: Cost,
    /// The dense model on the search-evaluation text, once.
    pub dense: Cost,
    /// All trials.
    pub trials: TrialCost,
    /// The naive loop: in each trial a backward pass over its samples and the
    /// whole evaluation text through all layers (seconds by this run's speed).
    pub naive: Cost,
    /// Trials that ended, failed ones among them.
    pub count: u64,
    /// Peak physical memory of this process in bytes, mapped files included.
    pub peak_memory_bytes: Option<u64>,
}

impl Costs {
    /// All phases of the search.
    pub fn total(&self) -> Cost {
        let mut total = self.trials.total();
        for part in [self.bank, self.attention, self.dense] {
            total += part;
        }
        total
    }

    /// Each phase by name.
    pub fn phases(&self) -> [(&'static str, Cost); 7] {
        [
            ("bank", self.bank),
            ("attention costs", self.attention),
            ("dense losses", self.dense),
            ("scores", self.trials.score),
            ("plans", self.trials.plan),
            ("slicing", self.trials.slice),
            ("evaluation", self.trials.evaluate),
        ]
    }
}

/// The result of a search.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SearchResult {
    /// Version of the program.
    pub adapruner: String,
    /// Name of the study.
    pub study: String,
    /// Trials that are complete.
    pub complete: u64,
    /// Trials that were stopped early.
    pub stopped_early: u64,
    /// Trials that are infeasible: the ratio is out of reach, or the loss not finite.
    #[serde(default)]
    pub infeasible: u64,
    /// Trials that failed, for example because a worker was killed.
    pub failed: u64,
    /// The search-evaluation text.
    pub evaluation: TokensRecord,
    /// Loss of the dense model on it, in nats per predicted token.
    pub dense_loss: f64,
    /// The best of them.
    pub best: BestTrial,
    /// Its widths.
    pub plan: PlanTable,
    /// Digest of its plan.
    pub plan_digest: Digest,
    /// Every sample of the pool.
    pub samples: Vec<ChosenSample>,
    /// Perplexities on texts that the search has not seen.
    pub tests: Vec<TestResult>,
    /// Warnings.
    pub warnings: Vec<String>,
    /// Its cost.
    pub costs: Costs,
    /// The command line.
    pub command: String,
}

impl SearchResult {
    /// Reads a result.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        StudyFolder::read_json(path)
    }
}

/// The trial that represents a study: the best complete one, or the median draw of a baseline.
pub(super) fn standing_for(
    study: &str,
    trials: &[Arc<Trial>],
    space: &SearchSpace,
) -> Result<BestTrial> {
    let complete = ranked(trials);
    let at = if space.baseline { complete.len().saturating_sub(1) / 2 } else { 0 };
    let (loss, trial) = complete
        .get(at)
        .with_context(|| format!("study {study}: no trial is complete, of {}", trials.len()))?;
    let configuration = space.configuration(&trial.params)?;
    Ok(BestTrial { number: trial.number, loss: *loss, configuration })
}

/// The complete trials, the best first.
pub(super) fn ranked(trials: &[Arc<Trial>]) -> Vec<(f64, &Trial)> {
    let complete = trials.iter().filter(|trial| trial.state == TrialState::Complete);
    let mut complete: Vec<(f64, &Trial)> =
        complete.filter_map(|trial| Some((trial.value()?, &**trial))).collect();
    complete.sort_by(|a, b| a.0.total_cmp(&b.0));
    complete
}

/// The test texts, with the perplexities of the dense model, which is measured
/// when the first pruned model is.
pub struct Tests<'a> {
    texts: &'a [TokenSet],
    dense: OnceCell<Vec<Perplexity>>,
}

impl<'a> Tests<'a> {
    /// Nothing measured yet.
    pub fn new(texts: &'a [TokenSet]) -> Self {
        Self { texts, dense: OnceCell::new() }
    }

    fn perplexities(
        &self,
        checkpoint: &Checkpoint,
        objective: &Objective,
        stage: &'static str,
        progress: &dyn Progress,
    ) -> Result<Vec<Perplexity>> {
        let placement = objective.beside.placement();
        let measure = |text| {
            let found = pipeline::evaluate(checkpoint, text, placement, None, stage, progress)?;
            Ok(found.loss)
        };
        self.texts.iter().map(measure).collect()
    }

    /// Measures a pruned model.
    ///
    /// # Errors
    /// Those of [`pipeline::evaluate`].
    pub fn measure(
        &self,
        objective: &Objective,
        pruned: &Checkpoint,
        progress: &dyn Progress,
    ) -> Result<Vec<TestResult>> {
        if self.dense.get().is_none() {
            let stage = "perplexity before";
            let found = self.perplexities(&objective.dense, objective, stage, progress)?;
            self.dense.get_or_init(|| found);
        }
        let dense = self.dense.get().into_iter().flatten();
        let pruned = self.perplexities(pruned, objective, "perplexity after", progress)?;
        let rows = self.texts.iter().zip(dense.zip(pruned));
        let bits = |loss: &Perplexity| loss.bits.map(|bits| bits.bits_per_byte);
        let row = |(text, (dense, pruned)): (&TokenSet, (&Perplexity, Perplexity))| TestResult {
            text: TokensRecord::of(text),
            dense: dense.perplexity,
            pruned: pruned.perplexity,
            dense_bits_per_byte: bits(dense),
            pruned_bits_per_byte: bits(&pruned),
        };
        Ok(rows.map(row).collect())
    }
}

impl Search<'_> {
    /// The trial that represents the search: the best complete one, or the median draw of the
    /// baseline.
    ///
    /// # Errors
    /// No complete trial.
    pub fn best(&self, study: &Study) -> Result<BestTrial> {
        standing_for(study.name(), &study.trials()?, &self.space)
    }

    /// Perplexities on the test texts: of the best trial; of the baseline the
    /// medians over its draws.
    fn tests(
        &self,
        study: &Study,
        best: &BestTrial,
        tests: &Tests<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<TestResult>> {
        let measure = |configuration: &Configuration| {
            let (_, pruned) = self.objective.pruned(configuration)?;
            tests.measure(self.objective, &pruned, progress)
        };
        match self.arm.varied {
            Varied::Joint | Varied::Data | Varied::Metric => measure(&best.configuration),
            Varied::Baseline => {
                let trials = study.trials()?;
                let complete = trials.iter().filter(|t| t.state == TrialState::Complete);
                let draws = complete
                    .map(|trial| measure(&self.space.configuration(&trial.params)?))
                    .collect::<Result<Vec<_>>>()?;
                let mut middle = draws.first().cloned().unwrap_or_default();
                for (at, test) in middle.iter_mut().enumerate() {
                    test.pruned = median(draws.iter().map(|draw| draw[at].pruned));
                    let bits = draws.iter().filter_map(|draw| draw[at].pruned_bits_per_byte);
                    test.pruned_bits_per_byte =
                        test.pruned_bits_per_byte.is_some().then(|| median(bits));
                }
                Ok(middle)
            }
        }
    }

    /// Summarises a search (its best trial on the test texts, the samples, the cost, warnings)
    /// and writes the summary into the study's folder. Test perplexities of the same plan from
    /// an earlier run are reused.
    ///
    /// # Errors
    /// No complete trial; a full disk.
    pub fn sum_up(
        &self,
        study: &Study,
        tests: &Tests<'_>,
        samples: &[PoolSample],
        command: &str,
        progress: &dyn Progress,
    ) -> Result<SearchResult> {
        let best = self.best(study)?;
        let (plan, _) = self.objective.pruned(&best.configuration)?;
        let plan_digest = plan.digest()?;
        let path = self.folder.result(study.name());
        let wanted: Vec<TokensRecord> = tests.texts.iter().map(TokensRecord::of).collect();
        let earlier = SearchResult::read(&path).ok().filter(|earlier| {
            earlier.plan_digest == plan_digest
                && earlier.tests.iter().map(|test| &test.text).eq(&wanted)
        });
        let tests = match earlier {
            Some(earlier) => earlier.tests,
            None => self.tests(study, &best, tests, progress)?,
        };
        let trials = study.trials()?;
        let count = |state| trials.iter().filter(|trial| trial.state == state).count() as u64;
        let infeasible = trials
            .iter()
            .filter(|trial| trial.state == TrialState::Pruned && trial.is_infeasible());
        let infeasible = infeasible.count() as u64;
        let mut result = SearchResult {
            adapruner: VERSION.to_owned(),
            study: study.name().to_owned(),
            complete: count(TrialState::Complete),
            stopped_early: count(TrialState::Pruned) - infeasible,
            infeasible,
            failed: count(TrialState::Failed),
            evaluation: self.record.evaluation.clone(),
            dense_loss: self.objective.dense_loss(),
            plan: plan.table(&self.objective.dense.config)?,
            plan_digest,
            samples: self.chosen(study, samples, &best.configuration)?,
            tests,
            warnings: Vec::new(),
            costs: self.costs(&trials, &plan)?,
            best,
            command: command.to_owned(),
        };
        result.warnings = diagnose::warnings(self, &trials, &result, &plan);
        self.folder.write_json(&path, &result)?;
        Ok(result)
    }

    fn chosen(
        &self,
        study: &Study,
        samples: &[PoolSample],
        best: &Configuration,
    ) -> Result<Vec<ChosenSample>> {
        let losses = &self.objective.bank.header().losses;
        // Too few trials say nothing.
        let name = Dimension::Samples.name();
        let effects = match self.space.drawn {
            Some(_) => None,
            None => item_effects(&study.trials()?, DIRECTION, name).ok(),
        };
        let mut rows: Vec<ChosenSample> = samples
            .iter()
            .map(|sample| {
                let effect = effects.as_ref().and_then(|effects| effects.get(sample.index));
                ChosenSample {
                    loss: losses.get(sample.index).copied().unwrap_or(f64::NAN),
                    influence: effect.map(|effect| effect.mean),
                    deviation: effect.map(|effect| effect.deviation),
                    chosen: best.samples.binary_search(&sample.index).is_ok(),
                    sample: sample.clone(),
                }
            })
            .collect();
        let key = |row: &ChosenSample| row.influence.unwrap_or(0.0);
        rows.sort_by(|a, b| b.chosen.cmp(&a.chosen).then(key(a).total_cmp(&key(b))));
        Ok(rows)
    }

    fn costs(&self, trials: &[Arc<Trial>], plan: &PrunePlan) -> Result<Costs> {
        let mut sum = TrialCost::default();
        let mut naive = Cost::default();
        let mut count = 0;
        for trial in trials {
            let Some(cost) = trial.user_attrs.get(COST) else { continue };
            let cost: TrialCost = serde_json::from_value(cost.clone())
                .with_context(|| format!("trial {}: cost", trial.number))?;
            sum.score += cost.score;
            sum.plan += cost.plan;
            sum.slice += cost.slice;
            sum.evaluate += cost.evaluate;
            let samples = self.space.configuration(&trial.params)?.samples.len();
            naive += self.objective.naive(samples, plan);
            count += 1;
        }
        let prepared =
            self.record.prepared.as_ref().context("search.json: nothing was measured yet")?;
        // At the speed that evaluation had here.
        let speed = sum.evaluate.flops / sum.evaluate.seconds.max(1e-9);
        naive.seconds = naive.flops / speed.max(1.0);
        Ok(Costs {
            bank: self.record.bank.unwrap_or_default(),
            attention: prepared.attention,
            dense: prepared.dense,
            trials: sum,
            naive,
            count,
            peak_memory_bytes: memory::peak(),
        })
    }
}
