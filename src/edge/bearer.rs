//! The caller's token: taken from the `Authorization` header and nowhere else, and verified.

use std::net::IpAddr;
use std::sync::Arc;

use ::http::HeaderMap;
use ::http::header::AUTHORIZATION;

use super::Edge;
use crate::error::Error;
use crate::identity::Principal;
use crate::identity::bearer::Bearer;
use crate::identity::thumbprint::Thumbprint;

/// Whether a token was sent, and whose it is.
pub(super) enum Presented {
    /// None was sent: no header, or one of another scheme, which says nothing of tokens.
    Nothing,
    /// The header cannot be read: it is there twice, or there is no token in it.
    Malformed,
    /// One was sent and is good.
    Token(Bearer, Arc<Principal>),
    /// One was sent and is not good.
    Refused(Error),
}

pub(super) async fn present(
    edge: &Edge,
    headers: &HeaderMap,
    address: Option<IpAddr>,
    certificate: Option<&Thumbprint>,
) -> Presented {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Presented::Nothing,
        (Some(value), None) => value.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return Presented::Malformed,
    };
    let scheme = value.split(' ').next().unwrap_or_default();
    if !scheme.is_empty() && !scheme.eq_ignore_ascii_case("bearer") {
        return Presented::Nothing;
    }
    let Some(bearer) = Bearer::from_authorization(value) else { return Presented::Malformed };
    match edge.verifier.verify(&bearer, address, certificate).await {
        Ok(principal) => Presented::Token(bearer, principal),
        Err(error) => Presented::Refused(error.into()),
    }
}
