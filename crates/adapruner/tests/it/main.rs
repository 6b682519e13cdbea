//! The program as people run it, on the fixture models.

mod bad_input;
mod config_file;
mod interrupt;
mod main_job;
mod program;
mod recover;
mod reference;
mod search;
mod search_killed;
mod shell;
mod zero_shot;
