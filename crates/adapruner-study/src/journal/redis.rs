//! A journal in Redis, shared with Optuna's `JournalRedisBackend`: the number of
//! the last record under `{prefix}:log_number`, record `i` under
//! `{prefix}:log:{i}`, from 0. One server, no cluster.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ::redis::{Client, Connection, FromRedisValue, RedisError, cmd};

use super::backend::{Backend, Line};
use crate::error::{Error, Result};

/// Adds the records in one step; otherwise as Optuna's.
const APPEND: &str = "\
    redis.call('setnx', string.format('%s:log_number', ARGV[1]), -1) \
    for j = 2, #ARGV do \
    local i = redis.call('incr', string.format('%s:log_number', ARGV[1])) \
    redis.call('set', string.format('%s:log:%d', ARGV[1], i), ARGV[j]) end";
/// How long to wait for a record that has a number and no text yet.
const PATIENCE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Records asked for at a time.
const BATCH: u64 = 1000;

/// A journal in Redis.
pub struct RedisBackend {
    client: Client,
    /// Without the password.
    server: String,
    prefix: String,
    connection: Option<Connection>,
}

impl std::fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBackend").field("server", &self.server).finish_non_exhaustive()
    }
}

impl RedisBackend {
    /// Connects to `url`, as `redis://localhost:6379/0`; Optuna's default prefix
    /// is empty.
    ///
    /// # Errors
    ///
    /// [`Error::Server`] if the URL is none or the server cannot be reached.
    pub fn open(url: &str, prefix: &str) -> Result<Self> {
        let server = url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned();
        let client = Client::open(url).map_err(|error| failed(&server, "connect", &error))?;
        let mut backend = Self { client, server, prefix: prefix.into(), connection: None };
        backend.connection()?;
        Ok(backend)
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let made = self.client.get_connection_with_timeout(TIMEOUT).and_then(|new| {
                    new.set_read_timeout(Some(TIMEOUT))?;
                    new.set_write_timeout(Some(TIMEOUT))?;
                    Ok(new)
                });
                made.map_err(|error| failed(&self.server, "connect", &error))?
            }
        };
        Ok(self.connection.insert(connection))
    }

    fn query<T: FromRedisValue>(
        &mut self,
        action: &'static str,
        command: &::redis::Cmd,
    ) -> Result<T> {
        let answer = command.query(self.connection()?);
        answer.map_err(|error| {
            // The next call connects anew. This one is not repeated: it may
            // have had its effect.
            self.connection = None;
            failed(&self.server, action, &error)
        })
    }

    fn key(&self, number: u64) -> String {
        format!("{}:log:{number}", self.prefix)
    }
}

impl Backend for RedisBackend {
    fn append(&mut self, records: &[String]) -> Result<()> {
        let mut command = cmd("EVAL");
        command.arg(APPEND).arg(0).arg(&self.prefix).arg(records);
        self.query("append", &command)
    }

    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>> {
        let mut command = cmd("GET");
        command.arg(format!("{}:log_number", self.prefix));
        let last: Option<i64> = self.query("read", &command)?;
        let end = last.map_or(0, |last| u64::try_from(last.saturating_add(1)).unwrap_or(0));
        if end < offset {
            return Err(Error::Journal {
                place: format!("{}: {}:log_number", self.server, self.prefix),
                message: format!(
                    "expected the {offset} records that were read before, found {end}"
                ),
            });
        }
        let mut lines = Vec::new();
        let mut next = offset;
        let mut since = Instant::now();
        while next < end {
            let mut command = cmd("MGET");
            for number in next..end.min(next + BATCH) {
                command.arg(self.key(number));
            }
            let texts: Vec<Option<Vec<u8>>> = self.query("read", &command)?;
            let before = next;
            for text in texts.into_iter().map_while(|text| text) {
                next += 1;
                lines.push(Line { text, end: next });
            }
            if next > before {
                since = Instant::now();
            } else if since.elapsed() > PATIENCE {
                let message = "is numbered and not there: its writer stopped halfway".into();
                return Err(Error::Journal { place: self.place(next), message });
            } else {
                sleep(Duration::from_millis(20));
            }
        }
        Ok(lines)
    }

    fn place(&self, number: u64) -> String {
        format!("{}: {}", self.server, self.key(number))
    }
}

fn failed(server: &str, action: &'static str, error: &RedisError) -> Error {
    Error::Server { server: server.into(), action, message: error.to_string() }
}
