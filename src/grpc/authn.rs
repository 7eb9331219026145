//! Who calls the core: the peer by its certificate, and for an edge the person by their own token.

use std::net::IpAddr;
use std::sync::Arc;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::annotations::Annotations;
use crate::error::{Code, Error};
use crate::identity::bearer::{Bearer, Verifier};
use crate::identity::oidc::Login;
use crate::identity::peer::{PeerId, Peers, Role};
use crate::identity::thumbprint::Thumbprint;
use crate::identity::{Caller, Principal};
use crate::listen::Connection;
use crate::operation::Tool;

use super::{CLIENT_ADDRESS, CLIENT_CERTIFICATE};

/// Establishes who calls.
#[derive(Debug)]
pub struct Authenticator {
    peers: Peers,
    verifier: Option<Arc<Verifier>>,
    annotations: Annotations,
}

/// Why it could not be established.
#[derive(Debug, thiserror::Error)]
enum AuthnError {
    #[error("this call came without a connection's identity")]
    NoConnection,
    #[error("this call came without a client certificate")]
    NoCertificate,
    #[error("an edge speaks for people: send the person's own access token in `authorization`")]
    NoBearer,
    #[error("a client is nobody by itself: send an API key in `authorization`, as `Bearer wlk_…`")]
    NoKey,
    #[error("the `authorization` metadata must hold one bearer token")]
    BadAuthorization,
    #[error("neither an identity provider nor API keys are configured, so nobody's token can be checked")]
    NoIssuer,
    #[error("a service acts as itself by its certificate; a bearer token on its call is refused")]
    UnexpectedBearer,
    #[error("only an edge says which address a person calls from; `{CLIENT_ADDRESS}` is believed from nobody else")]
    UnexpectedAddress,
    #[error("the metadata `{CLIENT_ADDRESS}` is not an IP address")]
    BadAddress,
    #[error(
        "only an edge says which certificate a person came with; `{CLIENT_CERTIFICATE}` is believed from nobody else"
    )]
    UnexpectedCertificate,
    #[error("the metadata `{CLIENT_CERTIFICATE}` is not one SHA-256 in base64url")]
    BadCertificate,
}

impl From<AuthnError> for Error {
    fn from(error: AuthnError) -> Self {
        let (code, reason) = match error {
            AuthnError::NoConnection => (Code::Internal, "INTERNAL"),
            AuthnError::NoCertificate => (Code::Unauthenticated, "CERTIFICATE_MISSING"),
            AuthnError::NoKey => (Code::Unauthenticated, "API_KEY_MISSING"),
            AuthnError::NoBearer => (Code::Unauthenticated, "TOKEN_MISSING"),
            AuthnError::BadAuthorization => (Code::Unauthenticated, "TOKEN_INVALID"),
            AuthnError::NoIssuer => (Code::FailedPrecondition, "ISSUER_NOT_CONFIGURED"),
            AuthnError::UnexpectedBearer => (Code::PermissionDenied, "BEARER_REFUSED"),
            AuthnError::UnexpectedAddress => (Code::PermissionDenied, "CLIENT_ADDRESS_REFUSED"),
            AuthnError::BadAddress => (Code::InvalidArgument, "CLIENT_ADDRESS_INVALID"),
            AuthnError::UnexpectedCertificate => (Code::PermissionDenied, "CLIENT_CERTIFICATE_REFUSED"),
            AuthnError::BadCertificate => (Code::InvalidArgument, "CLIENT_CERTIFICATE_INVALID"),
        };
        Self::new(code, reason, error.to_string())
    }
}

impl Authenticator {
    /// Knows these peers; `verifier` checks people's tokens, where an issuer is configured.
    pub fn new(peers: Peers, verifier: Option<Arc<Verifier>>, annotations: Annotations) -> Self {
        Self { peers, verifier, annotations }
    }

    /// Establishes who calls, from the connection and the call's metadata.
    pub async fn authenticate(&self, connection: Option<&Connection>, metadata: &MetadataMap) -> Result<Caller, Error> {
        let connection = connection.ok_or(AuthnError::NoConnection)?;
        let names = connection.peer().ok_or(AuthnError::NoCertificate)?;
        let (peer, role) = self.peers.recognise(names)?;
        let mut authorization = metadata.get_all("authorization").iter();
        let authorization = match (authorization.next(), authorization.next()) {
            (Some(_), Some(_)) => return Err(AuthnError::BadAuthorization.into()),
            (only, _) => only,
        };
        let mut claimed = metadata.get_all(CLIENT_ADDRESS).iter();
        let claimed_address = match (claimed.next(), claimed.next()) {
            (Some(_), Some(_)) => return Err(AuthnError::BadAddress.into()),
            (only, _) => only,
        };
        let mut certificates = metadata.get_all(CLIENT_CERTIFICATE).iter();
        let claimed_certificate = match (certificates.next(), certificates.next()) {
            (Some(_), Some(_)) => return Err(AuthnError::BadCertificate.into()),
            (only, _) => only,
        };
        let remote = connection.remote().map(|remote| remote.ip());
        match role {
            Role::Service(_) if authorization.is_some() => Err(AuthnError::UnexpectedBearer.into()),
            Role::Service(_) | Role::Client if claimed_address.is_some() => Err(AuthnError::UnexpectedAddress.into()),
            Role::Service(_) | Role::Client if claimed_certificate.is_some() => {
                Err(AuthnError::UnexpectedCertificate.into())
            }
            Role::Service(scopes) => Ok(Caller::new(Principal::service(peer, scopes.clone()), peer.clone(), remote)),
            Role::Client => {
                let bearer = bearer(authorization.ok_or(AuthnError::NoKey)?)?;
                if !bearer.is_api_key() {
                    return Err(AuthnError::NoKey.into());
                }
                self.bearer_caller(&bearer, peer, remote, None).await
            }
            Role::Edge => {
                let bearer = bearer(authorization.ok_or(AuthnError::NoBearer)?)?;
                let address = claimed_address
                    .map(|address| {
                        address.to_str().ok().and_then(|text| text.parse::<IpAddr>().ok()).ok_or(AuthnError::BadAddress)
                    })
                    .transpose()?;
                let certificate = claimed_certificate
                    .map(|text| text.to_str().ok().and_then(Thumbprint::parse).ok_or(AuthnError::BadCertificate))
                    .transpose()?;
                self.bearer_caller(&bearer, peer, address, certificate.as_ref()).await
            }
        }
    }

    /// A login that a person has just made, by its ID token, which must be meant for that OAuth client.
    pub async fn login(&self, caller: &Caller, id_token: &str, client: &str) -> Result<Login, Error> {
        let verifier = self.verifier.as_ref().ok_or(AuthnError::NoIssuer)?;
        Ok(verifier.login(caller.principal().issuer(), id_token, client).await?)
    }

    async fn bearer_caller(
        &self,
        bearer: &Bearer,
        peer: &PeerId,
        address: Option<IpAddr>,
        certificate: Option<&Thumbprint>,
    ) -> Result<Caller, Error> {
        let verifier = self.verifier.as_ref().ok_or(AuthnError::NoIssuer)?;
        let principal = verifier.verify(bearer, address, certificate).await.map_err(Error::from)?;
        Ok(Caller::new(Principal::clone(&principal), peer.clone(), address))
    }

    /// Fails unless the caller holds the tool's scope.
    pub fn require_scope(&self, caller: &Caller, tool: Tool) -> Result<(), Error> {
        let wanted = self.annotations.find(tool.name()).map(|spec| spec.annotations.scope.as_str()).unwrap_or_default();
        if self.annotations.scopes().grants(caller.principal().scopes(), wanted) {
            return Ok(());
        }
        let text = format!("this needs the scope `{wanted}`, which you do not hold");
        Err(Error::new(Code::PermissionDenied, "SCOPE_MISSING", text).fact("scope", wanted))
    }
}

fn bearer(authorization: &MetadataValue<Ascii>) -> Result<Bearer, AuthnError> {
    authorization.to_str().ok().and_then(Bearer::from_authorization).ok_or(AuthnError::BadAuthorization)
}
