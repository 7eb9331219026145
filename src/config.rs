//! The configuration: one TOML file, then environment variables over it. Each part owns its own section; this module
//! only holds them and reads them. Unknown keys are refused by name.

mod environment;
mod personal;
pub mod reference;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    approval, audit, aws, broker, edge, grpc, health, identity, limit, operation, policy, shared, shutdown, telemetry,
    tls,
};

pub use environment::PREFIX;

/// The whole configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The edge: MCP over HTTPS. Needed by `whitelistmcp edge` and `serve`.
    pub edge: Option<edge::Config>,
    /// The core: gRPC over mTLS. Needed by `whitelistmcp core`; with `serve` it lets services in besides.
    pub core: Option<grpc::server::Config>,
    /// One issuer of access tokens, under a name of your own. What a token says in `iss` chooses the issuer that checks it. An
    /// edge and a core both need it.
    #[serde(default)]
    pub oidc: identity::oidc::Configs,
    /// API keys, for programs that can do neither OAuth nor client certificates. An edge and a core both need it.
    pub api_keys: Option<identity::api_key::Config>,
    /// Certificates, keys, CAs and revocation lists, wherever they are named.
    #[serde(default)]
    pub tls: tls::Config,
    /// The security groups that people ask for by name.
    #[serde(default)]
    pub targets: operation::target::Config,
    /// What a core reaches of AWS, and as whom.
    #[serde(default)]
    pub aws: aws::Config,
    /// Who may do what. The policies are Cedar; the shipped ones count where none are named.
    #[serde(default)]
    pub policy: policy::Config,
    /// Changes that wait for somebody's word (`@approval` in policies). Without this section they are refused.
    pub approvals: Option<approval::Config>,
    /// How openings end.
    #[serde(default)]
    pub leases: broker::Config,
    /// The audit journal of a core.
    #[serde(default)]
    pub audit: audit::Config,
    /// How much each principal may do, whichever door a call comes through; `operations` is everybody's together. An edge reads
    /// this section as well as a core. The service's own work is never limited.
    #[serde(default)]
    pub limits: limit::Config,
    /// What replicas share: limits, requests for approval, what AWS said a moment ago.
    pub redis: Option<shared::Config>,
    /// How the service says how it is.
    #[serde(default)]
    pub health: health::Config,
    /// How it ends.
    #[serde(default)]
    pub shutdown: shutdown::Config,
    /// The log. Where traces, metrics and log records go, the variables of OpenTelemetry say (`OTEL_EXPORTER_OTLP_ENDPOINT` and
    /// others).
    #[serde(default)]
    pub telemetry: telemetry::Config,
}

/// A configuration that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{path} is not TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key or value that is not known.
    #[error("{path}: `{key}`")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// An environment variable that means nothing.
    #[error("the environment variable {name}: {problem}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Config {
    /// Reads a file and the environment over it.
    pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text, environment)
    }

    /// Reads the environment alone.
    pub fn of_environment(environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        Self::parse(Path::new("the environment"), "", environment)
    }

    /// Reads text as if it came from `path`.
    pub fn parse(
        path: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table: toml::Table =
            text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        environment::overlay(&mut table, environment)?;
        serde_path_to_error::deserialize(table).map_err(|error| {
            let key = error.path().to_string();
            ConfigError::Value { path: path.to_owned(), key, source: Box::new(error.into_inner()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::parse(Path::new("test.toml"), text, environment)
            .map_err(|error| crate::error::Chain(&error).to_string())
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for (text, part) in [
            ("[egde]\n", "unknown field `egde`"),
            ("[audit]\ndirectroy = \"x\"\n", "unknown field `directroy`"),
            ("[[aws.accounts]]\nid = \"1\"\nrole_arn = \"x\"\nregions = []\nkey = 1\n", "unknown field `key`"),
            ("[edge]\npublic_url = \"https://x/mcp\"\nlisten = \"here\"\n", "edge.listen"),
            ("[edge\n", "not TOML"),
            ("[oidc]\nissuer = \"https://x\"\naudience = \"x\"\n", "[oidc.company]"),
        ] {
            let error = parse(text, &[]).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn web_origins_are_listed_and_never_everybody() {
        let edge = "[edge]\npublic_url = \"https://x/mcp\"\nallowed_origins = [\"https://old.example\"]\n";
        let origins = |text: &str, environment: &[(&str, &str)]| {
            parse(text, environment).map(|config| config.edge.map(|edge| edge.allowed_origins).unwrap_or_default())
        };
        let listed = origins(edge, &[("CORS_ORIGINS", "https://a.example, http://localhost:3000/ ,")]);
        assert_eq!(listed.expect("sound"), ["https://a.example", "http://localhost:3000"]);
        assert_eq!(origins(edge, &[("CORS_ORIGINS", "")]).expect("sound"), ["https://old.example"]);
        assert!(origins("", &[("CORS_ORIGINS", "https://a.example")]).expect("no edge, no matter").is_empty());
        for (value, part) in [
            ("*", "`*` would let any web page call"),
            ("https://a.example,*", "`*` would let any web page call"),
            ("https://*.example", "would let any web page call"),
            ("null", "`null` is not an origin"),
            ("a.example", "is not an origin"),
            ("https://a.example/path", "is not an origin"),
        ] {
            let error = origins(edge, &[("CORS_ORIGINS", value)]).expect_err(value);
            assert!(error.contains("CORS_ORIGINS") && error.contains(part), "{value}: {error}");
        }
        let twice =
            [("CORS_ORIGINS", "https://a.example"), ("WHITELISTMCP_EDGE__ALLOWED_ORIGINS", "[\"https://b.example\"]")];
        assert!(origins(edge, &twice).expect_err("twice").contains("set one of them"));
    }

    #[test]
    fn the_environment_alone_is_a_configuration() {
        let variables = [
            ("WHITELISTMCP_EDGE__PUBLIC_URL", "https://x/mcp"),
            (
                "WHITELISTMCP_AWS__ACCOUNTS",
                "[{ id = \"123456789012\", role_arn = \"r\", regions = [\"eu-central-1\"] }]",
            ),
            ("WHITELISTMCP_TARGETS__ACCOUNT", "123456789012"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::of_environment(variables).expect("sound");
        assert_eq!((config.edge.is_some(), config.aws.accounts.len()), (true, 1));
        assert_eq!(config.targets.account.as_deref(), Some("123456789012"));
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let text = "[audit]\ndirectory = \"a\"\n";
        let config = parse(text, &[("WHITELISTMCP_AUDIT__DIRECTORY", "b"), ("PATH", "x")]).expect("sound");
        assert_eq!(config.audit.directory.as_deref(), Some(Path::new("b")));
        let config = parse(
            "[edge]\npublic_url = \"https://x/mcp\"\n",
            &[("WHITELISTMCP_EDGE__PLAINTEXT", "true"), ("WHITELISTMCP_EDGE__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]")],
        )
        .expect("sound");
        assert_eq!(config.edge.map(|edge| (edge.is_plain(), edge.trusted_proxies.len())), Some((true, 1)));
        assert!(
            parse("", &[("WHITELISTMCP_AUDIT__DIRECTROY", "b")])
                .expect_err("unknown")
                .contains("WHITELISTMCP_AUDIT__DIRECTROY")
        );
        let issuer = [
            ("WHITELISTMCP_OIDC__COMPANY__ISSUER", "https://login.example"),
            ("WHITELISTMCP_OIDC__COMPANY__AUDIENCE", "https://x/mcp"),
        ];
        let config = parse("", &issuer).expect("sound");
        assert_eq!(config.oidc.get("company").map(|issuer| issuer.issuer.as_str()), Some("https://login.example"));
        assert!(parse("", &issuer[..1]).expect_err("half of it").contains("audience"));
        assert!(parse("", &[("WHITELISTMCP_AUDIT", "b")]).expect_err("no key").contains("WHITELISTMCP_AUDIT"));
    }
}
