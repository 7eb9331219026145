//! The edge: an MCP server in front of any gRPC service whose proto carries the `mcp.v1` annotations.
//!
//! It validates the caller's token, reads the message, turns a tool call into one RPC and the answer into a tool
//! result. It never decides what a caller may do with a tool, and it cannot reach AWS: it does not import what could.

pub mod approvals;
mod aside;
mod batch;
mod bearer;
mod callable;
mod caller;
mod challenge;
mod client_address;
mod content;
mod conversation;
mod cors;
mod dispatch;
mod error;
pub mod events;
mod headers;
mod http;
mod log_levels;
mod news;
mod observe;
mod offers;
mod places;
mod questions;
mod reply;
pub mod router;
mod rpc;
mod sealed;
mod session;
mod socket;
pub mod stdio;
mod stream;
mod tool;
mod transcode;
mod waiting;

pub use client_address::ForwardedBy;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;
use url::Url;

use callable::Callable;
use events::{Event, Events};
use log_levels::LogLevels;
use news::Subscriptions;
use places::Shares;
use questions::Questions;
use sealed::Sealed;

use crate::annotations::Annotations;
use crate::clock::Clock;
use crate::grpc::DEADLINE_MAX;
use crate::grpc::client::{self, Link};
use crate::health::Health;
use crate::identity::bearer::Verifier;
use crate::limit::{Door, Queue};
use crate::listen::{PER_ADDRESS, PerAddress};
use crate::mcp::catalogue;
use crate::mcp::message::Server;
use crate::schema::Network;
use crate::seal::SealError;
use crate::shared::Shared;
use crate::telemetry;
use crate::tls::{self, ServerFiles};

/// Reads a tool's arguments as the edge reads those of a call: the request, encoded, or what a caller would be told.
pub fn read_arguments(
    annotations: &Annotations,
    tool: &str,
    arguments: &RawValue,
) -> Result<Bytes, crate::error::Error> {
    let unknown = || crate::error::Error::invalid("tool", "TOOL_UNKNOWN", format!("there is no tool `{tool}`"));
    let spec = annotations.find(tool).ok_or_else(unknown)?;
    transcode::to_message(&spec.method.input(), Some(arguments), annotations)
        .map_err(|wrong| crate::error::Error::invalid("arguments", wrong.reason(), wrong.to_string()))
}

/// `[edge]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The address to listen on.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// A second address for WebSocket alone, where they must have a port of their own.
    pub websocket_listen: Option<SocketAddr>,
    /// The URL of the MCP endpoint as clients see it. It is this resource's identifier (RFC 9728).
    pub public_url: Url,
    /// The certificate and key to serve HTTPS with.
    pub tls: Option<tls::Identity>,
    /// The oldest version of TLS that is spoken.
    #[serde(default)]
    pub tls_minimum: tls::Version,
    /// The CA (PEM) of client certificates, to which access tokens may be bound (RFC 8705).
    pub client_ca: Option<PathBuf>,
    /// Revocation lists (PEM or DER) of that CA. With any, a certificate that none of them covers is refused.
    #[serde(default)]
    pub client_crl: Vec<PathBuf>,
    /// Whether clients may or must show a certificate.
    pub client_certificates: Option<tls::Demand>,
    /// The most connections that one address may have open; proxies are not counted.
    #[serde(default = "default_connections")]
    pub connections_per_address: NonZeroUsize,
    /// Serve plain HTTP: to loopback, or behind a proxy named in `trusted_proxies`.
    #[serde(default)]
    pub plaintext: Option<bool>,
    /// The proxies that are believed about whom they speak for.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<Network>")]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which those proxies say whom they speak for: `x-forwarded-for` or `forwarded`.
    #[serde(default)]
    pub forwarded_by: ForwardedBy,
    /// The networks that clients may call from; everybody's, if none is given. With some given, a caller whose address
    /// is not known is refused as well.
    #[serde(default, deserialize_with = "networks")]
    #[schemars(with = "Vec<Network>")]
    pub allowed_clients: Vec<IpNet>,
    /// Host names that clients may use besides the one in `public_url`.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call; an `Origin` that is not listed is refused.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
    /// The most bytes of a request's body.
    #[serde(default = "default_body_max")]
    pub body_max: usize,
    /// The most requests that are worked on at once; further ones are told to come back.
    #[serde(default = "default_in_flight")]
    pub in_flight_max: usize,
    /// The file of the key (64 hexadecimal digits) that seals what clients are given to bring back. Replicas share it; without
    /// one each process has its own.
    pub sealing_key: Option<PathBuf>,
    /// How long a tool call may take, in seconds.
    #[serde(default = "default_call_timeout")]
    pub call_timeout: u64,
    /// How people log in to decide on requests for approval; without it the edge has no page for that.
    pub login: Option<approvals::login::Config>,
    /// Where what the edge refuses by itself is written down.
    #[serde(default)]
    pub events: events::Config,
    /// The service behind the edge. Not needed where edge and core share one process.
    pub backend: Option<client::Config>,
}

/// Networks as text; a bare address is a network of one.
fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let parse = |text: String| {
        let network = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        network.map_err(|_| serde::de::Error::custom(format!("`{text}` is not a network like 10.0.0.0/8")))
    };
    Vec::<String>::deserialize(deserializer)?.into_iter().map(parse).collect()
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8080))
}

fn default_connections() -> NonZeroUsize {
    PER_ADDRESS
}

fn default_body_max() -> usize {
    256 * 1024
}

fn default_in_flight() -> usize {
    256
}

fn default_call_timeout() -> u64 {
    30
}

/// Why `[edge]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Neither TLS nor leave to do without.
    #[error("`[edge]` needs `tls`, or `plaintext = true` where it listens on loopback or behind `trusted_proxies`")]
    NoTls,
    /// Both.
    #[error("`[edge]` has both `tls` and `plaintext`; take one out")]
    TlsAndPlaintext,
    /// TLS settings without TLS.
    #[error("`[edge] {0}` says how TLS is done, and there is no `[edge.tls]`")]
    WithoutTls(&'static str),
    /// Settings of a listener where there is none.
    #[error(
        "`[edge] {0}` means nothing in a function, where the platform does TLS and hands over single requests; take it out"
    )]
    HandedOver(&'static str),
    /// Client certificates that nothing verifies.
    #[error("`[edge] {0}` needs `client_ca`: without it no client certificate can be verified")]
    NoClientCa(&'static str),
    /// A client CA of which nothing is asked.
    #[error("`[edge] client_ca` needs `client_certificates = \"optional\"` or `\"required\"`")]
    NoClientCertificates,
    /// Plain HTTP that anyone could reach.
    #[error(
        "plain HTTP (`[edge] plaintext`) is refused: {0} is reachable from outside and no `[edge] trusted_proxies` are declared; name the networks of the proxy that does TLS, or give a certificate in `[edge.tls]`"
    )]
    OpenPlaintext(SocketAddr),
    /// Nearly everybody a proxy.
    #[error(
        "`[edge] trusted_proxies` holds {0}, which is too wide: {too_wide}, or anyone could say which address they call from",
        too_wide = crate::network::WIDEST
    )]
    WideTrust(IpNet),
    /// The public URL.
    #[error(
        "`[edge] public_url` must be https (http to a loopback address is allowed), with a path such as /mcp and no query or fragment: {0}"
    )]
    PublicUrl(Url),
    /// An origin list that lets anyone in.
    #[error(
        "`[edge] allowed_origins` must list origins like https://app.example.com; `{0}` is not one (`*` would let any web page call with a person's token)"
    )]
    Origin(String),
    /// A call that outlives every deadline.
    #[error("`[edge] call_timeout` must be at most {} seconds: a longer call is ended by the core", DEADLINE_MAX.as_secs())]
    CallTimeout,
    /// A limit of nothing.
    #[error("`[edge] {0}` must be more than 0")]
    Zero(&'static str),
    /// The file of events.
    #[error("`[edge.events]`")]
    Events(#[source] std::io::Error),
    /// The key that seals.
    #[error("`[edge] sealing_key`")]
    SealingKey(#[source] SealError),
}

/// Everything that serves a request at the edge.
#[derive(Debug)]
pub struct Edge {
    config: Config,
    verifier: Arc<Verifier>,
    approvals: Option<approvals::Approvals>,
    /// Whether each answer goes out whole, and nothing lasts beyond it.
    whole: bool,
    link: Link,
    annotations: Annotations,
    tools: Vec<Value>,
    callable: Callable,
    server: Server,
    limits: Door,
    health: Health,
    in_flight: Queue,
    events: Events,
    sealed: Sealed,
    questions: Questions,
    log_levels: LogLevels,
    subscriptions: Subscriptions,
    /// Who listens to what changes, and the way by which they do: a connection of its own, so that they take no call's place.
    listeners: Shares,
    news_link: Link,
    /// How many requests of each caller are worked on.
    busy: Shares,
    /// The number of the next channel.
    channels: AtomicU64,
}

impl Config {
    /// Checks what can be checked without opening anything.
    pub fn check(&self) -> Result<(), ConfigError> {
        match (&self.tls, self.is_plain()) {
            (None, false) => return Err(ConfigError::NoTls),
            (Some(_), true) => return Err(ConfigError::TlsAndPlaintext),
            (None, true) if self.trusted_proxies.is_empty() => {
                if let Some(open) = self.reachable() {
                    return Err(ConfigError::OpenPlaintext(open));
                }
            }
            _ => {}
        }
        self.check_tls()?;
        if let Some(wide) = crate::network::too_wide(&self.trusted_proxies) {
            return Err(ConfigError::WideTrust(wide));
        }
        let url = &self.public_url;
        if !crate::http_client::is_https_or_loopback(url)
            || url.query().is_some()
            || url.fragment().is_some()
            || url.cannot_be_a_base()
        {
            return Err(ConfigError::PublicUrl(url.clone()));
        }
        let is_origin = |origin: &&String| {
            Url::parse(origin)
                .is_ok_and(|url| url.origin().is_tuple() && url.origin().ascii_serialization() == **origin)
        };
        if let Some(wrong) = self.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(ConfigError::Origin(wrong.clone()));
        }
        if self.call_timeout > DEADLINE_MAX.as_secs() {
            return Err(ConfigError::CallTimeout);
        }
        let limits = [
            ("body_max", self.body_max),
            ("in_flight_max", self.in_flight_max),
            ("call_timeout", usize::from(self.call_timeout > 0)),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(ConfigError::Zero(name)),
            None => Ok(()),
        }
    }

    /// The same where a platform does TLS and hands over single requests: nothing is listened on. Fails where it says how TLS is
    /// to be done, as that is not in our hands then.
    pub fn handed_over(mut self) -> Result<Self, ConfigError> {
        let settings = [
            ("tls", self.tls.is_some()),
            ("client_ca", self.client_ca.is_some()),
            ("client_certificates", self.client_certificates.is_some()),
            ("websocket_listen", self.websocket_listen.is_some()),
        ];
        if let Some((name, _)) = settings.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::HandedOver(name));
        }
        self.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        self.plaintext = Some(true);
        self.check()?;
        Ok(self)
    }

    /// That of an edge which listens nowhere, and is spoken to by the program that has started it.
    pub fn in_process() -> Self {
        let nowhere = serde_json::json!({"public_url": "http://localhost/mcp", "plaintext": true});
        #[expect(clippy::expect_used, reason = "a literal, and a test reads it")]
        serde_json::from_value(nowhere).expect("a sound configuration")
    }

    fn check_tls(&self) -> Result<(), ConfigError> {
        let clients =
            [("client_certificates", self.client_certificates.is_some()), ("client_crl", !self.client_crl.is_empty())];
        if self.client_ca.is_none()
            && let Some((name, _)) = clients.into_iter().find(|(_, given)| *given)
        {
            return Err(ConfigError::NoClientCa(name));
        }
        let settings =
            [("client_ca", self.client_ca.is_some()), ("tls_minimum", self.tls_minimum != tls::Version::default())];
        if self.tls.is_none()
            && let Some((name, _)) = settings.into_iter().find(|(_, given)| *given)
        {
            return Err(ConfigError::WithoutTls(name));
        }
        match (&self.client_ca, self.client_certificates) {
            (Some(_), None) => Err(ConfigError::NoClientCertificates),
            _ => Ok(()),
        }
    }

    /// The addresses that it listens on.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.listen).chain(self.websocket_listen)
    }

    /// One of its addresses that other machines reach, if one does.
    fn reachable(&self) -> Option<SocketAddr> {
        self.addresses().find(|address| !address.ip().is_loopback())
    }

    /// Whether it serves plain HTTP.
    pub fn is_plain(&self) -> bool {
        self.plaintext.unwrap_or_default()
    }

    /// Whether it serves plain HTTP where other machines reach it: then declared proxies alone are served.
    fn is_in_the_clear(&self) -> bool {
        self.is_plain() && self.reachable().is_some()
    }

    /// The files that it does TLS by; none where it serves plain HTTP.
    pub fn files(&self) -> Option<ServerFiles> {
        let clients = self.client_ca.as_ref().zip(self.client_certificates).map(|(ca, demand)| tls::Clients {
            ca: ca.clone(),
            crl: self.client_crl.clone(),
            demand,
        });
        let identity = self.tls.as_ref()?;
        Some(ServerFiles::public("edge.tls", identity, self.tls_minimum, clients))
    }

    /// How many connections each address may have.
    pub fn per_address(&self) -> PerAddress {
        PerAddress { most: self.connections_per_address, uncounted: self.trusted_proxies.clone() }
    }
}

impl Edge {
    /// Puts the parts together.
    pub fn new(
        config: Config,
        verifier: Arc<Verifier>,
        link: Link,
        annotations: Annotations,
        limits: Door,
        health: Health,
        shared: Option<Shared>,
    ) -> Result<Self, ConfigError> {
        let events = Events::start(config.events.clone(), Clock::system()).map_err(ConfigError::Events)?;
        let sealed = Sealed::new(config.sealing_key.as_deref(), shared, Clock::system());
        let server = Server {
            name: env!("CARGO_PKG_NAME"),
            title: annotations.title().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            instructions: annotations.instructions().to_owned(),
            offers: offers::of(&annotations),
        };
        let in_flight = Queue::new(config.in_flight_max, limits.queue());
        let news_link = link.apart();
        Ok(Self {
            tools: catalogue::tools(&annotations),
            callable: Callable::new(),
            config,
            verifier,
            approvals: None,
            whole: false,
            link,
            annotations,
            server,
            limits,
            health,
            in_flight,
            events,
            sealed: sealed.map_err(ConfigError::SealingKey)?,
            questions: Questions::default(),
            log_levels: LogLevels::new(),
            subscriptions: Subscriptions::new(),
            listeners: Shares::default(),
            news_link,
            busy: Shares::default(),
            channels: AtomicU64::new(0),
        })
    }

    /// Notes that a request was refused here, and never reached a core.
    fn refused(
        &self,
        status: ::http::StatusCode,
        reason: &'static str,
        address: Option<std::net::IpAddr>,
        who: Option<&str>,
        text: &str,
    ) {
        telemetry::record_error("edge", "", reason);
        let (who, text) = (who.map(str::to_owned), text.to_owned());
        self.events.refused(Event { reason, status: status.as_u16(), address, who, text });
    }

    /// With the page on which people decide on requests.
    #[must_use]
    pub fn with_approvals(mut self, approvals: Option<approvals::Approvals>) -> Self {
        self.approvals = approvals;
        self
    }

    /// The same where each answer goes out whole and by itself: nothing is streamed that lasts, no WebSocket is opened, and nothing
    /// is asked of a client on the way.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.whole = true;
        let offers = &mut self.server.offers;
        (offers.resource_news, offers.tools_news) = (false, false);
        (offers.prompts_news, offers.resources_news) = (false, false);
        self
    }

    /// The path of the MCP endpoint as clients see it.
    pub fn path(&self) -> &str {
        self.config.public_url.path().trim_end_matches('/')
    }

    /// The same, saying more of what this server is.
    #[must_use]
    pub fn with_instructions(mut self, more: &str) -> Self {
        self.server.instructions = format!("{}\n\n{more}", self.server.instructions);
        self
    }

    /// Whether another service than our own core stands behind it.
    fn is_foreign(&self) -> bool {
        self.config.backend.as_ref().is_some_and(|backend| backend.descriptors.is_some())
    }

    /// Whether legacy clients are given sessions: where the service behind asks something of them, or has something to tell.
    fn has_sessions(&self) -> bool {
        !self.whole && (self.annotations.asks() || self.annotations.logs() || self.server.offers.news())
    }

    /// How long a call may take: as long as is configured, and no longer than whoever carries it waits.
    fn call_timeout(&self, until: Option<Instant>) -> Duration {
        let most = Duration::from_secs(self.config.call_timeout);
        until.map_or(most, |until| most.min(until.saturating_duration_since(Instant::now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &str) -> String {
        let tls = "[tls]\ncertificate = \"edge.pem\"\nkey = \"edge.key\"";
        let text = format!("listen = \"127.0.0.1:0\"\npublic_url = \"https://localhost/mcp\"\n{keys}\n");
        let text = if keys.contains("plaintext") { text } else { format!("{text}{tls}\n") };
        let config = toml::from_str::<Config>(&text).map_err(|error| error.to_string());
        let checked = config.and_then(|config| config.check().map_err(|error| error.to_string()));
        checked.err().unwrap_or_default()
    }

    #[test]
    fn an_edge_that_listens_nowhere_has_a_name_all_the_same() {
        assert_eq!(Config::in_process().public_url.path(), "/mcp");
    }

    #[test]
    fn plain_http_is_for_loopback_and_declared_proxies() {
        for keys in ["plaintext = true", "plaintext = true\nwebsocket_listen = \"127.0.0.1:8081\""] {
            assert_eq!(check(keys), "", "{keys}");
        }
        let open = "plaintext = true\nwebsocket_listen = \"0.0.0.0:8081\"";
        assert!(check(open).contains("0.0.0.0:8081 is reachable from outside"), "{}", check(open));
        assert_eq!(check(&format!("{open}\ntrusted_proxies = [\"10.0.0.0/8\"]")), "");
    }

    #[test]
    fn client_certificates_are_configured_as_a_whole() {
        for keys in [
            "",
            "tls_minimum = \"1.2\"",
            "tls_minimum = \"1.3\"",
            "client_ca = \"ca.pem\"\nclient_certificates = \"optional\"",
            "client_ca = \"ca.pem\"\nclient_certificates = \"required\"\nclient_crl = [\"ca.crl\"]",
            "connections_per_address = 1",
        ] {
            assert_eq!(check(keys), "", "{keys}");
        }
        for (keys, part) in [
            ("client_certificates = \"required\"", "`[edge] client_certificates` needs `client_ca`"),
            ("client_crl = [\"ca.crl\"]", "`[edge] client_crl` needs `client_ca`"),
            ("client_ca = \"ca.pem\"", "needs `client_certificates"),
            ("client_ca = \"ca.pem\"\nclient_certificates = \"maybe\"", "unknown variant"),
            ("tls_minimum = \"1.1\"", "unknown variant"),
            ("connections_per_address = 0", "nonzero"),
            ("plaintext = true\ntls_minimum = \"1.2\"", "there is no `[edge.tls]`"),
            (
                "plaintext = true\nclient_ca = \"ca.pem\"\nclient_certificates = \"optional\"",
                "there is no `[edge.tls]`",
            ),
        ] {
            let refusal = check(keys);
            assert!(refusal.contains(part), "{keys}: {refusal}");
        }
    }
}
