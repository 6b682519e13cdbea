//! `python/adapruner/_commands.py`: a Python function for every command, made from the command
//! line itself, so that names, arguments and documentation cannot disagree.

use std::{fmt::Write, path::PathBuf};

use clap::{Arg, ArgAction, Command};

use super::Cli;

/// Commands that are no functions: they print for a shell.
const LEFT_OUT: [&str; 3] = ["completions", "man", "help"];
/// Options that the package sets itself.
const SET: [&str; 6] = ["json", "verbose", "quiet", "progress", "help", "version"];

/// How the values of an option become words of a command line.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum")]
fn form(arg: &Arg) -> &'static str {
    match arg.get_action() {
        ArgAction::SetTrue => "flag",
        ArgAction::Append if arg.get_value_delimiter().is_none() => "repeated",
        ArgAction::Append | ArgAction::Set if arg.get_value_delimiter().is_some() => "joined",
        ArgAction::Set if arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>() => {
            "switch"
        }
        ArgAction::Set => "value",
        other => panic!("{}: no form for {other:?}", arg.get_id()),
    }
}

fn hint(form: &str) -> &'static str {
    match form {
        "flag" => "bool",
        "switch" => "bool | None",
        "value" => "Value | bool | None",
        "joined" | "repeated" => "Value | Sequence[Value] | None",
        other => panic!("unknown form {other}"),
    }
}

/// The function's name.
fn name(command: &Command) -> String {
    match command.get_name() {
        "eval" => "evaluate".to_owned(),
        name => name.replace('-', "_"),
    }
}

/// Text as it may stand in a docstring.
fn plain(text: &str) -> String {
    text.replace('\\', "\\\\").replace("\"\"\"", "'''")
}

/// Lines of at most 96 characters, `indent` before each.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent.len() + line.chars().count() + 1 + word.chars().count() > 96 {
            let _ = writeln!(out, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "{indent}{line}");
    }
    out
}

fn function(command: &Command) -> String {
    let shown = |arg: &&Arg| {
        !arg.is_hide_set() && !SET.contains(&arg.get_id().as_str()) && arg.get_id() != "help"
    };
    let places: Vec<&Arg> = command.get_positionals().filter(shown).collect();
    let options: Vec<&Arg> =
        command.get_arguments().filter(|arg| arg.get_long().is_some()).filter(shown).collect();
    let mut out = format!("\n\ndef {}(\n", name(command));
    let mut words = Vec::new();
    for place in &places {
        let id = place.get_id();
        if place.get_num_args().is_some_and(|range| range.max_values() > 1) {
            let _ = writeln!(out, "    *{id}: Value,");
            words.push(format!("*{id}"));
        } else if place.is_required_set() {
            let _ = writeln!(out, "    {id}: Value,");
            words.push(id.to_string());
        } else {
            let _ = writeln!(out, "    {id}: Value | None = None,");
            words.push(id.to_string());
        }
    }
    if !words.iter().any(|word| word.starts_with('*')) {
        out.push_str("    *,\n");
    }
    for option in &options {
        let of = form(option);
        let default = if of == "flag" { "False" } else { "None" };
        let word = option.get_long().unwrap().replace('-', "_");
        let _ = writeln!(out, "    {word}: {} = {default},", hint(of));
    }
    out.push_str("    progress: Progress | bool | None = None,\n) -> dict[str, Any]:\n");
    let about = command.get_long_about().or(command.get_about()).unwrap().to_string();
    let mut paragraphs = about.split("\n\n").map(plain);
    let first = paragraphs.next().unwrap();
    let _ = writeln!(out, "    \"\"\"{}", wrapped(&first, "    ").trim_start().trim_end());
    for paragraph in paragraphs.filter(|paragraph| !paragraph.starts_with("Example:")) {
        let _ = write!(out, "\n{}", wrapped(&paragraph, "    "));
    }
    out.push_str("\n    Arguments:\n");
    for arg in places.iter().chain(&options) {
        let help = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
        let word = arg.get_long().unwrap_or(arg.get_id().as_str()).replace('-', "_");
        out.push_str(&wrapped(&format!("{word}: {}", plain(&help)), "        "));
    }
    out.push_str(
        "        progress: called as progress(stage, done, all, note); True shows bars, False none,\n        \
         None bars where somebody watches\n    \"\"\"\n",
    );
    let _ = writeln!(out, "    return run_command(\n        \"{}\",", command.get_name());
    let _ = writeln!(out, "        [{}],", words.join(", "));
    out.push_str("        [\n");
    for option in &options {
        let long = option.get_long().unwrap();
        let of = form(option);
        let _ = writeln!(out, "            (\"--{long}\", \"{of}\", {}),", long.replace('-', "_"));
    }
    out.push_str("        ],\n        progress,\n    )\n");
    out
}

fn module() -> String {
    let mut line = Cli::line();
    line.build();
    let commands: Vec<&Command> =
        line.get_subcommands().filter(|command| !LEFT_OUT.contains(&command.get_name())).collect();
    let mut out = String::from(
        "\"\"\"A function for every command of adapruner; made from its command line.\n\n\
         Written by `ADAPRUNER_BLESS=1 cargo test -p adapruner-cli --bin adapruner python`, checked by \
         the same test.\n\"\"\"\n\n\
         from __future__ import annotations\n\n\
         from typing import Any, Sequence\n\n\
         from ._program import Progress, Value, run_command\n\n__all__ = [\n",
    );
    for command in &commands {
        let _ = writeln!(out, "    \"{}\",", name(command));
    }
    out.push_str("]\n");
    for command in commands {
        out.push_str(&function(command));
    }
    out
}

#[test]
fn the_functions_of_the_python_package_are_the_commands() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../python/adapruner/_commands.py");
    let module = module();
    if std::env::var_os("ADAPRUNER_BLESS").is_some() {
        std::fs::write(&path, &module).unwrap();
    }
    #[expect(clippy::disallowed_methods, reason = "a file of the repository")]
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == module,
        "run ADAPRUNER_BLESS=1 cargo test -p adapruner-cli --bin adapruner python"
    );
}
