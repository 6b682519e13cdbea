//! `run`: the whole of AdaPruner, stage by stage, each a command of this
//! program in a process of its own, so that a stage's memory ends with it.
//!
//! | file in the output folder | what it is |
//! |---|---|
//! | `study/` | what `search` works in |
//! | `pruned/` | the pruned model |
//! | `recovered/` | the recovered model |
//! | `models.json` | the models side by side |
//! | `report.html` | the page of the study, the recovery and the models |
//! | `run.json` | the manifest: every stage's command, time, inputs and result |
//!
//! A stage is done if the manifest lists it with the same [`Inputs`]. Otherwise it runs
//! again and resumes what can be resumed.

mod record;
mod stage;

pub use self::{
    record::{
        Fingerprint, Finished, Inputs, RECORD, RUN, RUN_LOCK, RunRecord, STAGE_LOCK, StageState,
        recorded,
    },
    stage::{Pipeline, Stage, StageName, Table},
};
