//! What a client sees: the edge's metadata and challenge, and the issuers that these lead to.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use url::Url;
use whitelistmcp::clock::Clock;
use whitelistmcp::config::Config;
use whitelistmcp::http_client::{HttpClient, HttpError, IDLE, Route, is_https_or_loopback, pooled_through};
use whitelistmcp::identity::oidc::{self, ProviderError};
use whitelistmcp::tls;

use super::{Arguments, bounded};
use crate::chain;
use crate::check::Table;

/// How far two clocks may be apart: less than the leeway that tokens are given.
const SKEW_MOST: i64 = 30;

/// How long the edge may take for one answer.
const EDGE_WITHIN: Duration = Duration::from_secs(5);

type Answer = http::Response<Vec<u8>>;

/// Why there is no answer to go by.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("no answer in time")]
    Silent,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error("{0} answers {1}")]
    Status(Url, http::StatusCode),
    #[error("{0} answers with something that is no JSON")]
    NotJson(Url),
}

/// Whether somebody answered by a certificate of a CA that is not known here.
fn is_of_an_unknown_ca(error: &(dyn std::error::Error + 'static)) -> bool {
    use rustls::CertificateError::{BadSignature, UnknownIssuer};
    use rustls::Error::InvalidCertificate;
    // Two CAs of one name differ by their keys alone.
    matches!(tls::reason(error), Some(InvalidCertificate(UnknownIssuer | BadSignature)))
}

async fn ask(client: &HttpClient, method: http::Method, url: &Url) -> Result<Answer, Unanswered> {
    let request = http::Request::builder().method(method).uri(url.as_str()).header("content-type", "application/json");
    let request = request.body(b"{}".to_vec())?;
    Ok(bounded(client.send(request)).await.ok_or(Unanswered::Silent)??)
}

async fn read(client: &HttpClient, url: &Url) -> Result<(Answer, Value), Unanswered> {
    let answer = ask(client, http::Method::GET, url).await?;
    if answer.status() != 200 {
        return Err(Unanswered::Status(url.clone(), answer.status()));
    }
    let value = serde_json::from_slice(answer.body()).map_err(|_| Unanswered::NotJson(url.clone()))?;
    Ok((answer, value))
}

/// A field's text; none is empty.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// How far this machine's clock is ahead of the other end's.
fn ahead(answer: &Answer) -> Option<i64> {
    let date = answer.headers().get("date")?.to_str().ok()?;
    let told: Timestamp = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(Clock::system().now().duration_since(told).as_secs())
}

fn clock(table: &mut Table, whose: &str, answer: &Answer) {
    match ahead(answer) {
        Some(off) if off.abs() > SKEW_MOST => table.wrong(
            "clock",
            format!("this machine is {off} s ahead of {whose}: tokens would count as expired or as not yet good; set the clock (NTP)"),
        ),
        Some(_) => table.good("clock", format!("agrees with {whose}")),
        None => {}
    }
}

/// The edge, as a client finds it.
pub(super) async fn edge(config: &Config, arguments: &Arguments, table: &mut Table) {
    let Some(edge) = &config.edge else { return table.note("edge", "not configured here; run this where it is") };
    let public = &edge.public_url;
    let (client, base) = match client_of(public, arguments) {
        Ok(client) => client,
        Err(why) => return table.wrong("edge", why),
    };
    let asked = arguments.url.as_ref().unwrap_or(public);
    let at = |path: &str| {
        let mut url = base.clone();
        url.set_path(path);
        url
    };
    let path = public.path().trim_end_matches('/');
    let wanted = public.as_str().trim_end_matches('/');
    audience(config, wanted, table);
    if let Err(error) = ask(&client, http::Method::GET, &at("/livez")).await
        && is_of_an_unknown_ca(&error)
    {
        return table.wrong(
            "edge",
            format!("{asked} shows a certificate of a CA that is not known here: name the CA by `--ca FILE`, and see that clients know it too"),
        );
    }
    let well_known = "/.well-known/oauth-protected-resource";
    for place in [format!("{well_known}{path}"), well_known.to_owned()] {
        match read(&client, &at(&place)).await {
            Err(error) => table.wrong(
                "edge.metadata",
                format!(
                    "{}: clients find no login there; the proxy in front must pass {place} on as it is",
                    chain(&error)
                ),
            ),
            Ok((answer, found)) => {
                clock(table, "the edge", &answer);
                metadata(config, wanted, &place, &found, table);
            }
        }
    }
    for endpoint in [path.to_owned(), format!("{path}/")] {
        match ask(&client, http::Method::POST, &at(&endpoint)).await {
            Err(error) => table.wrong(
                "edge.endpoint",
                format!("{endpoint}: {}; is it running, and does the name lead to it?", chain(&error)),
            ),
            Ok(answer) => challenge(path, &endpoint, &answer, table),
        }
    }
}

/// Whether the metadata leads to this edge's own issuers.
fn metadata(config: &Config, wanted: &str, place: &str, found: &Value, table: &mut Table) {
    let resource = text(found, "resource");
    if resource == wanted {
        table.good("edge.metadata", format!("{place} names {resource}"));
    } else {
        table.wrong(
            "edge.metadata",
            format!("{place} names the resource `{resource}`, and this configuration {wanted}: another process answers, or `[edge] public_url` differs"),
        );
    }
    let named: Vec<&str> = found
        .get("authorization_servers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for issuer in config.oidc.values().filter(|issuer| !named.contains(&issuer.issuer.as_str())) {
        table.wrong("edge.metadata", format!("{place} does not name the issuer {}", issuer.issuer));
    }
}

/// Whether who comes without a token is told where to get one.
fn challenge<B>(path: &str, endpoint: &str, answer: &http::Response<B>, table: &mut Table) {
    let challenge = answer.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wrong = match answer.status().as_u16() {
        401 if challenge.contains("resource_metadata=") => {
            return table
                .good("edge.endpoint", format!("{endpoint} asks for a token and says where to get one"));
        }
        404 if endpoint.ends_with('/') => {
            return table.note("edge.endpoint", format!("{endpoint} is not served; clients must use {path}"));
        }
        401 => "401 without saying where to log in: a proxy has taken `WWW-Authenticate` away".to_owned(),
        403 => "403: the name, the address or the network is refused; look at `[edge] allowed_hosts`, `allowed_clients` and `trusted_proxies`".to_owned(),
        status => {
            format!("{status} where 401 is right: something else answers there, or a proxy passes only some paths on")
        }
    };
    table.wrong("edge.endpoint", format!("{endpoint} answers {wrong}"));
}

/// The client that asks the edge as everybody does, wherever it connects to, and the URL that it asks.
fn client_of(public: &Url, arguments: &Arguments) -> Result<(HttpClient, Url), String> {
    let trust = tls::public_client(arguments.ca.as_deref()).map_err(|error| format!("--ca: {}", chain(&error)))?;
    let Some(place) = &arguments.url else { return Ok((HttpClient::new(trust), public.clone())) };
    if !is_https_or_loopback(place) {
        return Err(format!("--url {place} must be https, or http to a loopback address"));
    }
    let route = Route::to(place).map_err(|error| format!("--url {place}: {}", chain(&error)))?;
    let client = HttpClient::of(pooled_through(trust, route, IDLE), EDGE_WITHIN);
    let (mut base, host) = (public.clone(), public.host().map(|host| host.to_owned()));
    // Who ends TLS before the edge speaks plainly behind it, and leaves the name as it is.
    base.set_scheme(place.scheme()).map_err(|()| format!("--url {place} cannot be asked"))?;
    match host.filter(|_| place.scheme() == "http") {
        // Nothing leaves this machine.
        Some(host) => Ok((client.plain_to(host), base)),
        None => Ok((client, base)),
    }
}

/// Whether clients ask for the tokens that are accepted.
fn audience(config: &Config, wanted: &str, table: &mut Table) {
    for issuer in config.oidc.values() {
        if issuer.audience.trim_end_matches('/') == wanted {
            table.good("audience", format!("tokens for {wanted}"));
        } else {
            table.wrong(
                "audience",
                format!("clients ask {} for tokens for {wanted}, and only those for {} are accepted: set `audience` and `public_url` alike", issuer.issuer, issuer.audience),
            );
        }
    }
}

/// The issuers: their metadata and keys, found as the service finds them.
pub(super) async fn issuers(config: &Config, table: &mut Table) {
    for (name, issuer) in &config.oidc {
        let client = match tls::public_client(issuer.ca.as_deref()) {
            Ok(trust) => HttpClient::new(trust),
            Err(error) => {
                table.wrong("issuer", format!("{name}: {}", chain(&error)));
                continue;
            }
        };
        match oidc::inspect(issuer, client.clone()).await {
            Ok(found) => {
                table.good("issuer", format!("{name}: {}, {}", issuer.issuer, told(&found)));
                // Whatever it answers there has the time in it.
                if let Ok(url) = Url::parse(&issuer.issuer)
                    && let Ok(answer) = ask(&client, http::Method::GET, &url).await
                {
                    clock(table, &format!("the issuer {name}"), &answer);
                }
            }
            Err(error) => table.wrong("issuer", format!("{name}: {}", unfit(name, issuer, &error))),
        }
    }
}

fn told(found: &oidc::Found) -> String {
    let keys = match found.keys {
        Some(count) => format!("{count} keys that tokens can be verified by"),
        None => "opaque tokens".to_owned(),
    };
    match &found.introspection {
        Some(endpoint) => format!("{keys}, asked at {endpoint}"),
        None => keys,
    }
}

/// What is wrong with an issuer, and what to do.
fn unfit(name: &str, issuer: &oidc::Config, error: &ProviderError) -> String {
    match error {
        ProviderError::Issuer { named, .. } => {
            format!("it calls itself `{named}`, and tokens carry that; set `issuer` to it, to the letter")
        }
        ProviderError::Elsewhere(_) => format!("{error}: if that is right, list its origin in `[oidc.{name}] origins`"),
        ProviderError::NoKeys => format!("{error}, by `algorithms` = {}", issuer.algorithms.join(", ")),
        error if is_of_an_unknown_ca(error) => format!(
            "{} shows a certificate of a CA that is not known: name the CA in `[oidc.{name}] ca`",
            issuer.issuer
        ),
        error => format!("{}; nobody can log in until it answers from here", chain(error)),
    }
}
