//! PyTorch's side: `reference/bench.py --serve` as a child that is asked run by
//! run.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Args, Run};

/// What the child is given beside the settings of both sides.
pub struct Inputs<'a> {
    /// JSON array of the ids of the text.
    pub ids: &'a Path,
    /// JSON array of arrays: samples that trials draw from.
    pub calibration: Option<&'a Path>,
    /// Feed-forward widths of a trial's model, first layer first.
    pub widths: &'a [usize],
}

/// The child, ready for requests.
pub struct Torch {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it said when it was ready, and its latest peak memory.
    setting: Value,
}

impl Torch {
    /// Starts the child and waits until it has loaded the model.
    pub fn start(args: &Args, inputs: &Inputs<'_>) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository")?;
        let mut command = Command::new(&args.python);
        command.arg(root.join("reference/bench.py")).arg(&args.model).arg("--serve");
        command.arg("--ids").arg(inputs.ids).args(["--dtype", args.dtype.name()]);
        command.arg("--widths").arg(serde_json::to_string(inputs.widths)?);
        if let Some(calibration) = inputs.calibration {
            command.arg("--calibration-ids").arg(calibration);
        }
        for (flag, value) in [
            ("--threads", args.threads),
            ("--window", args.window),
            ("--windows", args.windows),
            ("--batch", args.batch),
            ("--samples", args.samples),
            ("--sample-tokens", args.sample_tokens),
            ("--trial-windows", args.trial_windows),
            ("--sequences", args.sequences),
            ("--sequence-tokens", args.sequence_tokens),
            ("--steps", args.steps),
        ] {
            command.arg(flag).arg(value.to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: cannot start", args.python.display()))?;
        let requests = child.stdin.take().context("the child has no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("the child has no stdout")?);
        let mut torch = Self { child, requests, answers, setting: Value::Null };
        torch.setting = torch.answer()?;
        Ok(torch)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("reference/bench.py ended: {}", self.child.wait()?);
        }
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("not JSON: {line:?}"))?;
        match answer.get("error") {
            Some(error) => bail!("reference/bench.py: {error}"),
            None => Ok(answer),
        }
    }

    /// Has one pass run, `trial 7` with samples drawn by seed 7.
    pub fn run(&mut self, pass: &str) -> Result<Run> {
        writeln!(self.requests, "run {pass}")?;
        self.requests.flush()?;
        let answer = self.answer()?;
        self.setting["peak_memory"] = answer["peak_memory"].clone();
        let number =
            |key: &str| answer[key].as_f64().with_context(|| format!("no {key}: {answer}"));
        Ok(Run {
            seconds: number("seconds")?,
            tokens: number("tokens")? as usize,
            nll: number("nll")?,
            faults: Some(number("faults")? as u64),
            arithmetic: None,
        })
    }

    /// Ends the child and returns what it said of itself.
    pub fn finish(self) -> Result<Value> {
        let Self { mut child, requests, setting, .. } = self;
        // Closing its stdin ends it.
        drop(requests);
        child.wait()?;
        Ok(setting)
    }
}
