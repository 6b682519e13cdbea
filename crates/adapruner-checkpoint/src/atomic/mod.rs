//! The only code that writes outputs. Outputs never overlap inputs, and appear whole or not at
//! all.
//!
//! A command declares its inputs and outputs as [`Files`]. [`Files::claim`] refuses overlaps
//! before any work is done and returns the [`Writer`], the only source of staged outputs:
//!
//! | output | type | replaced |
//! |---|---|---|
//! | a file | [`StagedFile`] | by force |
//! | a folder | [`StagedDir`] | by force, if it holds nothing but what its manifest names, unchanged |
//! | a folder of state (a study, a training) | [`StateDir`] | file by file, if the folder is our own |
//!
//! An output is written under a hidden name beside its target (so on the same file system),
//! synced, and renamed when it is complete; one that replaces another is exchanged with it in a
//! single step if the system supports that. If it is dropped before that, by an error or a
//! panic, it is removed and the target is unchanged. An interrupt runs no destructors: its
//! handler calls [`discard_all`] before it exits. The next process that writes to the same
//! folder removes the leftovers of a killed one.
//!
//! | module | content |
//! |---|---|
//! | `files` | inputs and outputs of a command; overlaps |
//! | `stage` | staged outputs |
//! | `replace` | renames, removals, synchronisation |
//! | `leftovers` | leftovers of killed processes |
//! | `owned` | which files of a folder this program wrote |
//! | `state` | state folders |

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
