//! Every option that takes a path is declared as read or written: held for all
//! commands by what clap knows of their options.

use std::{collections::BTreeSet, path::Path};

use super::Cli;

/// A line for every command, in a folder that holds `c.toml`; further options
/// are put behind it.
const LINES: [&str; 21] = [
    "inspect m",
    "eval m",
    "generate m",
    "latency m",
    "compare-models m n",
    "sample m --out o",
    "stats m --stats s",
    "prune m --ratio 0.2 --out o",
    "search m --study s",
    "compare m --study s",
    "correlate s --text t",
    "trials s",
    "report s --out o",
    "run c.toml",
    "apply m --plan p --out o",
    "recover m --data d --out o",
    "merge m --adapter a --out o",
    "export m --out o",
    "doctor",
    "completions bash",
    "man prune",
];

/// What a value is called where it is a path, or a text that may be one.
const PATHS: [&str; 7] = ["FILE", "DIR", "FILE|SET", "MODEL", "DENSE", "STUDY", "CONFIG"];

/// Every path that a line declares.
fn declared(line: &str) -> BTreeSet<String> {
    let words = std::iter::once("adapruner").chain(line.split_whitespace());
    let cli = Cli::read(words).unwrap_or_else(|error| panic!("{line}: {error}"));
    let files = cli.command.as_perform().files().unwrap_or_else(|e| panic!("{line}: {e:#}"));
    let shown = |(_, path): (&str, &Path)| path.display().to_string();
    files.reads().map(shown).chain(files.writes().map(shown)).collect()
}

#[test]
fn every_path_that_can_be_typed_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[pipeline]\nmodel = \"m\"\nout = \"o\"\ntests = [\"t\"]\n").unwrap();
    let config = config.display().to_string();
    let mut tried = 0;
    for command in Cli::line().get_subcommands() {
        let name = command.get_name();
        let mut lines = LINES.iter().filter(|line| line.split(' ').next() == Some(name));
        let line = lines.next().unwrap_or_else(|| panic!("{name}: no line to try it with"));
        let line = line.replace("c.toml", &config);
        let here = declared(&line);
        for option in command.get_arguments().filter(|option| option.get_long().is_some()) {
            let takes = option.get_value_names().unwrap_or_default();
            let takes_path = takes.iter().any(|value| PATHS.contains(&value.as_str()));
            if !takes_path || !option.get_action().takes_values() {
                continue;
            }
            let long = option.get_long().unwrap();
            // A search refuses it.
            if matches!(name, "search" | "compare") && long == "stats" {
                continue;
            }
            let given = if long == "config" { config.clone() } else { format!("of-{long}") };
            let more = match (name, long) {
                ("apply", "study") => line.replace("--plan p", "--study of-study"),
                _ if line.contains(&format!("--{long} ")) => {
                    let (before, after) = line.split_once(&format!("--{long} ")).unwrap();
                    let rest = after.split_once(' ').map_or("", |(_, rest)| rest);
                    format!("{before}--{long} {given} {rest}")
                }
                _ => format!("{line} --{long} {given}"),
            };
            let found = declared(&more);
            assert!(found.contains(&given), "{more}: {long} is not declared, {found:?} is");
            tried += 1;
        }
        let positional = command.get_positionals().filter(|option| {
            let names = option.get_value_names().unwrap_or_default();
            names.iter().any(|value| PATHS.contains(&value.as_str()))
        });
        if positional.count() > 0 {
            let first = line.split(' ').nth(1).unwrap();
            assert!(here.contains(first), "{line}: {first} is not declared, {here:?} is");
            tried += 1;
        }
    }
    assert!(tried > 80, "only {tried} options were tried");
}

#[test]
fn what_a_configuration_file_names_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let text = r#"
[eval]
text = "of-text"
data-dir = "of-data-dir"
[tasks]
task-file = ["of-task-file"]
log-samples = "of-log-samples"
[calibration]
calibration = "of-calibration"
stats = "of-stats"
[masks]
mask-text = "of-mask-text"
masks-state = "of-masks-state"
[compensation]
compensate-text = "of-compensate-text"
[output]
out = "of-out"
[search]
study = "of-study"
test = ["of-test"]
[recover]
data = "of-data"
teacher = "of-teacher"
work = "of-work"
"#;
    std::fs::write(&path, text).unwrap();
    let path = path.display();
    for (line, named) in [
        ("eval m", &["text", "data-dir", "task-file", "log-samples"][..]),
        ("stats m", &["calibration", "data-dir", "stats"]),
        ("prune m", &["text", "data-dir", "calibration", "stats", "compensate-text", "out"]),
        ("prune m", &["mask-text", "masks-state"]),
        ("apply m --plan p", &["mask-text", "masks-state"]),
        ("search m", &["text", "data-dir", "calibration", "study", "test"]),
        ("compare m", &["text", "data-dir", "calibration", "study", "test"]),
        ("apply m --plan p", &["calibration", "compensate-text", "data-dir", "out"]),
        ("recover m", &["data", "teacher", "work", "out"]),
        ("merge m --adapter a", &["out"]),
        ("export m", &["out"]),
    ] {
        let found = declared(&format!("{line} --config {path}"));
        for name in named {
            assert!(found.contains(&format!("of-{name}")), "{line}: {name} is not declared");
        }
    }
}
