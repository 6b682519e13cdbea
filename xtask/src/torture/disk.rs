//! Disks that are too small.
//!
//! A tmpfs of a random size is mounted where that is allowed (root); elsewhere
//! the shell's limit on the size of files stands for it, which refuses a write
//! half way as a full disk does.

use std::{
    path::{Path, PathBuf},
    process::{Command as System, Stdio},
};

use anyhow::{Context as _, Result};
use rand::RngExt as _;

use super::{
    Ground,
    commands::{COMMANDS, Command},
    process::Program,
    tally::Tally,
    world::World,
};

const PART: &str = "disk";

/// A small file system, unmounted when it is dropped.
struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A tmpfs of so many KiB at `path`; `None` where mounting is not allowed.
    fn mount(path: &Path, kilobytes: u64) -> Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let mut mount = System::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"]).arg(path);
        let mounted = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let done = mounted.is_ok_and(|status| status.success());
        Ok(done.then(|| Self { path: path.to_owned() }))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing can be done about one that stays.
        let _ = System::new("umount").arg(&self.path).status();
    }
}

/// Rounds over the commands that write.
///
/// # Errors
/// A refusal of the operating system.
pub fn run(ground: &mut Ground<'_>, tally: &mut Tally) -> Result<()> {
    let commands = ground.chosen(PART, COMMANDS, |command| command.name, tally);
    let writing: Vec<_> =
        commands.into_iter().filter(|command| !command.outputs.is_empty()).collect();
    let mut all_tried = writing.is_empty();
    while !all_tried || ground.goes_on() && !writing.is_empty() {
        for command in &writing {
            let (failures, how) = round(ground, command)?;
            tally.count(PART, command.name, failures);
            tally.note(PART, command.name, how);
            if all_tried && !ground.goes_on() {
                return Ok(());
            }
        }
        all_tried = true;
    }
    Ok(())
}

/// Bytes that an undisturbed run of the command leaves, once more.
fn needed(world: &World, program: &Program, command: &Command) -> Result<(u64, u64)> {
    let room = world.room(command.copies)?;
    let before = world.size(room.path())?;
    program.run(&world.words(command, room.path()))?;
    Ok((before, world.size(room.path())?.saturating_sub(before)))
}

fn round(ground: &mut Ground<'_>, command: &Command) -> Result<(Vec<String>, &'static str)> {
    ground.world.ready(command, ground.program)?;
    let (world, program) = (&*ground.world, ground.program);
    let (before, written) = needed(world, program, command)?;
    let share = ground.rng.random_range(0.0..1.0);
    // Pages of 4 KiB: every file and folder takes whole ones.
    let free = (written as f64 * share / 1024.0) as u64;
    let size = 2 * before / 1024 + 64 + free;
    let mounts = world.room(&[])?;
    let disk = Disk::mount(&mounts.path().join("disk"), size)?;
    let (parent, blocks, how) = match &disk {
        Some(disk) => (disk.path.as_path(), None, "tmpfs"),
        None => (mounts.path(), Some(free.max(1)), "ulimit -f"),
    };
    let room = world.room_in(parent, command.copies).context("the small disk")?;
    let words = world.words(command, room.path());
    let process = program.start(&words, blocks)?.wait()?;
    let mut failures: Vec<String> = process.judge(&[0, 1], None).into_iter().collect();
    if !process.well() && !process.stderr.contains("error: ") {
        failures.push(process.say("expected an error in words"));
    }
    failures.extend(world.changed_inputs()?);
    failures.extend(world.broken_outputs(command, room.path())?);
    failures.extend(world.leftovers(room.path())?);
    if let Some(first) = failures.first_mut() {
        first.push_str(&format!("\n      {free} KiB free of {} needed", written / 1024));
    }
    world.keep(room, &mut failures)?;
    drop(disk);
    Ok((failures, how))
}
