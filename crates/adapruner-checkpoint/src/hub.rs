//! Models by hub id (`owner/name`) and files of data sets, fetched into the
//! Hugging Face cache.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};

use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    hf::{
        self,
        pass_through::PROCESSOR_FILES,
        source::{INDEX, SINGLE},
    },
    tokenizer::folder::TEMPLATES,
};

/// Files that a model must have beside its weights.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that a model may have.
const OPTIONAL: [&str; 5] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];
/// Chat templates beside the usual one that are fetched at most.
const MAX_TEMPLATES: usize = 16;
/// Tries after the first one that failed half way.
const RETRIES: usize = 3;

/// Fetches what of a model is not yet in the cache, and opens it.
///
/// # Errors
/// An id that the hub does not know, no network, no safetensors weights; see
/// also [`Checkpoint::open`].
pub(crate) fn open(id: &str) -> Result<Checkpoint> {
    let builder = api_from_env().map_err(|message| {
        let error = Error::NotFound { name: id.to_owned(), message };
        error.advise("set HF_HOME to a folder for downloads")
    })?;
    hf::open(&fetch(id, builder, &Cache::from_env())?)
}

/// Fetches a file of data set `id`, the first of `files` that the hub has, or
/// finds it in the cache.
///
/// # Errors
/// The reason why there is none, for the caller's message.
pub(crate) fn data_file(id: &str, revision: &str, files: &[String]) -> Result<PathBuf, String> {
    fetch_data(id, revision, files, api_from_env()?)
}

fn fetch_data(
    id: &str,
    revision: &str,
    files: &[String],
    builder: ApiBuilder,
) -> Result<PathBuf, String> {
    let unreachable = |e: &ApiError| format!("the hub cannot be reached for {id}: {e}");
    let api = builder.with_retries(RETRIES).build().map_err(|e| unreachable(&e))?;
    let data_set = Repo::with_revision(id.to_owned(), RepoType::Dataset, revision.to_owned());
    let repo = api.repo(data_set);
    for file in files {
        match repo.get(file) {
            Ok(path) => return Ok(path),
            Err(e) if is_absent(&e) => {}
            Err(e) => {
                return Err(match status(&e) {
                    Some(401 | 403) => format!("the hub gives no access to {file} of {id}"),
                    Some(code) => format!("the hub answered {code} for {file} of {id}"),
                    None => unreachable(&e),
                });
            }
        }
    }
    Err(format!("the hub's {id} has no {}", files.join(" or ")))
}

/// Access to the hub as the environment says.
fn api_from_env() -> Result<ApiBuilder, String> {
    // Without either the cache has no place.
    if std::env::var_os("HF_HOME").is_none() && std::env::home_dir().is_none() {
        return Err("no home directory for the hub's cache".to_owned());
    }
    Ok(ApiBuilder::from_env().with_progress(std::io::stderr().is_terminal()))
}

/// Brings the files of model `id` into the cache; the snapshot's folder.
fn fetch(id: &str, builder: ApiBuilder, cache: &Cache) -> Result<PathBuf> {
    let api = builder.with_retries(RETRIES).build().map_err(|e| unreachable_hub(id, &e))?;
    let model = Repo::new(id.to_owned(), RepoType::Model);
    let cached = |name: &str| cache.repo(model.clone()).get(name);
    let repo = api.repo(model.clone());
    let required = |name: &str| repo.get(name).map_err(|e| refused(id, name, &e));

    let mut config = None;
    for name in REQUIRED {
        let path = required(name)?;
        config.get_or_insert(path);
    }
    if let Some(index) = cached(INDEX) {
        fetch_shards(id, &index, &repo)?;
    } else {
        match repo.get(SINGLE) {
            Ok(_) => {}
            Err(e) if is_absent(&e) => match repo.get(INDEX) {
                Ok(index) => fetch_shards(id, &index, &repo)?,
                Err(e) if is_absent(&e) => {
                    let message = "the model has no safetensors weights on the hub".to_owned();
                    return Err(Error::NotFound { name: id.to_owned(), message });
                }
                Err(e) => return Err(refused(id, INDEX, &e)),
            },
            Err(e) => return Err(refused(id, SINGLE, &e)),
        }
    }
    fetch_optional(id, &repo);
    let folder = config.as_deref().and_then(Path::parent);
    folder.map(Path::to_path_buf).ok_or_else(|| Error::NotFound {
        name: id.to_owned(),
        message: "nothing was fetched".to_owned(),
    })
}

/// Fetches what a model may have beside its weights.
fn fetch_optional(id: &str, repo: &ApiRepo) {
    // Without a network the rest would wait in vain as well.
    let unreachable = |what: &str, e: &ApiError| {
        tracing::warn!("{id}: {what} could not be fetched: {e}");
    };
    for name in OPTIONAL.into_iter().chain(PROCESSOR_FILES) {
        match repo.get(name) {
            Ok(_) => {}
            Err(e) if is_absent(&e) => {}
            Err(e) => return unreachable(name, &e),
        }
    }
    let listed = match repo.info() {
        Ok(info) => info.siblings,
        // A mirror may have the files alone.
        Err(e) if is_absent(&e) => return,
        Err(e) => return unreachable(TEMPLATES, &e),
    };
    let plain = |name: &str| {
        name.strip_prefix(TEMPLATES)
            .and_then(|name| name.strip_prefix('/')?.strip_suffix(".jinja"))
            .is_some_and(|name| !name.is_empty() && !name.contains(['/', '\\']))
    };
    let names = listed.into_iter().map(|file| file.rfilename).filter(|name| plain(name));
    for name in names.take(MAX_TEMPLATES) {
        if let Err(e) = repo.get(&name) {
            return unreachable(&name, &e);
        }
    }
}

fn fetch_shards(id: &str, index: &Path, repo: &ApiRepo) -> Result<()> {
    for file in hf::source::shard_tensors(index)?.into_keys() {
        repo.get(&file).map_err(|e| refused(id, &file, &e))?;
    }
    Ok(())
}

/// Whether the hub answered that there is no such file.
fn is_absent(error: &ApiError) -> bool {
    status(error) == Some(404)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "foreign enums; only one variant counts")]
fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(code) => Some(code),
            _ => None,
        },
        ApiError::TooManyRetries(error) => status(error),
        _ => None,
    }
}

fn refused(id: &str, file: &str, error: &ApiError) -> Error {
    let message = match status(error) {
        Some(401 | 403) => {
            let message =
                format!("no such file or folder, and the hub gives no access to it ({file})");
            let error = Error::NotFound { name: id.to_owned(), message };
            return error.advise("check the spelling; gated models need a token (hf auth login)");
        }
        Some(404) => format!("no such file or folder, and the hub has no {file} for it"),
        Some(code) => {
            format!("no such file or folder, and the hub answered {code} for {file}")
        }
        None => return unreachable_hub(id, error),
    };
    let error = Error::NotFound { name: id.to_owned(), message };
    error
        .advise("give a local folder or a GGUF file, or the id of a model with safetensors weights")
}

fn unreachable_hub(id: &str, error: &ApiError) -> Error {
    let message = format!("no such file or folder, and the hub cannot be reached: {error}");
    let error = Error::NotFound { name: id.to_owned(), message };
    error.advise("give a local folder or a GGUF file")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        io::{BufRead, BufReader, Read, Write},
        net::{Shutdown, TcpListener, TcpStream},
    };

    use super::*;

    /// Where the files of the model and of the data set lie.
    const ROOTS: [&str; 2] =
        ["/owner/model/resolve/main/", "/datasets/owner/data/resolve/refs%2Fconvert%2Fparquet/"];

    /// Where the model's files are listed.
    const LISTING: &str = "/api/models/owner/model/revision/main";

    /// Answers one request for the listing, or for a file under [`ROOTS`] (or a part of it) as the
    /// hub does.
    fn answer(mut stream: TcpStream, files: &HashMap<&str, &str>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut start = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(range) = line.strip_prefix("range: bytes=") {
                start = range.split('-').next().and_then(|n| n.parse::<usize>().ok());
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let file = ROOTS.iter().find_map(|root| path.strip_prefix(root));
        let listing = serde_json::json!({
            "sha": "0123abcd",
            "siblings": files.keys().map(|name| serde_json::json!({"rfilename": name}))
                .collect::<Vec<_>>(),
        });
        let listing = listing.to_string();
        let file = match path == LISTING {
            true => Some(listing.as_str()),
            false => file.and_then(|f| files.get(f)).copied(),
        };
        let response = match file {
            None => {
                "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into()
            }
            Some(content) => {
                let (total, start) = (content.len(), start.unwrap_or(0));
                format!(
                    "HTTP/1.1 206 Partial Content\r\nconnection: close\r\netag: \"{}\"\r\n\
                     x-repo-commit: 0123abcd\r\ncontent-length: {}\r\n\
                     content-range: bytes {start}-{}/{total}\r\n\r\n{}",
                    crate::Digest::of_bytes(content.as_bytes()),
                    total - start,
                    total - 1,
                    &content[start..],
                )
            }
        };
        stream.write_all(response.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        // Until the client hangs up: a reset could overtake the response.
        reader.read_to_end(&mut Vec::new()).map(drop)
    }

    /// A hub that has one model with these files; its address.
    fn serve(files: &[(&'static str, &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files: HashMap<_, _> = files.iter().copied().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = files.clone();
                // A client that hangs up early is no failure of the test.
                std::thread::spawn(move || answer(stream, &files));
            }
        });
        format!("http://{address}")
    }

    fn fetch_from(endpoint: &str, folder: &Path) -> Result<PathBuf> {
        let cache = Cache::new(folder.to_path_buf());
        let builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.to_owned())
            .with_progress(false);
        fetch("owner/model", builder, &cache)
    }

    /// An address where nobody listens.
    fn nowhere() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    const INDEX_JSON: &str = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;

    #[test]
    fn single_and_sharded_models_are_fetched_once() {
        for (weights, names) in [
            (vec![("model.safetensors", "w")], vec!["model.safetensors"]),
            (
                vec![(INDEX, INDEX_JSON), ("a.safetensors", "1"), ("b.safetensors", "2")],
                vec![INDEX, "a.safetensors", "b.safetensors"],
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut files = vec![("config.json", "{}"), ("tokenizer.json", "{}")];
            files.extend(weights);
            files.push(("generation_config.json", "{}"));
            let snapshot = fetch_from(&serve(&files), folder.path()).unwrap();
            assert_eq!(snapshot.file_name().unwrap(), "0123abcd");
            for name in names {
                assert!(snapshot.join(name).is_file(), "{name}");
            }
            assert!(snapshot.join("generation_config.json").is_file());
            assert!(!snapshot.join("tokenizer_config.json").exists());
            // What is in the cache needs no network.
            assert_eq!(fetch_from(&nowhere(), folder.path()).unwrap(), snapshot);
        }
    }

    #[test]
    fn chat_templates_come_along() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "chat_template.jinja",
            "chat_template.json",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/rag.jinja",
        ];
        let mut files =
            vec![("config.json", "{}"), ("tokenizer.json", "{}"), ("model.safetensors", "w")];
        files.extend(names.map(|name| (name, "{{ 1 }}")));
        files.push(("additional_chat_templates/deeper/x.jinja", "x"));
        files.push(("additional_chat_templates/notes.txt", "x"));
        let snapshot = fetch_from(&serve(&files), folder.path()).unwrap();
        for name in names {
            assert_eq!(std::fs::read_to_string(snapshot.join(name)).unwrap(), "{{ 1 }}", "{name}");
        }
        let others = std::fs::read_dir(snapshot.join("additional_chat_templates")).unwrap();
        assert_eq!(others.count(), 2);
        assert_eq!(fetch_from(&nowhere(), folder.path()).unwrap(), snapshot);
    }

    #[test]
    fn what_the_hub_does_not_have_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch_from(&serve(&[]), folder.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "owner/model: no such file or folder, and the hub has no config.json for it"
        );
        let files = [("config.json", "{}"), ("tokenizer.json", "{}")];
        let error = fetch_from(&serve(&files), folder.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "owner/model: the model has no safetensors weights on the hub"
        );
    }

    #[test]
    fn without_a_network_both_readings_of_the_name_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let error = fetch_from(&nowhere(), folder.path()).unwrap_err();
        let text = error.to_string();
        let expected = "owner/model: no such file or folder, and the hub cannot be reached: ";
        assert!(text.starts_with(expected) && text.len() > expected.len(), "{text}");
        assert_eq!(error.hint(), Some("give a local folder or a GGUF file"));
    }

    #[test]
    fn the_first_file_that_a_data_set_has_is_fetched_once() {
        let folder = tempfile::tempdir().unwrap();
        let fetch = |endpoint: String, files: &[&str]| {
            let builder = ApiBuilder::from_cache(Cache::new(folder.path().to_path_buf()))
                .with_endpoint(endpoint)
                .with_progress(false);
            let files: Vec<String> = files.iter().map(|&f| f.to_owned()).collect();
            fetch_data("owner/data", "refs/convert/parquet", &files, builder)
        };
        let hub = || serve(&[("en/b/0000.parquet", "rows")]);
        let file = fetch(hub(), &["en/a/0000.parquet", "en/b/0000.parquet"]).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "rows");
        // What is in the cache needs no network.
        assert_eq!(fetch(nowhere(), &["en/b/0000.parquet"]).unwrap(), file);
        assert_eq!(fetch(hub(), &["x", "y"]).unwrap_err(), "the hub's owner/data has no x or y");
        let reason = fetch(nowhere(), &["x"]).unwrap_err();
        assert!(reason.starts_with("the hub cannot be reached for owner/data: "), "{reason}");
    }
}
