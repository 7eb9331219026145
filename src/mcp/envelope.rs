//! JSON-RPC 2.0 messages, read once, with `params` left as they are.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The deepest nesting of arrays and objects that is read.
pub const DEPTH_MOST: usize = 32;
/// The most messages of one batch.
pub const BATCH_MOST: usize = 32;

/// What a client has sent at once.
#[derive(Debug)]
pub enum Received<'a> {
    /// One message.
    One(Message<'a>),
    /// A batch (JSON-RPC 2.0, section 6), which MCP has in revision 2025-03-26 and JSON-RPC's own right before it. What is
    /// wrong with one of its messages says nothing of the others.
    Many(Vec<Result<Message<'a>, EnvelopeError<'a>>>),
}

/// A message from a client.
#[derive(Debug)]
pub enum Message<'a> {
    /// Wants an answer.
    Request(Request<'a>),
    /// Wants none.
    Notification {
        /// What happened.
        method: String,
        /// The parameters, as they were written.
        params: Option<&'a RawValue>,
    },
    /// Answers a request of ours.
    Response(Response<'a>),
}

/// What a client answers to a request of ours.
#[derive(Debug)]
pub struct Response<'a> {
    /// The request's id, as it was written.
    pub id: &'a RawValue,
    /// The result, or the error.
    pub came: Result<&'a RawValue, &'a RawValue>,
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The id, exactly as it was written: a string or an integer.
    pub id: &'a RawValue,
    /// The method.
    pub method: String,
    /// The parameters, as they were written.
    pub params: Option<&'a RawValue>,
}

/// A request that outlives the body that it was read from.
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    id: Box<RawValue>,
    method: String,
    params: Option<Box<RawValue>>,
}

impl From<Request<'_>> for OwnedRequest {
    fn from(request: Request<'_>) -> Self {
        Self { id: request.id.to_owned(), method: request.method, params: request.params.map(ToOwned::to_owned) }
    }
}

impl OwnedRequest {
    /// The id, exactly as it was written.
    pub fn id(&self) -> &RawValue {
        &self.id
    }

    /// The request.
    pub fn as_request(&self) -> Request<'_> {
        Request { id: &self.id, method: self.method.clone(), params: self.params.as_deref() }
    }
}

/// A body that is no message.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError<'a> {
    /// Not JSON in UTF-8.
    #[error("the body is not JSON: {0}")]
    Parse(serde_json::Error),
    /// Nested too deeply to be read safely.
    #[error("the body nests arrays and objects more than {DEPTH_MOST} deep")]
    TooDeep,
    /// A batch, in a revision that has none.
    #[error("this revision of MCP has no batches; send one message at a time")]
    Batch,
    /// JSON, but no JSON-RPC 2.0 message.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: &'static str,
        /// The message's id, where it could be read, so that the answer can carry it.
        id: Option<&'a RawValue>,
    },
}

/// Reads what a client has sent.
pub fn read(body: &[u8]) -> Result<Received<'_>, EnvelopeError<'_>> {
    if deeper_than(body, DEPTH_MOST) {
        return Err(EnvelopeError::TooDeep);
    }
    let raw: &RawValue = serde_json::from_slice(body).map_err(EnvelopeError::Parse)?;
    if !raw.get().starts_with('[') {
        return message(raw).map(Received::One);
    }
    let invalid = |what| EnvelopeError::Invalid { what, id: None };
    let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(EnvelopeError::Parse)?;
    if items.is_empty() {
        return Err(invalid("a batch must hold a message"));
    }
    if items.len() > BATCH_MOST {
        return Err(invalid("a batch may hold 32 messages at most"));
    }
    Ok(Received::Many(items.into_iter().map(message).collect()))
}

/// Reads one message where there can be no batch.
pub fn parse(body: &[u8]) -> Result<Message<'_>, EnvelopeError<'_>> {
    match read(body)? {
        Received::One(message) => Ok(message),
        Received::Many(_) => Err(EnvelopeError::Batch),
    }
}

fn message(raw: &RawValue) -> Result<Message<'_>, EnvelopeError<'_>> {
    let invalid = |what, id| EnvelopeError::Invalid { what, id };
    if !raw.get().starts_with('{') {
        return Err(invalid("a message must be a JSON-RPC 2.0 object", None));
    }
    let fields = fields(raw).ok_or_else(|| invalid("a member is given twice", None))?;
    let id = fields.get("id").copied();
    let readable = id.filter(|id| is_id(id));
    if fields.get("jsonrpc").is_none_or(|version| version.get() != "\"2.0\"") {
        return Err(invalid("`jsonrpc` must be \"2.0\"", readable));
    }
    let Some(method) = fields.get("method") else {
        return match (readable, fields.get("result"), fields.get("error")) {
            (Some(id), Some(result), None) => Ok(Message::Response(Response { id, came: Ok(result) })),
            (Some(id), None, Some(error)) => Ok(Message::Response(Response { id, came: Err(error) })),
            (_, Some(_), Some(_)) => Err(invalid("a response has either a `result` or an `error`", None)),
            (None, None, None) | (Some(_), None, None) => Err(invalid("`method` is missing", readable)),
            (None, ..) => Err(invalid("a response must carry the `id` of a request", None)),
        };
    };
    let method: String =
        serde_json::from_str(method.get()).map_err(|_| invalid("`method` must be a string", readable))?;
    let params = fields.get("params").copied();
    if params.is_some_and(|params| !params.get().starts_with('{')) {
        return Err(invalid("`params` must be an object", readable));
    }
    match (id, readable) {
        (None, _) => Ok(Message::Notification { method, params }),
        (Some(_), Some(id)) => Ok(Message::Request(Request { id, method, params })),
        (Some(_), None) => Err(invalid("`id` must be a string or an integer", None)),
    }
}

/// The members of an object; none if one is given twice.
pub fn fields(object: &RawValue) -> Option<BTreeMap<String, &RawValue>> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(object.get()).ok()?;
    // A map keeps one of two equal members, so the count tells.
    (count_members(object.get()) == fields.len()).then_some(fields)
}

fn is_id(id: &RawValue) -> bool {
    let text = id.get();
    text.starts_with('"') || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok()
}

/// How many members an object that is known to be sound JSON has at its top level.
fn count_members(object: &str) -> usize {
    let (mut depth, mut colons) = (0_usize, 0);
    scan(object.as_bytes(), |byte| match byte {
        b'{' | b'[' => depth += 1,
        b'}' | b']' => depth = depth.saturating_sub(1),
        b':' if depth == 1 => colons += 1,
        _ => {}
    });
    colons
}

/// Whether arrays and objects nest deeper than `most`, without reading them.
fn deeper_than(body: &[u8], most: usize) -> bool {
    let (mut depth, mut deepest) = (0_usize, 0);
    scan(body, |byte| match byte {
        b'{' | b'[' => {
            depth += 1;
            deepest = deepest.max(depth);
        }
        b'}' | b']' => depth = depth.saturating_sub(1),
        _ => {}
    });
    deepest > most
}

/// Shows every byte that is outside strings.
fn scan(json: &[u8], mut see: impl FnMut(u8)) {
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        match (in_string, escaped, byte) {
            (true, true, _) => escaped = false,
            (true, false, b'\\') => escaped = true,
            (_, false, b'"') => in_string = !in_string,
            (false, _, byte) => see(byte),
            (true, ..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(body: &str) -> String {
        match parse(body.as_bytes()) {
            Ok(message) => panic!("{body}: {message:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_request_keeps_its_id_as_written() {
        for id in ["1", "\"a\"", "-7", "9007199254740993", "18446744073709551615", "\"\\u00e9\""] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
            let Ok(Message::Request(request)) = parse(body.as_bytes()) else { panic!("{body}") };
            assert_eq!(request.id.get(), id);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (body, part) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            ("{} x", "not JSON"),
            ("[]", "must hold a message"),
            ("[1]", "batches"),
            ("1", "must be a JSON-RPC"),
            ("{}", "`jsonrpc`"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "`jsonrpc`"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "`method` is missing"),
            (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, "`method` must be"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "`id` must be"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "`id` must be"),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, "`id` must be"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "`params` must be"),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, "given twice"),
            (&format!("{}{}", "[".repeat(40), "]".repeat(40)), "deep"),
        ] {
            assert!(wrong(body).contains(part), "{body}: {}", wrong(body));
        }
        assert!(parse(b"\xff{}").is_err());
    }

    #[test]
    fn a_batch_is_read_message_by_message() {
        let body = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},5]"#;
        let Ok(Received::Many(messages)) = read(body.as_bytes()) else { panic!("{body}") };
        assert!(matches!(messages[0], Ok(Message::Request(_))));
        assert!(matches!(messages[1], Ok(Message::Notification { .. })));
        assert!(messages[2].is_err());
        let many = format!("[{}]", vec!["1"; BATCH_MOST + 1].join(","));
        assert!(read(many.as_bytes()).is_err());
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"{}\"{{:","method":"ping"}}"#, "[".repeat(100));
        assert!(matches!(parse(body.as_bytes()), Ok(Message::Request(_))));
    }
}
