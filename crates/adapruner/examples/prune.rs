//! Removes a fifth of a model's parameters and measures the result.
//!
//! `cargo run --release -p adapruner --example prune -- MODEL CALIBRATION TEST FOLDER`

#![expect(clippy::print_stdout, reason = "an example shows what it found")]

use std::{env, path::Path};

use adapruner::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, calibration, test, folder] = arguments.as_slice() else {
        return Err("expected MODEL CALIBRATION TEST FOLDER".into());
    };
    let model = Checkpoint::open(Path::new(model))?;
    let read = |name: &str| text::read(name, &TextOptions::default());
    let samples = TokenSet::samples(&read(calibration)?, &model.tokenizer, 128, 128, 0)?;
    let windows = TokenSet::windows(&read(test)?, &model.tokenizer, 128, Some(64))?;

    let pruned = Pruning::new(&model, 0.2).run(&model, &samples, &())?;

    let placement = Placement::resolve(DeviceChoice::Cpu, DTypeChoice::Auto, [&model])?;
    for model in [&model, &pruned.model] {
        let measured = evaluate(model, &windows, &placement, None, "evaluate", &())?;
        println!(
            "{} parameters: perplexity {:.2}",
            model.config.parameters(),
            measured.loss.perplexity
        );
    }
    pruned.write(Path::new(folder), &[Format::Hf, Format::Gguf], &())?;
    Ok(())
}
