//! The search: calibration samples and importance metric, jointly (arXiv 2503.06184), together
//! with where to cut the model.
//!
//! Statistics of a whole pool are collected once; a trial is then scores → plan → slice →
//! evaluate. The study is kept in a folder that any number of workers share and that Optuna's
//! tools open.
//!
//! | module | content |
//! |---|---|
//! | [`dimension`] | the dimensions of the space, their ranges and reasons |
//! | [`space`] | [`SearchSpace`]: each dimension searched or fixed |
//! | [`configuration`] | [`Configuration`]: one point of it |
//! | [`settings`] | settings of a search; [`Arm`]: one search strategy |
//! | [`folder`] | the study's folder and its workers |
//! | [`front`] | several objectives: settings, points, the nearest that fits, the result |
//! | [`record`] | `search.json`: the search's inputs |
//! | [`pool`] | `pool.jsonl`: the samples, readable |
//! | [`prepare`] | preparation before the first trial |
//! | [`objective`] | [`Objective`]: what a trial does |
//! | [`run`] | the loop |
//! | [`outcome`] | result and cost |
//! | [`stored`] | the studies of a folder |
//! | [`compare`] | several arms with equal budgets and several seeds |
//! | [`transfer`] | applies a result, also to another model |
//! | [`correlate`] | how well losses predict accuracies |
//! | [`page`] | the report of a folder's studies |
//! | [`diagnose`] | signs of a search that failed |

pub mod compare;
pub mod configuration;
pub mod correlate;
pub mod diagnose;
pub mod dimension;
pub mod folder;
pub mod front;
pub mod objective;
pub mod outcome;
pub mod page;
pub mod pool;
pub mod prepare;
pub mod record;
pub mod run;
pub mod settings;
pub mod space;
pub mod stored;
pub mod transfer;

pub use configuration::Configuration;
pub use folder::{STUDY, StudyFolder};
pub use front::{FrontPoint, FrontResult, FrontSettings, Quantity};
pub use objective::Objective;
pub use outcome::{SearchResult, Tests};
pub use record::SearchRecord;
pub use run::{Ended, Search};
pub use settings::{Arm, EarlyStop, SamplerChoice, SearchSettings};
pub use space::{Extent, GivenSpace, SearchSpace, Varied};
pub use stored::StoredStudy;
