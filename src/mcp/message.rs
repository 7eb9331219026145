//! Answers: results of both eras, and errors with the HTTP status that goes with them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::code;
use super::era::{Era, LEGACY, supported};

/// A JSON-RPC error, and the HTTP status that carries it.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The code.
    pub code: i32,
    /// The message.
    pub message: Cow<'static, str>,
    /// More, for programs.
    pub data: Option<Value>,
    /// The HTTP status. An error about a sound request is carried by 200.
    pub http: u16,
}

/// Who answers, as MCP wants it said.
#[derive(Clone, Debug)]
pub struct Server {
    /// The service's name.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What its tools are for.
    pub instructions: String,
}

/// How long a client may keep what is the same for everybody: it changes only with a new release.
const DISCOVERY_TTL_MS: u64 = 300_000;

/// How long a client may keep its tool list: policy says what is on it.
const LIST_TTL_MS: u64 = 60_000;

impl RpcError {
    /// An error carried by HTTP 200.
    pub fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None, http: 200 }
    }

    /// Carries it by another status.
    #[must_use]
    pub fn with_http(mut self, status: u16) -> Self {
        self.http = status;
        self
    }

    /// Adds data.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The method is not served. Modern clients tell eras apart by the 404.
    pub fn method_not_found(method: &str, era: Era) -> Self {
        let shown: String = method.chars().take(64).collect();
        Self::new(code::METHOD_NOT_FOUND, format!("the method `{shown}` is not served")).with_http(if era.is_modern() {
            404
        } else {
            200
        })
    }

    /// The whole answer. Without an id that could be read there is none in it.
    pub fn to_body(&self, id: Option<&RawValue>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            jsonrpc: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            id: Option<&'a RawValue>,
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            code: i32,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a Value>,
        }
        let body = Body {
            jsonrpc: "2.0",
            id,
            error: Inner { code: self.code, message: &self.message, data: self.data.as_ref() },
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// A result's whole answer.
pub fn result(id: &RawValue, result: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a, R> {
        jsonrpc: &'static str,
        id: &'a RawValue,
        result: &'a R,
    }
    serde_json::to_vec(&Body { jsonrpc: "2.0", id, result }).unwrap_or_default()
}

impl Server {
    fn info(&self) -> Value {
        json!({"name": self.name, "title": self.title, "version": self.version})
    }

    /// The answer to `initialize`.
    pub fn initialize(&self, params: Option<&RawValue>) -> Value {
        let version = negotiated(params);
        json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": self.info(), "instructions": self.instructions})
    }

    /// The answer to `server/discover`.
    pub fn discover(&self) -> Value {
        self.complete(json!({
            "supportedVersions": supported().collect::<Vec<_>>(),
            "capabilities": {"tools": {}},
            "instructions": self.instructions,
            "ttlMs": DISCOVERY_TTL_MS,
            "cacheScope": "public",
        }))
    }

    /// The answer to `tools/list`: the caller's own.
    pub fn tools(&self, tools: &[&Value], era: Era) -> Value {
        if era.is_modern() {
            self.complete(json!({"tools": tools, "ttlMs": LIST_TTL_MS, "cacheScope": "private"}))
        } else {
            json!({"tools": tools})
        }
    }

    /// A tool's result in the era's form.
    pub fn tool_result(&self, content: Vec<Value>, structured: Option<Value>, is_error: bool, era: Era) -> Value {
        let mut result = Map::new();
        result.insert("content".to_owned(), content.into());
        if let Some(structured) = structured {
            result.insert("structuredContent".to_owned(), structured);
        }
        result.insert("isError".to_owned(), is_error.into());
        if era.is_modern() { self.complete(Value::Object(result)) } else { Value::Object(result) }
    }

    /// The answer of a tool that needs something of the client first: `inputRequests` and `requestState` (MCP
    /// 2026-07-28, "Multi round-trip requests").
    pub fn input_required(&self, questions: Value) -> Value {
        self.result("input_required", questions)
    }

    fn complete(&self, result: Value) -> Value {
        self.result("complete", result)
    }

    /// What every modern result carries.
    fn result(&self, kind: &str, mut result: Value) -> Value {
        if let Some(result) = result.as_object_mut() {
            result.insert("resultType".to_owned(), kind.into());
            result.insert("_meta".to_owned(), json!({"io.modelcontextprotocol/serverInfo": self.info()}));
        }
        result
    }
}

/// The revision that `initialize` with these parameters comes to: the client's own where it is served, or else the latest.
pub fn negotiated(params: Option<&RawValue>) -> &'static str {
    let requested = params.and_then(|params| serde_json::from_str::<Value>(params.get()).ok());
    let requested =
        requested.as_ref().and_then(|params| params.get("protocolVersion")).and_then(Value::as_str).unwrap_or_default();
    LEGACY.into_iter().find(|known| *known == requested).unwrap_or(LEGACY[0])
}

/// A text block of a tool's result.
pub fn text(text: impl Into<String>) -> Value {
    json!({"type": "text", "text": text.into()})
}
