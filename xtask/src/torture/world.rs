//! Inputs, the stock of what an undisturbed program makes, and rooms for rounds.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use adapruner_checkpoint::Digest;
use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::{
    commands::{Command, Output, RUN, TRIALS, Whole, named},
    process::Program,
};

/// Digests of files by their path in a folder.
type Digests = BTreeMap<PathBuf, Digest>;

/// What is kept of undisturbed commands, for others to start from: its name, the
/// command, and where that writes it.
const STOCK: &[(&str, &str, &str)] = &[
    ("study", "search", "study"),
    ("recovered", "recover", "out"),
    ("pruned", "prune", "out"),
    ("stats.safetensors", "stats", "stats.safetensors"),
    ("whole", "run", "whole"),
];

/// What is tortured.
pub struct World {
    dir: TempDir,
    inputs: Digests,
    /// Digests of what undisturbed commands wrote, by command and path.
    right: BTreeMap<(String, PathBuf), Digest>,
    /// Seconds that an undisturbed command takes.
    seconds: BTreeMap<String, f64>,
    keep: Option<PathBuf>,
}

impl World {
    /// Copies the model and the tasks beside it.
    ///
    /// # Errors
    /// A folder that is not there, a full disk.
    pub fn new(model: &Path, keep: Option<PathBuf>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("adapruner-torture").tempdir()?;
        let inputs = dir.path().join("in");
        fs::create_dir_all(inputs.join("model"))?;
        for entry in fs::read_dir(model).with_context(|| model.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            let to = match name.to_str() {
                Some("expected.safetensors") => continue,
                Some("calibration.txt" | "text.txt") => inputs.join(&name),
                _ => inputs.join("model").join(&name),
            };
            fs::copy(entry.path(), to)?;
        }
        let tasks = model.join("../../tasks");
        copy(&tasks, &inputs.join("tasks")).with_context(|| tasks.display().to_string())?;
        let text = fs::read_to_string(inputs.join("text.txt"))?;
        // Not the text that is measured on.
        let half = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
        fs::write(inputs.join("training.txt"), &text[half..])?;
        fs::write(inputs.join("text.txt"), &text[..half])?;
        let world = Self {
            inputs: digests(&inputs)?,
            right: BTreeMap::new(),
            seconds: BTreeMap::new(),
            keep,
            dir,
        };
        fs::create_dir(world.stock())?;
        Ok(world)
    }

    fn stock(&self) -> PathBuf {
        self.dir.path().join("stock")
    }

    /// Sees to it that the command has run once, undisturbed, and that what it
    /// starts from is in the stock.
    ///
    /// # Errors
    /// A command that fails.
    pub fn ready(&mut self, command: &Command, program: &Program) -> Result<()> {
        self.provide(command.copies, program)?;
        if self.seconds.contains_key(command.name) {
            return Ok(());
        }
        let learned = self.learn(command, program);
        learned.context("the program does not do its work undisturbed")
    }

    /// Sees to it that these are in the stock.
    ///
    /// # Errors
    /// A command that fails.
    pub fn provide(&mut self, copies: &[&str], program: &Program) -> Result<()> {
        for copy in copies {
            let (_, maker, _) = STOCK.iter().find(|(name, ..)| name == copy).expect("stock");
            self.ready(named(maker), program)?;
        }
        Ok(())
    }

    /// Runs a command undisturbed and keeps what it wrote.
    fn learn(&mut self, command: &Command, program: &Program) -> Result<()> {
        let room = self.room(command.copies)?;
        let ended = program.run(&self.words(command, room.path()))?;
        ensure!(ended.well(), ended.say("expected exit code 0"));
        self.seconds.insert(command.name.to_owned(), ended.took.as_secs_f64());
        for output in command.outputs {
            let files = digests(&room.path().join(output.path))?;
            for (file, digest) in files {
                if is_comparable(output, &file) {
                    let path: PathBuf = Path::new(output.path).iter().chain(&file).collect();
                    self.right.insert((command.name.to_owned(), path), digest);
                }
            }
        }
        for (name, maker, made) in STOCK {
            if *maker == command.name {
                copy(&room.path().join(made), &self.stock().join(name))?;
            }
        }
        Ok(())
    }

    /// A new folder with copies from the stock, and the configuration of `run`.
    ///
    /// # Errors
    /// A full disk.
    pub fn room(&self, copies: &[&str]) -> Result<Room> {
        self.room_in(self.dir.path(), copies)
    }

    /// The same in a given folder.
    ///
    /// # Errors
    /// A full disk.
    pub fn room_in(&self, parent: &Path, copies: &[&str]) -> Result<Room> {
        let dir = tempfile::Builder::new().prefix("room").tempdir_in(parent)?;
        for name in copies {
            copy(&self.stock().join(name), &dir.path().join(name))?;
        }
        fs::write(dir.path().join("run.toml"), self.fill(RUN, dir.path()))?;
        Ok(Room { dir })
    }

    /// `text` with the places filled in.
    pub fn fill(&self, text: &str, room: &Path) -> String {
        let inputs = self.dir.path().join("in");
        text.replace("{in}", &inputs.display().to_string())
            .replace("{room}", &room.display().to_string())
    }

    /// What is typed for a command.
    pub fn words(&self, command: &Command, room: &Path) -> Vec<String> {
        let mut words = self.line(command.words, room);
        if command.name == "search" {
            words.extend(["--trials".to_owned(), TRIALS.to_string()]);
        }
        words
    }

    /// The words of a line with the places filled in.
    pub fn line(&self, line: &str, room: &Path) -> Vec<String> {
        line.split_whitespace().map(|word| self.fill(word, room)).collect()
    }

    /// Seconds that the command takes undisturbed.
    pub fn seconds(&self, command: &Command) -> f64 {
        self.seconds.get(command.name).copied().unwrap_or(1.0)
    }

    /// Bytes of all files that an undisturbed command left in its room.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn size(&self, room: &Path) -> Result<u64> {
        let mut bytes = 0;
        for file in files(room)? {
            bytes += fs::metadata(file)?.len();
        }
        Ok(bytes)
    }

    /// What has changed of the inputs.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn changed_inputs(&self) -> Result<Vec<String>> {
        let now = digests(&self.dir.path().join("in"))?;
        let all = self.inputs.keys().chain(now.keys());
        let mut changed: Vec<String> = all
            .filter(|path| self.inputs.get(*path) != now.get(*path))
            .map(|path| format!("the input {} was changed", path.display()))
            .collect();
        changed.sort();
        changed.dedup();
        Ok(changed)
    }

    /// What of a command's outputs in a room is neither absent nor whole.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn broken_outputs(&self, command: &Command, room: &Path) -> Result<Vec<String>> {
        let mut broken = Vec::new();
        for output in command.outputs {
            let path = room.join(output.path);
            if !path.exists() {
                continue;
            }
            let of_output = |path: &Path| path.starts_with(output.path);
            let expected = self
                .right
                .iter()
                .filter(|((name, path), _)| name == command.name && of_output(path));
            for ((_, file), digest) in expected {
                match Digest::of_file(&room.join(file)) {
                    Ok(found) if found == *digest => {}
                    Ok(_) => broken.push(format!("{} is not the right one", file.display())),
                    Err(_) => broken.push(format!("{} is missing", file.display())),
                }
            }
            if let Some(message) = unreadable(output, &path) {
                broken.push(message);
            }
        }
        Ok(broken)
    }

    /// Hidden files and folders that the program left behind.
    ///
    /// # Errors
    /// A refusal of the operating system.
    pub fn leftovers(&self, room: &Path) -> Result<Vec<String>> {
        let is_left = |name: &str| {
            [".partial", ".old", ".discarded", ".tmp"].iter().any(|end| name.ends_with(end))
        };
        let mut left = Vec::new();
        for path in entries(room)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let in_workers = path.parent().is_some_and(|p| p.ends_with("workers"));
            if is_left(&name) || in_workers && !name.ends_with(".lock") {
                left.push(format!("left behind: {}", path.display()));
            }
        }
        Ok(left)
    }

    /// Keeps the room of a failed round where that was asked for.
    ///
    /// # Errors
    /// A full disk.
    pub fn keep(&self, room: Room, failures: &mut [String]) -> Result<()> {
        if let (Some(keep), Some(first)) = (&self.keep, failures.first_mut()) {
            let to = keep.join(room.dir.path().file_name().unwrap_or_default());
            copy(room.dir.path(), &to)?;
            first.push_str(&format!(" [kept: {}]", to.display()));
        }
        Ok(())
    }
}

/// The folder of a round, gone when it is dropped.
#[derive(Debug)]
pub struct Room {
    dir: TempDir,
}

impl Room {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Whether a file of an output must be the same in every run: times and paths are
/// in the others.
fn is_comparable(output: &Output, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match output.whole {
        Whole::Weights => {
            name.ends_with(".safetensors")
                || name.ends_with(".gguf")
                || name.starts_with("tokenizer")
                || name == "config.json"
        }
        Whole::Same => true,
        Whole::Json | Whole::Page | Whole::Study => false,
    }
}

fn unreadable(output: &Output, path: &Path) -> Option<String> {
    let message = |what: &str| Some(format!("{}: {what}", output.path));
    match output.whole {
        Whole::Same | Whole::Study => None,
        Whole::Weights => match fs::read(path.join("manifest.json")) {
            Ok(bytes) if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() => None,
            Ok(_) => message("manifest.json is no JSON"),
            Err(_) => message("has no manifest.json"),
        },
        Whole::Json => match fs::read(path) {
            Ok(bytes) if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok() => None,
            Ok(_) | Err(_) => message("no JSON"),
        },
        Whole::Page => match fs::read_to_string(path) {
            Ok(text) if text.trim_end().ends_with("</html>") => None,
            Ok(_) | Err(_) => message("no whole page"),
        },
    }
}

/// Everything below a folder, or the file itself.
fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?.path();
            found.extend(entries(&entry)?);
        }
    }
    Ok(found)
}

/// All files below a folder, in order.
///
/// # Errors
/// A refusal of the operating system.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = entries(path)?.into_iter().filter(|p| p.is_file()).collect();
    found.sort();
    Ok(found)
}

/// Of the files below a folder; of a file alone under an empty path.
fn digests(path: &Path) -> Result<Digests> {
    let mut found = Digests::new();
    for file in files(path)? {
        let digest = Digest::of_file(&file)?;
        found.insert(file.strip_prefix(path)?.to_owned(), digest);
    }
    Ok(found)
}

/// Copies a file or a folder.
///
/// # Errors
/// A refusal of the operating system.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        fs::copy(from, to)?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
