//! The tokenizer's files in a Hugging Face folder.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::{NamedTokens, Source, TextTokenizer};
use crate::{
    error::{Error, Result},
    input,
};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
const TOKENS_MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";

/// Classes whose Python code replaces the post-processor of `tokenizer.json`
/// by BOS and EOS as their configuration says.
const LLAMA_CLASSES: [&str; 2] = ["LlamaTokenizer", "LlamaTokenizerFast"];

pub(super) fn read(dir: &Path) -> Result<TextTokenizer> {
    let path = dir.join(TOKENIZER);
    let Some(bytes) = read_file(&path)? else {
        let error = Error::Tokenizer { path: dir.into(), message: format!("no {TOKENIZER}") };
        let hint = "open the folder with transformers.AutoTokenizer and save it again; that writes tokenizer.json";
        return Err(error.advise(hint));
    };
    let mut inner = load(&path, &bytes)?;
    let mut files = vec![(TOKENIZER.to_owned(), bytes)];

    let mut config = Json::Null;
    let mut map = Json::Null;
    for (name, json) in [(CONFIG, &mut config), (TOKENS_MAP, &mut map)] {
        if let Some(bytes) = read_file(&dir.join(name))? {
            *json = serde_json::from_slice(&bytes)
                .map_err(|e| Error::format(dir.join(name), format!("not valid JSON: {e}")))?;
            files.push((name.to_owned(), bytes));
        }
    }
    let mut chat_template = template(&config["chat_template"]).map(str::to_owned);
    if let Some(bytes) = read_file(&dir.join(TEMPLATE))? {
        let text = String::from_utf8(bytes.clone())
            .map_err(|e| Error::format(dir.join(TEMPLATE), format!("not UTF-8: {e}")))?;
        files.push((TEMPLATE.to_owned(), bytes));
        chat_template = Some(text);
    }

    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    let llama = LLAMA_CLASSES.contains(&class);
    let id = |role: &str, default: Option<&str>| {
        let name = text(&config[role]).or_else(|| text(&map[role])).or(default);
        name.and_then(|name| inner.token_to_id(name))
    };
    let named = NamedTokens {
        bos: id("bos_token", llama.then_some("<s>")),
        eos: id("eos_token", llama.then_some("</s>")),
        pad: id("pad_token", None),
        unk: id("unk_token", llama.then_some("<unk>")),
    };
    if llama {
        let flag = |key: &str, default| config[key].as_bool().unwrap_or(default);
        let bos = named.bos.filter(|_| flag("add_bos_token", true));
        let eos = named.eos.filter(|_| flag("add_eos_token", false));
        let processor = post_processor(&inner, bos, eos);
        let processor: Option<PostProcessorWrapper> = serde_json::from_value(processor)
            .map_err(|e| Error::Tokenizer { path: path.clone(), message: e.to_string() })?;
        inner.with_post_processor(processor);
    }
    TextTokenizer::new(inner, &path, Source::Folder(files), named, chat_template)
}

/// A file of bounded size; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    input::read_if_there(path, input::TOKENIZER)
}

/// What must be known before the library may see a file.
#[derive(Deserialize)]
struct Outline {
    model: ModelOutline,
}

#[derive(Deserialize)]
struct ModelOutline {
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    merges: Option<serde::de::IgnoredAny>,
}

/// The tokenizer of a `tokenizer.json`.
pub(super) fn load(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let refuse = |message: String| Error::Tokenizer { path: path.into(), message };
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| refuse(e.to_string()))?;
    let model = outline.model;
    // The library cuts the prefix off merges without looking.
    let prefix = model.continuing_subword_prefix.unwrap_or_default();
    if model.merges.is_some() && !prefix.is_empty() {
        return Err(refuse("BPE with continuing_subword_prefix is not supported".into()));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return Err(refuse("BPE with dropout encodes at random, which is not supported".into()));
    }
    Tokenizer::from_bytes(bytes).map_err(|e| refuse(e.to_string()))
}

/// `post_processor` of tokenizer.json that adds these tokens, as transformers
/// writes it.
fn post_processor(inner: &Tokenizer, bos: Option<u32>, eos: Option<u32>) -> Json {
    let token = |id: Option<u32>| id.and_then(|id| Some((id, inner.id_to_token(id)?)));
    template_processing(token(bos), token(eos))
}

/// See [`post_processor`].
pub(super) fn template_processing(bos: Option<(u32, String)>, eos: Option<(u32, String)>) -> Json {
    if bos.is_none() && eos.is_none() {
        return Json::Null;
    }
    let sequence = |id: &str, part: u32| {
        let mut pieces = Vec::new();
        let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": part}});
        pieces.extend(bos.iter().map(|(_, text)| special(text)));
        pieces.push(json!({"Sequence": {"id": id, "type_id": part}}));
        pieces.extend(eos.iter().map(|(_, text)| special(text)));
        pieces
    };
    let tokens = bos
        .iter()
        .chain(&eos)
        .map(|(id, text)| (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]})));
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
    })
}

/// A token's text: a string, or an object that holds it.
fn text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The template of a `chat_template` entry: itself, or the one named `default`
/// of several.
fn template(entry: &Json) -> Option<&str> {
    let default = || entry.as_array()?.iter().find(|one| one["name"] == "default");
    entry.as_str().or_else(|| default()?["template"].as_str())
}
