//! The table of pruning methods: published ones, run by `reference/peers.py`, beside this
//! program's, on the same calibration samples and the same windows of the same texts.
//!
//! Every run is a process of its own, and its result a line of the file `--results`, with
//! the digests of what it was run on: a table that was interrupted goes on where it was.
//! A seed draws calibration samples of its own, and seeds whatever else is random in a
//! method; figures are medians and ranges over the seeds. Excess is ln(perplexity) less
//! that of the dense model, in nats per token.

mod methods;
mod table;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use adapruner_checkpoint::{
    Checkpoint, Digest,
    text::{TextOptions, TokenSet, read},
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::methods::{METHODS, Method, Runner};

/// Runs what is missing of the table, and prints it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a folder or a GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// The program `adapruner`, built for release.
    #[arg(long)]
    program: PathBuf,
    /// Python with the packages of reference/requirements.txt.
    #[arg(long)]
    python: PathBuf,
    /// Text that calibration samples are drawn from, file or named set.
    #[arg(long)]
    calibration: String,
    /// Texts to measure on, files or named sets.
    #[arg(long, required = true, num_args = 1..)]
    text: Vec<String>,
    /// Folder of the named sets.
    #[arg(long, env = "ADAPRUNER_DATA")]
    data_dir: Option<PathBuf>,
    /// Shares of all parameters to remove.
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.2,0.3,0.5")]
    ratios: Vec<f64>,
    /// Seeds.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Methods to run; all of them where none is named.
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// Calibration samples.
    #[arg(long, default_value_t = 128)]
    samples: usize,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 128)]
    sample_tokens: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 128)]
    window: usize,
    /// First windows of each text that are measured; all where it is not given.
    #[arg(long)]
    limit: Option<usize>,
    /// Threads of either side.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// File of results, a line each, to which this adds.
    #[arg(long)]
    results: PathBuf,
}

/// What a result was found for, and on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Key {
    method: String,
    ratio: f64,
    seed: u64,
    /// Digests of the model, the samples and each text's windows.
    inputs: Vec<String>,
}

/// What a run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Outcome {
    #[serde(flatten)]
    key: Key,
    reached_ratio: f64,
    /// Seconds of the pruning; ours with the start of the program and the writing of the model.
    seconds: f64,
    peak_memory_bytes: Option<u64>,
    /// Of each text, in order.
    perplexities: Vec<f64>,
}

/// Token ids in files, for either side.
struct Ids {
    path: PathBuf,
    digest: Digest,
}

impl Ids {
    fn write(folder: &Path, name: &str, tokens: &TokenSet) -> Result<Self> {
        let path = folder.join(format!("{name}.json"));
        fs::write(&path, serde_json::to_vec(&tokens.windows)?)?;
        Ok(Self { path, digest: tokens.digest })
    }
}

/// Everything that runs share.
struct Setting<'a> {
    args: &'a Args,
    folder: &'a Path,
    model: Digest,
    texts: Vec<Ids>,
}

/// Runs what is missing and prints the table.
pub fn run(args: &Args) -> Result<()> {
    let methods = chosen(&args.methods)?;
    let folder = tempfile::tempdir()?;
    let checkpoint = Checkpoint::open(&args.model)?;
    let options = TextOptions { data_dir: args.data_dir.clone(), ..TextOptions::default() };
    let texts = args.text.iter().enumerate().map(|(at, text)| {
        let text = read(Path::new(text), &options)?;
        let tokens = TokenSet::windows(&text, &checkpoint.tokenizer, args.window, args.limit)?;
        Ids::write(folder.path(), &format!("text{at}"), &tokens)
    });
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let setting = Setting { args, folder: folder.path(), model: checkpoint.digest()?, texts };
    let calibration = read(Path::new(&args.calibration), &options)?;
    let mut outcomes = stored(&args.results)?;
    let mut wanted = Vec::new();
    for &seed in &args.seeds {
        let tokens = TokenSet::samples(
            &calibration,
            &checkpoint.tokenizer,
            args.samples,
            args.sample_tokens,
            seed,
        )?;
        let samples = Ids::write(folder.path(), &format!("samples{seed}"), &tokens)?;
        for method in &methods {
            let ratios = if method.name == methods::DENSE { &[0.0][..] } else { &args.ratios };
            for &ratio in ratios {
                let key = setting.key(method, ratio, seed, &samples);
                if !outcomes.iter().any(|outcome| outcome.key == key) {
                    let outcome = setting.run(method, key.clone(), &samples)?;
                    append(&args.results, &outcome)?;
                    outcomes.push(outcome);
                }
                wanted.push(key);
            }
        }
    }
    outcomes.retain(|outcome| wanted.contains(&outcome.key));
    let table = table::of(&args.text, &methods, &args.ratios, &outcomes)?;
    Ok(writeln!(std::io::stdout(), "{table}")?)
}

/// The methods of these names, in the table's order, the dense model first.
fn chosen(names: &[String]) -> Result<Vec<&'static Method>> {
    let known = || METHODS.iter().map(|method| method.name);
    if let Some(unknown) = names.iter().find(|name| !known().any(|known| known == name.as_str())) {
        let known: Vec<_> = known().collect();
        anyhow::bail!("methods: no method {unknown:?}; there are {}", known.join(", "));
    }
    let named = |method: &&Method| {
        names.is_empty() || method.name == methods::DENSE || names.iter().any(|n| n == method.name)
    };
    Ok(METHODS.iter().filter(named).collect())
}

/// The results that a file holds; none where there is no file.
fn stored(path: &Path) -> Result<Vec<Outcome>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let lines = fs::read_to_string(path)?;
    let parsed = lines.lines().enumerate().map(|(at, line)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), at + 1))
    });
    parsed.collect()
}

fn append(path: &Path, outcome: &Outcome) -> Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(outcome)?)?;
    Ok(())
}

impl Setting<'_> {
    fn key(&self, method: &Method, ratio: f64, seed: u64, samples: &Ids) -> Key {
        let texts = self.texts.iter().map(|text| text.digest);
        let inputs = [self.model, samples.digest].into_iter().chain(texts);
        Key {
            method: method.name.to_owned(),
            ratio,
            seed,
            inputs: inputs.map(|digest| digest.to_string()).collect(),
        }
    }

    fn run(&self, method: &Method, key: Key, samples: &Ids) -> Result<Outcome> {
        let Key { ratio, seed, .. } = &key;
        writeln!(std::io::stderr(), "{} {} %, seed {seed}", method.name, 100.0 * ratio)?;
        match method.runner {
            Runner::Theirs(arguments) => self.theirs(arguments, key, samples),
            Runner::Ours(arguments) => self.ours(arguments, key, samples),
        }
    }

    fn theirs(&self, arguments: &[&str], key: Key, samples: &Ids) -> Result<Outcome> {
        let mut command = Command::new(&self.args.python);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reference/peers.py");
        command.arg(script).arg(&self.args.model).args(arguments);
        command.arg("--calibration").arg(&samples.path).arg("--text");
        command.args(self.texts.iter().map(|text| &text.path));
        command.args(["--ratio", &key.ratio.to_string(), "--seed", &key.seed.to_string()]);
        command.args(["--threads", &self.args.threads.to_string()]);
        let found = json_of(&mut command)?;
        let perplexities = self.texts.iter().map(|text| {
            let name = text.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            number(&found["texts"][name.as_str()], "perplexity")
        });
        Ok(Outcome {
            reached_ratio: number(&found, "reached_ratio")?,
            seconds: number(&found, "seconds")?,
            peak_memory_bytes: found["peak_memory_bytes"].as_u64(),
            perplexities: perplexities.collect::<Result<_>>()?,
            key,
        })
    }

    fn ours(&self, arguments: &[&str], key: Key, samples: &Ids) -> Result<Outcome> {
        let out = self.folder.join("ours");
        let mut command = Command::new(&self.args.program);
        command.arg("prune").arg(&self.args.model).args(arguments);
        command.args(["--ratio", &key.ratio.to_string(), "--seed", &key.seed.to_string()]);
        command.args(["--samples", &self.args.samples.to_string()]);
        command.args(["--sample-tokens", &self.args.sample_tokens.to_string()]);
        command.args(["--threads", &self.args.threads.to_string(), "--json", "--force"]);
        command.arg("--calibration").arg(&samples.path).arg("--out").arg(&out);
        let start = Instant::now();
        let pruned = json_of(&mut command)?;
        let seconds = start.elapsed().as_secs_f64();
        let perplexities = self.texts.iter().map(|text| {
            let mut command = Command::new(&self.args.program);
            command.arg("eval").arg(&out).args(["--json", "--text"]).arg(&text.path);
            command.args(["--window", &self.args.window.to_string()]);
            command.args(["--threads", &self.args.threads.to_string()]);
            number(&json_of(&mut command)?, "perplexity")
        });
        Ok(Outcome {
            reached_ratio: number(&pruned["manifest"]["plan"], "reached_ratio")?,
            seconds,
            peak_memory_bytes: pruned["peak_memory_bytes"].as_u64(),
            perplexities: perplexities.collect::<Result<_>>()?,
            key,
        })
    }
}

/// Runs a command that prints JSON.
fn json_of(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("{command:?}: cannot start"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?}: expected JSON"))
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("{key}: expected a number in {value}"))
}
