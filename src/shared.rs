//! What replicas share, in Redis: small values with an end, and counters.
//!
//! Nothing here is ever the only copy of something that matters: whoever asks must have an answer for
//! [`SharedError`], since Redis may be gone at any moment. A call waits [`TIMEOUT`] for it at most, and once it has
//! failed nobody waits again until a look in the background has found it well.
//!
//! Keys and values are not secrets and carry no personal data in the clear: who is counted or spoken of is hashed by
//! whoever writes the key.

mod connection;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, IntoConnectionInfo, RedisError, ToRedisArgs};
use schemars::JsonSchema;
use serde::Deserialize;
use url::{Host, Url};

use crate::http_client::is_loopback;
use crate::tls::{self, TlsError};

pub use connection::{Condition, RETRY};

use connection::{Address, Link};

/// How long a caller waits for Redis, from asking to the answer.
pub const TIMEOUT: Duration = Duration::from_millis(250);

/// `[redis]` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where Redis is: `rediss://host:port/database`, or `redis://` to a loopback address.
    #[schemars(with = "String")]
    pub url: RedisUrl,
    /// A file that holds the password, for a URL that carries none.
    pub password_file: Option<PathBuf>,
    /// The CA of Redis's certificate; the system's CAs where none is given.
    pub ca: Option<PathBuf>,
    /// What every key begins with, so that installations can share one Redis.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

fn default_prefix() -> String {
    format!("{}:", env!("CARGO_PKG_NAME"))
}

/// A URL that may carry a password, and prints without it.
#[derive(Clone)]
pub struct RedisUrl(Url);

/// Why `[redis]` is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Another scheme, no host, or something after the database.
    #[error(
        "`[redis] url` must be like rediss://redis.internal:6379/0, with nothing behind the database's number: {0:?}"
    )]
    Url(RedisUrl),
    /// Plain text over a network.
    #[error("`[redis] url` must be rediss://: redis:// is taken to loopback addresses only: {0:?}")]
    Plaintext(RedisUrl),
    /// A password twice.
    #[error("`[redis]` has a password in `url` and a `password_file`; take one out")]
    TwoPasswords,
    /// The password's file.
    #[error("`[redis] password_file` {path} cannot be read")]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file without a password.
    #[error("`[redis] password_file` {0} is empty")]
    NoPassword(PathBuf),
    /// A CA that nothing is verified with.
    #[error("`[redis] ca` is set, and `url` is not rediss://: take one out or change the other")]
    UnusedCa,
    /// The CA.
    #[error("`[redis] ca`")]
    Tls(#[from] TlsError),
    /// A prefix that could be confused with other keys.
    #[error("`[redis] prefix` must be 1 to 64 of the letters a-z, A-Z, 0-9, `-`, `_`, `.` and `:`: `{0}`")]
    Prefix(String),
}

/// Why Redis brought no answer. The caller goes on without it, or refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SharedError {
    /// It failed a moment ago, and is not asked until it is found well again.
    #[error("Redis is not reachable")]
    Down,
    /// No answer within [`TIMEOUT`]. Whether the command was carried out is not known.
    #[error("no answer from Redis within {TIMEOUT:?}")]
    Timeout,
    /// An error, or a connection that broke. Whether the command was carried out is not known.
    #[error("Redis failed")]
    Failed(#[source] Arc<RedisError>),
}

/// What replicas share. Clones use the same connection.
#[derive(Clone)]
pub struct Shared {
    link: Arc<Link>,
    prefix: Arc<str>,
}

/// A Lua script that Redis runs as one step. It is sent once and named by its digest from then on.
#[derive(Clone, Debug)]
pub struct Script(Arc<redis::Script>);

// === impl RedisUrl ===

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Said without the text, which may hold a password.
        let url = Url::parse(&String::deserialize(deserializer)?);
        url.map(Self).map_err(|error| {
            serde::de::Error::custom(format!("not a URL like rediss://redis.internal:6379/0 ({error})"))
        })
    }
}

impl From<Url> for RedisUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port().map(|port| format!(":{port}")).unwrap_or_default();
        write!(f, "{}://{}{port}", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

// === impl Shared ===

impl Shared {
    /// Checks the configuration and reads its files. Nothing is connected before the first question.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let url = &config.url.0;
        let plain = match url.scheme() {
            "redis" => true,
            "rediss" => false,
            _ => return Err(ConfigError::Url(config.url.clone())),
        };
        // What the client library takes from the rest of a URL would weaken what is decided here.
        let host = url.host().filter(|_| url.query().is_none() && url.fragment().is_none());
        // Of schemes that it does not know, the parser takes IPv4 addresses for names.
        let host = match host.ok_or_else(|| ConfigError::Url(config.url.clone()))?.to_owned() {
            Host::Domain(name) => name.parse().map_or(Host::Domain(name), Host::Ipv4),
            address => address,
        };
        if plain && !is_loopback(&host) {
            return Err(ConfigError::Plaintext(config.url.clone()));
        }
        if plain && config.ca.is_some() {
            return Err(ConfigError::UnusedCa);
        }
        let named = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.:".contains(&letter);
        if !(1..=64).contains(&config.prefix.len()) || !config.prefix.bytes().all(named) {
            return Err(ConfigError::Prefix(config.prefix.clone()));
        }
        let info = url.clone().into_connection_info().map_err(|_| ConfigError::Url(config.url.clone()))?;
        let mut account = info.redis_settings().clone();
        if let Some(path) = &config.password_file {
            if account.password().is_some() {
                return Err(ConfigError::TwoPasswords);
            }
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::PasswordFile { path: path.clone(), source })?;
            match text.trim() {
                "" => return Err(ConfigError::NoPassword(path.clone())),
                password => account = account.set_password(password),
            }
        }
        let tls = if plain { None } else { Some(Arc::new(tls::public_client(config.ca.as_deref())?)) };
        let address = Address { host, port: url.port().unwrap_or(6379), tls };
        let probe = format!("{}probe", config.prefix);
        Ok(Self { link: Arc::new(Link::new(address, account, probe)), prefix: config.prefix.as_str().into() })
    }

    /// How Redis was found last. Asks nothing.
    pub fn condition(&self) -> Condition {
        self.link.condition()
    }

    /// Begins to connect, so that the first question need not wait for it. Needs a runtime, as every question does.
    pub fn connect_soon(&self) {
        self.link.start();
    }

    /// Sets a value that ends after `ttl`, whatever was there.
    pub async fn put(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), SharedError> {
        let mut command = redis::cmd("SET");
        command.arg(self.name(key)).arg(value).arg("PX").arg(milliseconds(ttl));
        self.ask(command).await
    }

    /// Sets a value that ends after `ttl` if the key has none; false if it has. One of several replicas that try at
    /// once succeeds.
    pub async fn put_new(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, SharedError> {
        let mut command = redis::cmd("SET");
        command.arg(self.name(key)).arg(value).arg("NX").arg("PX").arg(milliseconds(ttl));
        // Redis answers OK, or nil where the key has a value.
        self.ask::<Option<String>>(command).await.map(|answer| answer.is_some())
    }

    /// The value of a key, if it has one that has not ended.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, SharedError> {
        let mut command = redis::cmd("GET");
        command.arg(self.name(key));
        self.ask(command).await
    }

    /// Runs a script on keys (`KEYS`, to which the prefix is added) and arguments (`ARGV`).
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: &[impl ToRedisArgs],
    ) -> Result<T, SharedError> {
        let mut invocation = script.0.prepare_invoke();
        for key in keys {
            invocation.key(self.name(key));
        }
        for argument in arguments {
            invocation.arg(argument);
        }
        self.link.with(async |mut connection| invocation.invoke_async(&mut connection).await).await
    }

    async fn ask<T: FromRedisValue>(&self, command: redis::Cmd) -> Result<T, SharedError> {
        self.link.with(async |mut connection| command.query_async(&mut connection).await).await
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("link", &self.link).field("prefix", &self.prefix).finish()
    }
}

/// Redis takes whole milliseconds, and refuses none.
fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX.unsigned_abs() / 2)
}

// === impl Script ===

impl Script {
    /// A script from its text.
    pub fn new(lua: &str) -> Self {
        Self(Arc::new(redis::Script::new(lua)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(text: &str) -> Result<Shared, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        Shared::new(&config).map_err(|error| crate::error::Chain(&error).to_string())
    }

    #[test]
    fn only_loopback_is_spoken_to_in_plain_text() {
        for url in ["redis://127.0.0.1:6379", "redis://[::1]:6379/2", "redis://localhost", "rediss://redis.internal/1"]
        {
            assert!(shared(&format!("url = \"{url}\"")).is_ok(), "{url}");
        }
        for (url, part) in [
            ("redis://redis.internal:6379", "must be rediss://"),
            ("redis://10.0.0.1:6379", "must be rediss://"),
            ("redis://127.0.0.1.example.com", "must be rediss://"),
            ("rediss://redis.internal/0#insecure", "nothing behind"),
            ("rediss://redis.internal/0?protocol=resp3", "nothing behind"),
            ("rediss://redis.internal/first", "nothing behind"),
            ("http://127.0.0.1", "must be like rediss://"),
            ("unix:///run/redis.sock", "must be like rediss://"),
            ("redis.internal", "not a URL"),
        ] {
            let error = shared(&format!("url = \"{url}\"")).expect_err(url);
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn the_password_is_never_printed() {
        let text = "url = \"redis://someone:sesame@127.0.0.1:6379/0\"";
        let config: Config = toml::from_str(text).expect("sound");
        let shared = Shared::new(&config).expect("sound");
        let wrong = ["redis://:sesame@10.0.0.1", "rediss://:sesame@redis.internal/0#insecure", "ftp://:sesame@x"]
            .map(|url| ConfigError::Url(Url::parse(url).expect("a URL").into()));
        for printed in [format!("{config:?}"), format!("{shared:?}"), format!("{wrong:?}")] {
            assert!(!printed.contains("sesame"), "{printed}");
            assert!(!printed.contains("someone"), "{printed}");
        }
        for error in &wrong {
            assert!(!error.to_string().contains("sesame"), "{error}");
        }
        let error = serde_path_to_error::deserialize::<_, Config>(toml::toml! { url = "redis//:sesame@x" });
        assert!(!error.expect_err("no URL").to_string().contains("sesame"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let directory = std::env::temp_dir().join(format!("whitelistmcp-shared-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&directory).expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (password, empty) = (file("password", "sesame\n"), file("empty", "\n"));
        let local = "url = \"redis://127.0.0.1:6379\"\n";
        assert!(shared(&format!("{local}password_file = \"{password}\"")).is_ok());
        for (text, part) in [
            (format!("{local}password_file = \"{empty}\""), "is empty"),
            (format!("{local}password_file = \"{empty}-gone\""), "cannot be read"),
            (format!("url = \"redis://:a@127.0.0.1\"\npassword_file = \"{password}\""), "take one out"),
            (format!("{local}ca = \"{password}\""), "not rediss://"),
            (format!("url = \"rediss://redis.internal\"\nca = \"{password}\""), "no certificate"),
            (format!("{local}prefix = \"\""), "prefix"),
            (format!("{local}prefix = \"a b\""), "prefix"),
            (format!("{local}timeout = \"1s\""), "unknown field"),
            (String::new(), "missing field `url`"),
        ] {
            let error = shared(&text).expect_err(&text);
            assert!(error.contains(part), "{text}: {error}");
        }
        std::fs::remove_dir_all(&directory).expect("removed");
    }

    #[tokio::test]
    async fn who_is_not_there_is_asked_once_and_nobody_waits() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
        let shared = shared(&format!("url = \"redis://{gone}\"")).expect("sound");
        assert!(matches!(shared.condition(), Condition::NotAsked));
        let begun = tokio::time::Instant::now();
        assert!(shared.put_new("key", b"value", TIMEOUT).await.is_err());
        for _ in 0..100 {
            assert!(matches!(shared.value("key").await, Err(SharedError::Down)));
        }
        assert!(begun.elapsed() < 2 * TIMEOUT, "{:?}", begun.elapsed());
        assert!(matches!(shared.condition(), Condition::Down));
    }
}
