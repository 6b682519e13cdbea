//! Measures models of a study one by one and saves each, so a killed run resumes.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use adapruner_checkpoint::{Checkpoint, Digest, text::TokenSet};
use adapruner_eval::{flops, metrics::Metric, zero_shot::literature_metric};
use adapruner_prune::apply;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{CORRELATE_VERSION, Wanted};
use crate::{
    VERSION,
    error::{Context, Result},
    pipeline,
    progress::Progress,
    search::{
        SearchRecord, StudyFolder,
        objective::{Objective, TrialCost},
    },
    zero_shot::{Questions, TaskSettings, ZeroShot, zero_shot},
};

/// Loss on a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextLoss {
    /// The text.
    pub text: String,
    /// Mean loss, in nats per predicted token.
    pub loss: f64,
}

/// Accuracy on a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskFigure {
    /// The task.
    pub task: String,
    /// The metric that the literature uses.
    pub metric: Metric,
    /// Share of the questions.
    pub value: f64,
    /// Its standard error; none for a single question.
    pub stderr: Option<f64>,
    /// Questions that were asked.
    pub questions: usize,
}

/// What was measured of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Its parameters.
    pub parameters: u64,
    /// Losses: on the search-evaluation text, then on the others in their order.
    pub losses: Vec<TextLoss>,
    /// Accuracies.
    pub tasks: Vec<TaskFigure>,
    /// The literature's seven-task mean and its standard error, where all seven
    /// were asked.
    pub mean: Option<(f64, Option<f64>)>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// What became of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It cannot be made or measured.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// A model and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Number of its trial; none for the dense model.
    pub trial: Option<u64>,
    /// The trial's loss in the search.
    pub search_loss: Option<f64>,
    /// Share of all parameters that was to be removed.
    pub ratio: f64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Point {
    /// What was measured, if it was.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Measured(figures) => Some(figures),
            Outcome::Skipped { .. } => None,
        }
    }
}

/// A point as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Version of the program; those before 0.2 did not say.
    #[serde(default)]
    adapruner: Option<String>,
    /// All that it depends on.
    basis: Value,
    point: Point,
}

/// The work of measuring a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Tokens of every text and task.
    pub parts: Vec<(String, u64)>,
    /// Models that are not measured yet, the dense one among them.
    pub open: usize,
    /// Models in all.
    pub all: usize,
    /// Tokens of the open ones.
    pub tokens: u64,
    /// About how many seconds they take: as long as those that were measured
    /// before, else by the speed that the study's dense model had.
    pub seconds: f64,
}

/// The points of a run.
pub struct Finished {
    /// The dense model.
    pub dense: Point,
    /// The pruned models that were measured or skipped, in their order.
    pub points: Vec<Point>,
}

/// What all models are measured with.
pub struct Correlate<'a> {
    /// What trials share.
    pub objective: &'a Objective,
    /// The study's folder.
    pub folder: &'a StudyFolder,
    /// What the search is made of.
    pub record: &'a SearchRecord,
    /// Name of the study.
    pub study: &'a str,
    /// Texts besides the search-evaluation text.
    pub tests: &'a [TokenSet],
    /// The tasks' questions.
    pub questions: &'a Questions,
    /// How they are asked.
    pub tasks: &'a TaskSettings,
}

impl Correlate<'_> {
    /// All inputs of a point.
    fn basis(&self, wanted: Option<&Wanted>) -> Result<Value> {
        let tests: Vec<&Digest> = self.tests.iter().map(|text| &text.digest).collect();
        Ok(json!({
            "version": CORRELATE_VERSION,
            "study": self.study,
            "search": self.record.identity(),
            "cheapest_attention": self.objective.cheapest,
            "tests": tests,
            "tasks": self.questions.identity(self.tasks.selection)?,
            "trial": wanted.map(|wanted| wanted.trial),
            "configuration": wanted.map(|wanted| &wanted.configuration),
            "ratio": wanted.map_or(0.0, |wanted| wanted.ratio),
        }))
    }

    /// The name of a point's file: what it is of and a digest of its basis.
    fn file(&self, wanted: Option<&Wanted>, basis: &Value) -> Result<String> {
        let digest = Digest::of_bytes(&serde_json::to_vec(basis)?).to_string();
        let of = wanted.map_or_else(
            || "dense".to_owned(),
            |wanted| format!("trial-{}-{}", wanted.trial, wanted.ratio),
        );
        Ok(format!("{}-{of}-{}", self.study, &digest[..12]))
    }

    /// The point that was measured before with the same basis.
    fn kept(&self, wanted: Option<&Wanted>) -> Result<Option<Point>> {
        let basis = self.basis(wanted)?;
        let path = self.folder.point(&self.file(wanted, &basis)?);
        Ok(read(&path)?.filter(|kept| kept.basis == basis).map(|kept| kept.point))
    }

    /// What is still to be measured.
    ///
    /// # Errors
    /// A question that cannot be asked of this model; points that are damaged.
    pub fn work(&self, wanted: &[Wanted]) -> Result<Work> {
        let (windows, config) = (&self.objective.windows, &self.objective.dense.config);
        let eval = (windows.windows(), windows.window());
        let texts = self.tests.iter().map(|text| {
            let length = text.windows.first().map_or(0, Vec::len);
            (text.name.clone(), (text.windows.len(), length))
        });
        let mut parts = Vec::new();
        let mut flops = 0.0;
        for (name, (count, length)) in
            std::iter::once((self.record.evaluation.text.clone(), eval)).chain(texts)
        {
            parts.push((name, (count * length) as u64));
            flops += flops::forward(config, count, length, 0);
        }
        for (task, tokens) in self.questions.tokens(&self.objective.dense, self.tasks.selection)? {
            flops += flops::forward(config, tokens.div_ceil(LENGTH as u64) as usize, LENGTH, 0);
            parts.push((task, tokens));
        }
        let mut seconds = Vec::new();
        let mut open = 0;
        for one in std::iter::once(None).chain(wanted.iter().map(Some)) {
            match self.kept(one)? {
                Some(point) => seconds.extend(point.figures().map(|figures| figures.seconds)),
                None => open += 1,
            }
        }
        let each = if seconds.is_empty() {
            let speed = self.record.prepared.as_ref().map_or(f64::NAN, |prepared| {
                prepared.dense.flops / prepared.dense.seconds.max(1e-9)
            });
            flops / speed
        } else {
            seconds.iter().sum::<f64>() / seconds.len() as f64
        };
        let tokens: u64 = parts.iter().map(|(_, tokens)| tokens).sum();
        Ok(Work {
            parts,
            open,
            all: wanted.len() + 1,
            tokens: tokens * open as u64,
            seconds: each * open as f64,
        })
    }

    /// Measures the remaining models and saves every point at once, so an interrupted run loses
    /// one model at most.
    ///
    /// # Errors
    /// Damaged weights or points, no memory, a full disk. What cannot be pruned
    /// or has no finite loss is skipped, with the reason in its point.
    pub fn run(&self, wanted: &[Wanted], work: &Work, progress: &dyn Progress) -> Result<Finished> {
        let mut done = 0;
        let mut one = |one: Option<&Wanted>| -> Result<Point> {
            if let Some(point) = self.kept(one)? {
                return Ok(point);
            }
            let part = Overall::new(work, done, progress);
            let point = self.point(one, &part)?;
            let basis = self.basis(one)?;
            let path = self.folder.point(&self.file(one, &basis)?);
            let kept = Kept { adapruner: Some(VERSION.to_owned()), basis, point };
            self.folder.write_json(&path, &kept)?;
            done += 1;
            part.finish();
            Ok(kept.point)
        };
        let dense = one(None)?;
        let points = wanted.iter().map(|wanted| one(Some(wanted))).collect::<Result<_>>()?;
        Ok(Finished { dense, points })
    }

    fn point(&self, wanted: Option<&Wanted>, progress: &Overall<'_>) -> Result<Point> {
        let outcome = match self.figures(wanted, progress) {
            Ok(figures) => Outcome::Measured(figures),
            Err(error) if error.violation().is_some() => {
                Outcome::Skipped { reason: error.in_full() }
            }
            Err(error) => {
                return Err(match wanted {
                    None => error,
                    Some(w) => error.within(format!("trial {} at ratio {}", w.trial, w.ratio)),
                });
            }
        };
        Ok(Point {
            trial: wanted.map(|wanted| wanted.trial),
            search_loss: wanted.map(|wanted| wanted.search_loss),
            ratio: wanted.map_or(0.0, |wanted| wanted.ratio),
            outcome,
        })
    }

    fn figures(&self, wanted: Option<&Wanted>, progress: &Overall<'_>) -> Result<Figures> {
        let start = Instant::now();
        let objective = self.objective;
        let (loss, model) = match wanted {
            None => (objective.dense_loss(), objective.dense.clone()),
            Some(wanted) => {
                let cost = &mut TrialCost::default();
                let plan = objective.plan_at(&wanted.configuration, wanted.ratio, cost)?;
                let all = objective.chunks() as u64;
                let measured = objective.measure(&plan, cost, &|| false, |chunk, _| {
                    progress.at("", chunk as u64 + 1, all);
                    Ok(true)
                })?;
                let measured = measured.context("the evaluation text was not run to its end")?;
                (measured.loss, apply(&objective.dense, &plan)?)
            }
        };
        let mut losses = vec![TextLoss { text: self.record.evaluation.text.clone(), loss }];
        for (at, text) in self.tests.iter().enumerate() {
            progress.part(at + 1);
            let placement = objective.beside.placement();
            let found = pipeline::evaluate(&model, text, placement, None, "", progress)?;
            losses.push(TextLoss { text: text.name.clone(), loss: found.loss.nll });
        }
        let answered = self.answers(&model, progress)?;
        let tasks = task_figures(&answered);
        let mean = answered.literature_mean().map(|mean| (mean.value, mean.stderr));
        let parameters = model.config.parameters();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Figures { parameters, losses, tasks, mean, seconds })
    }

    fn answers(&self, model: &Checkpoint, progress: &Overall<'_>) -> Result<ZeroShot> {
        zero_shot(model, self.questions, self.tasks, self.objective.beside.placement(), progress)
    }
}

/// Tokens of a sequence by which the operations of tasks are reckoned.
const LENGTH: usize = 128;

fn task_figures(answered: &ZeroShot) -> Vec<TaskFigure> {
    let figure = |result: &adapruner_eval::zero_shot::TaskResult| {
        let (metric, estimate) = literature_metric(result)?;
        Some(TaskFigure {
            task: result.task.clone(),
            metric,
            value: estimate.value,
            stderr: estimate.stderr,
            questions: result.answers.len(),
        })
    };
    answered.tasks.iter().filter_map(figure).collect()
}

/// A kept point, where there is one.
fn read(path: &Path) -> Result<Option<Kept>> {
    if !path.exists() {
        return Ok(None);
    }
    StudyFolder::read_json(path).map(Some)
}

/// One bar over all models, from what the parts of one tell.
struct Overall<'a> {
    work: &'a Work,
    before: u64,
    part: Mutex<usize>,
    to: &'a dyn Progress,
}

impl<'a> Overall<'a> {
    fn new(work: &'a Work, done: usize, to: &'a dyn Progress) -> Self {
        Self { work, before: done as u64 * Self::each(work), part: Mutex::new(0), to }
    }

    fn each(work: &Work) -> u64 {
        work.parts.iter().map(|(_, tokens)| tokens).sum()
    }

    fn part(&self, at: usize) {
        *self.part.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    fn tell(&self, tokens: u64) {
        self.to.at("models (tokens)", self.before + tokens, self.work.tokens);
    }

    /// The model is done.
    fn finish(&self) {
        self.tell(Self::each(self.work));
    }
}

impl Progress for Overall<'_> {
    fn at(&self, _: &'static str, done: u64, all: u64) {
        let at = *self.part.lock().unwrap_or_else(PoisonError::into_inner);
        let before: u64 = self.work.parts.iter().take(at).map(|(_, tokens)| tokens).sum();
        let here = self.work.parts.get(at).map_or(0, |(_, tokens)| *tokens);
        self.tell(before + here * done.min(all) / all.max(1));
    }

    /// A task begins.
    fn note(&self, message: &str) {
        if let Some(at) = self.work.parts.iter().rposition(|(name, _)| name == message) {
            self.part(at);
        }
        self.to.note(message);
    }
}
