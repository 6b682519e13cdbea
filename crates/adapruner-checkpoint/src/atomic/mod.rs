//! The one place that writes: outputs that never touch what is read, and that
//! appear whole or not at all.
//!
//! A command declares everything that it reads and writes as [`Files`].
//! [`Files::claim`] refuses overlaps before any work is done and returns the
//! [`Writer`], the only source of staged outputs:
//!
//! | output | type | replaced |
//! |---|---|---|
//! | a file | [`StagedFile`] | by force |
//! | a folder | [`StagedDir`] | by force, if it holds nothing but what its manifest names, unchanged |
//! | a folder of state (a study, a training) | [`StateDir`] | file by file, if the folder is our own |
//!
//! An output is written under a hidden name beside its target (so on the same
//! file system), synced, and renamed when it is complete; one that replaces
//! another changes places with it in a single step where the system has one.
//! Dropped before that, by an error or a panic, it is removed and the target is
//! as it was. An interrupt runs no destructors: its handler calls
//! [`discard_all`] before it exits. What a killed process leaves is removed by
//! the next one that writes to the same folder.
//!
//! | module | what it holds |
//! |---|---|
//! | `files` | what a command reads and writes; overlaps |
//! | `stage` | outputs on their way |
//! | `replace` | renames, removals, synchronisation |
//! | `leftovers` | what killed processes left |
//! | `owned` | which files of a folder this program wrote |
//! | `state` | folders of state |

mod files;
mod leftovers;
mod owned;
mod replace;
mod stage;
mod state;

pub use self::{
    files::{Files, Relation, Writer},
    owned::MANIFEST,
    stage::{Discarded, StagedDir, StagedFile, discard_all},
    state::{MARK, StateDir, StateKind},
};
