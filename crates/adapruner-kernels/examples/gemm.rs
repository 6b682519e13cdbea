//! Speed of matrix products beside PyTorch's (`reference/gemm.py`), in GFLOP/s.
//!
//!     cargo run --release -p adapruner-kernels --example gemm -- [--threads 2]
//!         [--seconds 2] [--tokens 1,256,2048] [--only Llama] [--python python3]
//!
//! `y = x · Wᵀ`, `dx = dy · W` and `dW = dyᵀ · x` with activations `[M, K]` and weights
//! `[N, K]` of SmolLM2-135M, Qwen2.5-0.5B and Llama-7B. All sides run in turns on the same shape,
//! so what else the machine does meets all of them, and the median of each counts. A turn
//! is some passes back to back, as products follow each other in a model, and stands for
//! their median; the first, for which threads may have to wake, is not counted.
//! Ours takes f32 activations and returns f32, PyTorch's bf16 product takes and
//! returns bf16: its conversions are not in its time, ours are. The share of the
//! peak is that of f32 at 64 operations a cycle and thread, at the clock that
//! whole numbers ran at just before.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Instant,
};

use adapruner_kernels::{
    Allocator, MatmulPrecision, f32_peak, keep_freed_pages, keep_to_one_pool, linear, matmul,
    packed::{Arithmetic, PackedWeight},
};
use candle_core::{DType, Device, Tensor};

/// As in the program itself, so that what is measured is what is shipped.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Model, what the weight is, `K`, `N`.
const SHAPES: [(&str, &str, usize, usize); 13] = [
    ("SmolLM2-135M", "q, o", 576, 576),
    ("SmolLM2-135M", "k, v", 576, 192),
    ("SmolLM2-135M", "gate, up", 576, 1536),
    ("SmolLM2-135M", "down", 1536, 576),
    ("SmolLM2-135M", "head", 576, 49_152),
    ("Qwen2.5-0.5B", "q, o", 896, 896),
    ("Qwen2.5-0.5B", "k, v", 896, 128),
    ("Qwen2.5-0.5B", "gate, up", 896, 4864),
    ("Qwen2.5-0.5B", "down", 4864, 896),
    ("Qwen2.5-0.5B", "head", 896, 151_936),
    ("Llama-7B", "q, k, v, o", 4096, 4096),
    ("Llama-7B", "gate, up", 4096, 11_008),
    ("Llama-7B", "down", 11_008, 4096),
];

/// Turns of a side at a shape, at the least.
const TURNS: usize = 3;
/// A turn ends after so many seconds, and two passes or more.
const TURN_SECONDS: f64 = 0.03;

struct Settings {
    threads: usize,
    seconds: f64,
    tokens: Vec<usize>,
    /// Part of the name of what is measured.
    only: String,
    python: Option<String>,
}

impl Settings {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut settings = Self {
            threads: 2,
            seconds: 2.0,
            tokens: vec![1, 256, 2048],
            only: String::new(),
            python: None,
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} takes a value"))?;
            match name.as_str() {
                "--threads" => settings.threads = value.parse()?,
                "--seconds" => settings.seconds = value.parse()?,
                "--tokens" => {
                    settings.tokens = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--only" => settings.only = value,
                "--python" => settings.python = Some(value),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(settings)
    }
}

/// PyTorch's side: one shape at a time, one turn for each request.
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

    /// Returns what it answers: seconds of a pass, the median of a turn.
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

/// Seconds of a pass, its result and what it held freed: the median of a turn.
fn time<T>(pass: impl Fn() -> candle_core::Result<T>) -> Outcome<f64> {
    drop(pass()?);
    let (mut passes, turn) = (Vec::new(), Instant::now());
    while passes.is_empty() || turn.elapsed().as_secs_f64() < TURN_SECONDS {
        let start = Instant::now();
        drop(pass()?);
        passes.push(start.elapsed().as_secs_f64());
    }
    Ok(median(passes))
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One of the products.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    OfInput,
    OfWeight,
}

impl Pass {
    const ALL: [Self; 3] = [Self::Forward, Self::OfInput, Self::OfWeight];

    /// Also what `gemm.py` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "y",
            Self::OfInput => "dx",
            Self::OfWeight => "dW",
        }
    }
}

/// Runs a turn and returns the seconds of a pass.
type Run<'a> = dyn FnMut(&mut Option<Torch>) -> Outcome<f64> + 'a;

/// One way to make a product, and the seconds of its turns.
struct Side<'a> {
    name: String,
    run: Box<Run<'a>>,
    seconds: Vec<f64>,
}

impl<'a> Side<'a> {
    fn new(name: &str, run: impl FnMut(&mut Option<Torch>) -> Outcome<f64> + 'a) -> Self {
        Self { name: name.to_owned(), run: Box::new(run), seconds: Vec::new() }
    }

    /// PyTorch's.
    fn torch(dtype: &'static str, pass: Pass) -> Self {
        Self::new(&format!("torch {dtype}"), move |torch| match torch {
            Some(torch) => torch.ask(&format!("{dtype} {} {TURN_SECONDS}", pass.name())),
            None => Err("no PyTorch".into()),
        })
    }
}

/// A product of f32 in every precision.
fn by_precision<'a>(
    pass: impl Fn() -> candle_core::Result<Tensor> + Copy + 'a,
) -> impl Iterator<Item = Side<'a>> {
    use MatmulPrecision::{High, Highest, Medium};
    [Highest, High, Medium].into_iter().map(move |precision| {
        Side::new(&format!("f32 {precision}"), move |_| time(|| precision.during(pass)))
    })
}

/// The sides of one product, run in turns.
fn measure(
    settings: &Settings,
    torch: &mut Option<Torch>,
    pass: Pass,
    (m, k, n): (usize, usize, usize),
) -> Outcome<Vec<(String, f64)>> {
    let (x, weight, dy) = (numbers(m, k)?, numbers(n, k)?, numbers(m, n)?);
    let bf16 = weight.to_dtype(DType::BF16)?;
    let packed = PackedWeight::pack(&bf16)?;
    let mut sides = Vec::new();
    match pass {
        Pass::Forward => {
            sides.extend(by_precision(|| linear(&x, &weight, None)));
            let by_twins =
                |kind: &Arithmetic| matches!(kind, Arithmetic::Scalar | Arithmetic::Emulated(_));
            for kind in Arithmetic::ALL {
                if kind.runs_here() && !by_twins(&kind) {
                    let (x, packed) = (&x, &packed);
                    let name = format!("bf16 {kind:?}");
                    sides.push(Side::new(&name, move |_| time(|| packed.multiply(x, kind))));
                }
            }
        }
        Pass::OfInput => sides.extend(by_precision(|| matmul(&dy, &weight))),
        Pass::OfWeight => sides.extend(by_precision(|| matmul(&dy.t()?, &x))),
    }
    if let Some(torch) = torch {
        torch.ask(&format!("shape {m} {k} {n}"))?;
        sides.extend(["f32", "bf16"].map(|dtype| Side::torch(dtype, pass)));
    }
    let start = Instant::now();
    let mut turns = 0;
    while turns < TURNS || start.elapsed().as_secs_f64() < settings.seconds {
        for side in &mut sides {
            let seconds = (side.run)(torch)?;
            side.seconds.push(seconds);
        }
        turns += 1;
    }
    Ok(sides.into_iter().map(|side| (side.name, median(side.seconds))).collect())
}

fn main() -> Outcome<()> {
    keep_freed_pages();
    keep_to_one_pool();
    let settings = Settings::parse(env::args().skip(1))?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(settings.threads)
        .use_current_thread()
        .build_global()?;
    let mut torch =
        settings.python.as_ref().map(|p| Torch::start(p, settings.threads)).transpose()?;
    let mut out = io::stdout();
    for &tokens in &settings.tokens {
        for (model, weight, k, n) in SHAPES {
            let name = format!("{model} {weight}");
            if !name.contains(&settings.only) {
                continue;
            }
            for pass in Pass::ALL {
                let peak = f32_peak(settings.threads);
                let found = measure(&settings, &mut torch, pass, (tokens, k, n))?;
                let flops = 2.0 * tokens as f64 * k as f64 * n as f64;
                let of = |name: &'static str| {
                    found.iter().find(|(found, _)| found == name).map(|(_, s)| s)
                };
                let rates = found.iter().map(|(name, s)| format!("{name} {:.0}", flops / s / 1e9));
                let rates: Vec<_> = rates.collect();
                let share = of("f32 highest").map_or(f64::NAN, |s| flops / s / peak);
                let pairs = [
                    ("f32 highest", "torch f32"),
                    ("f32 high", "torch f32"),
                    ("f32 medium", "torch bf16"),
                    ("bf16 Tiles(One)", "torch bf16"),
                ];
                let ratios = pairs.map(|(name, other)| match (of(name), of(other)) {
                    (Some(ours), Some(theirs)) => format!("{name} {:.2}×, ", theirs / ours),
                    _ => String::new(),
                });
                let ratio = ratios.concat();
                writeln!(
                    out,
                    "{name:<24} {tokens:>5} × {k:>5} × {n:>5} {:<2}  {ratio}{:.0} % of peak; {}",
                    pass.name(),
                    100.0 * share,
                    rates.join(", ")
                )?;
            }
        }
    }
    torch.map_or(Ok(()), Torch::stop)
}
