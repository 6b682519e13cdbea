//! A journal in Redis, shared with Optuna's `JournalRedisBackend`: the number of
//! the last record under `{prefix}:log_number`, record `i` under
//! `{prefix}:log:{i}`, from 0. One server, no cluster.
//!
//! One script adds records and reads those that others added, so this takes one atomic round
//! trip. If the connection breaks, the client reconnects and sends the script again, with
//! growing pauses, for a minute. `{prefix}:adapruner:{writer}` tells whether the script took
//! effect before the break: it holds the number of the writer's last addition, is set by the
//! same script, and expires after an hour. So no record is lost or doubled if the server keeps
//! what it acknowledged, also over a restart (`appendonly yes`, and `appendfsync always` if it
//! may be killed). A server that loses records is detected: the last record that was read must
//! still exist.

use std::thread::sleep;
use std::time::{Duration, Instant};

use ::redis::{
    Client, Cmd, Connection, FromRedisValue, RedisError, RetryMethod, Value, cmd, from_redis_value,
};

use super::backend::{Backend, Exchange, Line};
use crate::error::{Error, Result};

/// `ARGV`: prefix, writer, number of the addition, offset to read from, how many
/// trials others may have begun since (-1: any number), most records to read, and
/// the records to add. Gives whether they are added, the number of the last
/// record, and the records from the offset on. What begins a trial is told as
/// `record::is_claim` tells it.
const EXCHANGE: &str = r#"
local log, number = ARGV[1] .. ':log:', ARGV[1] .. ':log_number'
local done = ARGV[1] .. ':adapruner:' .. ARGV[2]
local from, others, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local function record(i) return redis.call('get', log .. string.format('%d', i)) end
local last = tonumber(redis.call('get', number) or '-1')
local added = 1
if #ARGV > 6 and redis.call('get', done) ~= ARGV[3] then
  if others >= 0 then
    local begun = 0
    for i = from, last do
      local text = record(i)
      if not text or not string.find(text, '^{"op_code":') or string.find(text, '^{"op_code": ?4,')
        or string.find(text, '^{"op_code": ?6,') and string.find(text, '"state": ?0') then
        begun = begun + 1
      end
    end
    if begun > others then added = 0 end
  end
  if added == 1 then
    redis.call('setnx', number, -1)
    for j = 7, #ARGV do
      last = redis.call('incr', number)
      redis.call('set', log .. string.format('%d', last), ARGV[j])
    end
    redis.call('set', done, ARGV[3], 'EX', 3600)
  end
end
local answer = {added, last}
for i = from, math.min(last, from + most - 1) do
  local text = record(i)
  if not text then break end
  answer[#answer + 1] = text
end
return answer
"#;
/// How long to wait for a record that has a number and no text yet.
const NUMBERED: Duration = Duration::from_secs(10);
/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server that went away is tried again.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Records requested at a time.
const BATCH: u64 = 1000;

/// A journal in Redis.
pub struct RedisBackend {
    client: Client,
    /// Without the password.
    server: String,
    prefix: String,
    /// Names this backend; no other has the name.
    writer: String,
    /// Number of the addition that is under way or was the last.
    addition: u64,
    patience: Duration,
    connection: Option<Connection>,
    /// When the connection was made anew after a break.
    since: Option<Instant>,
    /// The last record that was read: the offset after it, and its text.
    last: Option<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisBackend").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Why a connection is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connecting {
    /// It is the first.
    First,
    /// The last one broke.
    Again,
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
        let mut backend = Self {
            client,
            server,
            prefix: prefix.into(),
            writer: format!("{:032x}", rand::random::<u128>()),
            addition: 0,
            patience: PATIENCE,
            connection: None,
            since: None,
            last: None,
        };
        match backend.connect(Connecting::First) {
            Ok(()) => Ok(backend),
            Err(error) => Err(failed(&backend.server, "connect", &error)),
        }
    }

    /// Tries for `patience` to reach a server that went away, rather than for a
    /// minute.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn connect(&mut self, why: Connecting) -> Result<(), RedisError> {
        let new = self.client.get_connection_with_timeout(TIMEOUT)?;
        new.set_read_timeout(Some(TIMEOUT))?;
        new.set_write_timeout(Some(TIMEOUT))?;
        self.connection = Some(new);
        if why == Connecting::Again {
            self.since = Some(Instant::now());
        }
        Ok(())
    }

    /// Asks once, on a connection that is made where there is none; what follows
    /// a break first makes sure that the journal is the one that was read.
    fn try_query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Attempt> {
        if self.connection.is_none() {
            self.connect(Connecting::Again)?;
            if let Some((end, text)) = self.last.clone() {
                let mut get = cmd("GET");
                get.arg(self.key(end - 1));
                let found: Option<Vec<u8>> = self.try_query(&get)?;
                if found.as_ref() != Some(&text) {
                    let message = "is not the record that was read before the connection broke: \
                                   the server lost records"
                        .into();
                    return Err(Attempt::Lost(Error::Journal {
                        place: self.place(end - 1),
                        message,
                    }));
                }
            }
        }
        let Some(connection) = self.connection.as_mut() else {
            return Err(Attempt::Lost(self.gone("it closed the connection")));
        };
        let answer = command.query::<Value>(connection);
        Ok(answer.and_then(|answer| Ok(from_redis_value(answer)?))?)
    }

    /// Asks, again and again while the server cannot be reached. Commands may be
    /// carried out twice.
    fn query<T: FromRedisValue>(&mut self, action: &'static str, command: &Cmd) -> Result<T> {
        let mut wait = FIRST_WAIT;
        let mut since = None;
        loop {
            let error = match self.try_query(command) {
                Ok(answer) => {
                    if since.is_some() {
                        tracing::warn!("{}: connected again", self.server);
                    }
                    return Ok(answer);
                }
                Err(Attempt::Lost(error)) => return Err(error),
                Err(Attempt::Failed(error)) => error,
            };
            self.connection = None;
            let begun = *since.get_or_insert_with(|| {
                if !is_final(&error) {
                    tracing::warn!(
                        "{}: cannot {action}: {error}; trying again for {} s",
                        self.server,
                        self.patience.as_secs()
                    );
                }
                Instant::now()
            });
            if is_final(&error) {
                return Err(failed(&self.server, action, &error));
            }
            if begun.elapsed() + wait > self.patience {
                let tried = self.patience.as_secs();
                let message = format!("{error}, for {tried} s");
                return Err(Error::Server { server: self.server.clone(), action, message });
            }
            sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn key(&self, number: u64) -> String {
        format!("{}:log:{number}", self.prefix)
    }

    fn gone(&self, message: &str) -> Error {
        Error::Server { server: self.server.clone(), action: "ask", message: message.into() }
    }

    /// The script once: whether records were added, where the journal ends, and a
    /// batch of records.
    fn script(
        &mut self,
        records: &[String],
        offset: u64,
        others: Option<u64>,
    ) -> Result<(bool, u64, Vec<Vec<u8>>)> {
        let others = others.map_or(-1, |others| i64::try_from(others).unwrap_or(i64::MAX));
        let mut command = cmd("EVAL");
        command.arg(EXCHANGE).arg(0).arg(&self.prefix).arg(&self.writer);
        command.arg(self.addition).arg(offset).arg(others).arg(BATCH).arg(records);
        let action = if records.is_empty() { "read" } else { "append" };
        let mut answer: Vec<Value> = self.query(action, &command)?;
        let texts = answer.split_off(answer.len().min(2));
        let [Value::Int(added), Value::Int(last)] = answer[..] else {
            return Err(self.gone("expected two numbers and records, found something else"));
        };
        let end = u64::try_from(last.saturating_add(1)).unwrap_or(0);
        let texts = texts.into_iter().map(|text| {
            if let Value::BulkString(text) = text {
                return Ok(text);
            }
            Err(self.gone(&format!("expected a record, found {text:?}")))
        });
        Ok((added == 1, end, texts.collect::<Result<_>>()?))
    }
}

/// Why a single attempt came to nothing.
enum Attempt {
    /// The server did not answer, or with an error.
    Failed(RedisError),
    /// It answers, but its journal is another.
    Lost(Error),
}

impl From<RedisError> for Attempt {
    fn from(error: RedisError) -> Self {
        Self::Failed(error)
    }
}

impl Backend for RedisBackend {
    fn append(&mut self, records: &[String]) -> Result<()> {
        self.addition += 1;
        self.script(records, u64::from(u32::MAX), None).map(drop)
    }

    fn read_from(&mut self, offset: u64) -> Result<Vec<Line>> {
        Ok(self.exchange(&[], offset, None)?.lines)
    }

    fn exchange(
        &mut self,
        records: &[String],
        offset: u64,
        others: Option<u64>,
    ) -> Result<Exchange> {
        self.addition += 1;
        let (added, mut end, mut texts) = self.script(records, offset, others)?;
        if end < offset {
            return Err(Error::Journal {
                place: format!("{}: {}:log_number", self.server, self.prefix),
                message: format!(
                    "expected the {offset} records that were read before, found {end}: the \
                     server lost records"
                ),
            });
        }
        let mut lines = Vec::new();
        let mut next = offset;
        let mut since = Instant::now();
        loop {
            let before = next;
            for text in texts {
                next += 1;
                lines.push(Line { text, end: next });
            }
            if next >= end {
                break;
            }
            if next > before {
                since = Instant::now();
            } else if since.elapsed() > NUMBERED {
                let message = "has a number but is missing: its writer stopped halfway".into();
                return Err(Error::Journal { place: self.place(next), message });
            } else {
                sleep(Duration::from_millis(20));
            }
            (_, end, texts) = self.script(&[], next, None)?;
        }
        if let Some(line) = lines.last() {
            self.last = Some((line.end, line.text.clone()));
        }
        Ok(Exchange { lines, added })
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn reachable_since(&self) -> Option<Instant> {
        self.since
    }

    fn place(&self, number: u64) -> String {
        format!("{}: {}", self.server, self.key(number))
    }
}

/// Whether trying again cannot help.
fn is_final(error: &RedisError) -> bool {
    let refused = error.kind() == ::redis::ErrorKind::AuthenticationFailed;
    refused || matches!(error.retry_method(), RetryMethod::NoRetry)
}

fn failed(server: &str, action: &'static str, error: &RedisError) -> Error {
    Error::Server { server: server.into(), action, message: error.to_string() }
}
