//! `eval --tasks` with data from a hub, which is a server on this machine.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::PathBuf,
};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{command, stderr, stdout, tiny};

const SEVEN: &str = "boolq,piqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Answers one request for a file of a data set, or for a part of it.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut request, mut start) = (String::new(), 0);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let place = path.strip_prefix("/datasets/");
    let place = place.and_then(|p| p.split_once("/resolve/refs%2Fconvert%2Fparquet/"));
    let file = place.map(|(set, file)| fixture("tasks_hub").join(set).join(file));
    match file.and_then(|file| std::fs::read(file).ok()) {
        None => stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        )?,
        Some(content) => {
            let total = content.len();
            let head = format!(
                "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"{}\"\r\n\
                 x-repo-commit: 0123abcd\r\ncontent-length: {}\r\n\
                 content-range: bytes {start}-{}/{total}\r\n\r\n",
                adapruner_checkpoint::Digest::of_bytes(&content),
                total - start,
                total - 1,
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(&content[start..])?;
        }
    }
    stream.shutdown(Shutdown::Write)?;
    // Until the client hangs up: a reset could overtake the response.
    reader.read_to_end(&mut Vec::new()).map(drop)
}

/// A hub that has the made-up records; its address.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up early is no failure of the test.
            std::thread::spawn(move || answer(stream));
        }
    });
    format!("http://{address}")
}

#[test]
fn tasks_without_local_files_are_fetched_once_and_give_the_same_figures() {
    let (cache, empty) = (tempdir().unwrap(), tempdir().unwrap());
    let eval = |endpoint: Option<&str>, data: &std::path::Path| -> Value {
        let mut command = command(["eval".as_ref(), tiny().as_os_str()]);
        command.args(["--tasks", SEVEN, "--json", "--data-dir"]).arg(data);
        command.env("HF_HOME", cache.path());
        if let Some(endpoint) = endpoint {
            command.env("HF_ENDPOINT", endpoint);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    };
    let local = eval(None, &fixture("tasks"));
    let fetched = eval(Some(&serve()), empty.path());
    assert_eq!(fetched["results"], local["results"]);
    assert_eq!(local["data"]["arc_easy"]["files"][0].get("hub"), None);
    let file = &fetched["data"]["arc_easy"]["files"][0];
    let expected = serde_json::json!({
        "dataset": "allenai/ai2_arc",
        "revision": "refs/convert/parquet",
        "file": "ARC-Easy/test/0000.parquet",
    });
    assert_eq!(file["hub"], expected);
    assert!(file["file"].as_str().unwrap().contains("0123abcd"), "{file}");
    assert_eq!(file["digest"].as_str().unwrap().len(), 64);
    // What is in the cache needs no network.
    let cached = eval(None, empty.path());
    assert_eq!((&cached["results"], &cached["data"]), (&fetched["results"], &fetched["data"]));
}

#[test]
fn without_a_network_the_places_are_told() {
    let mut command = command(["eval".as_ref(), tiny().as_os_str()]);
    let output = command.args(["--tasks", "winogrande"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = stderr(&output);
    for expected in [
        "no data folder was given in which to look for winogrande/dev.jsonl or dev.jsonl, and",
        "allenai/winogrande",
        "hint: name the folder of the data sets: --data-dir DIR, or connect to the hub",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
