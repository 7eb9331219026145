//! The Model Context Protocol as a codec: bytes to messages and back, for both of its eras. No I/O, and no tool of its
//! own.
//!
//! Modern is revision 2026-07-28, which is stateless: every request says in `_meta` which revision it speaks. Legacy is
//! 2025-11-25 and before, where a client says so once, by `initialize`, and then in a header.
//!
//! Source: <https://modelcontextprotocol.io/specification/2026-07-28>.

pub mod catalogue;
pub mod client;
pub mod envelope;
pub mod era;
pub mod message;
pub mod template;

/// The JSON-RPC and MCP error codes that the edge gives.
pub mod code {
    /// The body is not JSON.
    pub const PARSE_ERROR: i32 = -32700;
    /// The body is JSON and not a JSON-RPC message.
    pub const INVALID_REQUEST: i32 = -32600;
    /// The method is not served.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters are malformed, or name what does not exist.
    pub const INVALID_PARAMS: i32 = -32602;
    /// There is no such resource, as the legacy revisions say it.
    pub const RESOURCE_NOT_FOUND: i32 = -32002;
    /// A fault of ours.
    pub const INTERNAL_ERROR: i32 = -32603;
    /// A header and the body disagree (2026-07-28, Streamable HTTP).
    pub const HEADER_MISMATCH: i32 = -32020;
    /// A question needs a capability that the client has not declared (2026-07-28, "Error codes").
    pub const MISSING_CLIENT_CAPABILITY: i32 = -32021;
    /// The revision is not served (2026-07-28, versioning).
    pub const UNSUPPORTED_PROTOCOL_VERSION: i32 = -32022;
}
