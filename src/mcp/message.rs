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
    pub title: String,
    /// Its version.
    pub version: &'static str,
    /// What its tools are for.
    pub instructions: String,
    /// What it offers beside tools.
    pub offers: Offers,
}

/// What a server offers beside tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// Resources, or templates of them.
    pub resources: bool,
    /// Prompts.
    pub prompts: bool,
    /// Values for arguments that are being written.
    pub completions: bool,
    /// Lines for the client's log.
    pub logging: bool,
    /// News of single resources.
    pub resource_news: bool,
    /// News of the list of tools.
    pub tools_news: bool,
    /// News of the list of prompts.
    pub prompts_news: bool,
    /// News of the list of resources.
    pub resources_news: bool,
}

impl Offers {
    /// Whether there are any news.
    pub fn news(self) -> bool {
        self.resource_news || self.tools_news || self.prompts_news || self.resources_news
    }

    /// As `ServerCapabilities`.
    fn capabilities(self) -> Value {
        let flags = |flags: &[(&str, bool)]| {
            let set = flags.iter().filter(|(_, set)| *set).map(|(name, _)| ((*name).to_owned(), Value::from(true)));
            Value::Object(set.collect())
        };
        let mut capabilities = Map::new();
        capabilities.insert("tools".to_owned(), flags(&[("listChanged", self.tools_news)]));
        if self.resources {
            let news = [("subscribe", self.resource_news), ("listChanged", self.resources_news)];
            capabilities.insert("resources".to_owned(), flags(&news));
        }
        if self.prompts {
            capabilities.insert("prompts".to_owned(), flags(&[("listChanged", self.prompts_news)]));
        }
        for (name, there) in [("completions", self.completions), ("logging", self.logging)] {
            if there {
                capabilities.insert(name.to_owned(), json!({}));
            }
        }
        capabilities.into()
    }
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
        let title = if self.title.is_empty() { self.name } else { &self.title };
        json!({"name": self.name, "title": title, "version": self.version})
    }

    /// The answer to `initialize`.
    pub fn initialize(&self, params: Option<&RawValue>) -> Value {
        let version = negotiated(params);
        json!({"protocolVersion": version, "capabilities": self.offers.capabilities(), "serverInfo": self.info(), "instructions": self.instructions})
    }

    /// The answer to `server/discover`.
    pub fn discover(&self) -> Value {
        self.complete(json!({
            "supportedVersions": supported().collect::<Vec<_>>(),
            "capabilities": self.offers.capabilities(),
            "instructions": self.instructions,
            "ttlMs": DISCOVERY_TTL_MS,
            "cacheScope": "public",
        }))
    }

    /// The answer to `tools/list` and its like: the caller's own.
    pub fn list(&self, name: &str, items: Vec<Value>, era: Era) -> Value {
        let list = Map::from_iter([(name.to_owned(), items.into())]);
        self.kept(list, LIST_TTL_MS, era)
    }

    /// The answer to `resources/read`: never kept, as nothing says how long it stays true.
    pub fn contents(&self, contents: Vec<Value>, era: Era) -> Value {
        self.kept(Map::from_iter([("contents".to_owned(), contents.into())]), 0, era)
    }

    /// A result that a modern client may keep for that long, for the same caller.
    fn kept(&self, mut result: Map<String, Value>, ttl_ms: u64, era: Era) -> Value {
        if era.is_modern() {
            result.insert("ttlMs".to_owned(), ttl_ms.into());
            result.insert("cacheScope".to_owned(), "private".into());
        }
        self.in_era(result.into(), era)
    }

    /// A result in the era's form.
    pub fn in_era(&self, result: Value, era: Era) -> Value {
        if era.is_modern() { self.complete(result) } else { result }
    }

    /// A tool's result in the era's form.
    pub fn tool_result(&self, content: Vec<Value>, structured: Option<Value>, is_error: bool, era: Era) -> Value {
        let mut result = Map::new();
        result.insert("content".to_owned(), content.into());
        if let Some(structured) = structured {
            result.insert("structuredContent".to_owned(), structured);
        }
        result.insert("isError".to_owned(), is_error.into());
        self.in_era(result.into(), era)
    }

    /// The answer of a tool that needs something of the client first: `inputRequests` and `requestState` (MCP
    /// 2026-07-28, "Multi round-trip requests").
    pub fn input_required(&self, questions: Value) -> Value {
        self.result("input_required", questions)
    }

    /// The answer to a request that lasted, at its end, with more of `_meta`.
    pub fn ended(&self, meta: Value) -> Value {
        let mut result = self.complete(json!({}));
        if let (Some(all), Value::Object(more)) = (result.get_mut("_meta").and_then(Value::as_object_mut), meta) {
            all.extend(more);
        }
        result
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

/// A notification's whole message.
pub fn notification(method: &str, params: &Value) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        jsonrpc: &'static str,
        method: &'a str,
        params: &'a Value,
    }
    serde_json::to_vec(&Body { jsonrpc: "2.0", method, params }).unwrap_or_default()
}

/// A request's whole message.
pub fn request(id: &str, method: &str, params: &Value) -> Vec<u8> {
    serde_json::to_vec(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).unwrap_or_default()
}

/// A text block of a tool's result.
pub fn text(text: impl Into<String>) -> Value {
    json!({"type": "text", "text": text.into()})
}
