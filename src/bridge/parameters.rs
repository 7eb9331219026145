//! Arguments that HTTP wants said in headers as well (2026-07-28, "Streamable HTTP", `x-mcp-header`): which they are is read
//! from the tool lists that pass. Tools whose annotations nobody could follow are left out of the lists, as clients must.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

/// The keyword in a tool's schema.
const KEYWORD: &str = "x-mcp-header";
/// Keywords whose values are no schemas.
const VALUES: [&str; 4] = ["const", "default", "enum", "examples"];

/// What is known of the tools of the server.
#[derive(Debug, Default)]
pub(super) struct Parameters(Mutex<HashMap<String, Vec<Parameter>>>);

/// An argument, by the names that lead to it, and its header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter {
    path: Vec<String>,
    header: String,
}

impl Parameters {
    /// Learns from the answer to `tools/list`, and gives it back without the tools that cannot be called.
    pub(super) fn learn(&self, answer: Vec<u8>) -> Vec<u8> {
        if !contains(&answer, KEYWORD.as_bytes()) {
            return answer;
        }
        let Ok(mut whole) = serde_json::from_slice::<Value>(&answer) else { return answer };
        let Some(tools) = whole.pointer_mut("/result/tools").and_then(Value::as_array_mut) else { return answer };
        let all = tools.len();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tools.retain(|tool| {
            let Some(name) = tool.get("name").and_then(Value::as_str) else { return true };
            match tool.get("inputSchema").map_or_else(|| Some(Vec::new()), parameters) {
                Some(parameters) => {
                    known.insert(name.to_owned(), parameters);
                    true
                }
                None => {
                    tracing::warn!(tool = name, "the tool's `{KEYWORD}` cannot be followed, so it is left out");
                    false
                }
            }
        });
        // What is whole goes on as it came.
        let same = tools.len() == all;
        drop(known);
        if same { answer } else { whole.to_string().into_bytes() }
    }

    /// The headers of a call, as they are written without their encoding.
    pub(super) fn headers(&self, tool: &str, arguments: &Value) -> Vec<(String, String)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parameters = known.get(tool).into_iter().flatten();
        let header = |Parameter { path, header }: &Parameter| {
            let value = path.iter().try_fold(arguments, |value, name| value.get(name))?;
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(is) => is.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            Some((format!("mcp-param-{}", header.to_ascii_lowercase()), text))
        };
        parameters.filter_map(header).collect()
    }
}

/// The annotated arguments of a schema; none if an annotation cannot be followed.
fn parameters(schema: &Value) -> Option<Vec<Parameter>> {
    let (mut found, mut names) = (Vec::new(), HashSet::new());
    let sound = walk(schema, Some(&[]), &mut |path, kind, header| {
        let Some(Value::String(header)) = header else { return false };
        let Some(path) = path.filter(|path| !path.is_empty()) else { return false };
        let token = !header.is_empty()
            && header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let primitive = matches!(kind, Some("string" | "integer" | "boolean"));
        found.push(Parameter { path: path.to_owned(), header: header.clone() });
        token && primitive && names.insert(header.to_ascii_lowercase())
    });
    sound.then_some(found)
}

/// Shows every annotation of a schema to `see`, with the way that leads to it through `properties` alone, if one does.
fn walk(
    schema: &Value,
    path: Option<&[String]>,
    see: &mut impl FnMut(Option<&[String]>, Option<&str>, Option<&Value>) -> bool,
) -> bool {
    match schema {
        Value::Array(schemas) => schemas.iter().all(|schema| walk(schema, None, see)),
        Value::Object(keywords) => {
            let kind = keywords.get("type").and_then(Value::as_str);
            if keywords.contains_key(KEYWORD) && !see(path, kind, keywords.get(KEYWORD)) {
                return false;
            }
            keywords.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
                (KEYWORD, _) => true,
                (keyword, _) if VALUES.contains(&keyword) => true,
                ("properties", Value::Object(properties)) => of_properties(properties, path, see),
                ("$defs" | "definitions" | "patternProperties" | "dependentSchemas", Value::Object(schemas)) => {
                    of_properties(schemas, None, see)
                }
                (_, value) => walk(value, None, see),
            })
        }
        _ => true,
    }
}

fn of_properties(
    properties: &Map<String, Value>,
    path: Option<&[String]>,
    see: &mut impl FnMut(Option<&[String]>, Option<&str>, Option<&Value>) -> bool,
) -> bool {
    properties.iter().all(|(name, schema)| {
        let path = path.map(|path| [path, std::slice::from_ref(name)].concat());
        walk(schema, path.as_deref(), see)
    })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotated_arguments_are_said_in_headers() {
        let known = Parameters::default();
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
            "plain": {"type": "string", "default": {"x-mcp-header": ""}},
            "x-mcp-header": {"type": "string"},
        }});
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "a", "inputSchema": schema}]}});
        let text = format!("{answer:#}");
        assert_eq!(known.learn(text.clone().into_bytes()), text.as_bytes(), "it goes on as it came");
        let mut headers = known
            .headers("a", &json!({"region": "ü", "deep": {"n": 7}, "flag": null, "plain": "x", "x-mcp-header": "y"}));
        headers.sort();
        assert_eq!(
            headers,
            [("mcp-param-n".to_owned(), "7".to_owned()), ("mcp-param-region".to_owned(), "ü".to_owned())]
        );
        assert!(known.headers("b", &json!({"region": "x"})).is_empty());
        assert!(known.headers("a", &json!([])).is_empty());
    }

    #[test]
    fn tools_that_nobody_could_call_are_left_out() {
        let one = |value: Value| json!({"type": "object", "properties": {"a": value}});
        let wrong = [
            one(json!({"type": "string", "x-mcp-header": ""})),
            one(json!({"type": "string", "x-mcp-header": "a b"})),
            one(json!({"type": "string", "x-mcp-header": "a:b"})),
            one(json!({"type": "string", "x-mcp-header": "é"})),
            one(json!({"type": "string", "x-mcp-header": 1})),
            one(json!({"type": "number", "x-mcp-header": "A"})),
            one(json!({"type": "object", "x-mcp-header": "A"})),
            one(json!({"type": ["string"], "x-mcp-header": "A"})),
            one(json!({"x-mcp-header": "A"})),
            one(json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}})),
            one(json!({"anyOf": [{"type": "string", "x-mcp-header": "A"}]})),
            json!({"type": "string", "x-mcp-header": "A"}),
            json!({"$defs": {"a": {"type": "string", "x-mcp-header": "A"}}}),
            json!({"properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}}),
        ];
        for schema in wrong {
            assert_eq!(parameters(&schema), None, "{schema}");
            let tools = json!([{"name": "good", "inputSchema": {}}, {"name": "bad", "inputSchema": schema}]);
            let answer = json!({"id": 1, "result": {"tools": tools, "ttlMs": 5}});
            let left: Value =
                serde_json::from_slice(&Parameters::default().learn(answer.to_string().into_bytes())).expect("JSON");
            assert_eq!(left, json!({"id": 1, "result": {"tools": [{"name": "good", "inputSchema": {}}], "ttlMs": 5}}));
        }
    }
}
