//! The caller's token: taken from the `Authorization` header and nowhere else, and verified.

use std::sync::Arc;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, StatusCode};

use super::Edge;
use super::caller::{Caller, Origin};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::identity::bearer::Bearer;

/// Whether a token was sent, and whose it is.
pub(super) enum Presented {
    /// None was sent: no header, or one of another scheme, which says nothing of tokens.
    Nothing,
    /// The header cannot be read: it is there twice, or there is no token in it.
    Malformed,
    /// One was sent and is good.
    Token(Caller),
    /// One was sent and is not good.
    Refused(Error),
}

impl Edge {
    /// Whose token an `Authorization` header's value holds, for a gate that stands before the edge and knows nothing else of the
    /// request. What it lets through is verified again here.
    pub(crate) async fn recognise(&self, authorization: &str) -> Result<Arc<Principal>, Error> {
        let bearer = Bearer::from_authorization(authorization);
        let missing = || Error::new(Code::Unauthenticated, "TOKEN_MISSING", "there is no bearer token".to_owned());
        let recognised = match bearer {
            Some(bearer) => self.verifier.recognise(&bearer).await.map_err(Error::from),
            None => Err(missing()),
        };
        if let Err(refused) = &recognised {
            let status = match refused.code() {
                Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNAUTHORIZED,
            };
            self.refused(status, refused.reason(), None, None, refused.message());
        }
        recognised
    }
}

/// The caller whose token a request's headers hold.
pub(super) async fn present(edge: &Edge, headers: &HeaderMap, origin: &Origin) -> Presented {
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
    Caller::of(edge, bearer, origin).await.map_or_else(|error| Presented::Refused(error.into()), Presented::Token)
}
