//! The commands, with what they write.

/// A command of the program. In `words`, `{in}` stands for the folder of inputs
/// and `{room}` for a folder of the round's own.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Its name in the table.
    pub name: &'static str,
    /// What is typed.
    pub words: &'static str,
    /// What it writes in the room.
    pub outputs: &'static [Output],
    /// Whether the same line may be given again when it is done.
    pub repeatable: bool,
    /// Folders that are copied from the stock into the room before.
    pub copies: &'static [&'static str],
}

/// Something that a command writes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Its path in the room.
    pub path: &'static str,
    /// How it is told to be whole.
    pub whole: Whole,
}

/// How an output is told to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// Its weights and files have the digests of an undisturbed run's.
    Weights,
    /// The bytes of an undisturbed run's.
    Same,
    /// JSON, or lines of JSON.
    Json,
    /// A page, to its last tag.
    Page,
    /// A study: grows with every run, judged by the next one.
    Study,
}

const fn output(path: &'static str, whole: Whole) -> Output {
    Output { path, whole }
}

const fn command(
    name: &'static str,
    words: &'static str,
    outputs: &'static [Output],
    repeatable: bool,
) -> Command {
    Command { name, words, outputs, repeatable, copies: &[] }
}

/// Trials of a search here.
pub const TRIALS: u64 = 8;

/// A search's line, but for the number of trials.
pub const SEARCH: &str = "search {in}/model --ratio 0.2 --calibration {in}/calibration.txt \
    --samples 12 --sample-tokens 16 --text {in}/text.txt --window 32 --limit 6 --chunk 2 \
    --allow-overlap --study {room}/study";

/// A training's line.
pub const RECOVER: &str = "recover {in}/model --data {in}/text.txt --cutoff 48 --batch-size 4 \
    --rank 2 --learning-rate 5e-3 --warmup 1 --validate-every 2 --save-every 2 --max-steps 10 \
    --teacher {in}/model --top-logits 4 --format hf --out {room}/out";

/// All of them.
pub const COMMANDS: &[Command] = &[
    command("inspect", "inspect {in}/model --digest", &[], true),
    command("eval", "eval {in}/model --text {in}/text.txt --window 32 --limit 8", &[], true),
    command("generate", "generate {in}/model --raw --prompt The --max-tokens 24", &[], true),
    command(
        "sample",
        "sample {in}/model --samples 6 --sample-tokens 24 --out {room}/sample.json",
        &[output("sample.json", Whole::Same)],
        false,
    ),
    command(
        "stats",
        "stats {in}/model --calibration {in}/calibration.txt --samples 12 --sample-tokens 16 \
         --stats {room}/stats.safetensors",
        &[output("stats.safetensors", Whole::Same)],
        false,
    ),
    command(
        "prune",
        "prune {in}/model --ratio 0.2 --calibration {in}/calibration.txt --samples 8 \
         --sample-tokens 16 --importance param_first --protect 0,0 --learn-masks 0 --text {in}/text.txt --window 32 --limit 4 --allow-overlap \
         --format hf,gguf --out {room}/out",
        &[output("out", Whole::Weights)],
        false,
    ),
    command(
        "prune --force",
        "prune {in}/model --ratio 0.2 --importance magnitude_l2 --learn-masks 0 --format hf,gguf --force \
         --out {room}/out",
        &[output("out", Whole::Weights)],
        true,
    ),
    command(
        "export",
        "export {in}/model --format gguf --gguf-type q8_0 --out {room}/out",
        &[output("out", Whole::Weights)],
        false,
    ),
    Command {
        name: "merge",
        words: "merge {in}/model --adapter {room}/recovered/adapter --out {room}/out",
        outputs: &[output("out", Whole::Weights)],
        repeatable: false,
        copies: &["recovered"],
    },
    command("search", SEARCH, &[output("study", Whole::Study)], true),
    Command {
        name: "apply",
        words: "apply {in}/model --study {room}/study --out {room}/out",
        outputs: &[output("out", Whole::Weights)],
        repeatable: false,
        copies: &["study"],
    },
    Command {
        name: "report",
        words: "report {room}/study --out {room}/page.html",
        outputs: &[output("page.html", Whole::Page)],
        repeatable: false,
        copies: &["study"],
    },
    Command {
        name: "correlate",
        words: "correlate {room}/study --text {in}/text.txt --test {in}/calibration.txt \
            --test-windows 2 --allow-overlap --data-dir {in}/tasks --tasks piqa,arc_easy --limit 2 \
            --trials 2 --ratios 0.1,0.2",
        outputs: &[],
        repeatable: true,
        copies: &["study"],
    },
    command("recover", RECOVER, &[output("out", Whole::Weights)], false),
    command(
        "run",
        "run {room}/run.toml",
        &[
            output("whole/pruned", Whole::Weights),
            output("whole/recovered", Whole::Weights),
            output("whole/report.html", Whole::Page),
            output("whole/run.json", Whole::Json),
        ],
        true,
    ),
    command(
        "compare-models",
        "compare-models {in}/model {in}/model --text {in}/text.txt --window 32 --limit 4 \
         --no-latency --out {room}/models.md",
        &[output("models.md", Whole::Same)],
        false,
    ),
];

/// The configuration of `run`, with the same places to fill.
pub const RUN: &str = r#"
[pipeline]
model = "{in}/model"
out = "{room}/whole"
stages = ["search", "prune", "recover", "report"]
[plan]
ratio = 0.2
[calibration]
calibration = "{in}/calibration.txt"
samples = 12
sample-tokens = 16
[eval]
text = "{in}/text.txt"
window = 32
limit = 6
[search]
trials = 4
allow-overlap = true
[recover]
data = "{in}/training.txt"
cutoff = 32
max-steps = 2
batch-size = 4
"#;

/// The command of this name.
///
/// # Panics
/// Where there is none.
pub fn named(name: &str) -> &'static Command {
    let found = COMMANDS.iter().find(|command| command.name == name);
    found.expect("a command of the list")
}
