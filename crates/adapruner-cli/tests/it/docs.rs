//! Links of the repository's Markdown files lead to files and headings that exist, and its picture
//! is what the program draws from the recorded figures.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// The Markdown files of `folder`, and of its subfolders if `deep`.
fn pages(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && deep {
            pages(&path, deep, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// The lines of a page outside of fenced and indented blocks, without inline code.
fn prose(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && !line.starts_with("    ") {
            lines.push(line.split('`').step_by(2).collect());
        }
    }
    lines
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut anchors = BTreeSet::new();
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        let Some((marks, title)) = line.split_once(' ') else { continue };
        if fenced || marks.is_empty() || !marks.chars().all(|mark| mark == '#') {
            continue;
        }
        let kept = title.to_lowercase().replace(' ', "-");
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        anchors.insert(kept.collect());
    }
    anchors
}

/// The targets of a line's links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn links_lead_to_files_and_headings() {
    let root = root();
    let mut found = Vec::new();
    pages(&root, false, &mut found);
    pages(&root.join("docs"), true, &mut found);
    for folder in ["python", "reference"] {
        pages(&root.join(folder), false, &mut found);
    }
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        pages(&entry.unwrap().path(), false, &mut found);
    }
    let mut checked = 0;
    for path in &found {
        let page = fs::read_to_string(path).unwrap();
        for line in prose(&page) {
            for target in targets(&line).filter(|target| !target.contains("://")) {
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let there = match file {
                    "" => path.clone(),
                    file => path.parent().unwrap().join(file),
                };
                let shown = path.strip_prefix(&root).unwrap().display();
                assert!(there.exists(), "{shown}: no file {target}");
                if !anchor.is_empty() {
                    let text = fs::read_to_string(&there).unwrap();
                    assert!(anchors(&text).contains(anchor), "{shown}: no heading {target}");
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 50, "{checked} links");
}

#[test]
fn the_picture_is_drawn_from_the_recorded_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (figures, drawn) =
        (root().join("docs/measurements/sizes.json"), folder.path().join("d.svg"));
    let paths = [("figures", figures.as_path()), ("drawn", &drawn)];
    crate::program::succeed("report --models {figures} --out {drawn}", &paths);
    let kept = fs::read_to_string(root().join("docs/sizes.svg")).unwrap();
    assert!(
        fs::read_to_string(drawn).unwrap() == kept,
        "docs/sizes.svg: adapruner report --models docs/measurements/sizes.json --out docs/sizes.svg --force"
    );
}
