//! A model's answers to the questions of tasks, and their metrics.

use adapruner_model::Decoder;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    metrics::{Estimate, Metric},
    paired::stderr_of_mean,
    requests::{Encoder, sequences},
    score::log_likelihoods,
    tasks::{
        DataFile, Question, QuestionSet, Task,
        wikitext::{self, Page},
    },
};

/// Which questions of a set are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// All.
    All,
    /// The first so many, as the harness limits.
    First(usize),
    /// So many drawn without replacement, in the order of the set.
    Sample {
        /// How many.
        questions: usize,
        /// Seed of the draw.
        seed: u64,
    },
}

impl Selection {
    /// The places of those of `all` that are chosen, ascending.
    pub fn of(self, all: usize) -> Vec<usize> {
        match self {
            Self::All => (0..all).collect(),
            Self::First(questions) => (0..all.min(questions)).collect(),
            Self::Sample { questions, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let mut places = index::sample(&mut rng, all, questions.min(all)).into_vec();
                places.sort_unstable();
                places
            }
        }
    }
}

/// A model's answer to one question.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The task.
    pub task: String,
    /// Place of the question in the data set.
    pub doc_id: usize,
    /// The right choice.
    pub gold: usize,
    /// Log-likelihood of each choice, in nats.
    pub log_likelihoods: Vec<f64>,
    /// The choice that each metric predicts.
    pub predictions: Vec<Prediction>,
}

/// A choice by one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// The metric.
    pub metric: Metric,
    /// The choice.
    pub choice: usize,
    /// Whether it is the right one.
    pub right: bool,
}

/// What a model makes of a multiple-choice task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// Name of the task.
    pub task: String,
    /// Version of the task.
    pub version: f64,
    /// Every metric of the task.
    pub metrics: Vec<(Metric, Estimate)>,
    /// Questions of the data set.
    pub all: usize,
    /// Requests that lost tokens at the left.
    pub truncated: usize,
    /// The files that the questions stand in.
    pub files: Vec<DataFile>,
    /// Every answer.
    pub answers: Vec<Answer>,
}

impl TaskResult {
    /// The estimate of one metric, where the task has it.
    pub fn metric(&self, metric: Metric) -> Option<Estimate> {
        self.metrics.iter().find(|(known, _)| *known == metric).map(|(_, estimate)| *estimate)
    }

    /// Whether each question was answered right by a metric, in the order of the
    /// questions; empty where the task has no such metric.
    pub fn right(&self, metric: Metric) -> Vec<bool> {
        let of = |answer: &Answer| {
            let found = answer.predictions.iter().find(|found| found.metric == metric);
            found.map(|found| found.right)
        };
        self.answers.iter().map(of).collect::<Option<_>>().unwrap_or_default()
    }

    /// The accuracy of guessing: the mean over the questions that were asked of
    /// one divided by the number of choices. NaN without questions.
    pub fn chance(&self) -> f64 {
        let each = self.answers.iter().map(|answer| 1.0 / answer.log_likelihoods.len() as f64);
        each.sum::<f64>() / self.answers.len() as f64
    }
}

/// What runs the questions.
pub struct Run<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Its tokenizer.
    pub encoder: Encoder<'a>,
    /// Rows that run together.
    pub batch_rows: usize,
}

impl Run<'_> {
    /// Evaluates the selected questions of a task. `progress` receives (rows done, rows in
    /// all).
    ///
    /// # Errors
    /// No questions; one that cannot be asked of this model; a log-likelihood
    /// that is not finite; damaged weights.
    pub fn ask(
        &self,
        task: &Task,
        set: &QuestionSet,
        selection: Selection,
        progress: &dyn Fn(u64, u64),
    ) -> Result<TaskResult> {
        let all = set.questions.len();
        let chosen = selection.of(all);
        let questions: Vec<Question> =
            chosen.into_iter().map(|at| set.questions[at].clone()).collect();
        if questions.is_empty() {
            let message = "expected at least one question, found none".into();
            return Err(Error::Task { task: task.name.clone(), message });
        }
        let groups = sequences(&task.name, &questions, &self.encoder)?;
        let truncated = groups.iter().flatten().filter(|s| s.truncated > 0).count();
        let found = log_likelihoods(self.decoder, &groups, self.batch_rows, progress)?;
        let answers = questions
            .iter()
            .zip(found)
            .map(|(question, lls)| answer(task, question, lls))
            .collect::<Result<Vec<_>>>()?;
        let estimate = |(at, metric): (usize, &Metric)| {
            let right = answers.iter().filter(|answer| answer.predictions[at].right).count();
            (*metric, Estimate::of(right, answers.len()))
        };
        Ok(TaskResult {
            task: task.name.clone(),
            version: task.version,
            metrics: task.metrics.iter().enumerate().map(estimate).collect(),
            all,
            truncated,
            files: set.files.clone(),
            answers,
        })
    }

    /// Rolling log-likelihoods of the first `limit` articles.
    ///
    /// # Errors
    /// A tokenizer without BOS and EOS; a log-likelihood that is not finite;
    /// damaged weights.
    pub fn read_pages(
        &self,
        pages: &[Page],
        files: Vec<DataFile>,
        selection: Selection,
        progress: &dyn Fn(u64, u64),
    ) -> Result<RollingResult> {
        let chosen: Vec<&Page> =
            selection.of(pages.len()).into_iter().map(|at| &pages[at]).collect();
        let refuse = |question: usize, message: String| Error::Question {
            task: wikitext::NAME.into(),
            question,
            choice: 0,
            message,
        };
        let (mut windows, mut of_page) = (Vec::new(), Vec::new());
        for (at, page) in chosen.iter().enumerate() {
            for window in self.encoder.rolling(&page.text).map_err(|e| refuse(at, e))? {
                windows.push(vec![window]);
                of_page.push(at);
            }
        }
        let found = log_likelihoods(self.decoder, &windows, self.batch_rows, progress)?;
        let mut sums = vec![0.0; chosen.len()];
        for (at, ll) in of_page.into_iter().zip(found.into_iter().flatten()) {
            sums[at] += ll;
        }
        if let Some(at) = sums.iter().position(|sum| !sum.is_finite()) {
            return Err(refuse(at, format!("log-likelihood {} (expected finite)", sums[at])));
        }
        let article_words: Vec<u64> = chosen.iter().map(|page| page.words).collect();
        let words = article_words.iter().sum::<u64>();
        let bytes = chosen.iter().map(|page| page.bytes).sum::<u64>();
        let (log_likelihoods, all) = (sums, pages.len());
        Ok(RollingResult { log_likelihoods, article_words, words, bytes, all, files })
    }
}

/// Log-likelihoods of whole articles.
#[derive(Debug, Clone, PartialEq)]
pub struct RollingResult {
    /// Of each article, in nats.
    pub log_likelihoods: Vec<f64>,
    /// Words of each article.
    pub article_words: Vec<u64>,
    /// Words of all articles.
    pub words: u64,
    /// Bytes of the articles.
    pub bytes: u64,
    /// Articles of the data set.
    pub all: usize,
    /// The files that they stand in.
    pub files: Vec<DataFile>,
}

impl RollingResult {
    /// The loss of each article, in nats.
    pub fn losses(&self) -> Vec<f64> {
        self.log_likelihoods.iter().map(|log_likelihood| -log_likelihood).collect()
    }

    fn nll(&self) -> f64 {
        -self.log_likelihoods.iter().sum::<f64>()
    }

    /// `exp` of the loss by word.
    pub fn word_perplexity(&self) -> f64 {
        (self.nll() / self.words as f64).exp()
    }

    /// `exp` of the loss by byte.
    pub fn byte_perplexity(&self) -> f64 {
        (self.nll() / self.bytes as f64).exp()
    }

    /// Loss by byte, in bits.
    pub fn bits_per_byte(&self) -> f64 {
        self.nll() / self.bytes as f64 / std::f64::consts::LN_2
    }
}

fn answer(task: &Task, question: &Question, log_likelihoods: Vec<f64>) -> Result<Answer> {
    if let Some(choice) = log_likelihoods.iter().position(|ll| !ll.is_finite()) {
        return Err(Error::Question {
            task: task.name.clone(),
            question: question.id,
            choice,
            message: format!("log-likelihood {} (expected finite)", log_likelihoods[choice]),
        });
    }
    let predict = |&metric: &Metric| {
        let choice = metric.prediction(&log_likelihoods, &question.choices);
        Prediction { metric, choice, right: choice == question.gold }
    };
    Ok(Answer {
        task: task.name.clone(),
        doc_id: question.id,
        gold: question.gold,
        predictions: task.metrics.iter().map(predict).collect(),
        log_likelihoods,
    })
}

/// A mean over tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mean {
    /// What is averaged.
    pub of: Vec<(String, Metric)>,
    /// The mean of the tasks' figures, unweighted.
    pub value: f64,
    /// Its standard error, the tasks taken as independent; none where a task has
    /// none.
    pub stderr: Option<f64>,
}

/// The seven tasks as LLM-Pruner and its successors average them.
const LITERATURE: [(&str, Metric); 7] = [
    ("boolq", Metric::Acc),
    ("piqa", Metric::Acc),
    ("hellaswag", Metric::AccNorm),
    ("winogrande", Metric::Acc),
    ("arc_easy", Metric::Acc),
    ("arc_challenge", Metric::AccNorm),
    ("openbookqa", Metric::AccNorm),
];

/// The metric that the literature reports of a task; of a task that is none of
/// the seven `acc_norm` where it has it, else its first.
pub fn literature_metric(result: &TaskResult) -> Option<(Metric, Estimate)> {
    let known = LITERATURE.iter().find(|(task, _)| *task == result.task);
    let metric = known.map_or(Metric::AccNorm, |(_, metric)| *metric);
    match result.metric(metric) {
        Some(estimate) => Some((metric, estimate)),
        None => result.metrics.first().copied(),
    }
}

/// The literature's mean over the seven tasks; `None` unless all are there.
pub fn literature_mean(results: &[TaskResult]) -> Option<Mean> {
    let figure = |(task, metric): (&str, Metric)| {
        let result = results.iter().find(|result| result.task == task)?;
        Some(((task.to_owned(), metric), result.metric(metric)?))
    };
    mean(LITERATURE.into_iter().map(figure).collect::<Option<Vec<_>>>()?)
}

/// The mean of `acc_norm` where a task has it, else of its first metric.
pub fn norm_mean(results: &[TaskResult]) -> Option<Mean> {
    let figure = |result: &TaskResult| {
        let (metric, estimate) = match result.metric(Metric::AccNorm) {
            Some(estimate) => (Metric::AccNorm, estimate),
            None => *result.metrics.first()?,
        };
        Some(((result.task.clone(), metric), estimate))
    };
    mean(results.iter().map(figure).collect::<Option<Vec<_>>>()?)
}

fn mean(figures: Vec<((String, Metric), Estimate)>) -> Option<Mean> {
    let count = figures.len();
    let (of, estimates): (Vec<_>, Vec<Estimate>) = figures.into_iter().unzip();
    let value = estimates.iter().map(|estimate| estimate.value).sum::<f64>() / count as f64;
    let stderrs: Option<Vec<f64>> = estimates.iter().map(|estimate| estimate.stderr).collect();
    let stderr = stderrs.and_then(|stderrs| stderr_of_mean(&stderrs));
    (count > 0).then_some(Mean { of, value, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_drawn_without_replacement() {
        let sample = |questions, seed| Selection::Sample { questions, seed }.of(50);
        assert_eq!(sample(50, 1), (0..50).collect::<Vec<_>>());
        assert_eq!(sample(90, 1).len(), 50);
        let drawn = sample(10, 1);
        assert!(drawn.is_sorted_by(|a, b| a < b) && drawn.len() == 10);
        assert_eq!(drawn, sample(10, 1));
        assert_ne!(drawn, sample(10, 2));
        assert_eq!(Selection::First(3).of(2), [0, 1]);
    }

    fn result(task: &str, metrics: &[(Metric, f64)]) -> TaskResult {
        let estimate = |&(metric, value)| (metric, Estimate { value, stderr: Some(0.07) });
        TaskResult {
            task: task.into(),
            version: 1.0,
            metrics: metrics.iter().map(estimate).collect(),
            all: 1,
            truncated: 0,
            files: Vec::new(),
            answers: Vec::new(),
        }
    }

    #[test]
    fn guessing_is_right_as_often_as_there_are_choices() {
        let answer = |choices: usize, right| Answer {
            task: "t".into(),
            doc_id: 0,
            gold: 0,
            log_likelihoods: vec![-1.0; choices],
            predictions: vec![Prediction { metric: Metric::Acc, choice: 0, right }],
        };
        let mut result = result("t", &[(Metric::Acc, 0.5)]);
        result.answers = vec![answer(4, true), answer(4, false), answer(5, true), answer(2, false)];
        assert!((result.chance() - 0.3).abs() < 1e-12);
        assert_eq!(result.right(Metric::Acc), [true, false, true, false]);
        assert_eq!(result.right(Metric::AccNorm), [false; 0]);
    }

    #[test]
    fn means_say_what_they_are_made_of() {
        let both = |acc, norm| [(Metric::Acc, acc), (Metric::AccNorm, norm)];
        let mut results = vec![
            result("boolq", &[(Metric::Acc, 0.1)]),
            result("piqa", &both(0.2, 0.9)),
            result("hellaswag", &both(0.9, 0.3)),
            result("winogrande", &[(Metric::Acc, 0.4)]),
            result("arc_easy", &both(0.5, 0.9)),
            result("arc_challenge", &both(0.9, 0.6)),
        ];
        assert_eq!(literature_mean(&results), None);
        results.push(result("openbookqa", &both(0.9, 0.7)));
        let mean = literature_mean(&results).unwrap();
        assert!((mean.value - 0.4).abs() < 1e-12, "{mean:?}");
        // √(7 · 0.07²) / 7.
        assert!((mean.stderr.unwrap() - 0.01 * 7.0_f64.sqrt()).abs() < 1e-12, "{mean:?}");
        let metric = |at: usize| literature_metric(&results[at]).map(|(metric, _)| metric);
        assert_eq!((metric(1), metric(2)), (Some(Metric::Acc), Some(Metric::AccNorm)));
        let mean = norm_mean(&results).unwrap();
        assert!((mean.value - (0.1 + 0.9 + 0.3 + 0.4 + 0.9 + 0.6 + 0.7) / 7.0).abs() < 1e-12);
        assert_eq!(mean.of[1], ("piqa".to_owned(), Metric::AccNorm));
        assert_eq!(norm_mean(&[]), None);
    }
}
