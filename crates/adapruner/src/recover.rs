//! Training after pruning: data, teacher, adapter or all parameters, in a work folder from
//! which a stopped training resumes.

use std::{path::PathBuf, sync::atomic::AtomicBool};

use adapruner_checkpoint::{Checkpoint, atomic::StateDir, text::TokenSet};
use adapruner_kernels::MatmulPrecision;
use adapruner_model::{Decoder, Placement, Residency};
use adapruner_recover::{
    data::{DataOptions, Dataset, records},
    distill::{self, Teacher, TeacherCache},
    lora::{Adapter, LoraOptions},
    memory::MemoryEstimate,
    merge,
    train::{
        self, Training, Watch, log::Entry, options::Record, options::TrainOptions, trainer::Trainer,
    },
};
use serde::Serialize;

use crate::{
    advice::advised,
    error::Result,
    locked::Locked,
    manifest::{DataRecord, ModelRecord, RecoveryRecord},
    memory,
    outputs::OutputSettings,
    pipeline,
    progress::Progress,
    settings::{EvalSettings, RunSettings, TextSettings},
};

/// File name of the log in the output.
pub const OUTPUT_LOG: &str = "training.jsonl";
/// File name of the cached teacher logits in a work folder.
const TEACHER: &str = "teacher.bin";
/// Minimum tokens of a sequence that can contain a passage of another text.
const PASSAGE: usize = 32;

/// What is learned.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Low-rank updates beside frozen weights.
    Lora(LoraOptions),
    /// All parameters.
    Full,
}

/// Everything that `recover` does.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverSettings {
    /// Where models run.
    pub run: RunSettings,
    /// The training data.
    pub data: TextSettings,
    /// How its records become sequences.
    pub records: DataOptions,
    /// Test texts, with which the data must not share passages.
    pub tests: Vec<EvalSettings>,
    /// Whether they may share passages.
    pub allow_overlap: bool,
    /// What is learned.
    pub method: Method,
    /// How.
    pub train: TrainOptions,
    /// The teacher, if any.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub teacher: Option<PathBuf>,
    /// Folder of the state, the log and the cached teacher logits.
    #[serde(with = "adapruner_checkpoint::os_path")]
    pub work: PathBuf,
    /// Whether to keep it after the output is written.
    pub keep_work: bool,
    /// Memory limit in bytes; `None` for the machine's free memory.
    pub memory: Option<u64>,
    /// What is written.
    pub output: OutputSettings,
}

/// A work folder that this process has locked.
pub struct Work(Locked);

impl Work {
    /// Locks the folder.
    ///
    /// # Errors
    /// A folder that cannot be written, or that another process works in.
    pub fn open(folder: StateDir) -> Result<Self> {
        let hint = "wait for it, or give another --work";
        Ok(Self(Locked::open(folder, "trains in this folder", hint)?))
    }

    /// The log of the training.
    pub fn log(&self) -> PathBuf {
        self.0.join(train::LOG)
    }

    /// Removes the files that a training made, and the folder if it is empty
    /// then.
    pub fn remove(self) {
        self.0.remove(&[train::STATE, train::BEST, train::LOG, TEACHER]);
    }
}

/// What a training made.
pub struct Recovered {
    /// The adapter, where one was learned.
    pub adapter: Option<Adapter>,
    /// The model with what was learned.
    pub model: Checkpoint,
    /// For the manifest.
    pub record: RecoveryRecord,
    /// The estimate of its memory.
    pub memory: MemoryEstimate,
}

/// The training data of a model.
///
/// # Errors
/// Data that are missing, malformed or empty, or share passages with a test text.
pub fn data(checkpoint: &Checkpoint, settings: &RecoverSettings) -> Result<Dataset> {
    let data = read_data(checkpoint, &settings.data, &settings.records)?;
    let tests = pipeline::test_tokens(checkpoint, &settings.tests)?;
    check_tests(&tests, &data, settings.allow_overlap)?;
    let (longest, most) = (data.longest(), checkpoint.config.longest());
    if longest > most {
        return Err(advised(
            format!("cutoff: sequences of {longest} tokens, but the model supports {most}"),
            "give a smaller --cutoff",
        ));
    }
    Ok(data)
}

/// The training data as sequences.
///
/// # Errors
/// Data that are missing, malformed or empty.
pub fn read_data(
    checkpoint: &Checkpoint,
    data: &TextSettings,
    options: &DataOptions,
) -> Result<Dataset> {
    let records = records::read(&data.text, &data.options())?;
    Ok(Dataset::for_model(&records, checkpoint, options)?)
}

/// Refuses test texts that share passages with training data, unless that is
/// allowed.
///
/// # Errors
/// The first that does.
pub fn check_tests(tests: &[TokenSet], data: &Dataset, allowed: bool) -> Result<()> {
    let all = data.train.iter().chain(&data.validation).map(|example| &example.ids);
    // Shorter ones hold no passage, and would make shorter runs count for all.
    let rows = all.filter(|ids| ids.len() >= PASSAGE).cloned().collect();
    let rows = TokenSet::of_rows(&data.name, data.digest, rows);
    tests
        .iter()
        .try_for_each(|test| pipeline::check_overlap(test, ("the training data", &rows), allowed))
}

/// Warnings about a training.
///
/// # Errors
/// A log that cannot be read.
pub fn warnings(record: &RecoveryRecord, work: &Work) -> Result<Vec<String>> {
    let mut warnings = record.data.counts.warnings();
    let kept = record.outcome.kept_step;
    let moves = |entry: &Entry| entry.learning_rate > 0.0 && entry.gradient_norm > 0.0;
    let steps = train::log::read(&work.log())?;
    if kept == 0 && !steps.is_empty() {
        warnings.push(
            "no validation improved on the model before training: the output is that model".into(),
        );
    } else if !steps.iter().any(|entry| entry.step <= kept && moves(entry)) {
        warnings.push(
            "nothing was learned, no step changed a parameter: the output is the model \
             before training"
                .into(),
        );
    }
    Ok(warnings)
}

/// Trains; `None` if it was interrupted before the first step.
///
/// # Errors
/// More memory than there is, a state of another training, a loss that is no
/// number any more, damaged files.
pub fn train(
    checkpoint: &Checkpoint,
    data: &Dataset,
    teacher: Option<&Checkpoint>,
    settings: &RecoverSettings,
    work: &Work,
    (placement, stop): (&Placement, &AtomicBool),
    progress: &dyn Progress,
) -> Result<Option<Recovered>> {
    settings.train.check()?;
    let matches = settings.train.distillation.is_some_and(|d| d.hidden.is_some());
    if let Some(teacher) = teacher.filter(|_| matches) {
        distill::check_blocks(checkpoint, teacher)?;
    }
    let aligned = teacher.map(|of| distill::aligned(checkpoint, of)).transpose()?;
    let source = aligned.as_ref();
    if let (Some(whole), Some(part)) = (teacher, source)
        && whole.tokenizer.vocab_size() != part.tokenizer.vocab_size()
    {
        tracing::warn!(
            "{}: the teacher has {} tokens and teaches by the {} that the model has",
            whole.origin.display(),
            whole.tokenizer.vocab_size(),
            part.tokenizer.vocab_size()
        );
    }
    let mut record = Record::from([
        ("model".to_owned(), checkpoint.digest()?.to_string()),
        ("dtype".to_owned(), placement.dtype.as_str().to_owned()),
        ("method".to_owned(), serde_json::to_string(&settings.method)?),
    ]);
    // Trainings that are older than the choice go on in the highest.
    let precision = MatmulPrecision::current();
    if precision != MatmulPrecision::Highest {
        record.insert("matmul_precision".to_owned(), precision.to_string());
    }
    let adapter = match &settings.method {
        Method::Lora(options) => {
            Some(Adapter::new(&checkpoint.config, options, settings.train.seed)?)
        }
        Method::Full => None,
    };
    let learned = adapter.as_ref().map_or(checkpoint.config.parameters(), Adapter::parameters);
    let along = source.filter(|_| matches);
    let packed = placement.packed_bytes();
    let bytes = (placement.dtype.size_in_bytes() + packed.forward + packed.back) as u64;
    let config = along.map(|source| &source.config);
    let estimate =
        MemoryEstimate::new(&checkpoint.config, bytes, learned, data, &settings.train, config);
    estimate.check(settings.memory.unwrap_or_else(memory::available))?;
    let teacher = teacher.map(ModelRecord::of).transpose()?;
    let mut cache = None;
    if let Some(source) = source {
        record.insert("teacher".into(), source.digest()?.to_string());
        let told = (placement, stop, progress);
        cache = probabilities(source, data, settings, work, told)?;
        if cache.is_none() {
            return Ok(None);
        }
    }
    let along = match along {
        Some(source) => Some(Decoder::load(source, placement, Residency::Resident)?),
        None => None,
    };
    let base = Decoder::load(checkpoint, placement, Residency::Resident)?;
    let mut trainer = match adapter {
        Some(adapter) => Trainer::lora(&base, adapter),
        None => Trainer::full(&base, checkpoint)?,
    };
    let mut training = Training {
        trainer: &mut trainer,
        data,
        options: &settings.train,
        record,
        teacher: cache
            .as_ref()
            .map(|probabilities| Teacher { probabilities, hidden: along.as_ref() }),
        folder: work.0.folder(),
    };
    let outcome = training.run(stop, &mut Told(progress))?;
    let adapter = trainer.adapter();
    let model = match &adapter {
        Some(adapter) => merge::merge(checkpoint, adapter)?,
        None => checkpoint.with_tensors(trainer.tensors()?)?,
    };
    let counts = data.counts.clone();
    let data = DataRecord { name: data.name.clone(), digest: data.digest, counts };
    let record = RecoveryRecord { data, teacher, learned_parameters: learned, outcome };
    Ok(Some(Recovered { adapter, model, record, memory: estimate }))
}

/// The teacher's top logits, computed unless the work folder has them.
fn probabilities(
    teacher: &Checkpoint,
    data: &Dataset,
    settings: &RecoverSettings,
    work: &Work,
    (placement, stop, progress): (&Placement, &AtomicBool, &dyn Progress),
) -> Result<Option<TeacherCache>> {
    let Some(options) = &settings.train.distillation else { return Ok(None) };
    let record = distill::record(teacher, &data.digest, options)?;
    let path = work.0.join(TEACHER);
    let here = (work.0.folder(), TEACHER);
    if let Some(cache) = TeacherCache::open(&path, &record, &data.train)? {
        return Ok(Some(cache));
    }
    let decoder = Decoder::load(teacher, placement, Residency::Resident)?;
    let mut told = |done, all| progress.at("caching teacher logits", done, all);
    let source = distill::Source { teacher: &decoder, examples: &data.train, options };
    let tokens = settings.train.micro_tokens;
    if !TeacherCache::make(here, &record, &source, tokens, stop, &mut told)? {
        return Ok(None);
    }
    Ok(TeacherCache::open(&path, &record, &data.train)?)
}

/// Shows a training's steps as progress.
struct Told<'a>(&'a dyn Progress);

impl Watch for Told<'_> {
    fn step(&mut self, entry: &Entry, total: u64) {
        let Entry { loss, hidden_loss, learning_rate, tokens_per_second, .. } = entry;
        let speed = format!("{tokens_per_second:.0} tokens/s");
        let hidden = hidden_loss.map(|hidden| format!(" ({hidden:.4} of it hidden states)"));
        let hidden = hidden.unwrap_or_default();
        self.0.note(&format!("loss {loss:.4}{hidden}, rate {learning_rate:.2e}, {speed}"));
        self.0.at("training", entry.step, total);
    }

    fn validating(&mut self, done: u64, all: u64) {
        self.0.at("validating", done, all);
    }
}
