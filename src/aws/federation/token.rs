//! The token by which a platform says which workload this is.
//!
//! Sources: Google Cloud, "Verifying the identity of instances" and "Metadata server"; Microsoft Entra, "How to use managed identities on
//! an Azure VM" (IMDS), and Azure Container Apps, "Managed identities" (`IDENTITY_ENDPOINT`).

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use serde::Deserialize;
use url::{Host, Url};

use super::{Config, ConfigError, Platform};
use crate::http_client::{self, HttpClient, HttpError, is_loopback};
use crate::tls;

/// Google's metadata server.
const GOOGLE: &str = "http://metadata.google.internal";
const GOOGLE_HOST: &str = "metadata.google.internal";
const GOOGLE_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";
/// Azure's metadata service.
const AZURE: &str = "http://169.254.169.254";
const AZURE_PATH: &str = "/metadata/identity/oauth2/token";
const AZURE_VERSION: &str = "2018-02-01";
/// The version of the endpoint that a platform of Azure names by itself.
const AZURE_OWN_VERSION: &str = "2019-08-01";

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const METADATA: HeaderName = HeaderName::from_static("metadata");
const OWN_HEADER: HeaderName = HeaderName::from_static("x-identity-header");

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is asked: a metadata service that has just started may refuse at first.
const TIMES: u32 = 3;
/// How long is waited before it is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// The most characters of a token that STS takes.
const TOKEN_MOST: usize = 20_000;

/// Which workload this is, in the platform's word. It must go nowhere but to STS.
pub(super) struct Token(String);

impl Token {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// What looks like a signed token: three parts in base64url.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let sound = |part: &str| !part.is_empty() && part.bytes().all(letter);
        let parts = text.split('.').count() == 3 && text.split('.').all(sound);
        (parts && text.len() <= TOKEN_MOST).then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Why the platform gave no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nobody answered.
    #[error(
        "{0} does not answer where this runs: it answers on that platform alone, and to whom an identity is attached there"
    )]
    NoAnswer(Platform, #[source] HttpError),
    /// It refused.
    #[error("{platform} answers {status} ({said}): attach an identity to this workload, and see that `audience`{more} is right", more = platform.more())]
    Refused {
        /// The platform.
        platform: Platform,
        /// What it answers.
        status: StatusCode,
        /// Its own words.
        said: String,
    },
    /// Somebody else answered.
    #[error("what answers in {0}'s place is not its metadata server: the answer lacks `Metadata-Flavor: Google`")]
    SomebodyElse(Platform),
    /// There is no token in the answer.
    #[error("{0}'s answer holds no signed token")]
    NoToken(Platform),
    /// The request cannot be made.
    #[error("the question to {0} cannot be put together")]
    Request(Platform, #[source] http::Error),
}

impl TokenError {
    /// Whether it may become better by itself.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NoAnswer(..) => true,
            Self::Refused { status, .. } => is_passing(*status),
            Self::SomebodyElse(_) | Self::NoToken(_) | Self::Request(..) => false,
        }
    }
}

/// Azure's and Google's own words for "again in a moment".
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::GONE].contains(&status)
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Google => "Google's metadata server",
            Self::Azure => "Azure's identity endpoint",
        })
    }
}

impl Platform {
    fn more(self) -> &'static str {
        match self {
            Self::Google => "",
            Self::Azure => " and, where there are several identities, `client_id`",
        }
    }
}

/// Who says which workload this is, and how they are asked.
#[derive(Clone)]
pub(super) struct Source {
    platform: Platform,
    url: Url,
    header: (HeaderName, HeaderValue),
    http: HttpClient,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The header may be a secret of the platform's.
        f.debug_struct("Source")
            .field("platform", &self.platform)
            .field("host", &self.url.host_str())
            .finish_non_exhaustive()
    }
}

/// Whether a URL leads no further than to this machine and the services that its platform puts beside it.
pub(super) fn is_of_this_host(url: &Url) -> bool {
    let near = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_link_local(),
        Some(Host::Ipv6(address)) => address.is_loopback() || address.is_unicast_link_local(),
        Some(Host::Domain(name)) => name == GOOGLE_HOST || is_loopback(&Host::Domain(name)),
        None => false,
    };
    near && url.scheme() == "http" && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
}

impl Source {
    /// As the configuration has it, and on Azure the variables that a platform sets.
    pub(super) fn new(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let at = |place: &'static str, path: &str| {
            // INVARIANT: a literal of ours is a URL.
            let mut url = config.endpoint.clone().or_else(|| Url::parse(place).ok());
            if let Some(url) = &mut url {
                url.set_path(path);
            }
            url.ok_or_else(|| ConfigError::Variable(place.to_owned()))
        };
        let own = match (config.from, &config.endpoint) {
            (Platform::Azure, None) => variable("IDENTITY_ENDPOINT"),
            _ => None,
        };
        let (mut url, header) = match (config.from, own) {
            (Platform::Google, _) => (at(GOOGLE, GOOGLE_PATH)?, (FLAVOR, HeaderValue::from_static("Google"))),
            (Platform::Azure, None) => (at(AZURE, AZURE_PATH)?, (METADATA, HeaderValue::from_static("true"))),
            (Platform::Azure, Some(named)) => {
                let url = Url::parse(&named).ok().filter(is_of_this_host);
                let url = url.ok_or(ConfigError::Variable(named))?;
                let secret = variable("IDENTITY_HEADER").and_then(|secret| HeaderValue::try_from(secret).ok());
                let mut secret = secret.ok_or(ConfigError::Header)?;
                secret.set_sensitive(true);
                (url, (OWN_HEADER, secret))
            }
        };
        let version = if header.0 == OWN_HEADER { AZURE_OWN_VERSION } else { AZURE_VERSION };
        {
            let mut query = url.query_pairs_mut();
            match config.from {
                Platform::Google => query.append_pair("audience", &config.audience).append_pair("format", "full"),
                Platform::Azure => query.append_pair("api-version", version).append_pair("resource", &config.audience),
            };
            if let Some(client_id) = &config.client_id {
                query.append_pair("client_id", client_id);
            }
        }
        let mut http = HttpClient::of(http_client::pooled(tls::public_client(None)?, http_client::IDLE), PATIENCE);
        if let Some(host) = url.host() {
            http = http.plain_to(host.to_owned());
        }
        Ok(Self { platform: config.from, url, header, http })
    }

    /// Asks for a token.
    pub(super) async fn token(&self) -> Result<Token, TokenError> {
        let mut pause = PAUSE;
        for _ in 1..TIMES {
            match self.ask().await {
                Err(error) if error.may_pass() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                asked => return asked,
            }
        }
        self.ask().await
    }

    async fn ask(&self) -> Result<Token, TokenError> {
        let platform = self.platform;
        let (name, value) = self.header.clone();
        let request = Request::get(self.url.as_str()).header(name, value).body(Vec::new());
        let request = request.map_err(|error| TokenError::Request(platform, error))?;
        let answer = self.http.send(request).await.map_err(|error| TokenError::NoAnswer(platform, error))?;
        // Before anything of the answer is believed.
        if platform == Platform::Google && answer.headers().get(FLAVOR).is_none_or(|flavor| flavor != "Google") {
            return Err(TokenError::SomebodyElse(platform));
        }
        if answer.status() != StatusCode::OK {
            let said = said(&answer);
            return Err(TokenError::Refused { platform, status: answer.status(), said });
        }
        let text = String::from_utf8_lossy(answer.body());
        let token = match platform {
            Platform::Google => Token::read(&text),
            Platform::Azure => {
                #[derive(Deserialize)]
                struct Given {
                    access_token: String,
                }
                serde_json::from_str::<Given>(&text).ok().and_then(|given| Token::read(&given.access_token))
            }
        };
        token.ok_or(TokenError::NoToken(platform))
    }
}

/// What a refusal says, plain and short.
fn said(answer: &Response<Vec<u8>>) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<String>,
        error_description: Option<String>,
    }
    let text = match serde_json::from_slice::<Refusal>(answer.body()) {
        Ok(Refusal { error, error_description }) => {
            error.into_iter().chain(error_description).collect::<Vec<_>>().join(": ")
        }
        Err(_) => String::from_utf8_lossy(answer.body()).into_owned(),
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.trim().is_empty() { "without a word".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str, variables: &[(&str, &str)]) -> Result<Source, String> {
        let text = format!("role_arn = \"arn:aws:iam::111111111111:role/x\"\naudience = \"api://aws/?x&y\"\n{text}");
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Source::new(&toml::from_str(&text).expect("sound"), variable).map_err(|error| error.to_string())
    }

    #[test]
    fn each_platform_is_asked_where_it_answers() {
        for (text, variables, url, header) in [
            (
                "from = \"google\"",
                &[("IDENTITY_ENDPOINT", "http://elsewhere")][..],
                "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity?audience=api%3A%2F%2Faws%2F%3Fx%26y&format=full",
                "metadata-flavor: Google",
            ),
            (
                "from = \"azure\"\nclient_id = \"c d\"",
                &[],
                "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2Faws%2F%3Fx%26y&client_id=c+d",
                "metadata: true",
            ),
            (
                "from = \"azure\"",
                &[("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token"), ("IDENTITY_HEADER", "s3cret")],
                "http://localhost:42356/msi/token?api-version=2019-08-01&resource=api%3A%2F%2Faws%2F%3Fx%26y",
                "x-identity-header: s3cret",
            ),
        ] {
            let source = source(text, variables).expect("sound");
            let (name, value) = &source.header;
            assert_eq!(
                (source.url.as_str(), format!("{name}: {}", value.to_str().expect("text"))),
                (url, header.to_owned())
            );
            assert!(!format!("{source:?}").contains("s3cret"));
        }
        for (variables, part) in [
            (&[("IDENTITY_ENDPOINT", "http://10.1.2.3/token"), ("IDENTITY_HEADER", "x")][..], "IDENTITY_ENDPOINT is"),
            (
                &[("IDENTITY_ENDPOINT", "https://localhost:2377/token"), ("IDENTITY_HEADER", "x")],
                "IDENTITY_ENDPOINT is",
            ),
            (&[("IDENTITY_ENDPOINT", "http://localhost/token")], "IDENTITY_HEADER is not"),
        ] {
            let said = source("from = \"azure\"", variables).expect_err("unsound");
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_token_is_three_parts_and_shown_to_nobody() {
        for (text, sound) in [("a.b-_.c\n", true), ("a.b", false), ("a..c", false), ("<a>.b.c", false), ("", false)] {
            assert_eq!(Token::read(text).is_some(), sound, "{text}");
        }
        let long = format!("a.{}.c", "b".repeat(TOKEN_MOST));
        assert!(Token::read(&long).is_none());
        assert_eq!(format!("{:?}", Token::read("a.b.c")), "Some(Token(…))");
    }
}
