//! Logins: how the bridge comes by a token for a server, and by the next one.
//!
//! [`discovery`] finds who lets people in, [`client`] as whom the bridge asks there, [`code`] leads the person through their
//! browser and [`device`] through another machine's, [`grant`] asks the token endpoint. What comes of it is kept in
//! [`super::store`], under a lock that all bridges of this person share, so that one of them asks and the others read.

mod attempt;
pub(super) mod challenge;
mod client;
mod code;
mod device;
mod discovery;
mod grant;
mod opener;
mod page;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::network::{Network, NetworkError};
use super::plain::plain;
use super::store::{self, Grant, Kept, Login, Store, StoreError};
use crate::clock::Clock;
use crate::http_client::HttpClient;
use challenge::Challenge;
use discovery::{AuthorizationServer, Discovered, Place};

pub use attempt::Failed;
pub use client::ClientError;
pub use code::AnswerError;
pub use discovery::DiscoveryError;
pub use grant::GrantError;

/// How long a token that is still good waits to be renewed, if somebody else is at it or logs in.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// How long a person may take to log in.
const PERSON: Duration = Duration::from_secs(300);

/// How somebody logs in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The client id that somebody has registered with the provider by hand.
    pub client_id: Option<String>,
    /// The file with that client's secret, if it has one.
    pub client_secret: Option<PathBuf>,
    /// The one issuer that may let people in. A configured secret goes to nobody else, and to nobody without it.
    pub issuer: Option<String>,
    /// The URL of a Client ID Metadata Document, which is a client id by itself.
    pub client_metadata: Option<Url>,
    /// Where the browser is sent back to on this machine; without a port any will do.
    pub redirect: Url,
    /// The scopes to ask for in place of those that the server names.
    pub scope: Option<String>,
    /// Whether the client asks for itself and not for a person. It does so unasked where the provider offers nothing else.
    pub as_program: bool,
    /// Whether the `resource` parameter is left out, for providers that refuse it.
    pub without_resource: bool,
    /// Where logins are kept.
    pub store: store::Config,
    /// Says something to the person: where to log in, and what is waited for. stdout belongs to MCP.
    pub tell: fn(&str),
}

/// How far a login may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is kept, and what can be renewed: nobody is asked.
    Quiet,
    /// A browser is opened, and if that cannot be done the login fails: nobody sees what a bridge would print.
    Browser,
    /// Somebody reads what is printed, and may open a URL by hand or on another machine.
    Terminal,
    /// A code is shown, to be typed in on another machine.
    Device,
}

/// A login that failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// What is kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Who lets people in.
    #[error("who lets people in to this server cannot be found out")]
    Discovery(#[from] DiscoveryError),
    /// As whom to ask.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// What the browser brought.
    #[error("the login did not succeed")]
    Answer(#[from] AnswerError),
    /// The token endpoint.
    #[error("the provider gave no token")]
    Grant(#[from] GrantError),
    /// The provider has no endpoint for it.
    #[error("the provider has no `{0}`, so nobody can log in this way")]
    Endpoint(&'static str),
    /// The provider does not do PKCE.
    #[error(
        "the provider does not say that it supports PKCE with S256, so a login could be stolen; --client-id vouches for one that merely does not say it"
    )]
    Pkce,
    /// No browser.
    #[error("no browser can be opened from here")]
    NoBrowser(#[source] std::io::Error),
    /// The loopback port.
    #[error("{0} cannot be listened on, where the browser is to be sent back to")]
    Listen(String, #[source] std::io::Error),
    /// Nobody logged in.
    #[error("nobody logged in within {} minutes", PERSON.as_secs() / 60)]
    Nobody,
    /// Somebody else's login failed while this one waited for it.
    #[error(transparent)]
    Earlier(#[from] Failed),
    /// All scopes are there already.
    #[error(
        "the server asks for more rights (`{0}`), and the provider has been asked for these already: your account may not have them"
    )]
    Scopes(String),
    /// Nobody may be asked.
    #[error("somebody has to log in")]
    Quiet,
    /// Another program has the lock.
    #[error("another program is logging in to this server: finish that login, or end that program, and try again")]
    Busy,
    /// The server answers everybody, and names nobody who lets people in.
    #[error("the server wants no login")]
    Open,
}

/// The logins at one server, as one program sees them.
pub(super) struct Logins {
    config: Config,
    server: Url,
    /// Whether it is spoken to over a WebSocket.
    socket: bool,
    store: Store,
    network: Network,
    clock: Clock,
    /// The login that failed last, where other programs cannot be told of it either.
    failed: Mutex<Option<Failed>>,
}

impl Logins {
    pub(super) fn new(config: Config, server: &Url, socket: bool, network: Network, clock: Clock) -> Self {
        let store = Store::new(config.store.clone(), server);
        Self { config, server: server.clone(), socket, store, network, clock, failed: Mutex::default() }
    }

    fn place(&self) -> Place<'_> {
        Place { url: &self.server, socket: self.socket, issuer: self.config.issuer.as_deref() }
    }

    /// The login that there is.
    pub(super) async fn kept(&self) -> Result<Option<Login>, LoginError> {
        Ok(self.store.load().await?.logins.into_iter().find(|login| self.is_ours(login)))
    }

    /// What the person is to open, if a login waits for them.
    pub(super) fn waiting(&self) -> Option<Url> {
        attempt::open_at(&self.store, self.clock.now())
    }

    /// Whether a token should be renewed by now.
    pub(super) fn is_ending(&self, login: &Login) -> bool {
        login.refresh_token.is_some() && login.renew.is_some_and(|renew| renew <= self.clock.now())
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self, login: &Login) -> bool {
        login.ends.is_some_and(|ends| ends <= self.clock.now())
    }

    /// Renews a token that ends soon; another program may have done it already.
    pub(super) async fn renewed(&self, old: &Login) -> Result<Login, LoginError> {
        let lock = tokio::time::timeout(ELSEWHERE, self.store.lock(|| {})).await;
        let _lock = lock.map_err(|_| LoginError::Busy)??;
        let mut kept = self.store.load().await?;
        match kept.at(&old.issuer).find(|login| self.is_ours(login)) {
            Some(found) if found.access_token != old.access_token => return Ok(found.clone()),
            // Somebody has logged out.
            None => return Err(LoginError::Quiet),
            Some(_) => {}
        }
        let login = grant::refresh(self.network.http().await?, old, self.clock.now()).await?;
        self.keep(&mut kept, &login).await?;
        Ok(login)
    }

    /// Comes by a token that is not `refused`, after the server has said what it wants.
    pub(super) async fn obtain(
        &self,
        refused: Option<&str>,
        challenge: &Challenge,
        reach: Reach,
    ) -> Result<Login, LoginError> {
        let http = self.network.http().await?;
        let before = self.kept().await?;
        let issuer = before.as_ref().map(|login| login.issuer.as_str());
        let found = discovery::discover(http, self.place(), challenge, issuer).await?;
        let since = self.clock.now();
        let _lock =
            self.store.lock(|| (self.config.tell)("another program logs in to this server; waiting for it")).await?;
        let mut kept = self.store.load().await?;
        let wanted = self.scopes(&found, challenge);
        let before = kept.at(&found.server.issuer).find(|login| self.is_ours(login)).cloned();
        if let Some(login) = before {
            let another = Some(login.access_token.as_str()) != refused;
            let covers = !challenge.is_insufficient_scope()
                || wanted_by(challenge).iter().all(|scope| login.scopes.contains(scope));
            if another && covers && login.ends.is_none_or(|ends| ends > self.clock.now()) {
                self.keep(&mut kept, &login).await?;
                return Ok(login);
            }
            if challenge.is_insufficient_scope() {
                if covers {
                    return Err(LoginError::Scopes(challenge.scope.clone().unwrap_or_default()));
                }
            } else if login.refresh_token.is_some() {
                match grant::refresh(http, &login, self.clock.now()).await {
                    Ok(login) => {
                        self.keep(&mut kept, &login).await?;
                        return Ok(login);
                    }
                    Err(error) if error.is_final() => {
                        tracing::info!(%error, "the login has ended");
                        if error.is_of_unknown_client() {
                            kept.forget(&login);
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        attempt::failed_since(&self.store, since)?;
        // Who has said no is not asked again at once.
        if !self.is_program(&found.server) {
            attempt::refused_lately(&self.store, self.failed().as_ref(), self.clock.now())?;
        }
        self.ask(http, &found, wanted, &mut kept, reach).await
    }

    /// Logs in anew, whatever there is. `open` says that the server has answered somebody without a token.
    pub(super) async fn log_in(&self, challenge: &Challenge, open: bool, reach: Reach) -> Result<Login, LoginError> {
        let http = self.network.http().await?;
        let found = discovery::discover(http, self.place(), challenge, None).await?;
        if open && found.server.assumed {
            return Err(LoginError::Open);
        }
        let _lock = self.store.lock(|| self.tell_of_waiting()).await?;
        let mut kept = self.store.load().await?;
        let wanted = self.scopes(&found, challenge);
        self.ask(http, &found, wanted, &mut kept, reach).await
    }

    fn tell_of_waiting(&self) {
        match self.waiting() {
            Some(url) => (self.config.tell)(&format!("another program waits for a login already, at {url}")),
            None => (self.config.tell)("another program logs in to this server; waiting for it"),
        }
    }

    /// Forgets the logins, and tells the providers that have an ear for it (RFC 7009). Whether there was any.
    pub(super) async fn log_out(&self) -> Result<bool, LoginError> {
        let lock = tokio::time::timeout(ELSEWHERE, self.store.lock(|| self.tell_of_waiting())).await;
        let _lock = lock.map_err(|_| LoginError::Busy)??;
        let kept = self.store.load().await?;
        let cleared = self.store.clear().await;
        for login in &kept.logins {
            if let Err(error) = grant::revoke(self.network.http().await?, login).await {
                tracing::warn!(%error, issuer = plain(&login.issuer), "the provider could not be told; what it gave ends by itself");
            }
        }
        cleared?;
        Ok(!kept.logins.is_empty())
    }

    /// Asks the person.
    async fn ask(
        &self,
        http: &HttpClient,
        found: &Discovered,
        mut scopes: Vec<String>,
        kept: &mut Kept,
        reach: Reach,
    ) -> Result<Login, LoginError> {
        let server = &found.server;
        let program = self.is_program(server);
        if reach == Reach::Quiet && !program {
            return Err(LoginError::Quiet);
        }
        let before = kept.at(&server.issuer).find(|login| self.is_ours(login)).cloned();
        // What was granted before is not lost by asking for more.
        for scope in before.iter().flat_map(|login| &login.scopes) {
            if !scopes.is_empty() && !scopes.contains(scope) {
                scopes.push(scope.clone());
            }
        }
        let client = before.as_ref().map(|login| login.client.clone());
        let grant = match (program, self.config.as_program) {
            (false, _) => Grant::Person,
            (true, true) => Grant::Program,
            (true, false) => Grant::OnlyProgram,
        };
        let resource = found.resource.clone().filter(|_| !self.config.without_resource);
        let resource = resource
            .or_else(|| (found.resource.is_none() && !self.config.without_resource).then(|| canonical(&self.server)));
        let wish = grant::Wish { server, scopes, resource, grant };
        let asking = async {
            if program {
                let client = client::client(http, server, &self.config, client, &self.config.redirect).await?;
                let endpoint = server.token_endpoint.as_ref().ok_or(LoginError::Endpoint("token_endpoint"))?;
                return Ok(grant::of_program(http, &wish, client, endpoint, self.clock.now()).await?);
            }
            if reach != Reach::Device {
                let asked = code::ask(http, &wish, &self.config, client.clone(), &self.store, &self.clock, reach).await;
                // Whoever reads what is printed can do it on another machine.
                if reach != Reach::Terminal || !matches!(asked, Err(LoginError::NoBrowser(_))) {
                    return asked;
                }
            }
            device::ask(http, &wish, &self.config, client, &self.clock).await
        };
        let asked = tokio::time::timeout(PERSON, asking).await.unwrap_or(Err(LoginError::Nobody));
        *self.failed() = attempt::over(&self.store, asked.as_ref().err(), self.clock.now());
        match asked {
            Ok(login) => {
                self.keep(kept, &login).await?;
                Ok(login)
            }
            Err(error) => {
                // A provider that has forgotten the client says so to the person alone, or not before the code is exchanged.
                let unknown = matches!(&error, LoginError::Grant(error) if error.is_of_unknown_client());
                if unknown || matches!(error, LoginError::Nobody) {
                    if let Some(login) = &before {
                        kept.forget(login);
                    }
                    self.store.save(std::mem::take(kept), self.clock.now()).await?;
                }
                Err(error)
            }
        }
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<Failed>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(&self, kept: &mut Kept, login: &Login) -> Result<(), LoginError> {
        kept.put(login.clone());
        Ok(self.store.save(std::mem::take(kept), self.clock.now()).await?)
    }

    /// Which scopes to ask for: those of the challenge, else those that the resource names (MCP, "Scope Selection Strategy").
    fn scopes(&self, found: &Discovered, challenge: &Challenge) -> Vec<String> {
        let mut scopes = match &self.config.scope {
            Some(scope) => words(scope),
            None => match &challenge.scope {
                Some(scope) => words(scope),
                None => found.scopes.clone().unwrap_or_default(),
            },
        };
        // What an operation needs is asked for whatever was configured.
        for scope in wanted_by(challenge) {
            if challenge.is_insufficient_scope() && !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let offers = |scope: &str| found.server.scopes_supported.iter().flatten().any(|offered| offered == scope);
        // Alone it would be all that is asked for.
        if !scopes.is_empty() && offers(OFFLINE) && !scopes.iter().any(|scope| scope == OFFLINE) {
            scopes.push(OFFLINE.to_owned());
        }
        scopes
    }

    /// Whether no person is asked: somebody said so, or the provider has nothing for people and the client has a secret.
    fn is_program(&self, server: &AuthorizationServer) -> bool {
        let offers = |grant: &str| server.grant_types_supported.iter().flatten().any(|offered| offered == grant);
        let only = offers("client_credentials") && !offers("authorization_code");
        self.config.as_program || only && self.config.client_secret.is_some()
    }

    /// Whether a login is one that this configuration would make: as the client, at the issuer, and for the person or the
    /// program, as is said now.
    fn is_ours(&self, login: &Login) -> bool {
        let config = &self.config;
        let grant = match login.grant {
            Grant::Person => !config.as_program,
            Grant::Program => config.as_program,
            Grant::OnlyProgram => config.client_secret.is_some(),
        };
        grant
            && config.client_id.as_ref().is_none_or(|id| *id == login.client.id)
            && config.issuer.as_ref().is_none_or(|issuer| *issuer == login.issuer)
    }
}

impl LoginError {
    /// Whether the person, or the provider for them, has said no.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Answer(AnswerError::Refused { code, .. }) | Self::Grant(GrantError::Refused { code, .. }) => {
                code == "access_denied"
            }
            _ => false,
        }
    }
}

/// The scope by which a provider is asked for a refresh token (OpenID Connect Core 1.0, section 11).
const OFFLINE: &str = "offline_access";

fn wanted_by(challenge: &Challenge) -> Vec<String> {
    challenge.scope.as_deref().map(words).unwrap_or_default()
}

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// A server's own name where it publishes none (MCP, "Canonical Server URI").
fn canonical(server: &Url) -> String {
    let mut server = server.clone();
    server.set_query(None);
    server.set_fragment(None);
    let text = server.to_string();
    text.strip_suffix('/').map(str::to_owned).unwrap_or(text)
}

/// Whether a provider may be asked for a code.
fn can_pkce(server: &AuthorizationServer, config: &Config) -> bool {
    match &server.code_challenge_methods_supported {
        Some(methods) => methods.iter().any(|method| method == "S256"),
        // What is assumed of a server says nothing, and a provider that somebody has chosen by hand need not.
        None => server.assumed || config.client_id.is_some(),
    }
}
