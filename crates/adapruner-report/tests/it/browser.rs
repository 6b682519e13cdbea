//! The example page in headless Chromium, where one is installed: it scrolls in
//! no direction but down, reports no errors, and shows something.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adapruner_report::{Page, Value, render};

use crate::example;

const PATIENCE: Duration = Duration::from_secs(90);
/// Tells the page around what the layout came to.
const MEASURE: &str = "<script>addEventListener('load', () => parent.postMessage('measured ' + [\
    document.documentElement.scrollWidth, innerWidth, document.documentElement.scrollHeight, \
    document.querySelectorAll('svg').length, \
    getComputedStyle(document.documentElement).backgroundColor.replaceAll(' ', '')\
    ].join(' '), '*'));</script>";

/// A page that holds another in a frame of its own width: a window of Chromium
/// is never narrower than 500 pixels.
fn framed(inner: &str, width: u32, height: u32) -> String {
    format!(
        "<!DOCTYPE html>\n<title>waiting</title><script>onmessage = (event) => {{ document.title \
         = event.data; }};</script><body style='margin:0;overflow:hidden'><iframe src='{inner}' \
         style='width:{width}px;height:{height}px;border:0;display:block'></iframe>"
    )
}

/// Runs the browser on a page and returns what it printed.
fn run(browser: &Path, folder: &Path, page: &Path, arguments: &[String]) -> (String, String) {
    let log = |name: &str| fs::File::create(folder.join(name)).expect("a log");
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--hide-scrollbars", "--no-first-run", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .stdout(log("stdout"))
        .stderr(log("stderr"))
        .stdin(Stdio::null())
        .spawn()
        .expect("the browser starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if began.elapsed() > PATIENCE {
            child.kill().expect("a child");
            child.wait().expect("a child");
            panic!("the browser did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let read =
        |name| String::from_utf8_lossy(&fs::read(folder.join(name)).expect("a log")).into_owned();
    let (out, err) = (read("stdout"), read("stderr"));
    assert!(status.success(), "{status}: {err}");
    (out, err)
}

/// Bytes of picture data in a PNG, after a look at its head.
fn picture(file: &Path, width: u32) -> usize {
    let bytes = fs::read(file).expect("a screenshot");
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"), "not a PNG");
    let word =
        |place: usize| u32::from_be_bytes(bytes[place..place + 4].try_into().expect("four bytes"));
    assert_eq!(word(16), width, "width");
    let (mut place, mut data) = (8, 0);
    while place + 12 <= bytes.len() {
        let length = word(place) as usize;
        if &bytes[place + 4..place + 8] == b"IDAT" {
            data += length;
        }
        place += 12 + length;
    }
    data
}

/// A copy that measures itself: without the policy that forbids scripts.
fn measuring(page: &str) -> String {
    let policy = page.find("<meta http-equiv").expect("a policy");
    let after = policy + page[policy..].find('>').expect("an end") + 1;
    format!("{}{MEASURE}{}", &page[..policy], &page[after..])
}

/// The page with words too long for any line.
fn with_long_words(mut page: Page) -> Page {
    let long = "W".repeat(300);
    page.title.clone_from(&long);
    page.model.path.clone_from(&long);
    page.command.clone_from(&long);
    page.warnings.push(long.clone());
    page.runs[0].group.clone_from(&long);
    for trial in &mut page.runs[1].trials {
        trial.values.push((long.clone(), trial.seconds.into()));
        trial.values[6].1 = Value::Text(long.clone());
    }
    page.importances[0].name.clone_from(&long);
    page.measured[0].text.clone_from(&long);
    page.comparison[0].arm.clone_from(&long);
    if let Some(found) = &mut page.correlation {
        found.sentences.push(long.clone());
        found.rows[0].loss.clone_from(&long);
        found.rows[1].accuracy.clone_from(&long);
        found.rows[2].verdict.clone_from(&long);
    }
    if let Some(recovery) = &mut page.recovery {
        recovery.data.clone_from(&long);
        recovery.path.clone_from(&long);
    }
    page.samples[0].source.clone_from(&long);
    page.samples[1].text.clone_from(&long);
    if let Some(best) = &mut page.best {
        best.values.push((long.clone(), long));
    }
    page
}

#[test]
fn chromium_shows_the_page_at_every_width() {
    let Some(browser) = adapruner_testing::require_browser() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // ADAPRUNER_REPORT_SHOTS keeps the pages and pictures, to be looked at.
    let kept = std::env::var_os("ADAPRUNER_REPORT_SHOTS").map(PathBuf::from);
    let shots = kept.unwrap_or_else(|| folder.path().to_owned());
    let page = render(&example::page());
    let measured = measuring(&page);
    let long = measuring(&render(&with_long_words(example::page())));
    let empty = "<!DOCTYPE html>\n<title>empty</title>".to_owned();
    let write = |name: &str, text: &str| {
        let file = shots.join(name);
        fs::write(&file, text).expect("a page");
        file
    };
    for (name, text) in [
        ("page.html", &page),
        ("empty.html", &empty),
        ("measured.html", &measured),
        ("long.html", &long),
    ] {
        write(name, text);
    }

    let layouts = [
        (360, "light", "rgb(255,255,255)"),
        (1200, "light", "rgb(255,255,255)"),
        (360, "dark", "rgb(20,23,26)"),
        (1200, "dark", "rgb(20,23,26)"),
    ];
    for (width, theme, ground) in layouts {
        let window: u32 = width.max(500);
        let themed: &[&str] = if theme == "dark" { &["--force-dark-mode"] } else { &[] };
        let show = |name: &str, height: u32, what: String| {
            let frame = write("frame.html", &framed(&format!("{name}.html"), width, height));
            let mut arguments: Vec<String> = themed.iter().copied().map(String::from).collect();
            arguments.extend([format!("--window-size={window},{height}"), what]);
            let (out, err) = run(&browser, folder.path(), &frame, &arguments);
            assert!(!err.contains("CONSOLE"), "{name}, {width}, {theme}: {err}");
            out
        };
        let measure = |name: &str| {
            let document = show(name, 780, "--dump-dom".to_owned());
            let (_, after) =
                document.split_once("<title>measured ").expect("the page was measured");
            let facts = after.split('<').next().unwrap_or("").split(' ').map(str::to_owned);
            let facts: Vec<String> = facts.collect();
            assert_eq!(facts[1], width.to_string(), "the frame: {facts:?}");
            let across: u32 = facts[0].parse().expect("a number");
            assert!(across <= width, "{name} scrolls sideways at {width}: {facts:?}");
            facts
        };
        measure("long");
        let facts = measure("measured");
        let number = |place: usize| facts[place].parse::<u32>().expect("a number");
        assert!(number(2) > 2000 && number(3) > 14, "{facts:?}");
        assert_eq!(facts[4], ground, "the ground in {theme}");
        let height = number(2).min(16_000);
        let shoot = |name: &str| {
            let shot = shots.join(format!("{name}-{theme}-{width}.png"));
            show(name, height, format!("--screenshot={}", shot.display()));
            picture(&shot, window)
        };
        let (full, empty) = (shoot("page"), shoot("empty"));
        assert!(full > 10 * empty, "{theme} at {width} is blank: {full} to {empty} bytes");
    }
}
