//! Which revision of the protocol a request speaks.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{self, Can};
use super::{code, message::RpcError};
use crate::pb::mcp::v1::LogLevel;

/// The modern revision that is served.
pub const MODERN: &str = "2026-07-28";

/// The legacy revisions that are served, the latest first.
pub const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// What a legacy request without a version header speaks (2025-06-18, Streamable HTTP).
const ASSUMED: &str = "2025-03-26";

/// The revision of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 2026-07-28: stateless.
    Modern,
    /// A revision before it.
    Legacy(&'static str),
}

/// What `params._meta` says that matters here.
#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    client_capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
    #[serde(borrow)]
    tracestate: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    progress_token: Option<&'a RawValue>,
    #[serde(rename = "io.modelcontextprotocol/logLevel")]
    log_level: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
}

/// The W3C trace context in `_meta` (SEP-414), as it was written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// `traceparent`, if there is one.
    pub parent: Option<String>,
    /// `tracestate`, if there is one.
    pub state: Option<String>,
}

/// A request's era, and the trace that it is part of.
#[derive(Debug)]
pub struct Spoken {
    /// The era.
    pub era: Era,
    /// The trace.
    pub trace: Trace,
    /// What the client of a modern request can be asked for. A legacy one has said so when it began.
    pub can: Can,
    /// By which name the client wants to hear how far the request is: a string or an integer, as it was written.
    pub progress: Option<Box<RawValue>>,
    /// From which level on the client of a modern request wants lines for its log.
    pub log_level: Option<LogLevel>,
}

impl Era {
    /// Decides the era of a request by its `_meta` and its `MCP-Protocol-Version` header.
    pub fn of(method: &str, params: Option<&RawValue>, header: Option<&str>) -> Result<Spoken, RpcError> {
        let params: Params<'_> = match params {
            Some(params) => serde_json::from_str(params.get())
                .map_err(|_| RpcError::new(code::INVALID_PARAMS, "`params._meta` is malformed").with_http(400))?,
            None => Params::default(),
        };
        let meta = params.meta.unwrap_or_default();
        let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let trace = Trace { parent: text(meta.traceparent), state: text(meta.tracestate) };
        let progress = meta.progress_token.filter(|token| is_token(token)).map(ToOwned::to_owned);
        let Some(version) = meta.protocol_version else {
            let era = Self::without_meta(method, header)?;
            return Ok(Spoken { era, trace, can: Can::default(), progress, log_level: None });
        };
        let version = text(Some(version)).ok_or_else(|| {
            RpcError::new(code::INVALID_PARAMS, "`_meta` protocolVersion must be a string").with_http(400)
        })?;
        match header {
            Some(header) if header != version => {
                return Err(mismatch("MCP-Protocol-Version and `_meta` name different revisions"));
            }
            None => return Err(mismatch("the header MCP-Protocol-Version is missing")),
            Some(_) => {}
        }
        if version != MODERN {
            return Err(unsupported(&version));
        }
        let declared = meta.client_capabilities.is_some_and(|capabilities| capabilities.get().starts_with('{'));
        if !declared {
            return Err(RpcError::new(
                code::INVALID_PARAMS,
                "`_meta` must hold io.modelcontextprotocol/clientCapabilities, an object",
            )
            .with_http(400));
        }
        let log_level = match meta.log_level {
            None => None,
            Some(level) => Some(level.as_str().and_then(client::log_level).ok_or_else(|| {
                RpcError::new(
                    code::INVALID_PARAMS,
                    "`_meta` logLevel must be one of the levels of RFC 5424, such as info",
                )
            })?),
        };
        let can = Can::declared(meta.client_capabilities);
        Ok(Spoken { era: Self::Modern, trace, can, progress, log_level })
    }

    /// Decides the era of a request that came without headers, in a WebSocket's frame: by its `_meta`, or else by what was
    /// negotiated on the same socket.
    pub fn of_frame(
        method: &str,
        params: Option<&RawValue>,
        negotiated: Option<&'static str>,
    ) -> Result<Spoken, RpcError> {
        let said = params.and_then(|params| serde_json::from_str::<Params<'_>>(params.get()).ok());
        let version = said.and_then(|params| params.meta?.protocol_version);
        let version = version.and_then(|version| serde_json::from_str::<String>(version.get()).ok());
        Self::of(method, params, version.as_deref().or(negotiated))
    }

    /// Whether the revision has batches: 2025-03-26 by name, and the one before by JSON-RPC's own right.
    pub fn has_batches(self) -> bool {
        matches!(self, Self::Legacy("2025-03-26" | "2024-11-05"))
    }

    fn without_meta(method: &str, header: Option<&str>) -> Result<Self, RpcError> {
        let header = match header {
            // `initialize` negotiates by its own parameter, whatever a client puts into the header.
            _ if method == "initialize" => return Ok(Self::Legacy(ASSUMED)),
            None => return Ok(Self::Legacy(ASSUMED)),
            Some(header) => header,
        };
        if header == MODERN {
            let text = "`params._meta` must hold io.modelcontextprotocol/protocolVersion and io.modelcontextprotocol/clientCapabilities";
            return Err(RpcError::new(code::INVALID_PARAMS, text).with_http(400));
        }
        LEGACY.into_iter().find(|known| *known == header).map(Self::Legacy).ok_or_else(|| unsupported(header))
    }

    /// Whether the request is modern.
    pub fn is_modern(self) -> bool {
        self == Self::Modern
    }

    /// The revision.
    pub fn revision(self) -> &'static str {
        match self {
            Self::Modern => MODERN,
            Self::Legacy(revision) => revision,
        }
    }
}

/// Whether a revision is served.
pub fn check(revision: &str) -> Result<(), RpcError> {
    if supported().any(|known| known == revision) { Ok(()) } else { Err(unsupported(revision)) }
}

/// A progress token: a string or an integer.
fn is_token(token: &RawValue) -> bool {
    token.get().starts_with('"') || token.get().parse::<i64>().is_ok()
}

/// Every revision that is served, the latest first.
pub fn supported() -> impl Iterator<Item = &'static str> {
    std::iter::once(MODERN).chain(LEGACY)
}

/// A header that is missing, malformed or different from the body.
pub fn mismatch(text: &'static str) -> RpcError {
    RpcError::new(code::HEADER_MISMATCH, text).with_http(400)
}

fn unsupported(requested: &str) -> RpcError {
    let data = serde_json::json!({"supported": supported().collect::<Vec<_>>(), "requested": requested});
    RpcError::new(code::UNSUPPORTED_PROTOCOL_VERSION, "this protocol revision is not served")
        .with_http(400)
        .with_data(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(method: &str, params: &str, header: Option<&str>) -> Result<Era, i32> {
        let params = RawValue::from_string(params.to_owned()).expect("JSON");
        Era::of(method, Some(&params), header).map(|spoken| spoken.era).map_err(|error| error.code)
    }

    const META: &str = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}"#;

    #[test]
    fn modern_needs_meta_and_header() {
        assert_eq!(era("tools/list", META, Some(MODERN)), Ok(Era::Modern));
        assert_eq!(era("tools/list", META, None), Err(code::HEADER_MISMATCH));
        assert_eq!(era("tools/list", META, Some("2025-11-25")), Err(code::HEADER_MISMATCH));
        assert_eq!(era("tools/list", "{}", Some(MODERN)), Err(code::INVALID_PARAMS));
        assert_eq!(
            era("tools/list", &META.replace("2026-07-28", "2027-01-01"), Some("2027-01-01")),
            Err(code::UNSUPPORTED_PROTOCOL_VERSION)
        );
        assert_eq!(
            era("tools/list", r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#, Some(MODERN)),
            Err(code::INVALID_PARAMS)
        );
        assert_eq!(
            era("tools/list", r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":5}}"#, Some(MODERN)),
            Err(code::INVALID_PARAMS)
        );
    }

    #[test]
    fn legacy_goes_by_the_header() {
        assert_eq!(era("tools/list", "{}", None), Ok(Era::Legacy("2025-03-26")));
        assert_eq!(
            era("tools/list", r#"{"_meta":{"progressToken":1}}"#, Some("2025-06-18")),
            Ok(Era::Legacy("2025-06-18"))
        );
        assert_eq!(era("tools/list", "{}", Some("1999-01-01")), Err(code::UNSUPPORTED_PROTOCOL_VERSION));
        assert_eq!(era("initialize", "{}", Some("1999-01-01")), Ok(Era::Legacy("2025-03-26")));
    }
}
