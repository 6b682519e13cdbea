//! Which tokens of a vocabulary must stay, and what replaces a removed one.
//!
//! Three kinds of tokenizers can lose pieces so that every text still has ids and
//! every text that used no removed piece has the same ones:
//!
//! | kind | a piece that goes becomes | while a piece stays, these stay |
//! |---|---|---|
//! | byte-level BPE | the two pieces of its last merge | those two |
//! | BPE with byte fallback (SentencePiece, Llama, Gemma) | the same; a character its bytes | those two |
//! | Unigram | the best segmentation by the pieces that stay | |
//!
//! A merge is the last one of a piece if merging the piece's own characters ends
//! with it. Merges are made in the order of their ranks, so the merges within a
//! piece are the same alone as in any text: a piece whose last merge's two pieces
//! stay, and theirs, and so on, is merged as before.
//!
//! Always kept are the bytes, special and added tokens, the tokens that the
//! tokenizer puts around a text, those that the configuration names, and those that
//! the chat template's own words need. Without a byte for each of the 256, all
//! single characters stay too.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{
    Source, TextTokenizer, bytes::is_byte, chat::Message, from_gguf, from_gguf::SPACE, keys::Keys,
    merges,
};
use crate::error::Result;

/// Longest piece in bytes that may be merged or segmented; longer ones, runs of spaces in
/// published vocabularies, go unless they must stay.
const MAX_PIECE: usize = 512;

/// Why a piece stays or may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The id has no token; its row only fills up the embedding.
    Unassigned,
    /// No text becomes this piece; merges or scores never end with it.
    Unreachable,
    /// It may go.
    Free,
    /// It stays.
    Required,
}

/// The pieces of a tokenizer, and the replacements of removed ones.
#[derive(Debug)]
pub struct Vocabulary {
    roles: Vec<Role>,
    model: Model,
}

#[derive(Debug)]
enum Model {
    /// By id: what a piece becomes, and needs while it stays; none of what is atomic.
    Pairs(Vec<Box<[u32]>>),
    Unigram(Unigram),
}

impl Vocabulary {
    /// Rows of the embedding, one past the largest id.
    pub fn rows(&self) -> usize {
        self.roles.len()
    }

    /// Why `id` (below [`rows`](Self::rows)) stays or may go.
    pub fn role(&self, id: u32) -> Role {
        self.roles.get(id as usize).copied().unwrap_or(Role::Unassigned)
    }

    /// Ids of a role, ascending.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = u32> {
        let ids = self.roles.iter().enumerate();
        ids.filter(move |(_, found)| **found == role).map(|(id, _)| id as u32)
    }

    /// Ids that must stay while `id` stays.
    pub fn needs(&self, id: u32) -> &[u32] {
        match &self.model {
            Model::Pairs(becomes) => becomes.get(id as usize).map_or(&[], |ids| ids),
            Model::Unigram(_) => &[],
        }
    }

    /// What a text has in place of `id` once that is gone and those that `stays` says
    /// are left, `id` itself excepted; empty where it cannot go.
    pub fn becomes(&self, id: u32, stays: &dyn Fn(u32) -> bool) -> Vec<u32> {
        match &self.model {
            Model::Pairs(becomes) => becomes.get(id as usize).map_or(&[][..], |ids| ids).to_vec(),
            Model::Unigram(unigram) => unigram.becomes(id, stays).unwrap_or_default(),
        }
    }

    /// The required ids and all that they need.
    fn close(&mut self) {
        let mut open: Vec<u32> = self.of_role(Role::Required).collect();
        while let Some(id) = open.pop() {
            let needed = self.needs(id).to_vec();
            for id in needed {
                if let Some(role) =
                    self.roles.get_mut(id as usize).filter(|r| **r != Role::Required)
                {
                    *role = Role::Required;
                    open.push(id);
                }
            }
        }
    }
}

impl TextTokenizer {
    /// What of this vocabulary must stay, for a model of `rows` embedding rows whose
    /// configuration names the ids `named`.
    ///
    /// # Errors
    /// A tokenizer that cannot lose pieces, by the name of its model; a named id without
    /// a token; tokens beyond the embedding.
    pub fn vocabulary(&self, rows: usize, named: &[u32]) -> Result<Vocabulary> {
        let json = self.own_json()?;
        let refuse = |message: String| {
            let error = self.error(format!("its vocabulary cannot be trimmed: {message}"));
            error.advise("keep the whole vocabulary and prune the layers alone")
        };
        if self.vocab_size > rows {
            let size = self.vocab_size;
            return Err(refuse(format!("it has {size} tokens, the model's embedding {rows} rows")));
        }
        let pieces = self.pieces(rows);
        let model = &json["model"];
        let (parts, reachable) = match model["type"].as_str().unwrap_or("BPE") {
            "BPE" => {
                let pairs = Pairs::read(&json, &pieces).map_err(refuse)?;
                let (becomes, reachable) = pairs.all(&pieces);
                (Model::Pairs(becomes), reachable)
            }
            "Unigram" => {
                let unigram = Unigram::read(model, &pieces).map_err(refuse)?;
                let reachable = unigram.reachable();
                (Model::Unigram(unigram), reachable)
            }
            other => {
                return Err(refuse(format!(
                    "a {other} model, only BPE of bytes, BPE with byte fallback and Unigram can be"
                )));
            }
        };
        let roles = pieces.iter().enumerate().map(|(id, piece)| match piece {
            None => Role::Unassigned,
            Some(_) if reachable[id] => Role::Free,
            Some(_) => Role::Unreachable,
        });
        let mut vocabulary = Vocabulary { roles: roles.collect(), model: parts };
        let mut required = self.required(&json, &pieces);
        required.extend_from_slice(named);
        // Of characters that are no pieces themselves, or atomic.
        let alone = |id: &u32| vocabulary.becomes(*id, &|_| true).is_empty();
        required.extend(vocabulary.of_role(Role::Free).filter(alone));
        for id in required {
            match vocabulary.roles.get_mut(id as usize) {
                Some(role) if *role != Role::Unassigned => *role = Role::Required,
                Some(_) | None => {
                    return Err(refuse(format!("id {id}, which is used, has no token")));
                }
            }
        }
        vocabulary.close();
        Ok(vocabulary)
    }

    /// Ids in `other` of all tokens of this tokenizer, by id; `None` where `other` lacks
    /// one, has them in another order, or an id has no token.
    pub fn ids_in(&self, other: &Self) -> Option<Vec<u32>> {
        let pieces = self.pieces(self.vocab_size());
        let ids = pieces.iter().map(|piece| other.inner.token_to_id(piece.as_deref()?));
        let ids: Vec<u32> = ids.collect::<Option<_>>()?;
        ids.is_sorted_by(|a, b| a < b).then_some(ids)
    }

    /// `tokenizer.json`, read or made of the metadata.
    pub(super) fn own_json(&self) -> Result<Json> {
        match &self.source {
            Source::Folder(_) => {
                let bytes = self.json().ok_or_else(|| self.error("no tokenizer.json"))?;
                serde_json::from_slice(bytes).map_err(|e| self.error(e))
            }
            Source::Gguf { metadata, .. } => {
                Ok(from_gguf::build(Keys { path: &self.path, metadata })?.json)
            }
        }
    }

    /// Texts of all tokens, by id below `rows`.
    pub(super) fn pieces(&self, rows: usize) -> Vec<Option<String>> {
        let mut pieces = vec![None; rows];
        for (text, id) in self.inner.get_vocab(true) {
            if let Some(slot) = pieces.get_mut(id as usize) {
                *slot = Some(text);
            }
        }
        pieces
    }

    /// Ids that every text may need, or that have a meaning of their own.
    fn required(&self, json: &Json, pieces: &[Option<String>]) -> Vec<u32> {
        let model = &json["model"];
        let mut required: Vec<u32> = self.inner.get_added_tokens_decoder().into_keys().collect();
        required.extend(self.ends.iter().flatten());
        let super::NamedTokens { bos, eos, pad, unk } = self.named;
        required.extend([bos, eos, pad, unk].into_iter().flatten());
        let unk = model["unk_token"].as_str().and_then(|text| self.inner.token_to_id(text));
        required.extend(unk);
        required.extend(model["unk_id"].as_u64().and_then(|id| u32::try_from(id).ok()));
        if let Source::Gguf { metadata, .. } = &self.source {
            let ids = metadata.iter().filter(|(key, _)| key.ends_with("_token_id"));
            let ids = ids.filter_map(|(_, value)| u32::try_from(value.as_u64()?).ok());
            // Some files name an id that is none of theirs.
            required.extend(ids.filter(|id| pieces.get(*id as usize).is_some_and(Option::is_some)));
        }
        let byte_level = is_byte_level(json);
        let fallback = model["byte_fallback"] == true;
        let single = |text: &str| text.chars().nth(1).is_none();
        let bytes = |text: &str| if byte_level { single(text) } else { fallback && is_byte(text) };
        let own =
            || pieces.iter().enumerate().filter_map(|(id, text)| Some((id, text.as_deref()?)));
        let all_bytes = own().filter(|(_, text)| bytes(text)).count() >= 256;
        // A space is written as its mark, which its bytes would not be read as.
        let stays = |text: &str| bytes(text) || text == SPACE || (!all_bytes && single(text));
        required.extend(own().filter(|(_, text)| stays(text)).map(|(id, _)| id as u32));
        required.extend(self.template_ids());
        required
    }

    /// Ids of the chat template's own words.
    fn template_ids(&self) -> Vec<u32> {
        let Ok(Some(template)) = self.chat() else { return Vec::new() };
        let turns = |roles: &[&str]| -> Vec<Message> {
            roles.iter().map(|role| Message::new(*role, "Hi")).collect()
        };
        let mut ids = Vec::new();
        for roles in
            [&["user"][..], &["system", "user", "assistant", "user"], &["user", "assistant"]]
        {
            for prompt in [false, true] {
                // A template may have no place for a role.
                let Ok(text) = template.render(&turns(roles), prompt) else { continue };
                ids.extend(self.encode_plain(&text).unwrap_or_default());
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Whether characters of pieces stand for bytes.
fn is_byte_level(json: &Json) -> bool {
    let step = |part: &Json| part["type"] == "ByteLevel";
    let any = |part: &Json, list: &str| {
        step(part) || part[list].as_array().is_some_and(|steps| steps.iter().any(step))
    };
    any(&json["pre_tokenizer"], "pretokenizers") && any(&json["decoder"], "decoders")
}

/// Merges by their two pieces.
struct Pairs<'a> {
    ids: HashMap<&'a str, u32>,
    /// Rank and result.
    merges: HashMap<(u32, u32), (usize, u32)>,
    fallback: bool,
    /// Words that are pieces stay whole, whatever the merges say.
    ignore_merges: bool,
}

impl<'a> Pairs<'a> {
    /// An error in words.
    fn read(json: &Json, pieces: &'a [Option<String>]) -> Result<Self, String> {
        let model = &json["model"];
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model[key].as_str().is_some_and(|text| !text.is_empty()) {
                return Err(format!("BPE with {key}"));
            }
        }
        let fallback = model["byte_fallback"] == true;
        if !fallback && !is_byte_level(json) {
            return Err("BPE of characters without byte fallback".into());
        }
        let mut ids = HashMap::new();
        for (id, text) in pieces.iter().enumerate() {
            ids.extend(text.as_deref().map(|text| (text, id as u32)));
        }
        let mut merges = HashMap::new();
        let mut joined = String::new();
        for (rank, merge) in merges::of(model)?.into_iter().enumerate() {
            let (left, right) = merge;
            joined.clear();
            joined.extend([left, right]);
            if let (Some(&l), Some(&r), Some(&both)) =
                (ids.get(left), ids.get(right), ids.get(joined.as_str()))
            {
                // As the library: the last of equal pairs counts.
                merges.insert((l, r), (rank, both));
            }
        }
        Ok(Self { ids, merges, fallback, ignore_merges: model["ignore_merges"] == true })
    }

    /// What each piece becomes, and whether any text becomes the piece.
    fn all(&self, pieces: &[Option<String>]) -> (Vec<Box<[u32]>>, Vec<bool>) {
        let found = pieces.iter().enumerate().map(|(id, text)| match text {
            Some(text) if text.len() <= MAX_PIECE => self.of(id as u32, text),
            Some(_) | None => (Vec::new(), false),
        });
        found.map(|(becomes, reachable)| (becomes.into_boxed_slice(), reachable)).unzip()
    }

    /// Merges a piece's own characters: the pieces of the last merge, and whether it
    /// ends with the piece.
    fn of(&self, id: u32, text: &str) -> (Vec<u32>, bool) {
        let bytes = |text: &str| -> Option<Vec<u32>> {
            let byte = |byte: u8| self.ids.get(format!("<0x{byte:02X}>").as_str()).copied();
            text.bytes().map(byte).collect()
        };
        let mut symbols = Vec::new();
        let mut single = [0; 4];
        for char in text.chars() {
            let char: &str = char.encode_utf8(&mut single);
            match (self.ids.get(char), self.fallback) {
                (Some(&id), _) => symbols.push(id),
                (None, true) => symbols.extend(bytes(char).unwrap_or_default()),
                (None, false) => return (Vec::new(), self.ignore_merges),
            }
        }
        if symbols == [id] {
            // A character: of bytes where there are some, else atomic.
            let apart = if self.fallback { bytes(text).unwrap_or_default() } else { Vec::new() };
            return (apart, true);
        }
        let rank = |pair: &[u32]| self.merges.get(&(pair[0], pair[1])).copied();
        let mut ranks: Vec<_> = symbols.windows(2).map(rank).collect();
        let mut last = Vec::new();
        loop {
            let next = ranks.iter().enumerate().filter_map(|(at, found)| Some((at, (*found)?)));
            let Some((at, (_, both))) = next.min_by_key(|(at, (rank, _))| (*rank, *at)) else {
                break;
            };
            last = symbols[at..at + 2].to_vec();
            symbols.splice(at..at + 2, [both]);
            ranks.remove(at);
            for place in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                if let (Some(slot), Some(pair)) =
                    (ranks.get_mut(place), symbols.get(place..place + 2))
                {
                    *slot = rank(pair);
                }
            }
        }
        if symbols == [id] { (last, true) } else { (symbols, self.ignore_merges) }
    }
}

/// Pieces with log-probabilities.
#[derive(Debug)]
struct Unigram {
    ids: HashMap<String, (u32, f64)>,
    texts: Vec<Option<String>>,
    /// Longest piece in bytes.
    longest: usize,
    /// Score of a character that is no piece.
    unknown: f64,
    /// The ids of the 256 bytes, where it falls back on them.
    bytes: Option<Vec<u32>>,
}

/// The library's penalty of unknown characters.
const UNKNOWN_PENALTY: f64 = 10.0;

impl Unigram {
    /// An error in words.
    fn read(model: &Json, pieces: &[Option<String>]) -> Result<Self, String> {
        let list = model["vocab"].as_array().ok_or("a Unigram without a list of pieces")?;
        let mut ids = HashMap::with_capacity(list.len());
        let (mut least, mut longest) = (f64::INFINITY, 0);
        for (id, entry) in list.iter().enumerate() {
            let (Some(text), Some(score)) = (entry[0].as_str(), entry[1].as_f64()) else {
                return Err(format!("piece {id} is no text with a score"));
            };
            if text.len() > MAX_PIECE {
                return Err(format!("piece {id} has {} bytes", text.len()));
            }
            (least, longest) = (least.min(score), longest.max(text.len()));
            ids.insert(text.to_owned(), (id as u32, score));
        }
        let byte = |byte: u32| ids.get(&format!("<0x{byte:02X}>")).map(|(id, _)| *id);
        let bytes =
            if model["byte_fallback"] == true { (0..256).map(byte).collect() } else { None };
        let unknown = least - UNKNOWN_PENALTY;
        Ok(Self { bytes, ids, texts: pieces.to_vec(), longest, unknown })
    }

    /// The best segmentation of a text by pieces that `stays` says; `None` where it has
    /// a character that is neither a piece nor of bytes.
    fn segmented(&self, text: &str, stays: &dyn Fn(u32) -> bool) -> Option<Vec<u32>> {
        // Of each place that a character ends at: score, where the last piece begins, its id.
        let mut best: Vec<Option<(f64, usize, Option<u32>)>> = vec![None; text.len() + 1];
        best[0] = Some((0.0, 0, None));
        for (start, char) in text.char_indices() {
            let (before, ..) = best[start]?;
            let mut single = false;
            let mut offer = |end: usize, score: f64, id: Option<u32>| {
                let slot = &mut best[end];
                if slot.is_none_or(|(found, ..)| score > found) {
                    *slot = Some((score, start, id));
                }
            };
            let most = (start + self.longest).min(text.len());
            for end in (start + 1..=most).filter(|end| text.is_char_boundary(*end)) {
                let Some((id, score)) = self.ids.get(&text[start..end]) else { continue };
                if stays(*id) {
                    single |= end == start + char.len_utf8();
                    offer(end, before + score, Some(*id));
                }
            }
            if !single {
                offer(start + char.len_utf8(), before + self.unknown, None);
            }
        }
        let (mut ids, mut end) = (Vec::new(), text.len());
        while end > 0 {
            let (_, start, id) = best[end]?;
            match (id, &self.bytes) {
                (Some(id), _) => ids.push(id),
                (None, Some(bytes)) => {
                    ids.extend(
                        text.as_bytes()[start..end].iter().rev().map(|b| bytes[*b as usize]),
                    );
                }
                (None, None) => return None,
            }
            end = start;
        }
        ids.reverse();
        Some(ids)
    }

    fn becomes(&self, id: u32, stays: &dyn Fn(u32) -> bool) -> Option<Vec<u32>> {
        let text = self.texts.get(id as usize)?.as_deref()?;
        self.segmented(text, &|other| other != id && stays(other))
    }

    /// Whether a piece alone is itself.
    fn reachable(&self) -> Vec<bool> {
        let itself = |(id, text): (usize, &Option<String>)| {
            let text = text.as_deref();
            text.is_some_and(|t| self.segmented(t, &|_| true) == Some(vec![id as u32]))
        };
        self.texts.iter().enumerate().map(itself).collect()
    }
}
