//! Speed of matrix products beside PyTorch's (`reference/gemm.py`), in GFLOP/s.
//!
//!     cargo run --release -p adapruner-kernels --example gemm -- [--threads 2]
//!         [--seconds 2] [--tokens 256,2048] [--python python3]
//!
//! `x · Wᵀ` with activations `[M, K]` and weights `[N, K]` of SmolLM2-135M and
//! Llama-7B. All sides run in turns on the same shape, so what else the machine
//! does meets all of them, and the fastest pass of each counts. Ours takes f32
//! activations and returns f32, PyTorch's bf16 product takes and returns bf16:
//! its conversions are not in its time, ours are.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use adapruner_kernels::{
    linear,
    packed::{Arithmetic, PackedWeight},
};
use candle_core::{DType, Device, Tensor};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Model, what the weight is, `K`, `N`.
const SHAPES: [(&str, &str, usize, usize); 8] = [
    ("SmolLM2-135M", "q, o", 576, 576),
    ("SmolLM2-135M", "k, v", 576, 192),
    ("SmolLM2-135M", "gate, up", 576, 1536),
    ("SmolLM2-135M", "down", 1536, 576),
    ("SmolLM2-135M", "head", 576, 49_152),
    ("Llama-7B", "q, k, v, o", 4096, 4096),
    ("Llama-7B", "gate, up", 4096, 11_008),
    ("Llama-7B", "down", 11_008, 4096),
];

/// Passes of a side at a shape, at the most and at the least.
const PASSES: (usize, usize) = (400, 3);
/// Before each pass, as a multiple of the pass: on a machine with other work, who
/// takes more than his share is interrupted, and all sides should be treated alike.
const PAUSE: u32 = 6;
/// The longest pause.
const LONGEST: Duration = Duration::from_millis(150);

struct Settings {
    threads: usize,
    seconds: f64,
    tokens: Vec<usize>,
    python: Option<String>,
}

impl Settings {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut settings = Self { threads: 2, seconds: 2.0, tokens: vec![256, 2048], python: None };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} takes a value"))?;
            match name.as_str() {
                "--threads" => settings.threads = value.parse()?,
                "--seconds" => settings.seconds = value.parse()?,
                "--tokens" => {
                    settings.tokens = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--python" => settings.python = Some(value),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(settings)
    }
}

/// PyTorch's side: one shape at a time, one pass for each request.
struct Torch {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str, threads: usize) -> Outcome<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../reference/gemm.py");
        let mut child = Command::new(python)
            .args([script, "--threads", &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes to python".into());
        };
        Ok(Self { child, requests, answers: BufReader::new(answers) })
    }

    /// Returns what it answers: seconds of a pass.
    fn ask(&mut self, request: &str) -> Outcome<f64> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| format!("gemm.py answered {line:?}"))?)
    }

    fn stop(mut self) -> Outcome<()> {
        drop(self.requests);
        self.child.wait()?;
        Ok(())
    }
}

fn numbers(rows: usize, cols: usize) -> Outcome<Tensor> {
    let values: Vec<f32> = (0..rows * cols)
        .map(|i| ((i as u32).wrapping_mul(0x9e37_79b9) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect();
    Ok(Tensor::from_vec(values, (rows, cols), &Device::Cpu)?)
}

/// Seconds of one pass, its result and what it held freed.
fn time(pass: impl FnOnce() -> candle_core::Result<Tensor>) -> Outcome<f64> {
    let start = Instant::now();
    drop(pass()?);
    Ok(start.elapsed().as_secs_f64())
}

/// Names the sides and returns the fastest pass of each.
fn measure(
    settings: &Settings,
    torch: &mut Option<Torch>,
    (m, k, n): (usize, usize, usize),
) -> Outcome<Vec<(String, f64)>> {
    let (x, weight) = (numbers(m, k)?, numbers(n, k)?);
    let bf16 = weight.to_dtype(DType::BF16)?;
    let packed = PackedWeight::pack(&bf16)?;
    let mut names = vec!["f32".to_owned(), "bf16, unpacked".to_owned()];
    let kinds = [Arithmetic::Widen, Arithmetic::Dot].into_iter().filter(|kind| kind.runs_here());
    let kinds: Vec<_> = kinds.collect();
    names.extend(kinds.iter().map(|kind| {
        let chosen = if Arithmetic::preferred() == Some(*kind) { "*" } else { "" };
        format!("bf16, {kind:?}{chosen}")
    }));
    let mut fastest = vec![f64::INFINITY; names.len()];
    let of_torch = ["f32", "bf16"];
    if let Some(torch) = torch {
        torch.ask(&format!("shape {m} {k} {n}"))?;
        names.extend(of_torch.map(|dtype| format!("torch {dtype}")));
        fastest.extend(of_torch.map(|_| f64::INFINITY));
    }
    let start = Instant::now();
    let (most, least) = PASSES;
    for at in 0..most {
        if at >= least && start.elapsed().as_secs_f64() > settings.seconds {
            break;
        }
        let mut seconds = Vec::with_capacity(fastest.len());
        let mut one = |pass: &mut dyn FnMut() -> Outcome<f64>| -> Outcome<()> {
            let last = fastest[seconds.len()].min(LONGEST.as_secs_f64());
            thread::sleep(LONGEST.min(PAUSE * Duration::from_secs_f64(last)));
            seconds.push(pass()?);
            Ok(())
        };
        for weight in [&weight, &bf16] {
            one(&mut || time(|| linear(&x, weight, None)))?;
        }
        for kind in &kinds {
            one(&mut || time(|| packed.multiply(&x, *kind)))?;
        }
        if let Some(torch) = torch {
            for dtype in of_torch {
                one(&mut || torch.ask(dtype))?;
            }
        }
        fastest.iter_mut().zip(seconds).for_each(|(all, one)| *all = all.min(one));
    }
    Ok(names.into_iter().zip(fastest).collect())
}

fn main() -> Outcome<()> {
    let settings = Settings::parse(env::args().skip(1))?;
    rayon::ThreadPoolBuilder::new().num_threads(settings.threads).build_global()?;
    let mut torch =
        settings.python.as_ref().map(|p| Torch::start(p, settings.threads)).transpose()?;
    let mut out = io::stdout();
    for (at, &tokens) in settings.tokens.iter().enumerate() {
        for (model, name, k, n) in SHAPES {
            let found = measure(&settings, &mut torch, (tokens, k, n))?;
            let flops = 2.0 * tokens as f64 * k as f64 * n as f64;
            if at == 0 && (model, name) == (SHAPES[0].0, SHAPES[0].1) {
                let heads: Vec<_> = found.iter().map(|(name, _)| format!("{name:>14}")).collect();
                writeln!(out, "{:<26} {:>18} {}", "GFLOP/s", "M × K × N", heads.join(" "))?;
            }
            let rates: Vec<_> =
                found.iter().map(|(_, s)| format!("{:>14.0}", flops / s / 1e9)).collect();
            let shape = format!("{tokens} × {k} × {n}");
            let of = |name: &str| {
                found.iter().find(|(found, _)| found == name || found == &format!("{name}*"))
            };
            let ratio = |ours: &str, theirs: &str| match (of(ours), of(theirs)) {
                (Some((_, ours)), Some((_, theirs))) => format!("{:.2}×", theirs / ours),
                _ => String::new(),
            };
            let kind = Arithmetic::preferred()
                .map_or_else(|| "bf16, unpacked".to_owned(), |kind| format!("bf16, {kind:?}"));
            writeln!(
                out,
                "{:<26} {shape:>18} {}  f32 {} bf16 {}",
                format!("{model} {name}"),
                rates.join(" "),
                ratio("f32", "torch f32"),
                ratio(&kind, "torch bf16"),
            )?;
        }
    }
    torch.map_or(Ok(()), Torch::stop)
}
