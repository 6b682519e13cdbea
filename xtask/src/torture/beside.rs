//! Commands side by side in the same folder.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::Result;
use rand::RngExt as _;

use super::{
    Ground,
    commands::{Command, RECOVER, TRIALS, named},
    process::{End, Ended, end_groups},
    tally::Tally,
};

const PART: &str = "beside";

/// Two commands that are started in one room.
struct Pair {
    /// Its name in the table.
    name: &'static str,
    /// The command whose outputs are judged.
    first: &'static str,
    /// What is typed beside it.
    second: &'static str,
    /// What is copied from the stock.
    copies: &'static [&'static str],
    /// Whether both must end well, or one at least.
    both: bool,
}

const PAIRS: &[Pair] = &[
    Pair { name: "search ∥ search", first: "search", second: "", copies: &[], both: true },
    Pair {
        name: "search ∥ report",
        first: "search",
        second: "report {room}/study --out {room}/page.html",
        copies: &["study"],
        both: true,
    },
    Pair {
        name: "search ∥ apply",
        first: "search",
        second: "apply {in}/model --study {room}/study --out {room}/applied",
        copies: &["study"],
        both: true,
    },
    Pair { name: "stats ∥ stats", first: "stats", second: "", copies: &[], both: false },
    Pair { name: "prune ∥ prune", first: "prune", second: "", copies: &[], both: false },
    Pair {
        name: "prune --force ∥ prune --force",
        first: "prune --force",
        second: "",
        copies: &[],
        both: false,
    },
    Pair { name: "export ∥ export", first: "export", second: "", copies: &[], both: false },
    Pair {
        name: "recover ∥ recover", first: "recover", second: RECOVER, copies: &[], both: false
    },
    Pair { name: "run ∥ run", first: "run", second: "", copies: &[], both: false },
];

/// Rounds over all pairs, one after the other.
///
/// # Errors
/// A refusal of the operating system.
pub fn run(ground: &mut Ground<'_>, tally: &mut Tally) -> Result<()> {
    let chosen = ground.chosen(PART, PAIRS, |pair| pair.name, tally);
    let mut all_tried = chosen.is_empty();
    while !all_tried || ground.goes_on() && !chosen.is_empty() {
        for pair in &chosen {
            let failures = round(ground, pair)?;
            tally.count(PART, pair.name, failures);
            if all_tried && !ground.goes_on() {
                return Ok(());
            }
        }
        all_tried = true;
    }
    Ok(())
}

fn round(ground: &mut Ground<'_>, pair: &Pair) -> Result<Vec<String>> {
    let command = named(pair.first);
    ground.world.ready(command, ground.program)?;
    ground.world.provide(pair.copies, ground.program)?;
    let (world, program) = (&*ground.world, ground.program);
    let room = world.room(pair.copies)?;
    let first = world.words(command, room.path());
    let second = match pair.second {
        "" => first.clone(),
        line => world.line(line, room.path()),
    };
    let one = program.start(&first, None)?;
    let apart = world.seconds(command) * ground.rng.random_range(0.0..0.6);
    thread::sleep(Duration::from_secs_f64(apart));
    let other = program.start(&second, None)?;
    let groups = [one.group(), other.group()];
    let ended = [one.wait()?, other.wait()?];
    let mut failures = Vec::new();
    for process in &ended {
        failures.extend(process.judge(&[0, 1], None));
    }
    let well = ended.iter().filter(|process| process.well()).count();
    if failures.is_empty() && well < if pair.both { 2 } else { 1 } {
        let refused = ended.iter().filter(|process| matches!(process.end, End::Code(1)));
        failures.extend(refused.map(|process| process.say("expected exit code 0")));
    }
    failures.extend(world.changed_inputs()?);
    failures.extend(world.broken_outputs(command, room.path())?);
    failures.extend(world.leftovers(room.path())?);
    failures.extend(too_many_trials(command, room.path(), &ended)?);
    if let Some(first) = failures.first_mut() {
        first.push_str(&format!("\n      the second {apart:.3} s after the first"));
    }
    end_groups(&groups)?;
    world.keep(room, &mut failures)?;
    Ok(failures)
}

/// A search's journal must hold the trials asked for, and not one more.
fn too_many_trials(command: &Command, room: &Path, ended: &[Ended]) -> Result<Option<String>> {
    if command.name != "search" || !ended.iter().all(Ended::well) {
        return Ok(None);
    }
    let journal = fs::read_to_string(room.join("study/journal.log"))?;
    let finished = journal.lines().filter(|line| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        record["op_code"] == 6 && matches!(record["state"].as_u64(), Some(1 | 2))
    });
    let finished = finished.count() as u64;
    let expected = format!("{TRIALS} finished trials expected, {finished} found");
    Ok((finished != TRIALS).then_some(expected))
}
