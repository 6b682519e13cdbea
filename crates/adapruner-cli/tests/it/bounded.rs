//! Input that never ends or is enormous: refused by name, or read in bounded
//! memory.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
    process::Command,
};

use tempfile::tempdir;

use crate::program::{fail, json, tiny};

const MIB: u64 = 1 << 20;

/// A copy of the trained fixture model.
fn copy(to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A pipe that nobody writes to.
fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Every file that a command reads, in turn as a device that never ends and as a
/// pipe that never begins.
#[cfg(unix)]
#[test]
fn devices_and_pipes_are_refused_by_name() {
    let dir = tempdir().unwrap();
    let (zero, fifo) = (dir.path().join("zero"), dir.path().join("fifo"));
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    pipe(&fifo);
    let (model, text, out) = (tiny(), tiny().join("text.txt"), dir.path().join("out"));
    for (odd, kind) in [(&zero, "a character device"), (&fifo, "a named pipe")] {
        for line in [
            "run {odd}",
            "inspect {odd}",
            "eval {model} --text {odd}",
            "eval {model} --text {text} --config {odd}",
            "eval {model} --task-file {odd}",
            "generate {model} --prompt-file {odd}",
            "apply {model} --plan {odd} --out {out}",
            "stats {model} --calibration {odd} --stats {out}",
            "recover {model} --data {odd} --out {out} --max-steps 1",
        ] {
            let paths = [("odd", odd.as_path()), ("model", &model), ("text", &text), ("out", &out)];
            let error = fail(line, &paths);
            assert!(error.contains(&format!("{kind}, not a regular file")), "{line}: {error}");
            assert!(!out.exists(), "{line}");
        }
        for (at, file) in
            ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
                .into_iter()
                .enumerate()
        {
            let model = dir.path().join(format!("{kind}{at}").replace(' ', ""));
            copy(&model);
            fs::remove_file(model.join(file)).unwrap();
            std::os::unix::fs::symlink(odd, model.join(file)).unwrap();
            let error = fail("eval {model} --text {text}", &[("model", &model), ("text", &text)]);
            let expected = format!("{file}: {kind}, not a regular file");
            assert!(error.contains(&expected), "{file}: {error}");
        }
    }
}

#[test]
fn files_beyond_the_cap_of_their_kind_are_refused() {
    let dir = tempdir().unwrap();
    let large = |name: &str, bytes: u64| {
        let path = dir.path().join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    };
    let (toml, text) = (large("large.toml", MIB + 1), large("large.txt", 4096 * MIB + 1));
    let plan = large("large.json", 256 * MIB + 1);
    let (model, out) = (tiny(), dir.path().join("out"));
    for (line, said) in [
        ("eval {model} --task-file {toml}", "the definition of a task has at most 1048576"),
        ("eval {model} --config {toml}", "a file of settings has at most 1048576"),
        ("eval {model} --text {large}", "a text has at most 4294967296"),
        ("apply {model} --plan {plan} --out {out}", "a plan has at most 268435456"),
    ] {
        let paths =
            [("model", &model), ("toml", &toml), ("large", &text), ("plan", &plan), ("out", &out)];
        let paths: Vec<(&str, &Path)> = paths.iter().map(|(n, p)| (*n, p.as_path())).collect();
        let error = fail(line, &paths);
        assert!(error.contains(said), "{line}: {error}");
    }
}

/// Writes a file of `mib` MiB of the fixture's text.
fn long(path: &Path, before: &str, mib: u64, after: &str) {
    let text = fs::read_to_string(tiny().join("text.txt")).unwrap().replace(['\n', '"'], " ");
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(before.as_bytes()).unwrap();
    let mut written = 0;
    while written < mib * MIB {
        file.write_all(text.as_bytes()).unwrap();
        written += text.len() as u64;
    }
    file.write_all(after.as_bytes()).unwrap();
    file.into_inner().unwrap();
}

/// Peak memory of a command, in bytes.
fn peak(line: &str, paths: &[(&str, &Path)]) -> u64 {
    json(line, paths)["peak_memory_bytes"].as_u64().unwrap()
}

/// The first windows of a long text take no more memory than those of a short
/// one, but for what a piece takes.
#[test]
fn a_long_text_is_read_in_bounded_memory() {
    const LENGTH: u64 = 192;
    let dir = tempdir().unwrap();
    let (model, text) = (tiny(), tiny().join("text.txt"));
    let eval = "eval {model} --text {text} --window 64 --limit 2";
    let least = peak(eval, &[("model", &model), ("text", &text)]);
    let files: [(&str, &str, &str); 4] = [
        ("long.txt", "", ""),
        ("line.jsonl", "{\"id\": NaN, \"text\": \"", "\"}\n"),
        ("cell.csv", "id,text\n1,\"", "\"\n"),
        ("line.raw", " = One = \n", ""),
    ];
    for (name, before, after) in files {
        let path = dir.path().join(name);
        long(&path, before, LENGTH, after);
        let most = peak(eval, &[("model", &model), ("text", &path)]);
        let more = most.saturating_sub(least);
        assert!(more < LENGTH * MIB / 2, "{name}: {} MiB more", more / MIB);
        fs::remove_file(path).unwrap();
    }
}

/// What a small packed file unpacks to does not go into memory either.
#[test]
fn a_packed_text_is_read_in_bounded_memory() {
    const LENGTH: u64 = 192;
    let dir = tempdir().unwrap();
    let (plain, model) = (dir.path().join("long.txt"), tiny());
    long(&plain, "", LENGTH, "");
    let packed = dir.path().join("long.txt.zst");
    zstd::stream::copy_encode(File::open(&plain).unwrap(), File::create(&packed).unwrap(), 1)
        .unwrap();
    // The text repeats itself, and packs to less than texts do.
    let file = File::options().append(true).open(&packed).unwrap();
    skippable(file, LENGTH * MIB / 50);
    let eval = "eval {model} --text {text} --window 64 --limit 2";
    let least = peak(eval, &[("model", &model), ("text", &tiny().join("text.txt"))]);
    let most = peak(eval, &[("model", &model), ("text", &packed)]);
    let more = most.saturating_sub(least);
    assert!(more < LENGTH * MIB / 2, "{} MiB more", more / MIB);
}

/// A frame of Zstandard that says nothing (RFC 8878, 3.1.2).
fn skippable(mut file: File, bytes: u64) {
    file.write_all(&0x184d_2a50_u32.to_le_bytes()).unwrap();
    file.write_all(&u32::try_from(bytes).unwrap().to_le_bytes()).unwrap();
    file.write_all(&vec![0; bytes as usize]).unwrap();
}

/// Paths that are not UTF-8, in every role.
#[cfg(target_os = "linux")]
#[test]
fn paths_of_any_bytes_are_paths() {
    use std::{
        ffi::{OsStr, OsString},
        os::unix::ffi::OsStringExt,
    };
    let dir = tempdir().unwrap();
    let odd = |name: &str| dir.path().join(OsString::from_vec([name.as_bytes(), b"\xff"].concat()));
    let (model, text, out) = (odd("model"), odd("text"), odd("out"));
    copy(&model);
    fs::copy(tiny().join("text.txt"), &text).unwrap();
    let run = |args: &[&OsStr]| {
        let output = crate::program::command(args).output().unwrap();
        assert!(output.status.success(), "{}", crate::program::stderr(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let word = OsStr::new;
    let found = run(&[
        word("eval"),
        model.as_os_str(),
        word("--text"),
        text.as_os_str(),
        word("--limit=2"),
        word("--json"),
    ]);
    assert_eq!(found["text"], "text\u{fffd}");
    let line = "--ratio=0.2 --samples=4 --learn-masks=0 --json --allow-overlap --limit=2";
    let mut args = vec![
        word("prune"),
        model.as_os_str(),
        word("--calibration"),
        text.as_os_str(),
        word("--text"),
        text.as_os_str(),
        word("--out"),
        out.as_os_str(),
    ];
    args.extend(line.split(' ').map(word));
    run(&args);
    // What the manifest holds of it leads to the same file.
    let manifest = fs::read(out.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let held = &manifest["model"]["path"];
    assert!(held["bytes"].as_str().is_some_and(|bytes| bytes.ends_with("6d6f64656cff")), "{held}");
    run(&[word("inspect"), out.as_os_str(), word("--json")]);
}

/// Training on a text holds its tokens, and none of the text.
#[cfg(target_os = "linux")]
#[test]
fn training_data_are_read_in_bounded_memory() {
    const LENGTH: u64 = 8;
    let dir = tempdir().unwrap();
    let (data, out) = (dir.path().join("long.txt"), dir.path().join("out"));
    long(&data, "", LENGTH, "");
    let line = "recover {model} --data {data} --out {out} --max-steps 1 --batch-size 1";
    let peak = |data: &Path, out: &Path| {
        let paths = [("model", tiny()), ("data", data.to_owned()), ("out", out.to_owned())];
        let paths: Vec<(&str, &Path)> = paths.iter().map(|(n, p)| (*n, p.as_path())).collect();
        let mut command = crate::program::command(crate::program::words(line, &paths));
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut most = 0;
        while child.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
            most = most.max(kib.unwrap_or(0_u64) << 10);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(child.wait().unwrap().success());
        most
    };
    let least = peak(&tiny().join("text.txt"), &dir.path().join("first"));
    let more = peak(&data, &out).saturating_sub(least);
    // Five bytes of a token, a token of at least two bytes, some for lists that grow.
    assert!(more < 8 * LENGTH * MIB + 64 * MIB, "{} MiB more", more / MIB);
}
