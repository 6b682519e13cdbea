//! Outputs that appear whole or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use adapruner_checkpoint::{
    Error,
    atomic::{MANIFEST, StagedDir, StagedFile, discard_all},
};
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
    fs::write(out.join(MANIFEST), "old").unwrap();
    fs::write(out.join("surplus"), "old").unwrap();
    (folder, out)
}

#[test]
fn a_folder_appears_when_it_is_committed_and_not_before() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out");
    let staged = StagedDir::new(&out, false, &[]).unwrap();
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
    let staged = StagedDir::new(&out, true, &[]).unwrap();
    fs::write(staged.path().join("weights"), "new").unwrap();
    drop(staged);
    let file = StagedFile::new(&folder.path().join("m.gguf"), false, &[]).unwrap();
    fs::write(file.path(), "new").unwrap();
    drop(file);
    assert_eq!(entries(folder.path()), ["out"]);
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
}

#[test]
fn an_output_is_replaced_whole_and_only_by_force() {
    let (folder, out) = with_output();
    let error = StagedDir::new(&out, false, &[]).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let staged = StagedDir::new(&out, true, &[]).unwrap();
    fs::write(staged.path().join(MANIFEST), "new").unwrap();
    assert_eq!(fs::read(out.join(MANIFEST)).unwrap(), b"old");
    staged.commit().unwrap();
    assert_eq!(entries(&out), [MANIFEST]);
    assert_eq!(fs::read(out.join(MANIFEST)).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["out"]);

    let file = folder.path().join("m.gguf");
    fs::write(&file, "old").unwrap();
    assert!(matches!(StagedFile::new(&file, false, &[]), Err(Error::Exists { .. })));
    let staged = StagedFile::new(&file, true, &[]).unwrap();
    fs::write(staged.path(), "new").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"old");
    staged.commit().unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(entries(folder.path()), ["m.gguf", "out"]);
}

#[test]
fn what_is_not_ours_is_not_replaced() {
    let folder = tempdir().unwrap();
    let foreign = folder.path().join("home");
    fs::create_dir(&foreign).unwrap();
    // Nothing is lost with an empty folder.
    drop(StagedDir::new(&foreign, true, &[]).unwrap());
    fs::write(foreign.join("letter"), "dear").unwrap();
    let error = StagedDir::new(&foreign, true, &[]).unwrap_err();
    let expected = "home: has no manifest.json: not an output of this program, and not replaced";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert!(error.hint().is_some());

    let error = StagedFile::new(&foreign, true, &[]).unwrap_err().to_string();
    assert!(error.ends_with("home: exists and is not a regular file"), "{error}");
    let error = StagedDir::new(&foreign.join("letter"), true, &[]).unwrap_err().to_string();
    assert!(error.ends_with("letter: exists and is not a folder"), "{error}");
    assert_eq!(fs::read(foreign.join("letter")).unwrap(), b"dear");
    assert_eq!(entries(folder.path()), ["home"]);
    for name in ["/", "..", "a/.."] {
        assert!(StagedDir::new(Path::new(name), true, &[]).is_err(), "{name}");
    }
}

#[test]
fn the_model_being_read_is_not_replaced() {
    let (folder, out) = with_output();
    let inner = out.join("surplus");
    for input in [&out, &inner, &folder.path().join("./out/../out")] {
        let error = StagedDir::new(&out, true, &[input]).unwrap_err().to_string();
        assert!(error.ends_with("out: is part of the model being read, and is not replaced"));
    }
    for input in [&inner, &out] {
        let error = StagedFile::new(&inner, true, &[input]).unwrap_err().to_string();
        assert!(error.ends_with("surplus: is part of the model being read, and is not replaced"));
    }
    // Others may be, and new files may lie beside what is read.
    drop(StagedDir::new(&out, true, &[folder.path()]).unwrap());
    drop(StagedFile::new(&out.join("new.gguf"), true, &[&out]).unwrap());
}

#[test]
fn a_target_that_appears_meanwhile_is_kept() {
    let folder = tempdir().unwrap();
    let (out, file) = (folder.path().join("out"), folder.path().join("m.gguf"));
    let dir = StagedDir::new(&out, false, &[]).unwrap();
    let staged = StagedFile::new(&file, false, &[]).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("theirs"), "").unwrap();
    fs::write(&file, "theirs").unwrap();
    assert!(matches!(dir.commit(), Err(Error::Exists { .. })));
    assert!(matches!(staged.commit(), Err(Error::Exists { .. })));
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
    assert_eq!(entries(folder.path()), ["m.gguf", "out"]);
}

#[test]
fn a_missing_parent_is_named_and_not_made() {
    let folder = tempdir().unwrap();
    let missing = folder.path().join("no/such");
    let error = StagedDir::new(&missing.join("out"), true, &[]).unwrap_err();
    let start = format!("{}: cannot open the folder of the output: ", missing.display());
    assert!(error.to_string().starts_with(&start), "{error}");
    assert_eq!(error.hint(), Some("make the folder first, or give another --out"));
    assert!(entries(folder.path()).is_empty());
    fs::write(folder.path().join("file"), "").unwrap();
    let error = StagedFile::new(&folder.path().join("file/out"), true, &[]).unwrap_err();
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
        let error = StagedDir::new(&locked.join("out"), false, &[]).unwrap_err();
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
    assert!(matches!(StagedDir::new(&link, false, &[]), Err(Error::Exists { .. })));
    StagedDir::new(&link, true, &[]).unwrap().commit().unwrap();
    assert!(!link.is_symlink() && entries(&link).is_empty());
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
    // The model being read is also recognised behind a link.
    symlink(&out, folder.path().join("other")).unwrap();
    let other = folder.path().join("other");
    assert!(StagedDir::new(&out, true, &[&other]).is_err());
    assert!(StagedDir::new(&other, true, &[&out]).is_err());
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
    let dir = StagedDir::new(&out, true, &[]).unwrap();
    fs::write(dir.path().join("weights"), "new").unwrap();
    let file = StagedFile::new(&folder.path().join("m.gguf"), false, &[]).unwrap();
    let held = discard_all();
    assert_eq!(entries(folder.path()), ["out"]);
    drop(held);
    for error in [dir.commit().unwrap_err(), file.commit().unwrap_err()] {
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
    assert_eq!(entries(&out), [MANIFEST, "surplus"]);
    assert_eq!(entries(folder.path()), ["out"]);
    // The process may go on.
    StagedDir::new(&folder.path().join("next"), false, &[]).unwrap().commit().unwrap();
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
                let staged = StagedDir::new(&out, true, &[])?;
                fs::write(staged.path().join(MANIFEST), &new)?;
                fs::write(staged.path().join("weights"), &new)?;
                Ok(staged.commit()?)
            };
            let before = fs::read_to_string(out.join(MANIFEST)).unwrap();
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
            assert_eq!(fs::read_to_string(out.join(MANIFEST)).unwrap(), expected);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(
        committed + discarded == 300 && committed > 0,
        "{committed} committed, {discarded} not"
    );
    assert_eq!(entries(folder.path()), ["out"]);
}
