//! gRPC: the core's service, who may call it, and the client that the edge calls it with.

mod approvals;
pub mod authn;
mod catalogue;
pub mod client;
pub mod doctor;
pub mod later;
mod present;
pub mod probe;
pub mod server;
mod service;
pub mod status;

use std::time::Duration;

/// The metadata key under which an edge says which address a person calls from. Believed from an edge only.
pub const CLIENT_ADDRESS: &str = "mcp-client-address";

/// The metadata key under which an edge says which certificate a person's connection was made with: its thumbprint by RFC
/// 8705, section 3.1. Believed from an edge only.
pub const CLIENT_CERTIFICATE: &str = "mcp-client-certificate";

/// The longest that a call may take, whatever deadline the caller asks for.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// The deadline of a call that names none.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);

/// Reads a `grpc-timeout`: at most eight digits and a unit.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
pub fn parse_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H").map(|d| d.as_secs()), Some(99_999_999 * 3600));
        for wrong in ["", "S", "1", "123456789S", "-1S", "1x", "1é"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }
}
