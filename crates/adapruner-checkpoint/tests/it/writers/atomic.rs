//! Outputs that appear whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use adapruner_checkpoint::{
    Error, Result,
    atomic::{Files, MANIFEST, MARK, StagedDir, StagedFile, StateDir, StateKind, discard_all},
    output::OutputFile,
    sealed,
};
use serde_json::json;
use tempfile::{TempDir, tempdir};

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

/// A folder with an output `out` of this program in it.
fn with_output() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("surplus"), "old").unwrap();
    let files = [OutputFile::of(&out.join("surplus")).unwrap()];
    let manifest = json!({"adapruner": "0.2.0", "files": files});
    fs::write(out.join(MANIFEST), sealed::json(&manifest).unwrap()).unwrap();
    (folder, out)
}

/// What a command reads, then a way to begin its output.
fn reading(inputs: &[&Path]) -> Files {
    inputs.iter().fold(Files::new(), |files, input| files.read("MODEL", input))
}

fn dir(out: &Path, force: bool, inputs: &[&Path]) -> Result<StagedDir> {
    reading(inputs).folder("--out", out, force).claim()?.folder(out)
}

fn file(out: &Path, force: bool, inputs: &[&Path]) -> Result<StagedFile> {
    reading(inputs).file("--out", out, force).claim()?.file(out)
}

#[test]
fn a_folder_appears_when_it_is_committed_and_not_before() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let staged = dir(&out, false, &[]).unwrap();
    assert!(staged.path().is_dir() && staged.path().parent() == Some(folder.path()));
    fs::create_dir(staged.path().join("inner")).unwrap();
    fs::write(staged.path().join("inner/weights"), "new").unwrap();
    assert!(!out.exists());
    staged.commit().unwrap();
    assert_eq!(fs::read(out.join("inner/weights")).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["out"]);
}

#[test]
fn what_is_dropped_leaves_nothing_behind() {
    let (folder, out) = with_output();
    let staged = dir(&out, true, &[]).unwrap();
    fs::write(staged.path().join("weights"), "new").unwrap();
    drop(staged);
    let staged_file = file(&folder.path().join("m.gguf"), false, &[]).unwrap();
    fs::write(staged_file.path(), "new").unwrap();
    drop(staged_file);
    assert_eq!(entries(folder.path()), ["out"]);
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
}

#[test]
fn an_output_is_replaced_whole_and_only_by_force() {
    let (folder, out) = with_output();
    let error = dir(&out, false, &[]).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let staged = dir(&out, true, &[]).unwrap();
    fs::write(staged.path().join(MANIFEST), "new").unwrap();
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
    staged.commit().unwrap();
    assert_eq!(entries(&out), [MANIFEST]);
    assert_eq!(fs::read(out.join(MANIFEST)).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["out"]);

    let gguf = folder.path().join("m.gguf");
    fs::write(&gguf, "old").unwrap();
    assert!(matches!(file(&gguf, false, &[]), Err(Error::Exists { .. })));
    let staged = file(&gguf, true, &[]).unwrap();
    fs::write(staged.path(), "new").unwrap();
    assert_eq!(fs::read(&gguf).unwrap(), b"old");
    staged.commit().unwrap();
    assert_eq!(fs::read(&gguf).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["m.gguf", "out"]);
}

#[test]
fn what_is_not_ours_is_not_replaced() {
    let folder = tempdir().unwrap();
    let foreign = folder.path().join("home");
    fs::create_dir(&foreign).unwrap();
    // Nothing is lost with an empty folder.
    drop(dir(&foreign, true, &[]).unwrap());
    fs::write(foreign.join("letter"), "dear").unwrap();
    let error = dir(&foreign, true, &[]).unwrap_err();
    let expected = "home: has no manifest.json: not an output of this program, and not replaced";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert!(error.hint().is_some());

    let error = file(&foreign, true, &[]).unwrap_err().to_string();
    assert!(error.ends_with("home: exists and is not a regular file"), "{error}");
    let error = dir(&foreign.join("letter"), true, &[]).unwrap_err().to_string();
    assert!(error.ends_with("letter: exists and is not a folder"), "{error}");
    assert_eq!(fs::read(foreign.join("letter")).unwrap(), b"dear");
    assert_eq!(entries(folder.path()), ["home"]);
    for name in ["/", "..", "a/.."] {
        assert!(dir(Path::new(name), true, &[]).is_err(), "{name}");
    }
}

#[test]
fn a_folder_that_holds_more_than_was_written_is_not_replaced() {
    let (_folder, out) = with_output();
    drop(dir(&out, true, &[]).unwrap());
    fs::create_dir(out.join("notes")).unwrap();
    fs::write(out.join("notes/mine.txt"), "precious").unwrap();
    let error = dir(&out, true, &[]).unwrap_err().to_string();
    assert!(error.contains("out: holds what its manifest.json does not name"), "{error}");
    assert!(error.ends_with("notes/mine.txt"), "{error}");
    fs::remove_dir_all(out.join("notes")).unwrap();
    // The same name, but not what was written: trained on, say.
    fs::write(out.join("surplus"), "new").unwrap();
    let error = dir(&out, true, &[]).unwrap_err().to_string();
    assert!(error.ends_with("was changed since it was written, and is not replaced: surplus"));
    assert_eq!(fs::read(out.join("surplus")).unwrap(), b"new");
    // A manifest with a flipped bit names nothing for certain.
    fs::write(out.join("surplus"), "old").unwrap();
    let mut bytes = fs::read(out.join(MANIFEST)).unwrap();
    bytes[20] ^= 1;
    fs::write(out.join(MANIFEST), bytes).unwrap();
    assert!(dir(&out, true, &[]).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn what_is_read_is_never_replaced() {
    let (folder, out) = with_output();
    let inner = out.join("surplus");
    for input in [&out, &inner, &folder.path().join("./out/../out")] {
        let error = dir(&out, true, &[input]).unwrap_err();
        assert!(matches!(error, Error::Overlap(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("out: --out ") && text.ends_with("read as MODEL"), "{text}");
        assert!(text.contains(input.to_str().unwrap()), "{text}");
    }
    for input in [&inner, &out] {
        assert!(matches!(file(&inner, true, &[input]), Err(Error::Overlap(_))));
    }
    // Not even beside what is read, in the folder that is read.
    assert!(matches!(file(&out.join("new"), false, &[&out]), Err(Error::Overlap(_))));
    // Where files are only looked for, new ones do no harm.
    let searched = Files::new().search("--data-dir", folder.path());
    drop(searched.clone().file("--out", folder.path().join("new"), false).claim().unwrap());
    let error = searched.file("--out", &inner, true).claim().unwrap_err();
    assert!(matches!(error, Error::Overlap(_)), "{error}");
    // Outputs are apart from each other, too.
    let twice = Files::new().file("--log", &inner, true).folder("--out", &out, true);
    let error = twice.claim().unwrap_err().to_string();
    assert!(error.contains("--out contains") && error.ends_with("written as --log"), "{error}");
    // An output that was not declared is none.
    assert!(Files::new().claim().unwrap().file(&folder.path().join("x")).is_err());
    // A model that turns out to lie in the output.
    let writer = Files::new().folder("--out", &out, true).claim().unwrap();
    assert!(matches!(writer.check_read("MODEL", &inner), Err(Error::Overlap(_))));
}

static STATE: StateKind = StateKind {
    name: "study",
    known_by: &["search.json"],
    owned: &["search.json", "bank.safetensors", "results"],
};

#[test]
fn state_is_kept_in_folders_of_our_own_alone() {
    let folder = tempdir().unwrap();
    let root = folder.path().join("study");
    let open = |files: Files| files.state("--study", &root, &STATE).claim()?.state(&root);
    fs::create_dir(&root).unwrap();
    fs::write(root.join("bank.safetensors"), "precious").unwrap();
    let error = open(Files::new()).unwrap_err().to_string();
    assert!(error.contains("bank.safetensors: is there, but the folder holds no study"), "{error}");
    assert_eq!(entries(&root), ["bank.safetensors"]);
    // One of before there were marks.
    fs::write(root.join("search.json"), "{}").unwrap();
    drop(open(Files::new()).unwrap());
    assert_eq!(fs::read_to_string(root.join(MARK)).unwrap(), "study\n");
    fs::remove_file(root.join("search.json")).unwrap();
    let state = open(Files::new()).unwrap();
    state.write("results/one.json", b"1").unwrap();
    assert_eq!(fs::read(root.join("results/one.json")).unwrap(), b"1");
    // What lies beside the state may be read, the state itself not.
    let text = root.join("text.txt");
    fs::write(&text, "text").unwrap();
    drop(open(Files::new().read("--text", &text)).unwrap());
    for read in [root.clone(), root.join("results/one.json"), folder.path().to_path_buf()] {
        let error = open(Files::new().read("--text", &read)).unwrap_err();
        assert!(matches!(error, Error::Overlap(_)), "{error}");
    }
    let other = StateKind { name: "training", known_by: &[], owned: &[] };
    let error = StateDir::open(&root, &other).unwrap_err().to_string();
    assert!(error.ends_with("a folder of a training expected, one of a study found"), "{error}");
}

#[test]
fn state_that_several_begin_at_once_is_begun_once() {
    for _ in 0..50 {
        let folder = tempdir().unwrap();
        let (root, gate) = (folder.path().join("study"), std::sync::Barrier::new(4));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    gate.wait();
                    StateDir::open(&root, &STATE).unwrap();
                });
            }
        });
        assert_eq!(entries(&root), [MARK]);
    }
}

/// Folders that each of several processes begins, in the same order.
const BEGUN: usize = 100;

#[test]
fn state_that_several_processes_begin_at_once_is_begun_once() {
    let folder = tempdir().unwrap();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writers::atomic::beginning", "--ignored", "--test-threads=1"])
            .env("ADAPRUNER_TEST_STATES", folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..3).map(|_| child()).collect();
    fs::write(folder.path().join("gate"), "").unwrap();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
    for state in 0..BEGUN {
        assert_eq!(entries(&folder.path().join(state.to_string())), [MARK]);
    }
}

#[test]
#[ignore = "run by state_that_several_processes_begin_at_once_is_begun_once"]
fn beginning() {
    let folder = PathBuf::from(std::env::var_os("ADAPRUNER_TEST_STATES").unwrap());
    while !folder.join("gate").exists() {
        std::thread::yield_now();
    }
    for state in 0..BEGUN {
        StateDir::open(&folder.join(state.to_string()), &STATE).unwrap();
    }
}

#[test]
fn a_target_that_appears_meanwhile_is_kept() {
    let folder = tempdir().unwrap();
    let (out, file) = (folder.path().join("out"), folder.path().join("m.gguf"));
    let staged_dir = dir(&out, false, &[]).unwrap();
    let staged = self::file(&file, false, &[]).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("theirs"), "").unwrap();
    fs::write(&file, "theirs").unwrap();
    assert!(matches!(staged_dir.commit(), Err(Error::Exists { .. })));
    assert!(matches!(staged.commit(), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
    assert_eq!(entries(folder.path()), ["m.gguf", "out"]);
}

#[test]
fn a_missing_parent_is_named_and_not_made() {
    let folder = tempdir().unwrap();
    let missing = folder.path().join("no/such");
    let error = dir(&missing.join("out"), true, &[]).unwrap_err();
    let start = format!("{}: cannot open the folder of the output: ", missing.display());
    assert!(error.to_string().starts_with(&start), "{error}");
    assert_eq!(error.hint(), Some("make the folder first, or give another --out"));
    assert!(entries(folder.path()).is_empty());
    fs::write(folder.path().join("file"), "").unwrap();
    let error = file(&folder.path().join("file/out"), true, &[]).unwrap_err();
    assert!(error.to_string().ends_with("file: not a folder"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    // Nothing is refused to the superuser.
    if fs::write(locked.join("probe"), "").is_err() {
        let error = dir(&locked.join("out"), false, &[]).unwrap_err();
        assert!(error.to_string().contains("locked/out: cannot create: "), "{error}");
        let hint = "the place must be writable by this user; nothing was changed";
        assert_eq!(error.hint(), Some(hint));
    }
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
#[test]
fn links_are_replaced_not_followed() {
    use std::os::unix::fs::symlink;
    let (folder, out) = with_output();
    let link = folder.path().join("link");
    symlink(&out, &link).unwrap();
    assert!(matches!(dir(&link, false, &[]), Err(Error::Exists { .. })));
    dir(&link, true, &[]).unwrap().commit().unwrap();
    assert!(!link.is_symlink() && entries(&link).is_empty());
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
    // The model being read is also recognised behind a link.
    symlink(&out, folder.path().join("other")).unwrap();
    let other = folder.path().join("other");
    assert!(dir(&out, true, &[&other]).is_err());
    assert!(dir(&other, true, &[&out]).is_err());
}

/// Runs an ignored test of this file in a process of its own: `discard_all`
/// would discard what other tests have staged.
fn alone(test: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("writers::atomic::{test}"), "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn an_interrupt_discards_all() {
    alone("discarding");
}

#[test]
fn an_interrupt_and_a_commit_do_not_mix() {
    alone("racing");
}

#[test]
#[ignore = "run by an_interrupt_discards_all"]
fn discarding() {
    let (folder, out) = with_output();
    let staged_dir = dir(&out, true, &[]).unwrap();
    fs::write(staged_dir.path().join("weights"), "new").unwrap();
    let staged_file = file(&folder.path().join("m.gguf"), false, &[]).unwrap();
    let held = discard_all();
    assert_eq!(entries(folder.path()), ["out"]);
    drop(held);
    for error in [staged_dir.commit().unwrap_err(), staged_file.commit().unwrap_err()] {
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
    assert_eq!(entries(folder.path()), ["out"]);
    // The process may go on.
    dir(&folder.path().join("next"), false, &[]).unwrap().commit().unwrap();
}

#[test]
#[ignore = "run by an_interrupt_and_a_commit_do_not_mix"]
fn racing() {
    let (folder, out) = with_output();
    let stop = AtomicBool::new(false);
    let (mut committed, mut discarded) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Pauses from none to longer than any commit takes, over and over,
            // so that commits are met at every moment and some come through.
            let mut pauses = [0, 0, 0, 0, 1, 2, 4, 8, 16, 250].into_iter().cycle();
            while !stop.load(Ordering::Relaxed) {
                drop(discard_all());
                std::thread::sleep(Duration::from_millis(pauses.next().unwrap_or(0)));
            }
        });
        for round in 0..300 {
            let new = round.to_string();
            let write = || -> Result<(), Box<dyn std::error::Error>> {
                let staged = dir(&out, true, &[])?;
                fs::write(staged.path().join("weights"), &new)?;
                let files = [OutputFile::of(&staged.path().join("weights"))?];
                let manifest = json!({"adapruner": "0.2.0", "files": files});
                fs::write(staged.path().join(MANIFEST), sealed::json(&manifest)?)?;
                Ok(staged.commit()?)
            };
            let before = fs::read_to_string(out.join("weights")).unwrap_or_default();
            let expected = match write() {
                Ok(()) => {
                    committed += 1;
                    new
                }
                Err(_) => {
                    discarded += 1;
                    before
                }
            };
            assert_eq!(fs::read_to_string(out.join("weights")).unwrap_or_default(), expected);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        committed + discarded == 300 && committed > 0,
        "{committed} committed, {discarded} not"
    );
    assert_eq!(entries(folder.path()), ["out"]);
}
