//! One message from stdin: the bytes as they came, and the little of them that HTTP wants said in headers.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::parameters::Parameters;
use crate::mcp::code;
use crate::mcp::message::RpcError;

/// A message to carry.
#[derive(Debug)]
pub(super) struct Line {
    /// As it came.
    pub(super) body: Vec<u8>,
    /// The id, exactly as it was written, of a message that wants an answer.
    pub(super) id: Option<Box<RawValue>>,
    /// The ids of the requests of a batch.
    pub(super) batch: Vec<Box<RawValue>>,
    /// The method.
    pub(super) method: Option<String>,
    /// The revision that the message itself names: it is a modern one.
    pub(super) revision: Option<String>,
    /// What `Mcp-Name` says of a modern one.
    pub(super) name: Option<String>,
    /// The arguments of a modern call of a tool.
    pub(super) arguments: Option<Box<RawValue>>,
    /// The request that `notifications/cancelled` is about.
    pub(super) cancels: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
    name: Option<Cow<'a, str>>,
    uri: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<Cow<'a, str>>,
}

impl Line {
    /// Reads a line; or what is answered to one that is no JSON. Whatever else is wrong with it is the server's to say.
    pub(super) fn read(body: Vec<u8>) -> Result<Self, Vec<u8>> {
        let wrong = |text: &'static str| RpcError::new(code::PARSE_ERROR, text).to_body(None);
        let text = std::str::from_utf8(&body).map_err(|_| wrong("a message must be UTF-8"))?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|_| wrong("a line must be one JSON message"))?;
        // A batch, or what is no object, goes as it is.
        let envelope: Option<Envelope<'_>> = serde_json::from_str(raw.get()).ok();
        let params = envelope.as_ref().and_then(|envelope| serde_json::from_str(envelope.params?.get()).ok());
        let params: Params<'_> = params.unwrap_or_default();
        let method = envelope.as_ref().and_then(|envelope| envelope.method.as_deref()).map(str::to_owned);
        let id = envelope.as_ref().and_then(|envelope| envelope.id).filter(|id| method.is_some() && id.get() != "null");
        let name = match method.as_deref() {
            Some("tools/call" | "prompts/get") => params.name,
            Some("resources/read") => params.uri,
            _ => None,
        };
        let revision = params.meta.and_then(|meta| meta.protocol_version).map(Cow::into_owned);
        let call = method.as_deref() == Some("tools/call") && revision.is_some();
        let arguments = params.arguments.filter(|_| call).map(ToOwned::to_owned);
        let (id, name) = (id.map(ToOwned::to_owned), name.map(Cow::into_owned));
        let cancels = params.request_id.map(ToOwned::to_owned);
        let requests = |messages: Vec<Envelope<'_>>| {
            let ids = messages.into_iter().filter(|message| message.method.is_some()).filter_map(|message| message.id);
            ids.filter(|id| id.get() != "null").map(ToOwned::to_owned).collect()
        };
        let batch = serde_json::from_str::<Vec<Envelope<'_>>>(raw.get()).map(requests).unwrap_or_default();
        Ok(Self { id, batch, method, revision, name, arguments, cancels, body })
    }

    /// Whether it names its revision itself, as messages do since 2026-07-28.
    pub(super) fn is_modern(&self) -> bool {
        self.revision.is_some()
    }

    /// The ids that want an answer.
    pub(super) fn wanted(&self) -> Vec<Box<RawValue>> {
        self.id.iter().chain(&self.batch).cloned().collect()
    }

    /// Whether it asks for what goes on until somebody ends it.
    pub(super) fn listens(&self) -> bool {
        self.id.is_some() && self.method.as_deref() == Some("subscriptions/listen")
    }

    /// Whether it is a notification, a response, or a batch of nothing else.
    pub(super) fn wants_nothing(&self) -> bool {
        self.id.is_none() && self.batch.is_empty()
    }

    /// The headers by which HTTP says what the message says (MCP, "Streamable HTTP").
    pub(super) fn headers(&self, negotiated: Option<&str>, parameters: &Parameters) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        match (&self.revision, negotiated) {
            (Some(revision), _) => {
                headers.push(("mcp-protocol-version".to_owned(), revision.clone()));
                headers.extend(self.method.clone().map(|method| ("mcp-method".to_owned(), encoded(method))));
                headers.extend(self.name.clone().map(|name| ("mcp-name".to_owned(), encoded(name))));
                let arguments =
                    self.arguments.as_ref().and_then(|arguments| serde_json::from_str(arguments.get()).ok());
                if let (Some(name), Some(arguments)) = (&self.name, arguments) {
                    let said = parameters.headers(name, &arguments);
                    headers.extend(said.into_iter().map(|(header, value)| (header, encoded(value))));
                }
            }
            (None, Some(negotiated)) if self.method.as_deref() != Some("initialize") => {
                headers.push(("mcp-protocol-version".to_owned(), negotiated.to_owned()));
            }
            _ => {}
        }
        headers
    }

    /// Whether a message answers this one, or part of it.
    pub(super) fn is_answered_by(&self, message: &[u8]) -> bool {
        let answered = answered(message);
        self.id.iter().chain(&self.batch).any(|id| answered.contains(&key(id)))
    }
}

/// What an id is, however it is written: strings may escape what they need not, and whole numbers end in `.0`.
pub(super) fn key(id: &RawValue) -> String {
    let text = id.get();
    match serde_json::from_str(text) {
        Ok(serde_json::Value::String(text)) => format!("\"{text}"),
        Ok(serde_json::Value::Number(number)) => match number.as_f64() {
            // INVARIANT: whole numbers of this size are exact, and are shown without a point.
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < EXACT => format!("{whole}"),
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    }
}

/// From here on a number of 64 bits with a point is no longer exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The ids that a message answers, or those of its parts.
pub(super) fn answered(message: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        method: Option<serde::de::IgnoredAny>,
    }
    // A struct may be read from an array as well, which here is one of several messages.
    let batch = message.trim_ascii_start().starts_with(b"[");
    let one = || serde_json::from_slice::<Answer<'_>>(message).map(|one| vec![one]);
    let answers = if batch { serde_json::from_slice(message) } else { one() }.unwrap_or_default();
    answers.iter().filter(|answer| answer.method.is_none()).filter_map(|answer| answer.id.map(key)).collect()
}

/// A value as a header can carry it (2026-07-28, "Streamable HTTP", value encoding).
fn encoded(value: String) -> String {
    let plain = value.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        && value.trim() == value
        && !value.starts_with("=?base64?");
    if plain { value } else { format!("=?base64?{}?=", STANDARD.encode(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Line {
        Line::read(text.as_bytes().to_vec()).expect("JSON")
    }

    #[test]
    fn headers_say_what_the_message_says() {
        let modern = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"gr\u00fc\u00df","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        let said = |text: &str, negotiated: Option<&str>| -> Vec<String> {
            let headers = read(text).headers(negotiated, &Parameters::default());
            headers.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
        };
        assert_eq!(
            said(modern, Some("2025-06-18")),
            ["mcp-protocol-version: 2026-07-28", "mcp-method: tools/call", "mcp-name: =?base64?Z3LDvMOf?="]
        );
        let legacy = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#;
        assert_eq!(said(legacy, Some("2025-06-18")), ["mcp-protocol-version: 2025-06-18"]);
        assert!(said(legacy, None).is_empty());
        let first = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
        assert!(said(first, Some("2025-06-18")).is_empty());
    }

    #[test]
    fn an_answer_is_known_by_its_id() {
        let line = read(r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#);
        assert!(line.is_answered_by(br#"{"jsonrpc":"2.0","id":"a","result":{}}"#));
        assert!(!line.is_answered_by(br#"{"jsonrpc":"2.0","id":"b","result":{}}"#));
        assert!(!line.is_answered_by(br#"{"jsonrpc":"2.0","id":"a","method":"roots/list"}"#));
        assert!(!line.is_answered_by(br#"{"jsonrpc":"2.0","error":{}}"#));
        assert!(read(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#).id.is_none());
        assert!(read("[1]").id.is_none() && read("[1]").wants_nothing());
        for (asked, answered) in [
            (r#""é""#, r#""\u00e9""#),
            (r#""a/b""#, r#""a\/b""#),
            ("1", "1.0"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let line = read(&format!(r#"{{"id":{asked},"method":"ping"}}"#));
            assert!(line.is_answered_by(format!(r#"{{"id":{answered},"result":1}}"#).as_bytes()), "{asked}");
        }
        for (asked, answered) in [("1", r#""1""#), ("18446744073709551615", "18446744073709551614"), ("1", "1.5")] {
            let line = read(&format!(r#"{{"id":{asked},"method":"ping"}}"#));
            assert!(!line.is_answered_by(format!(r#"{{"id":{answered},"result":1}}"#).as_bytes()), "{asked}");
        }
        let batch =
            read(r#"[{"id":1,"method":"ping"},{"id":"2","method":"ping"},{"method":"x"},{"id":3,"result":{}}]"#);
        assert_eq!((batch.batch.len(), batch.wants_nothing()), (2, false));
        assert!(batch.is_answered_by(br#"[{"id":"2","result":{}},{"id":1,"result":{}}]"#));
        assert!(!batch.is_answered_by(br#"[{"id":"1","result":{}}]"#) && !batch.is_answered_by(br#"{"id":3}"#));
        // One of them alone is answered, too.
        assert_eq!(answered(br#"{"id":1,"result":{}}"#), ["1"]);
        assert!(Line::read(b"{".to_vec()).is_err() && Line::read(b"\xff".to_vec()).is_err());
    }
}
