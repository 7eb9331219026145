//! Heads that were kept elsewhere, in whatever file they were kept: lines of the journal, log records as a collector
//! writes them (OTLP in JSON), or a list of heads.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::audit::head::Head;

/// How deep a file is looked into.
const DEPTH_MOST: usize = 32;

/// A head, and where it was found.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The head.
    pub head: Head,
    /// The file and line.
    pub at: String,
}

/// A file of heads that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadsError {
    /// The file.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing in it.
    #[error("{0} holds no head: it must hold lines of the journal, log records in JSON, or heads")]
    None(PathBuf),
}

impl Kept {
    /// Finds every head in a file.
    pub fn read(path: &Path) -> Result<Vec<Self>, HeadsError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| HeadsError::Read { path: path.to_owned(), source })?;
        let mut found = Vec::new();
        match serde_json::from_str::<Value>(&text) {
            Ok(whole) => look(&whole, &path.display().to_string(), 0, &mut found),
            Err(_) => {
                for (line, number) in text.lines().zip(1..) {
                    // What stands before the object, such as a log's own time, is of no matter.
                    let Some(value) = line.find('{').and_then(|start| first_object(line.get(start..)?)) else {
                        continue;
                    };
                    look(&value, &format!("{}:{number}", path.display()), 0, &mut found);
                }
            }
        }
        if found.is_empty() { Err(HeadsError::None(path.to_owned())) } else { Ok(found) }
    }
}

fn first_object(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok()
}

fn look(value: &Value, at: &str, depth: usize, found: &mut Vec<Kept>) {
    if depth > DEPTH_MOST {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let Ok(head) = serde_json::from_value::<Head>(value.clone()) {
                found.push(Kept { head, at: at.to_owned() });
                return;
            }
            fields.values().for_each(|value| look(value, at, depth + 1, found));
        }
        Value::Array(values) => values.iter().for_each(|value| look(value, at, depth + 1, found)),
        // A log record's body is the journal's line, as text.
        Value::String(text) if text.contains("\"head\"") => {
            if let Some(value) = first_object(text) {
                look(&value, at, depth + 1, found);
            }
        }
        _ => {}
    }
}
