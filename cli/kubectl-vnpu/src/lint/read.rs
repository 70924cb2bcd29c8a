//! Reading what is to be judged: files, directories and standard input, each with any number of YAML or JSON documents.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_saphyr::Spanned;
use vnpu_driver::controller_config::{ConfigError, ControllerConfig};

/// One object, and where it is written.
#[derive(Debug)]
pub(crate) struct Document {
    /// The file; `stdin` for standard input.
    pub(crate) file: String,
    /// The line on which it begins.
    pub(crate) line: u64,
    /// The object.
    pub(crate) object: Value,
}

/// What cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// A file or directory that cannot be opened.
    #[error("{file}: {source}")]
    Io {
        /// Which.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is written is neither YAML nor JSON.
    #[error("{file}: {message}")]
    Syntax {
        /// Which file.
        file: String,
        /// What is wrong, and where.
        message: String,
    },
    /// A directory without files to read.
    #[error("{file}: no .yaml, .yml or .json in it")]
    Empty {
        /// Which directory.
        file: String,
    },
    /// The configuration is none.
    #[error("{file}: {source}")]
    Config {
        /// Which file.
        file: String,
        /// What is wrong.
        source: ConfigError,
    },
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() }
}

fn text(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io { file: shown(path), source };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// The documents of all paths, in the order given (those of a directory by name), and what could not be read.
pub(crate) fn documents(paths: &[PathBuf]) -> (Vec<Document>, Vec<ReadError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        let files = match files(path) {
            Ok(files) => files,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for file in files {
            match text(&file).and_then(|text| parse(&shown(&file), &text)) {
                Ok(found) => documents.extend(found),
                Err(error) => errors.push(error),
            }
        }
    }
    (documents, errors)
}

/// The file itself, or what lies below a directory.
fn files(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    below(path, &mut found)?;
    if found.is_empty() { Err(ReadError::Empty { file: shown(path) }) } else { Ok(found) }
}

fn below(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), ReadError> {
    let failed = |source| ReadError::Io { file: shown(directory), source };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The type of the entry itself: a link to a directory could lead back here.
        entries.push((entry.path(), entry.file_type().map_err(failed)?.is_dir()));
    }
    entries.sort();
    for (path, is_directory) in entries {
        if is_directory {
            below(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json") {
            found.push(path);
        }
    }
    Ok(())
}

/// The documents of one text; a `List` counts as what is in it.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Document>, ReadError> {
    let syntax = |message: String| ReadError::Syntax { file: file.to_owned(), message };
    let read: Vec<Spanned<Value>> = serde_saphyr::from_multiple(text).map_err(|e| syntax(e.to_string()))?;
    let mut documents = Vec::new();
    for document in read {
        let line = document.referenced.line();
        if !document.value.is_object() {
            return Err(syntax(format!(
                "line {line}: a document must be an object with apiVersion and kind"
            )));
        }
        let is_list =
            document.value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        let items = document.value.get("items").and_then(Value::as_array).filter(|_| is_list);
        let objects = items.cloned().unwrap_or_else(|| vec![document.value]);
        documents.extend(objects.into_iter().map(|object| Document { file: file.to_owned(), line, object }));
    }
    Ok(documents)
}

/// The configuration in a file.
pub(crate) fn config(path: &Path) -> Result<ControllerConfig, ReadError> {
    let file = shown(path);
    let document: Value = serde_saphyr::from_str(&text(path)?)
        .map_err(|e| ReadError::Syntax { file: file.clone(), message: e.to_string() })?;
    ControllerConfig::read(&document).map_err(|source| ReadError::Config { file, source })
}
