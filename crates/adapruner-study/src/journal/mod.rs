//! Studies in Optuna's journal format.
//!
//! A journal is a list of records, each one operation as JSON. A [`Backend`]
//! keeps it, [`JournalStorage`] replays it; Optuna 5 and its tools open the same
//! journals, and may work on them at the same time.
//!
//! Data that Optuna does not know are stored where its tools can use them:
//!
//! | data | stored as |
//! |---|---|
//! | subset parameter `s` | the trial's system attribute `adapruner:subset:s`, an object of `pool`, `least`, `most` and `items`: what counts |
//! | | the trial's user attribute `s`, the list of items: what dashboards show |
//! | | the integer parameter `s.n`, its size, where that varies: for importances and plots |
//! | heartbeat | the trial's system attribute `adapruner:heartbeat`, milliseconds since 1970 |
//!
//! None of these four is among the parameters and attributes that are read back. Membership of
//! single items is not a parameter: a hundred of them would bury the others in every plot.

mod backend;
mod distribution;
mod file;
mod json;
mod lock;
mod params;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod replay;
mod state;
mod storage;
mod time;

pub use backend::{Backend, Exchange, Line, MemoryBackend};
pub(crate) use distribution::FIXED;
pub use distribution::{distribution_from_json, distribution_to_json, fixed_param};
pub use file::FileBackend;
#[cfg(feature = "redis")]
pub use redis::RedisBackend;
pub use storage::JournalStorage;

/// Now, as journals have it: ISO 8601 with an offset.
pub fn timestamp() -> String {
    time::format(time::now_ms())
}
