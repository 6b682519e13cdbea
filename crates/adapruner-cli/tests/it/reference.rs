//! `docs/CLI.md` is what `--help` prints.

use std::{fs, path::PathBuf};

use crate::program::succeed;

/// The commands that the program lists.
fn commands() -> Vec<String> {
    succeed("--help", &[])
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The reference as the program prints it now.
fn reference() -> String {
    let mut out = String::from(
        "# Command line\n\nWhat `--help` prints. Made by `ADAPRUNER_BLESS=1 cargo test -p adapruner-cli --test it \
         reference`,\nchecked by the same test.\n",
    );
    for name in std::iter::once(String::new()).chain(commands()) {
        let help = succeed(&format!("{name} --help"), &[]);
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        let title = if name.is_empty() { "adapruner" } else { &name };
        out.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    }
    out
}

#[test]
fn the_command_line_reference_is_up_to_date() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/CLI.md");
    let reference = reference();
    if std::env::var_os("ADAPRUNER_BLESS").is_some() {
        fs::write(&path, &reference).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, reference,
        "run ADAPRUNER_BLESS=1 cargo test -p adapruner-cli --test it reference"
    );
}

/// Every test that docs/FAULTS.md names exists.
#[test]
fn the_tests_that_hold_faults_exist() {
    let crates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = fs::read_to_string(crates.join("../docs/FAULTS.md")).unwrap();
    let mut checked = 0;
    for row in table.lines().filter(|row| row.ends_with("` |")) {
        let words: Vec<&str> = row.split('`').collect();
        let [.., path, _, test, _] = words.as_slice() else { panic!("{row}") };
        let source =
            fs::read_to_string(crates.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(source.contains(&format!("fn {test}(")), "{path}: no test {test}");
        checked += 1;
    }
    assert!(checked > 50, "{checked} rows");
}
