//! The program as people run it, on the fixture models.

mod bad_input;
mod config_file;
mod correlate;
mod interrupt;
mod main_job;
mod program;
mod reference;
mod search;
mod search_killed;
mod shell;
mod whole;
mod zero_shot;
