//! The teacher's top-k log-probabilities at every target position of the training sequences, at
//! the distillation temperature, computed once and cached on disk.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ADPTEAC2` |
//! | 8 | length of the header, little-endian |
//! | … | header: JSON, the file's inputs |
//! | `8·k` a row | `k` u32 ids, `k` f32 log-probabilities |
//! | 32 | BLAKE3 digest of all bytes before it |

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use adapruner_checkpoint::{
    Checkpoint, Digest, Error as FileError, atomic::StateDir, mapped::MappedFile,
    tokenizer::TextTokenizer,
};
use adapruner_model::{Decoder, train::Term};
use serde::{Deserialize, Serialize};

use crate::{
    data::{Example, batches},
    error::{Error, Result},
    train::{
        options::{Distillation, Record},
        state::check_record,
    },
};

const MAGIC: &[u8; 8] = b"ADPTEAC2";
/// Bytes of the digest at the end.
const DIGEST: usize = 32;
/// Longest header that is read, in bytes.
const LONGEST_HEADER: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Header {
    record: Record,
    k: usize,
    rows: usize,
}

/// What a cache is bound to.
///
/// # Errors
/// A teacher whose files cannot be read.
pub fn record(teacher: &Checkpoint, data: &Digest, options: &Distillation) -> Result<Record> {
    Ok(Record::from([
        ("teacher".to_owned(), teacher.digest()?.to_string()),
        ("data".to_owned(), data.to_string()),
        ("temperature".to_owned(), format!("{:?}", options.temperature)),
        ("top-logits".to_owned(), options.top.to_string()),
    ]))
}

/// Refuses a teacher whose tokens are not the student's.
///
/// # Errors
/// The first id that means another text.
pub fn check_vocabulary(student: &TextTokenizer, teacher: &Checkpoint) -> Result<()> {
    let other = &teacher.tokenizer;
    let refuse = |message: String| {
        Error::data(&teacher.origin, message)
            .advise("a teacher must have the very tokens of the model that learns")
    };
    if student.vocab_size() != other.vocab_size() {
        let (expected, found) = (student.vocab_size(), other.vocab_size());
        return Err(refuse(format!("a vocabulary of {expected} tokens expected, {found} found")));
    }
    for id in 0..student.vocab_size() as u32 {
        // Ids without a token fail in both.
        let (expected, found) =
            (student.decode(&[id], false).ok(), other.decode(&[id], false).ok());
        if expected != found {
            return Err(refuse(format!("token {id}: {expected:?} expected, {found:?} found")));
        }
    }
    Ok(())
}

/// The teacher in the student's tokens: itself where it has the very same ones. Where the
/// student's vocabulary is a part of the teacher's, in its order, the teacher with that part
/// alone: the probabilities that it teaches are those of all its tokens that the student has.
///
/// # Errors
/// The first id that means another text.
pub fn aligned(student: &Checkpoint, teacher: &Checkpoint) -> Result<Checkpoint> {
    let own = student.tokenizer.vocab_size();
    let part = student.tokenizer.ids_in(&teacher.tokenizer);
    let teacher = match part.filter(|_| own < teacher.tokenizer.vocab_size()) {
        None => teacher.clone(),
        Some(ids) => teacher.with_vocabulary(&ids, student.config.vocab_size)?,
    };
    check_vocabulary(&student.tokenizer, &teacher)?;
    Ok(teacher)
}

/// Refuses a teacher whose blocks do not stand for the student's, one by one.
/// Cutting widths leaves their number and the hidden size as they are, and a block whose
/// attention is gone is still a block; a model that lost whole layers has no such teacher.
///
/// # Errors
/// Then, with both shapes.
pub fn check_blocks(student: &Checkpoint, teacher: &Checkpoint) -> Result<()> {
    let shape = |of: &Checkpoint| (of.config.layers.len(), of.config.hidden_size);
    let ((layers, hidden), (found, width)) = (shape(student), shape(teacher));
    if (layers, hidden) == (found, width) {
        return Ok(());
    }
    let message = format!(
        "{layers} layers of hidden size {hidden} expected, as {} has, {found} of {width} found",
        student.origin.display()
    );
    Err(Error::data(&teacher.origin, message).advise(
        "--match-hidden needs the model before pruning; without it, any with the same tokens \
             can teach",
    ))
}

/// Who is learned from in a training.
#[derive(Clone, Copy)]
pub struct Teacher<'a> {
    /// Probabilities, computed before.
    pub probabilities: &'a TeacherCache,
    /// The model itself, which runs along, where hidden states are matched.
    pub hidden: Option<&'a Decoder>,
}

/// Who is asked about what.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The teacher.
    pub teacher: &'a Decoder,
    /// The training sequences.
    pub examples: &'a [Example],
    /// How.
    pub options: &'a Distillation,
}

/// A cache on disk.
pub struct TeacherCache {
    file: MappedFile,
    /// Where the rows begin.
    start: usize,
    k: usize,
    /// Rows before those of each training sequence.
    before: Vec<usize>,
}

impl TeacherCache {
    /// Opens a cache of these training sequences, if there is one.
    ///
    /// # Errors
    /// A file that is damaged, or was made from something else, which is named.
    pub fn open(path: &Path, record: &Record, examples: &[Example]) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = MappedFile::open(path)?;
        let refuse =
            |message: &str| Error::format(path, message).advise("remove it: it is computed again");
        let Some((content, digest)) = file.split_last_chunk::<DIGEST>() else {
            return Err(refuse("no teacher's probabilities"));
        };
        let rest = content
            .strip_prefix(MAGIC)
            .ok_or_else(|| refuse("no teacher's probabilities of this version"))?;
        if Digest::of_bytes(content).as_bytes() != digest {
            return Err(refuse(
                "damaged: its content is not what was written (its digest differs)",
            ));
        }
        let (length, rest) =
            rest.split_first_chunk().ok_or_else(|| refuse("ends in its first bytes"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > LONGEST_HEADER || length > rest.len() {
            return Err(refuse("the length of its header is beyond its end"));
        }
        let header: Header = serde_json::from_slice(&rest[..length])
            .map_err(|e| Error::format(path, e.to_string()))?;
        check_record(path, record, &header.record)?;
        let mut rows = 0;
        let before = examples.iter().map(|example| {
            let first = rows;
            rows += example.targets();
            first
        });
        let before: Vec<usize> = before.collect();
        let bytes = header.k.checked_mul(8).and_then(|row| row.checked_mul(rows));
        if header.rows != rows || header.k == 0 || bytes != Some(rest.len() - length) {
            return Err(refuse("its length is not that of its rows"));
        }
        let start = MAGIC.len() + 8 + length;
        Ok(Some(Self { k: header.k, start, before, file }))
    }

    /// Asks the teacher and writes its answers, `tokens` of them at a time;
    /// `false` where it was told to stop, and nothing is left behind.
    ///
    /// # Errors
    /// A teacher that cannot run, a disk that is full.
    pub fn make(
        (folder, name): (&StateDir, &str),
        record: &Record,
        source: &Source<'_>,
        tokens: usize,
        stop: &AtomicBool,
        told: &mut dyn FnMut(u64, u64),
    ) -> Result<bool> {
        let Source { teacher, examples, options } = *source;
        let path = &folder.join(name);
        let staged = folder.file(name)?;
        let file = File::create(staged.path()).map_err(FileError::io(path, "create"))?;
        let mut file = Writer {
            path: path.clone(),
            file: BufWriter::new(file),
            hasher: blake3::Hasher::new(),
        };
        let k = options.top.min(teacher.config().vocab_size);
        let rows = examples.iter().map(Example::targets).sum();
        let header = Header { record: record.clone(), k, rows };
        let header = serde_json::to_vec(&header).map_err(|e| Error::format(path, e.to_string()))?;
        file.put(MAGIC)?;
        file.put(&(header.len() as u64).to_le_bytes())?;
        file.put(&header)?;
        let order: Vec<usize> = (0..examples.len()).collect();
        let mut done = 0;
        for part in batches::filled(examples, &order, tokens) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let sequences: Vec<Vec<u32>> =
                part.iter().map(|&at| examples[at].ids.clone()).collect();
            let top = teacher.top_logits(&sequences, k, options.temperature)?;
            let learned = part.iter().flat_map(|&at| &examples[at].learned[1..]);
            for (row, _) in learned.enumerate().filter(|(_, learned)| **learned) {
                let here = row * k..(row + 1) * k;
                for id in &top.ids[here.clone()] {
                    file.put(&id.to_le_bytes())?;
                }
                for logit in &top.logits[here] {
                    let log = f64::from(*logit) / options.temperature - top.logsumexp[row];
                    file.put(&(log as f32).to_le_bytes())?;
                }
            }
            done += part.len() as u64;
            told(done, examples.len() as u64);
        }
        let digest = *file.hasher.finalize().as_bytes();
        file.put(&digest)?;
        file.file.flush().map_err(FileError::io(path, "write"))?;
        drop(file);
        staged.commit()?;
        Ok(true)
    }

    /// Appends the teacher's targets of a training sequence to a term, their
    /// probabilities times `scale`; places that are not learned get none.
    ///
    /// # Errors
    /// Numbers in the file that are no probabilities.
    pub(crate) fn append(
        &self,
        index: usize,
        example: &Example,
        scale: f32,
        term: &mut Term,
    ) -> Result<()> {
        let k = self.k;
        term.k = k;
        let mut row = self.start + self.before[index] * k * 8;
        for learned in &example.learned[1..] {
            if !learned {
                term.ids.extend(std::iter::repeat_n(0, k));
                term.weights.extend(std::iter::repeat_n(0.0, k));
                continue;
            }
            let (ids, logs) = self.file[row..row + k * 8].split_at(k * 4);
            row += k * 8;
            term.ids.extend(ids.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)));
            for bytes in logs.as_chunks().0 {
                let probability = f32::from_le_bytes(*bytes).exp();
                if !(0.0..=1.001).contains(&probability) {
                    let message = format!("sequence {index}: {probability} is not a probability");
                    return Err(Error::format(self.file.path(), message)
                        .advise("remove it: it is computed again"));
                }
                term.weights.push(scale * probability);
            }
        }
        Ok(())
    }
}

struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        Ok(self.file.write_all(bytes).map_err(FileError::io(&self.path, "write"))?)
    }
}
