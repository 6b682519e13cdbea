//! Files that the program wrote, with one bit flipped, and the commands that read
//! them.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;

use super::{
    Ground,
    commands::{RECOVER, SEARCH},
    process::Signal,
    tally::Tally,
    world::{Room, copy},
};

const PART: &str = "flips";

/// A file of the stock with a command that must read all of it.
struct File {
    /// Its name in the table, and what the message must hold of its path.
    name: &'static str,
    /// What is copied from the stock.
    copies: &'static [&'static str],
    /// Its path in the room.
    path: &'static str,
    /// The command.
    reader: &'static str,
}

/// The work folder of a training, beside its output.
const WORK: &str = "out.work";
const READ_MODEL: &str = "eval {room}/pruned --text {in}/text.txt --window 32 --limit 1";
const READ_GGUF: &str = "eval {room}/pruned/model.gguf --text {in}/text.txt --window 32 --limit 1";
const READ_ADAPTER: &str =
    "merge {in}/model --adapter {room}/recovered/adapter --out {room}/merged";
const READ_STATS: &str = "prune {in}/model --ratio 0.2 --calibration {in}/calibration.txt \
    --samples 12 --sample-tokens 16 --importance param_first --learn-masks 0 \
    --stats {room}/stats.safetensors --out {room}/out";

const FILES: &[File] = &[
    file("statistics", &["stats.safetensors"], "stats.safetensors", READ_STATS),
    file("model.safetensors", &["pruned"], "pruned/model.safetensors", READ_MODEL),
    file("config.json", &["pruned"], "pruned/config.json", READ_MODEL),
    file("tokenizer.json", &["pruned"], "pruned/tokenizer.json", READ_MODEL),
    file("tokenizer_config.json", &["pruned"], "pruned/tokenizer_config.json", READ_MODEL),
    file(
        "manifest.json",
        &["pruned"],
        "pruned/manifest.json",
        "apply {in}/model --plan {room}/pruned/manifest.json --out {room}/out",
    ),
    file("model.gguf", &["pruned"], "pruned/model.gguf", READ_GGUF),
    file(
        "adapter weights",
        &["recovered"],
        "recovered/adapter/adapter_model.safetensors",
        READ_ADAPTER,
    ),
    file("adapter config", &["recovered"], "recovered/adapter/adapter_config.json", READ_ADAPTER),
    file("bank", &["study"], "study/bank.safetensors", ""),
    file("journal", &["study"], "study/journal.log", ""),
    file("pool", &["study"], "study/pool.jsonl", ""),
    file("search.json", &["study"], "study/search.json", ""),
    file("run.json", &["whole"], "whole/run.json", "run {room}/run.toml"),
    file("training state", &[], "out.work/state.safetensors", RECOVER),
    file("best weights", &[], "out.work/best.safetensors", RECOVER),
    file("teacher cache", &[], "out.work/teacher.bin", RECOVER),
];

const fn file(
    name: &'static str,
    copies: &'static [&'static str],
    path: &'static str,
    reader: &'static str,
) -> File {
    File { name, copies, path, reader }
}

/// Rounds over all files, one after the other.
///
/// # Errors
/// A refusal of the operating system.
pub fn run(ground: &mut Ground<'_>, tally: &mut Tally) -> Result<()> {
    let chosen = ground.chosen(PART, FILES, |file| file.name, tally);
    let of_training = |file: &&File| file.path.starts_with(WORK);
    let work = match chosen.iter().any(of_training) {
        true => Some(killed_training(ground)?),
        false => None,
    };
    let mut all_tried = chosen.is_empty();
    while !all_tried || ground.goes_on() && !chosen.is_empty() {
        for file in &chosen {
            let failures = round(ground, file, work.as_ref())?;
            tally.count(PART, file.name, failures);
            if all_tried && !ground.goes_on() {
                return Ok(());
            }
        }
        all_tried = true;
    }
    Ok(())
}

/// A training that was killed in the middle, with all that its work folder holds.
fn killed_training(ground: &Ground<'_>) -> Result<Room> {
    let room = ground.world.room(&[])?;
    let words = ground.world.line(RECOVER, room.path());
    let work = room.path().join(WORK);
    let state = |name: &str| work.join(name).is_file();
    for _ in 0..20 {
        let mut process = ground.program.start(&words, None)?;
        let start = Instant::now();
        while process.is_running()?
            && !(state("state.safetensors") && state("best.safetensors"))
            && start.elapsed() < Duration::from_secs(120)
        {
            thread::sleep(Duration::from_millis(1));
        }
        process.signal(Signal::Kill)?;
        process.wait()?;
        if work.is_dir() {
            return Ok(room);
        }
        fs::remove_dir_all(room.path().join("out"))?;
    }
    anyhow::bail!("no training could be killed between its first state and its end")
}

fn round(ground: &mut Ground<'_>, file: &File, work: Option<&Room>) -> Result<Vec<String>> {
    ground.world.provide(file.copies, ground.program)?;
    let (world, program) = (&*ground.world, ground.program);
    let room = world.room(file.copies)?;
    if let Some(work) = work
        && file.path.starts_with(WORK)
    {
        copy(&work.path().join(WORK), &room.path().join(WORK))?;
    }
    if file.copies == ["whole"] {
        // Paths of the stock's room are in it: made anew for this one.
        fs::remove_dir_all(room.path().join("whole"))?;
        let made = program.run(&world.line(file.reader, room.path()))?;
        ensure!(made.well(), made.say("expected exit code 0"));
    }
    let path = room.path().join(file.path);
    let mut bytes = fs::read(&path)
        .with_context(|| format!("{}: the program writes no such file", file.path))?;
    let at = ground.rng.random_range(0..bytes.len());
    let bit = ground.rng.random_range(0..8);
    bytes[at] ^= 1 << bit;
    fs::write(&path, &bytes)?;
    // One more trial than there are, so that the search goes on.
    let reader = match file.reader {
        "" => format!("{SEARCH} --trials 9"),
        reader => reader.to_owned(),
    };
    let process = program.run(&world.line(&reader, room.path()))?;
    let mut failures: Vec<String> = process.judge(&[1], None).into_iter().collect();
    let name = PathBuf::from(file.path);
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if failures.is_empty() && !process.stderr.contains(&name) {
        failures.push(process.say(&format!("expected the name {name} in the message")));
    }
    if let Some(first) = failures.first_mut() {
        first.push_str(&format!("\n      bit {bit} of byte {at} of {} bytes", bytes.len()));
    }
    failures.extend(world.changed_inputs()?);
    world.keep(room, &mut failures)?;
    Ok(failures)
}
