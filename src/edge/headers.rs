//! What a modern request's headers repeat of its message (MCP 2026-07-28, Streamable HTTP, "Headers"). Whoever stands between
//! client and server may act on them, so they must not say anything else.

use ::http::HeaderMap;
use serde_json::value::RawValue;

use super::transcode::{decode_header, whole};
use crate::annotations::{Annotations, ToolSpec};
use crate::mcp::envelope::fields;
use crate::mcp::era::mismatch;
use crate::mcp::message::RpcError;

/// A header that must be there once and say the same as the message.
pub(super) fn check(headers: &HeaderMap, name: &'static str, expected: &str) -> Result<(), RpcError> {
    let value = one(headers, name)?.ok_or_else(|| {
        mismatch(
            "a header is missing: modern requests carry MCP-Protocol-Version, Mcp-Method and, for a tool, Mcp-Name",
        )
    })?;
    if decode_header(value).as_deref() == Some(expected) {
        Ok(())
    } else {
        Err(mismatch("Mcp-Method or Mcp-Name and the body differ"))
    }
}

/// The headers that repeat a tool's arguments.
pub(super) fn check_arguments(
    headers: &HeaderMap,
    spec: &ToolSpec,
    arguments: Option<&RawValue>,
    annotations: &Annotations,
) -> Result<(), RpcError> {
    let given = arguments.and_then(fields).unwrap_or_default();
    for field in spec.method.input().fields() {
        let Some(header) = annotations.field(&field).map(|about| &about.header).filter(|header| !header.is_empty())
        else {
            continue;
        };
        let said = one(headers, &format!("mcp-param-{header}"))?;
        let said = match said {
            None => None,
            Some(said) => Some(decode_header(said).ok_or_else(|| mismatch("a header Mcp-Param-* cannot be decoded"))?),
        };
        let argument = given.get(field.name()).map(|raw| raw.get()).filter(|raw| *raw != "null");
        match (argument, said) {
            (None, None) => {}
            (Some(argument), Some(said)) if is_same(argument, &said) => {}
            (Some(_), None) => return Err(mismatch("a header Mcp-Param-* is missing for an argument that has one")),
            (_, Some(_)) => return Err(mismatch("a header Mcp-Param-* and the argument differ")),
        }
    }
    Ok(())
}

/// Whether a header says what an argument is: text as it is, numbers by their value, true and false in letters.
fn is_same(argument: &str, said: &str) -> bool {
    if argument.starts_with('"') {
        return serde_json::from_str::<String>(argument).is_ok_and(|text| text == said);
    }
    let number = |text: &str| RawValue::from_string(text.to_owned()).ok().and_then(|raw| whole(&raw));
    // Zeros in front are no JSON, and no other number.
    let said_number = said.parse::<i64>().ok().or_else(|| number(said));
    match (number(argument), said_number) {
        (Some(argument), Some(said)) => argument == said,
        _ => argument == said,
    }
}

/// The value of a header that may be there once.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| mismatch("a header holds characters that are not ASCII"))
        }
        (Some(_), Some(_)) => Err(mismatch("a header is given twice")),
    }
}
