//! The tokenizer's files in a Hugging Face folder.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::{NamedTokens, Source, TextTokenizer};
use crate::error::{Error, Result};

/// Largest file read here; tokenizers of 262 144 tokens have 33 MB.
const MAX_FILE: u64 = 128 << 20;

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
const TOKENS_MAP: &str = "special_tokens_map.json";
const TEMPLATE: &str = "chat_template.jinja";
/// The template as processors of images and sound keep it: an object that holds
/// it.
const TEMPLATE_JSON: &str = "chat_template.json";
/// Folder of the templates that have names of their own.
pub(crate) const TEMPLATES: &str = "additional_chat_templates";
/// Most files that are read there.
const MAX_TEMPLATES: usize = 64;

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
    let templates = templates(dir, &config["chat_template"], &mut files)?;
    let (template_file, chat_template) = templates.unzip();

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
    let tokenizer = TextTokenizer::new(inner, &path, Source::Folder(files), named, chat_template)?;
    Ok(TextTokenizer { template_file, ..tokenizer })
}

/// The chat template with the file it stands in, as transformers picks it:
/// `chat_template.jinja` before `tokenizer_config.json`, and `chat_template.json`
/// where there is neither. All files of templates are added to `files`.
fn templates(
    dir: &Path,
    entry: &Json,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<(PathBuf, String)>> {
    let config = || Some((dir.join(CONFIG), template(entry)?.to_owned()));
    let mut found = None;
    if let Some(bytes) = read_file(&dir.join(TEMPLATE))? {
        let text = String::from_utf8(bytes.clone())
            .map_err(|e| Error::format(dir.join(TEMPLATE), format!("not UTF-8: {e}")))?;
        files.push((TEMPLATE.to_owned(), bytes));
        found = Some((dir.join(TEMPLATE), text));
    }
    found = found.or_else(config);
    if let Some(bytes) = read_file(&dir.join(TEMPLATE_JSON))? {
        let path = dir.join(TEMPLATE_JSON);
        let json: Json = serde_json::from_slice(&bytes)
            .map_err(|e| Error::format(&path, format!("not valid JSON: {e}")))?;
        files.push((TEMPLATE_JSON.to_owned(), bytes));
        found = found.or_else(|| Some((path, template(&json["chat_template"])?.to_owned())));
    }
    let folder = dir.join(TEMPLATES);
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(found) };
    let mut names = Vec::new();
    for entry in entries.take(MAX_TEMPLATES) {
        let entry = entry.map_err(Error::io(&folder, "read"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        names.extend(name.ends_with(".jinja").then_some(name));
    }
    names.sort_unstable();
    for name in names {
        if let Some(bytes) = read_file(&folder.join(&name))? {
            if name == "default.jinja" && found.is_none() {
                let text = String::from_utf8(bytes.clone())
                    .map_err(|e| Error::format(folder.join(&name), format!("not UTF-8: {e}")))?;
                found = Some((folder.join(&name), text));
            }
            files.push((format!("{TEMPLATES}/{name}"), bytes));
        }
    }
    Ok(found)
}

/// A file of bounded size; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, "open")(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::format(path, format!("larger than {MAX_FILE} bytes")));
    }
    Ok(Some(bytes))
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
