//! Why a message was not carried, or brought no answer, and what is said of it to whoever asked.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use url::Url;

use super::access::AccessError;
use super::login::LoginError;
use super::network::NetworkError;
use super::plain::plain;
use super::sse::TooLarge;
use crate::error::Chain;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A message that brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("the request cannot be put together")]
    Request(#[from] http::Error),
    #[error("the server cannot be reached")]
    Connect(#[source] Source),
    #[error("the connection broke")]
    Broken(#[source] Source),
    /// The server closed the socket, and said why.
    #[error("the server closed the connection ({code}: {reason})")]
    Closed { code: u16, reason: String },
    #[error("the server ended its answer before it was whole")]
    Ended,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("no answer in time")]
    Timeout(Duration),
    /// It never came to be sent.
    #[error("what was asked before is not answered yet")]
    Behind(Duration),
    /// stdin has ended, and the bridge waits no longer.
    #[error("the input has ended before the answer was there")]
    Leaving,
    /// Somebody has to log in meanwhile, at that page.
    #[error("nobody has logged in yet")]
    Waiting(Url),
    #[error("the server answered {0}")]
    Status(StatusCode, Option<Value>, Option<u64>),
    #[error("a request with this id is still on its way")]
    InFlight,
}

impl CarryError {
    /// The JSON-RPC code: HTTP's own status where there is one, or the one that fits. Positive numbers are applications'.
    pub(super) fn code(&self) -> i32 {
        match self {
            Self::Status(status, ..) => status.as_u16().into(),
            Self::Access(AccessError::Login(error)) if matches!(**error, LoginError::Scopes(_)) => 403,
            Self::Access(_) | Self::Waiting(_) => 401,
            Self::Closed { code: 4001, .. } => 401,
            Self::Timeout(_) | Self::Behind(_) | Self::Leaving => 504,
            Self::Network(_) | Self::Request(_) => 500,
            Self::Connect(_) | Self::Closed { code: 1013, .. } => 503,
            Self::Broken(_) | Self::Closed { .. } | Self::Ended | Self::TooLarge(_) => 502,
            Self::InFlight => crate::mcp::code::INVALID_REQUEST,
        }
    }

    /// What is told to whoever asked: what is wrong, and what they can do.
    pub(super) fn words(&self, url: &Url) -> String {
        let why = Chain(self);
        match self {
            Self::Access(AccessError::Token(_)) => format!("{why}; mend it, and ask again"),
            Self::Access(AccessError::Given) => refused("it was refused"),
            Self::Access(AccessError::Login(error)) => match &**error {
                LoginError::Quiet => format!(
                    "the server wants to know who you are: run `whitelistmcp login {url}` in a terminal, with the options of this bridge, and ask again, or set MCP_AUTH_TOKEN, or give --token-file"
                ),
                LoginError::Scopes(_) => why.to_string(),
                _ => format!(
                    "the server wants to know who you are, and the login failed: {why}. Run `whitelistmcp login {url}` in a terminal, with the options of this bridge, and ask again, or set MCP_AUTH_TOKEN, or give --token-file"
                ),
            },
            Self::Waiting(page) => format!(
                "you have to log in: open {page} in a browser on this machine if it is not open yet, log in there, and ask again"
            ),
            Self::Status(StatusCode::UNAUTHORIZED, said, _) => {
                refused(&words_of(said.as_ref()).unwrap_or_else(|| "it was refused".to_owned()))
            }
            Self::Status(StatusCode::FORBIDDEN, said, _) => {
                words_of(said.as_ref()).unwrap_or_else(|| "the server refuses this caller".to_owned())
            }
            Self::Status(StatusCode::NOT_FOUND, None, _) => {
                "there is no MCP server at this address; is its path right, such as /mcp?".to_owned()
            }
            Self::Status(status, said, wait) => {
                let said = words_of(said.as_ref()).unwrap_or_else(|| format!("the server answered {status}"));
                match wait {
                    Some(wait) => format!("{said} (try again in {wait} s)"),
                    None => said,
                }
            }
            Self::Timeout(most) => format!(
                "the server did not answer within {} s; look whether it was done before trying again",
                most.as_secs()
            ),
            Self::Connect(_) => format!(
                "{why}; nothing was asked of it. Is the address right, is it up, and is its certificate from a CA that is known here (--ca)?"
            ),
            Self::Broken(_) | Self::Closed { .. } => {
                format!("{why} before the answer was there; look whether it was done before trying again")
            }
            Self::Behind(most) => {
                format!("{why}, after {} s, so this was not sent; try again", most.as_secs())
            }
            Self::Ended | Self::Leaving => format!("{why}; look whether it was done before trying again"),
            Self::Network(_) | Self::Request(_) | Self::TooLarge(_) | Self::InFlight => why.to_string(),
        }
    }
}

fn refused(why: &str) -> String {
    format!(
        "your access token is not good any more ({why}); get a new one and start the bridge again, or put it into the file of --token-file"
    )
}

/// What an error's body says in words.
fn words_of(body: Option<&Value>) -> Option<String> {
    let said =
        body?.pointer("/error/message").or_else(|| body?.get("error_description")).or_else(|| body?.get("error"))?;
    said.as_str().map(plain)
}
