//! `doctor`: what this machine and this build can do.

use std::path::PathBuf;

use adapruner::memory;
use adapruner_checkpoint::atomic::Files;
use adapruner_kernels::{InstructionSet, MatmulPrecision, Products, instruction_sets};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{Perform, Session};
use crate::printer::{Printer, bytes, table};

/// Show what this machine and this build can do.
///
/// Lists instruction sets found and used (in brackets what --without-instructions calls them),
/// what products are made of in each precision, threads, memory, features of the build, and the
/// folders that are searched for files.
///
/// Example: adapruner doctor
#[derive(Debug, Args)]
pub struct DoctorCommand {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    /// Features that this build has and lacks.
    features: Features,
    processor: Option<String>,
    instruction_sets: Vec<Set>,
    threads: usize,
    memory_available_bytes: u64,
    /// The default of `--matmul-precision`.
    default_precision: String,
    /// What every precision makes of products of many rows.
    precisions: Vec<Precision>,
    folders: Folders,
}

#[derive(Serialize)]
struct Features {
    built: Vec<&'static str>,
    not_built: Vec<&'static str>,
}

#[derive(Serialize)]
struct Set {
    name: &'static str,
    /// What `--without-instructions` calls it.
    flag: &'static str,
    found: bool,
    used: bool,
    note: &'static str,
}

#[derive(Serialize)]
struct Precision {
    name: String,
    /// With f32 weights.
    f32: String,
    /// With bf16 weights (`--dtype bf16`).
    bf16: String,
}

impl Precision {
    fn of(precision: MatmulPrecision) -> Self {
        let Products { of_f32, of_bf16 } = precision.products();
        Self { name: precision.to_string(), f32: of_f32, bf16: of_bf16 }
    }
}

#[derive(Serialize)]
struct Folders {
    /// Cache folder of models and texts from the hub.
    hub: PathBuf,
    /// `ADAPRUNER_DATA`.
    data: Option<PathBuf>,
}

impl Perform for DoctorCommand {
    fn json(&self) -> bool {
        self.json
    }

    fn files(&self) -> Result<Files> {
        Ok(Files::new())
    }

    fn run(&self, _: &Session) -> Result<()> {
        Printer::new(self.json).result(&report(), text)
    }
}

fn report() -> Report {
    let features = [
        ("hub", cfg!(feature = "hub")),
        ("redis", cfg!(feature = "redis")),
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ];
    let of = |built: bool| {
        let chosen = features.into_iter().filter(move |(_, has)| *has == built);
        chosen.map(|(name, _)| name).collect()
    };
    let set =
        |InstructionSet { name, flag, found, used, note }| Set { name, flag, found, used, note };
    Report {
        version: env!("CARGO_PKG_VERSION"),
        features: Features { built: of(true), not_built: of(false) },
        processor: memory::processor(),
        instruction_sets: instruction_sets().into_iter().map(set).collect(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        memory_available_bytes: memory::available(),
        default_precision: MatmulPrecision::default().to_string(),
        precisions: [MatmulPrecision::Highest, MatmulPrecision::High, MatmulPrecision::Medium]
            .map(Precision::of)
            .into(),
        folders: Folders { hub: hub(), data: std::env::var_os("ADAPRUNER_DATA").map(Into::into) },
    }
}

/// The hub's cache, where Python's libraries have it too.
fn hub() -> PathBuf {
    let home =
        || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/huggingface"));
    let base = std::env::var_os("HF_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_default().join("hub")
}

fn text(report: &Report) -> String {
    let listed = |names: &[&str]| if names.is_empty() { "none".into() } else { names.join(", ") };
    let mut rows = vec![
        ("version", report.version.to_owned()),
        ("features", listed(&report.features.built)),
        ("not built", listed(&report.features.not_built)),
        ("processor", report.processor.clone().unwrap_or_else(|| "unknown".to_owned())),
    ];
    for Set { name, flag, found, used, note } in &report.instruction_sets {
        rows.push((
            name,
            match (found, used) {
                (true, true) => format!("used: {note} ({flag})"),
                (true, false) => format!("found, not used: {note} ({flag})"),
                (false, _) => "not found".to_owned(),
            },
        ));
    }
    if report.instruction_sets.is_empty() {
        rows.push((
            "instructions",
            "matrix products use the gemm crate on this processor".to_owned(),
        ));
    }
    for Precision { name, f32, bf16 } in &report.precisions {
        let default = if *name == report.default_precision { " (default)" } else { "" };
        let both = if f32 == bf16 { f32.clone() } else { format!("{f32}; bf16 weights: {bf16}") };
        rows.push((name, format!("precision{default}: {both}")));
    }
    let data = &report.folders.data;
    rows.extend([
        ("threads", report.threads.to_string()),
        ("memory free", bytes(report.memory_available_bytes)),
        ("hub cache", report.folders.hub.display().to_string()),
        (
            "data",
            data.as_ref().map_or_else(
                || "ADAPRUNER_DATA is not set".to_owned(),
                |path| path.display().to_string(),
            ),
        ),
    ]);
    table(&rows)
}
