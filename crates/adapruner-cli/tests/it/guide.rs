//! Every command of `docs/guide` runs as it stands: the `sh` blocks of a page are one shell
//! script, in a folder that holds the files which the pages name.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::program::{stderr, stdout, tiny};

fn guide() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide")
}

/// The lines of a page's blocks that are marked `sh`, one script.
fn script(page: &str) -> String {
    let mut script = String::from("set -euo pipefail\n");
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {}
        }
    }
    script
}

/// The files that the pages name, of the small trained model.
fn set_up(folder: &Path) {
    let model = fs::canonicalize(tiny()).unwrap();
    symlink(&model, folder.join("MODEL")).unwrap();
    fs::copy(model.join("calibration.txt"), folder.join("calibration.txt")).unwrap();
    let text = fs::read_to_string(model.join("text.txt")).unwrap();
    let half = text.len() / 2 + text[text.len() / 2..].find('\n').unwrap_or(0);
    let (validation, test) = text.split_at(half);
    fs::write(folder.join("validation.txt"), validation).unwrap();
    fs::write(folder.join("test.txt"), test).unwrap();
    let record = |number: usize| {
        serde_json::json!({
            "instruction": format!("Say what Ida carried on day {number}."),
            "input": "",
            "output": "She carried the apple to the hill.",
        })
    };
    let records: Vec<_> = (0..40).map(record).collect();
    fs::write(folder.join("instructions.json"), serde_json::to_string(&records).unwrap()).unwrap();
}

/// Runs a page's script with the program on the `PATH`.
fn run(name: &str) {
    let page = fs::read_to_string(guide().join(name)).unwrap();
    let script = script(&page);
    assert!(script.contains("adapruner "), "{name}: no command");
    let folder = tempfile::tempdir().unwrap();
    set_up(folder.path());
    let program = Path::new(env!("CARGO_BIN_EXE_adapruner")).parent().unwrap();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::join_paths(
        std::iter::once(program.to_owned()).chain(std::env::split_paths(&paths)),
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("PATH", paths.unwrap())
        .env_remove("ADAPRUNER_DATA")
        // No page may depend on the network.
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("HF_HOME", folder.path().join("nothing"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}\n{}\n{}", stdout(&output), stderr(&output));
}

macro_rules! pages {
    ($($test:ident: $page:literal),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                run($page);
            }
        )+

        /// Pages with commands.
        const PAGES: &[&str] = &[$($page),+];
    };
}

pages! {
    a_budget_is_fitted: "fit-a-budget.md",
    a_vocabulary_is_trimmed: "only-english.md",
    a_search_leads_to_a_model: "best-quality.md",
    a_front_serves_every_size: "every-size.md",
    a_search_is_shared: "many-machines.md",
    memory_is_bounded: "large-models.md",
    models_are_compared: "compare.md",
    a_task_is_brought: "own-task.md",
    a_table_is_made_again: "reproduce.md",
}

#[test]
fn every_page_is_listed_and_run() {
    let index = fs::read_to_string(guide().join("README.md")).unwrap();
    for entry in fs::read_dir(guide()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(PAGES.contains(&name.as_str()), "{name}: no test runs it");
            assert!(index.contains(&format!("({name})")), "{name}: not in the index");
        }
    }
}
