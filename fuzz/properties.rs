// What holds of any bytes that a client sends. The fuzz target asks it of whatever the fuzzer finds, and a plain test of the
// corpus.

use serde_json::value::RawValue;
use whitelistmcp::annotations::Annotations;
use whitelistmcp::edge::read_arguments;
use whitelistmcp::mcp::envelope::{self, EnvelopeError, Message, Received};
use whitelistmcp::mcp::era::Era;

/// Reads bytes as a message, and everything in it as far as the edge does before it asks a service.
pub(crate) fn message(annotations: &Annotations, bytes: &[u8]) {
    match envelope::read(bytes) {
        Ok(Received::One(message)) => one(annotations, &message),
        Ok(Received::Many(messages)) => {
            assert!((1..=envelope::BATCH_MOST).contains(&messages.len()));
            for message in messages {
                match message {
                    Ok(message) => one(annotations, &message),
                    Err(wrong) => refused(&wrong),
                }
            }
        }
        Err(wrong) => refused(&wrong),
    }
}

fn refused(wrong: &EnvelopeError<'_>) {
    assert!(!wrong.to_string().is_empty(), "a refusal says why");
    if let EnvelopeError::Invalid { id: Some(id), .. } = wrong {
        echoes(id);
    }
}

/// An id can be sent back as it came: a string or a whole number.
fn echoes(id: &RawValue) {
    let id: serde_json::Value = serde_json::from_str(id.get()).expect("an id is JSON");
    assert!(id.is_string() || id.is_i64() || id.is_u64(), "{id}");
}

fn one(annotations: &Annotations, message: &Message<'_>) {
    let Message::Request(request) = message else { return };
    echoes(request.id);
    for header in [None, Some("2026-07-28"), Some("2025-11-25"), Some("1999-01-01")] {
        if let Err(wrong) = Era::of(&request.method, request.params, header) {
            let body = wrong.to_body(Some(request.id));
            let body: serde_json::Value = serde_json::from_slice(&body).expect("a refusal is JSON");
            assert_eq!(body["jsonrpc"], "2.0");
        }
    }
    let Some(arguments) = request.params.and_then(envelope::fields).and_then(|mut params| params.remove("arguments"))
    else {
        return;
    };
    for tool in annotations.tools() {
        let name = &tool.annotations.name;
        match read_arguments(annotations, name, arguments) {
            // What is taken once is taken again, and comes to the same.
            Ok(read) => assert_eq!(read_arguments(annotations, name, arguments).ok(), Some(read)),
            Err(wrong) => assert!(!wrong.message().is_empty()),
        }
    }
}
