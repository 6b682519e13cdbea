//! `torture`: treats the program as badly as a long life does, and looks whether
//! anything is lost.
//!
//! | part | what is done | what must hold |
//! |---|---|---|
//! | [`kills`] | every command is ended at random moments (SIGKILL, SIGINT, SIGTERM) and started again | the repeated command ends well, with the outputs of an undisturbed one |
//! | [`flips`] | one bit of a file that the program wrote is flipped | the next command that reads the file refuses it by name |
//! | [`disk`] | every command writes to a disk that is too small | exit code 1, nothing half-written |
//! | [`beside`] | two commands work in the same folder at once | both end; outputs are whole; a search has the trials asked for |
//!
//! After every process: the exit code is a documented one (0, 1, 2, 130, or the
//! signal sent), no input has changed, every output is absent or whole, and once
//! the next command has ended well nothing hidden is left behind. An output is
//! whole if it has the digest of the one that an undisturbed command wrote, or,
//! where times are part of it, if it can be read to its end.
//!
//! What is done in which order depends on `--seed` alone; when a signal or a
//! write of the other process arrives does not.

mod beside;
mod commands;
mod disk;
mod flips;
mod kills;
mod process;
mod tally;
mod world;

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::{process::Program, tally::Tally, world::World};

/// What is done to which program, and for how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The program under torture.
    #[arg(long, default_value = "target/debug/adapruner")]
    program: PathBuf,
    /// Folder of a model with calibration.txt and text.txt beside its files.
    #[arg(long, default_value = "fixtures/models/tiny")]
    model: PathBuf,
    /// How long; each part gets its share, and tries everything at least once.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of all choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Parts that are run.
    #[arg(long, value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Only these commands and files, by the names of the table.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Commands and files that are left out; the table says so.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Keep the folders of failed rounds, under this one.
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// A part of the torture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// End commands at random moments.
    Kills,
    /// Flip bits of files.
    Flips,
    /// Fill the disk.
    Disk,
    /// Start commands side by side.
    Beside,
}

impl Part {
    const ALL: [Self; 4] = [Self::Kills, Self::Flips, Self::Disk, Self::Beside];

    /// Its share of the time.
    fn weight(self) -> f64 {
        match self {
            Self::Kills => 0.4,
            Self::Flips => 0.25,
            Self::Disk => 0.15,
            Self::Beside => 0.2,
        }
    }
}

/// What a part works with.
struct Ground<'a> {
    world: &'a mut World,
    program: &'a Program,
    rng: ChaCha8Rng,
    until: Instant,
    only: &'a [String],
    without: &'a [String],
}

impl Ground<'_> {
    /// Whether there is time for another round.
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// What of `all` is to be done, by name; what is left out is in the table.
    fn chosen<'b, T>(
        &self,
        part: &str,
        all: &'b [T],
        name: impl Fn(&T) -> &'static str,
        tally: &mut Tally,
    ) -> Vec<&'b T> {
        let named = |list: &[String], one: &T| list.iter().any(|listed| listed == name(one));
        let only = all.iter().filter(|one| self.only.is_empty() || named(self.only, one));
        let (out, chosen): (Vec<_>, Vec<_>) = only.partition(|one| named(self.without, one));
        out.into_iter().for_each(|one| tally.leave_out(part, name(one)));
        chosen
    }
}

/// Runs the parts and prints what was tried.
///
/// # Errors
/// A program that cannot be started, or does not even do its work undisturbed;
/// anything that did not hold.
pub fn run(args: &Args) -> Result<()> {
    let program = Program::new(&args.program)?;
    let mut world = World::new(&args.model, args.keep.clone())?;
    let parts = if args.parts.is_empty() { Part::ALL.to_vec() } else { args.parts.clone() };
    let all: f64 = parts.iter().map(|part| part.weight()).sum();
    let mut tally = Tally::new(args.seed);
    for part in parts {
        let share = Duration::from_secs_f64(60.0 * args.minutes.max(0.0) * part.weight() / all);
        let mut context = Ground {
            world: &mut world,
            program: &program,
            rng: ChaCha8Rng::seed_from_u64(args.seed.wrapping_mul(8) + part as u64),
            until: Instant::now() + share,
            only: &args.only,
            without: &args.without,
        };
        match part {
            Part::Kills => kills::run(&mut context, &mut tally)?,
            Part::Flips => flips::run(&mut context, &mut tally)?,
            Part::Disk => disk::run(&mut context, &mut tally)?,
            Part::Beside => beside::run(&mut context, &mut tally)?,
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&tally.json())?)?;
    } else {
        writeln!(out, "{tally}")?;
    }
    match tally.failed() {
        0 => Ok(()),
        failed => bail!("{failed} of {} rounds failed (seed {})", tally.tried(), args.seed),
    }
}
