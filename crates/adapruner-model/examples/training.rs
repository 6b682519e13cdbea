//! Measures the pass of fine-tuning: tokens per second of adapters' gradients.
//!
//! `cargo run -p adapruner-model --example training -- FOLDER [SEQUENCES [TOKENS [RANK]]]`

#![expect(clippy::print_stdout, reason = "a program that prints measurements")]

use std::{path::Path, time::Instant};

use adapruner_checkpoint::{
    Checkpoint,
    names::{Projection, projection_shape},
};
use adapruner_model::{
    Adapters, Decoder, Placement, Residency,
    train::{Batch, Dropout, LowRank, PassOptions, Term, adapter_gradients, full_gradients},
};
use candle_core::{Device, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| args.get(at).map_or(Ok(default), |a| a.parse());
    let folder = args.first().ok_or("expected the folder of a model")?;
    let (count, length, rank) = (number(1, 8)?, number(2, 256)?, number(3, 8)?);
    let checkpoint = Checkpoint::open(Path::new(folder))?;
    let decoder = Decoder::load(&checkpoint, &Placement::cpu(), Residency::Resident)?;
    let vocabulary = decoder.config().vocab_size;
    let sequences: Vec<Vec<u32>> = (0..count)
        .map(|s| (0..length).map(|t| ((s * 7919 + t * 104_729) % vocabulary) as u32).collect())
        .collect();
    let batch = || Batch {
        sequences: &sequences,
        terms: vec![Term::cross_entropy(&sequences, |_, _| 1.0)],
        hidden: None,
    };
    let numbers = |rows: usize, columns: usize| {
        let values = (0..rows * columns).map(|at| (at * 37 % 101) as f32 / 1e4 - 5e-3).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu)
    };
    for dropout in [None, Some(Dropout { probability: 0.05, seed: 1 })] {
        let mut adapters = Adapters::new();
        for (layer, widths) in decoder.config().layers.iter().enumerate() {
            for projection in Projection::ALL {
                if !projection.is_attention() || widths.has_attention() {
                    let [outputs, inputs] = projection_shape(decoder.config(), layer, projection);
                    let (a, b) = (numbers(rank, inputs)?, numbers(outputs, rank)?);
                    adapters.insert((layer, projection), LowRank { a, b, scale: 2.0, dropout });
                }
            }
        }
        let adapted = decoder.with_adapters(&adapters)?;
        for checkpointing in [false, true] {
            let options = PassOptions { checkpointing };
            report(&format!("adapters, {dropout:?}, {options:?}"), count * length, || {
                adapter_gradients(&adapted, &batch(), &options).map(drop)
            })?;
        }
    }
    for checkpointing in [false, true] {
        let options = PassOptions { checkpointing };
        report(&format!("all parameters, {options:?}"), count * length, || {
            full_gradients(&decoder, &batch(), &options).map(drop)
        })?;
    }
    report("losses alone", count * length, || decoder.nll(&decoder.tokens(&sequences)?).map(drop))?;
    Ok(())
}

/// The best of three runs.
fn report(
    what: &str,
    tokens: usize,
    run: impl Fn() -> adapruner_model::Result<()>,
) -> adapruner_model::Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{what}: {best:.2} s, {:.0} tokens/s", tokens as f64 / best);
    Ok(())
}
