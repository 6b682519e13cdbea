//! Commands that are ended at random moments and given again.

use std::{thread, time::Duration};

use anyhow::Result;
use rand::RngExt as _;

use super::{
    Ground,
    commands::{COMMANDS, Command},
    process::{Signal, end_groups},
    tally::Tally,
};

const PART: &str = "kills";
/// Times that a command is ended at most before it may end by itself.
const ENDS: u32 = 4;

/// Rounds over all commands, one after the other.
///
/// # Errors
/// A refusal of the operating system.
pub fn run(ground: &mut Ground<'_>, tally: &mut Tally) -> Result<()> {
    let chosen = ground.chosen(PART, COMMANDS, |command| command.name, tally);
    let mut all_tried = chosen.is_empty();
    while !all_tried || ground.goes_on() && !chosen.is_empty() {
        for command in &chosen {
            let failures = round(ground, command)?;
            tally.count(PART, command.name, failures);
            if all_tried && !ground.goes_on() {
                return Ok(());
            }
        }
        all_tried = true;
    }
    Ok(())
}

fn round(ground: &mut Ground<'_>, command: &Command) -> Result<Vec<String>> {
    ground.world.ready(command, ground.program)?;
    let (world, program) = (&*ground.world, ground.program);
    let room = world.room(command.copies)?;
    let words = world.words(command, room.path());
    let mut failures = Vec::new();
    let mut groups = Vec::new();
    let mut ended = false;
    // Killed just after the last rename: the output is there, and whole.
    let there = || {
        !command.outputs.is_empty()
            && command.outputs.iter().all(|output| room.path().join(output.path).exists())
    };
    for _ in 0..ground.rng.random_range(1..=ENDS) {
        let mut process = program.start(&words, None)?;
        groups.push(process.group());
        let seconds = world.seconds(command) * ground.rng.random_range(0.0..1.1);
        let signal = match ground.rng.random_range(0..4) {
            0 => Signal::Interrupt,
            1 => Signal::Terminate,
            _ => Signal::Kill,
        };
        thread::sleep(Duration::from_secs_f64(seconds));
        process.signal(signal)?;
        let process = process.wait()?;
        let code = process.judge(&[0, 130], Some(signal));
        failures
            .extend(code.map(|code| format!("{code}\n      after {signal:?} at {seconds:.3} s")));
        failures.extend(world.changed_inputs()?);
        failures.extend(world.broken_outputs(command, room.path())?);
        if process.well() || !failures.is_empty() || !command.repeatable && there() {
            ended = process.well();
            break;
        }
    }
    if failures.is_empty() && (command.repeatable || !ended && !there()) {
        let process = program.run(&words)?;
        failures.extend(process.judge(&[0], None));
        failures.extend(world.changed_inputs()?);
        failures.extend(world.broken_outputs(command, room.path())?);
        failures.extend(world.leftovers(room.path())?);
    }
    end_groups(&groups)?;
    world.keep(room, &mut failures)?;
    Ok(failures)
}
