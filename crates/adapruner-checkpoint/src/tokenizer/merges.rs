//! The merges of a `tokenizer.json`.

use serde_json::Value as Json;

/// The two texts of a merge: a pair, or as old files write it one text with a space
/// between.
pub(super) fn pair(merge: &Json) -> Option<(&str, &str)> {
    match (merge.as_str(), merge.as_array().map(Vec::as_slice)) {
        (Some(text), _) => text.split_once(' '),
        (None, Some([left, right])) => Some((left.as_str()?, right.as_str()?)),
        _ => None,
    }
}

/// Whether an entry is the line that old files begin with.
pub(super) fn is_heading(merge: &Json) -> bool {
    merge.as_str().is_some_and(|text| text.starts_with("#version"))
}

/// All merges of a model, the first to be made first; an error in words that shows
/// what is no merge.
pub(super) fn of(model: &Json) -> Result<Vec<(&str, &str)>, String> {
    let list = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let merges = list.iter().filter(|merge| !is_heading(merge));
    merges.map(|merge| pair(merge).ok_or_else(|| format!("merge {merge} is no pair"))).collect()
}

/// The two texts of a merge in GGUF, which stands as one text: cut at its first space
/// behind its first byte, as llama.cpp does.
pub(super) fn cut(merge: &str) -> Option<(&str, &str)> {
    let at = merge.bytes().skip(1).position(|byte| byte == b' ')? + 1;
    Some((&merge[..at], &merge[at + 1..]))
}
