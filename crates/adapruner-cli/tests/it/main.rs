//! The program as people run it, on the fixture models.

#![expect(clippy::disallowed_methods, reason = "tests read what they wrote")]

mod allocate;
mod bad_input;
mod bounded;
mod budget;
mod compare_models;
mod config_file;
mod correlate;
mod depth;
mod digests;
mod docs;
mod experts;
mod families;
mod front;
mod generate;
#[cfg(unix)]
mod guide;
#[cfg(all(target_os = "linux", feature = "redis"))]
mod hosts;
mod hub_tasks;
mod interrupt;
mod latency;
mod main_job;
mod masks;
mod memory;
mod metrics;
mod multimodal;
mod overlap;
mod program;
mod recipe;
mod recover;
mod reference;
mod search;
mod search_killed;
mod shell;
mod size;
mod vocabulary;
mod whole;
mod zero_shot;
