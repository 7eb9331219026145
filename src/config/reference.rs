//! The configuration described by its own types: a JSON Schema for editors, and a page for people. Names, defaults and
//! meanings are the structs' own, so neither can say anything else than the code does.

use std::time::Duration;

use jiff::SignedDuration;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Config, PREFIX};

/// What stands in a path for a name of the reader's own.
pub const NAME: &str = "NAME";
/// What stands behind the name of a list of sections.
pub const LIST: &str = "[]";

/// One key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The sections and the key, from the outermost; [`NAME`] where a name is the reader's, [`LIST`] behind a list's.
    pub path: Vec<String>,
    /// What is written there.
    pub kind: Kind,
    /// What counts when it is left out.
    pub absent: Absent,
    /// What it means.
    pub meaning: String,
}

/// What is written behind a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One of these words, each with what it says.
    Word(Vec<(String, String)>),
    /// A value of that kind, in words.
    Value(String),
    /// A list of such values.
    List(String),
}

/// What counts when a key is left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Absent {
    /// It must not be.
    Refused,
    /// Nothing: what the key says does not happen.
    Nothing,
    /// This value.
    Value(Value),
}

/// A section, and the keys that stand in it.
#[derive(Clone, Debug)]
struct Section {
    path: Vec<String>,
    meaning: String,
    keys: Vec<Key>,
}

/// The JSON Schema of the configuration file.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    plain(&mut schema);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("title".to_owned(), "The configuration of whitelistmcp".into());
    }
    schema
}

/// Every key, section by section.
pub fn keys() -> Vec<Key> {
    sections().into_iter().flat_map(|section| section.keys).collect()
}

/// The sections as a page.
pub fn markdown() -> String {
    let mut text = String::new();
    for section in sections() {
        let name = heading(&section.path);
        text.push_str(&format!("\n## {name}\n\n"));
        if !section.meaning.is_empty() {
            text.push_str(&format!("{}\n\n", section.meaning));
        }
        if let Some(list) = section.path.iter().position(|part| part == LIST) {
            let variable = variable(section.path.get(..list).unwrap_or_default());
            text.push_str(&format!("In a variable: `{variable}=[{{ … }}, …]`, all of them together.\n\n"));
        }
        text.push_str("| key | type | default | variable | meaning |\n| --- | --- | --- | --- | --- |\n");
        for key in &section.keys {
            let name = key.path.last().map(String::as_str).unwrap_or_default();
            let variable = match key.path.iter().any(|part| part == LIST) {
                true => String::new(),
                false => format!("`{}`", variable(&key.path)),
            };
            let row = [format!("`{name}`"), key.kind.words(), key.absent.words(), variable, key.told()];
            text.push_str(&format!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | ")));
        }
    }
    text
}

// === impl Key ===

impl Key {
    fn told(&self) -> String {
        let Kind::Word(words) = &self.kind else { return self.meaning.clone() };
        let words = words.iter().filter(|(_, meaning)| !meaning.is_empty());
        let words = words.map(|(word, meaning)| format!("`{word}`: {}", meaning.trim_end_matches('.')));
        [self.meaning.clone()]
            .into_iter()
            .chain(Some(words.collect::<Vec<_>>().join("; ") + "."))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Kind {
    fn words(&self) -> String {
        match self {
            Self::Word(words) => words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or "),
            Self::Value(kind) => kind.clone(),
            Self::List(kind) => format!("list: {kind}"),
        }
    }
}

impl Absent {
    fn words(&self) -> String {
        match self {
            Self::Refused => "required".to_owned(),
            Self::Nothing => String::new(),
            // A list of strings, a number or a string is written in TOML as it is in JSON.
            Self::Value(value) => format!("`{value}`").replace(",\"", ", \""),
        }
    }
}

// === The schema, read ===

fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    walk(&schema(), &[], &mut sections);
    sections
}

/// Adds a section and those within it, as their keys stand in the struct.
fn walk(schema: &Value, path: &[String], sections: &mut Vec<Section>) {
    let below = |part: &str| path.iter().cloned().chain([part.to_owned()]).collect::<Vec<_>>();
    let no_keys = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&no_keys);
    let required = |name: &str| {
        let list = schema.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|entry| entry == name))
    };
    let mut section = Section { path: path.to_vec(), meaning: description(schema), keys: Vec::new() };
    let mut inner = Vec::new();
    for (name, property) in properties {
        let mut at = below(name);
        if property.get("properties").is_some() {
            let mut property = property.clone();
            if let (Some(property), true) = (property.as_object_mut(), required(name)) {
                let said = property.get("description").and_then(Value::as_str).unwrap_or_default();
                let said = format!("{said} It must be there where {} is.", heading(path));
                property.insert("description".to_owned(), said.into());
            }
            inner.push((at, property));
        } else if let Some(named) = property.get("additionalProperties").filter(|named| named.is_object()) {
            at.push(NAME.to_owned());
            inner.push((at, described(named, property)));
        } else if let Some(items) = property.get("items").filter(|items| items.get("properties").is_some()) {
            at.push(LIST.to_owned());
            inner.push((at, described(items, property)));
        } else {
            section.keys.push(Key {
                path: at,
                kind: kind(property),
                absent: match property.get("default") {
                    _ if required(name) => Absent::Refused,
                    Some(default) => Absent::Value(default.clone()),
                    None => Absent::Nothing,
                },
                meaning: description(property),
            });
        }
    }
    if !section.keys.is_empty() {
        sections.push(section);
    }
    for (path, schema) in inner {
        walk(&schema, &path, sections);
    }
}

/// What a list or a table of sections says of itself goes before what one of them says.
fn described(one: &Value, all: &Value) -> Value {
    let mut one = one.clone();
    if let (Some(one), Some(said)) = (one.as_object_mut(), all.get("description")) {
        one.insert("description".to_owned(), said.clone());
    }
    one
}

fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    // Links within the code's documentation lead nowhere here.
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`")
}

fn kind(schema: &Value) -> Kind {
    let word = |value: &Value| {
        let text = value.get("const").or(Some(value)).and_then(Value::as_str)?;
        Some((text.to_owned(), description(value)))
    };
    let words = ["oneOf", "enum"].into_iter().find_map(|list| schema.get(list)?.as_array());
    if let Some(words) = words {
        return Kind::Word(words.iter().filter_map(word).collect());
    }
    let of = |schema: &Value| {
        let say = |key| schema.get(key).and_then(Value::as_str);
        let format = say("format").filter(|format| *format == "uri").map(|_| "URL");
        say("title").or(format).or(say("type")).unwrap_or("any").to_owned()
    };
    match schema.get("items") {
        Some(items) => Kind::List(of(items)),
        None => Kind::Value(of(schema)),
    }
}

fn heading(path: &[String]) -> String {
    let is_list = path.last().is_some_and(|part| part == LIST);
    let name = path.iter().filter(|part| *part != LIST).cloned().collect::<Vec<_>>().join(".");
    if is_list { format!("`[[{name}]]`") } else { format!("`[{name}]`") }
}

fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.iter().map(|part| part.to_uppercase()).collect::<Vec<_>>().join("__"))
}

// === The schema, tidied ===

/// Takes out what the file cannot hold: TOML has no null, a duration is text, and Rust's widths of numbers are nobody's matter.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Object(object) => {
            let is_null = |value: &Value| value.is_null() || value.get("type").is_some_and(|kind| kind == "null");
            if let Some(Value::Array(alternatives)) = object.get_mut("anyOf") {
                alternatives.retain(|alternative| !is_null(alternative));
            }
            let single = match object.get("anyOf").and_then(Value::as_array).map(Vec::as_slice) {
                Some([Value::Object(one)]) => Some(one.clone()),
                _ => None,
            };
            if let Some(one) = single {
                object.remove("anyOf");
                for (key, value) in one {
                    object.entry(key).or_insert(value);
                }
            }
            if let Some(Value::Array(words)) = object.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            if let Some(kinds) = object.get_mut("type").filter(|kinds| kinds.is_array()) {
                let one = kinds.as_array().and_then(|kinds| kinds.iter().find(|kind| *kind != "null")).cloned();
                *kinds = one.unwrap_or_default();
            }
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.contains("int")) {
                object.remove("format");
            }
            match object.get("default").map(written) {
                Some(Value::Null) => drop(object.remove("default")),
                Some(value) => drop(object.insert("default".to_owned(), value)),
                None => {}
            }
            object.values_mut().for_each(plain);
        }
        _ => {}
    }
}

/// A default as it would be written in the file.
fn written(default: &Value) -> Value {
    let number = |key| default.get(key).and_then(Value::as_u64);
    let length = || {
        let length = Duration::new(number("secs")?, u32::try_from(number("nanos")?).ok()?);
        SignedDuration::try_from(length).ok()
    };
    match length() {
        Some(length) if length.is_zero() => "0s".into(),
        Some(length) => format!("{length:#}").into(),
        None => default.clone(),
    }
}
