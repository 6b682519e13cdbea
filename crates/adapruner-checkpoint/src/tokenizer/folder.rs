//! The tokenizer's files in a Hugging Face folder.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::{
    NamedTokens, Source, TextTokenizer,
    added::Beside,
    check::{self, Outline},
    from_gguf::SPACE,
};
use crate::{
    error::{Error, Result},
    fence::{fenced, fenced_deep},
    input,
};

pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
const TOKENS_MAP: &str = "special_tokens_map.json";
pub(super) const ADDED: &str = "added_tokens.json";
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
pub(super) const LLAMA_CLASSES: [&str; 2] = ["LlamaTokenizer", "LlamaTokenizerFast"];
/// The class that takes `tokenizer.json` as it is.
const FAST_CLASS: &str = "PreTrainedTokenizerFast";
/// The tokens that they name where no file does.
const LLAMA_DEFAULTS: [(&str, &str); 3] =
    [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];

pub(super) fn read(dir: &Path) -> Result<TextTokenizer> {
    let path = dir.join(TOKENIZER);
    let Some(bytes) = read_file(&path)? else {
        let error = Error::Tokenizer { path: dir.into(), message: format!("no {TOKENIZER}") };
        let hint = "open the folder with transformers.AutoTokenizer and save it again; that writes tokenizer.json";
        return Err(error.advise(hint));
    };
    let mut files = vec![(TOKENIZER.to_owned(), bytes)];
    for name in [CONFIG, TOKENS_MAP, ADDED] {
        files.extend(read_file(&dir.join(name))?.map(|bytes| (name.to_owned(), bytes)));
    }
    let config = parsed(dir, &files, CONFIG)?;
    let template = templates(dir, &config["chat_template"], &mut files)?.unzip();
    assembled(dir, files, template)
}

/// One of a folder's files as JSON; null where there is none.
fn parsed(dir: &Path, files: &[(String, Vec<u8>)], name: &str) -> Result<Json> {
    let Some((_, bytes)) = files.iter().find(|(other, _)| other == name) else {
        return Ok(Json::Null);
    };
    serde_json::from_slice(bytes)
        .map_err(|e| Error::format(dir.join(name), format!("not valid JSON: {e}")))
}

/// The tokenizer of files as they stand in `dir`, `tokenizer.json` first, with the file of
/// its chat template and the template.
pub(super) fn assembled(
    dir: &Path,
    files: Vec<(String, Vec<u8>)>,
    (template_file, chat_template): (Option<PathBuf>, Option<String>),
) -> Result<TextTokenizer> {
    let path = dir.join(TOKENIZER);
    let bytes = files.first().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
    let mut inner = load(&path, bytes)?;
    let config = parsed(dir, &files, CONFIG)?;
    let (map, added) = (parsed(dir, &files, TOKENS_MAP)?, parsed(dir, &files, ADDED)?);
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    let llama = LLAMA_CLASSES.contains(&class);
    let defaults: &[_] = if llama { &LLAMA_DEFAULTS } else { &[] };
    let beside = Beside { config: &config, map: &map, added: &added, defaults };
    let refuse = |message: String| Error::Tokenizer { path: dir.join(CONFIG), message };
    let complete = fenced(|| beside.add_to(&mut inner));
    complete.and_then(|added| added).map_err(refuse)?;
    let id = |role: &str| beside.role(role).and_then(|name| inner.token_to_id(name));
    let named = NamedTokens {
        bos: id("bos_token"),
        eos: id("eos_token"),
        pad: id("pad_token"),
        unk: id("unk_token"),
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

/// The files to write for a tokenizer that was read from `files`.
///
/// transformers 5 builds a SentencePiece tokenizer of its own under Llama's class
/// names and takes nothing but the vocabulary from `tokenizer.json`. Where the
/// file says otherwise (byte-level BPE, say), the class becomes the one that
/// takes the file as it is, and what the class added to a text is written out.
pub(super) fn written(
    tokenizer: &TextTokenizer,
    files: &[(String, Vec<u8>)],
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = files.to_vec();
    let Some(at) = files.iter().position(|(name, _)| name == CONFIG) else { return Ok(files) };
    let parse = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|e| tokenizer.error(e));
    let mut config: Json = parse(&files[at].1)?;
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    if !LLAMA_CLASSES.contains(&class) {
        return Ok(files);
    }
    let Some((_, bytes)) = files.first() else { return Ok(files) };
    let mut json: Json = parse(bytes)?;
    if is_llama(&json) {
        return Ok(files);
    }
    tracing::warn!(
        "{}: tokenizer class {class} does not fit tokenizer.json; written as {FAST_CLASS}",
        tokenizer.path.display()
    );
    let NamedTokens { bos, eos, pad, unk } = tokenizer.named;
    config["tokenizer_class"] = FAST_CLASS.into();
    config["add_bos_token"] = tokenizer.adds_bos.into();
    config["add_eos_token"] = tokenizer.adds_eos.into();
    for (role, id) in [("bos", bos), ("eos", eos), ("pad", pad), ("unk", unk)] {
        let key = format!("{role}_token");
        if let Some(text) = id.and_then(|id| tokenizer.inner.id_to_token(id))
            && config[&key].is_null()
        {
            config[&key] = text.into();
        }
    }
    let (bos, eos) = (bos.filter(|_| tokenizer.adds_bos), eos.filter(|_| tokenizer.adds_eos));
    json["post_processor"] = post_processor(&tokenizer.inner, bos, eos);
    files[0].1 = json.to_string().into_bytes();
    files[at].1 = format!("{config:#}\n").into_bytes();
    Ok(files)
}

/// Whether a `tokenizer.json` is what transformers builds under Llama's class
/// names: BPE with bytes to fall back on, each space a mark, one more in front.
fn is_llama(json: &Json) -> bool {
    let (normalizer, pre_tokenizer) = (&json["normalizer"], &json["pre_tokenizer"]);
    let replace = |part: &Json| {
        part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == SPACE
    };
    let prepend = |part: &Json| part["type"] == "Prepend" && part["prepend"] == SPACE;
    let normalized = match normalizer["normalizers"].as_array().map(Vec::as_slice) {
        Some([first, second]) => prepend(first) && replace(second) && pre_tokenizer.is_null(),
        Some(_) | None => false,
    };
    let cut = normalizer.is_null()
        && pre_tokenizer["type"] == "Metaspace"
        && pre_tokenizer["replacement"] == SPACE
        && pre_tokenizer["split"] == false
        && pre_tokenizer["prepend_scheme"] != "never";
    json["model"]["byte_fallback"] == true && (normalized || cut)
}

/// A file of bounded size; `None` where there is none.
fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    input::read_if_there(path, input::TOKENIZER)
}

/// The tokenizer of a `tokenizer.json`, checked before the library sees it.
pub(super) fn load(path: &Path, bytes: &[u8]) -> Result<Tokenizer> {
    let refuse = |message: String| Error::Tokenizer { path: path.into(), message };
    let outline: Outline = serde_json::from_slice(bytes).map_err(|e| refuse(e.to_string()))?;
    outline.check().map_err(refuse)?;
    let loaded = fenced_deep(|| Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()));
    let tokenizer = loaded.and_then(|loaded| loaded).map_err(refuse)?;
    check::tried(&tokenizer).map_err(refuse)?;
    Ok(tokenizer)
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

/// The template of a `chat_template` entry: itself, or the one named `default`
/// of several.
fn template(entry: &Json) -> Option<&str> {
    let default = || entry.as_array()?.iter().find(|one| one["name"] == "default");
    entry.as_str().or_else(|| default()?["template"].as_str())
}
