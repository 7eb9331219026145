//! Environment variables over the file: `WHITELISTMCP_EDGE__LISTEN` is `edge.listen`. One variable keeps the name that
//! deployments of other MCP servers know it by: `CORS_ORIGINS`.

use toml::{Table, Value};
use url::Url;

use super::{Config, ConfigError};

/// What every variable of ours starts with. Two underscores part a section from a key.
pub const PREFIX: &str = "WHITELISTMCP_";

/// The variable that names the configuration file; read by the command line, not here.
const FILE: &str = "WHITELISTMCP_CONFIG";

/// What variables of the bridge start with. They may stand in a shell's profile, and are nothing to a service.
const BRIDGE: &str = "WHITELISTMCP_BRIDGE_";

/// Its name by our own rule.
const LISTED: &str = "WHITELISTMCP_EDGE__ALLOWED_ORIGINS";

/// The web origins that may call, parted by commas: `edge.allowed_origins`.
const ORIGINS: &str = "CORS_ORIGINS";

/// Lays the variables over the table, each checked alone so that a wrong one is refused by its name.
pub(super) fn overlay(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(), ConfigError> {
    let mut origins = None;
    let mut variables = Vec::new();
    for (name, text) in environment {
        if name == ORIGINS {
            origins = Some(text);
        } else if name.starts_with(PREFIX) && name != FILE && !name.starts_with(BRIDGE) {
            variables.push((name, text));
        }
    }
    variables.sort();
    let said = variables.iter().any(|(name, _)| name == LISTED);
    for (name, text) in variables {
        let problem = |problem: String| ConfigError::Environment { name: name.clone(), problem };
        let path: Vec<String> = name.trim_start_matches(PREFIX).split("__").map(str::to_lowercase).collect();
        let (Some((key, sections)), true) = (path.split_last(), path.len() >= 2) else {
            return Err(problem(format!("name a section and a key, like {PREFIX}EDGE__LISTEN")));
        };
        let mut inner = &mut *table;
        for section in sections {
            inner = inner
                .entry(section.clone())
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .ok_or_else(|| problem(format!("`{section}` is not a section")))?;
        }
        // A value that reads as TOML is TOML (a number, true, a list); anything else is a string.
        let as_string = Value::String(text.clone());
        let as_toml = format!("v = {text}").parse::<Table>().ok().and_then(|mut parsed| parsed.remove("v"));
        inner.insert(key.clone(), as_toml.unwrap_or_else(|| as_string.clone()));
        let known = |table: &Table| {
            serde_path_to_error::deserialize::<_, Config>(table.clone())
                .map_err(|error| (error.path().to_string(), error.into_inner().to_string()))
        };
        let at = path.join(".");
        if let Err((wrong, _)) = known(table)
            && wrong.starts_with(&at)
        {
            // Not what TOML would make of it: a name that looks like a number, for instance.
            set(table, &path, as_string);
        }
        // What is missing may be in the next variable; the whole is checked at the end.
        if let Err((wrong, why)) = known(table)
            && !why.contains("missing field")
            && (wrong.starts_with(&at) || at.starts_with(&wrong) || why.contains(&format!("unknown field `{key}`")))
        {
            return Err(problem(why));
        }
    }
    if let Some(edge) = table.get_mut("edge").and_then(Value::as_table_mut)
        && let Some(listed) = origins.as_deref().map(listed).transpose()?.filter(|listed| !listed.is_empty())
    {
        if said {
            let problem = format!("{LISTED} says the same; set one of them");
            return Err(ConfigError::Environment { name: ORIGINS.to_owned(), problem });
        }
        edge.insert("allowed_origins".to_owned(), Value::Array(listed));
    }
    Ok(())
}

/// The origins that `CORS_ORIGINS` lists. A core, which no page calls, takes no notice of it.
fn listed(text: &str) -> Result<Vec<Value>, ConfigError> {
    let problem = |problem: String| ConfigError::Environment { name: ORIGINS.to_owned(), problem };
    let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
    let listed = origins.map(|origin| {
        if origin.contains('*') {
            let why = "would let any web page call with a person's token; list the origins that may, parted by commas, like https://app.example.com";
            return Err(problem(format!("`{origin}` {why}")));
        }
        let parsed = Url::parse(origin).ok().map(|url| url.origin()).filter(url::Origin::is_tuple);
        match parsed.map(|parsed| parsed.ascii_serialization()) {
            Some(parsed) if parsed == origin.trim_end_matches('/') => Ok(Value::String(parsed)),
            _ => Err(problem(format!("`{origin}` is not an origin like https://app.example.com"))),
        }
    });
    listed.collect()
}

fn set(table: &mut Table, path: &[String], value: Value) {
    let Some((key, sections)) = path.split_last() else { return };
    let mut inner = table;
    for section in sections {
        let Some(next) = inner.get_mut(section).and_then(Value::as_table_mut) else { return };
        inner = next;
    }
    inner.insert(key.clone(), value);
}
