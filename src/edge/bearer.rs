//! The caller's token: taken from the `Authorization` header and nowhere else, and verified.

use std::sync::Arc;

use ::http::HeaderMap;
use ::http::header::AUTHORIZATION;

use super::Edge;
use crate::error::Error;
use crate::identity::Principal;
use crate::identity::bearer::Bearer;

/// Whether a token was sent, and whose it is.
pub(super) enum Presented {
    /// None was sent.
    Nothing,
    /// One was sent and is good.
    Token(Bearer, Arc<Principal>),
    /// One was sent and is not good.
    Refused(Error),
}

pub(super) async fn present(edge: &Edge, headers: &HeaderMap) -> Presented {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Presented::Nothing;
    };
    let Some(bearer) = value.to_str().ok().and_then(Bearer::from_authorization) else {
        return Presented::Nothing;
    };
    match edge.verifier.verify(&bearer).await {
        Ok(principal) => Presented::Token(bearer, principal),
        Err(error) => Presented::Refused(error.into()),
    }
}
