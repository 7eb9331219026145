//! Logins that are kept: in the system's keychain where there is one, else in a file that nobody else may read.
//!
//! Everything of one server is one document, so that it is replaced as a whole. Beside it lies the file that programs lock
//! while they log in or renew a token: the lock goes with whoever holds it, however they end.

mod file;
mod keychain;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use crate::error::Chain;
pub(super) use file::{read, remove, write};
pub use keychain::KeychainError;

/// How often a lock that somebody else holds is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// The version of the documents. Others are not read.
const VERSION: u32 = 1;

/// Where logins are kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of locks, and of logins where there is no keychain. It is made when it is first needed.
    pub directory: PathBuf,
    /// Whether the system's keychain is used.
    pub keychain: bool,
}

/// A login that cannot be kept, or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error("{path} cannot be used to keep logins in")]
    File {
        /// The file, or its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The keychain, where that cannot be left at it.
    #[error(
        "a login may still stand in the system's keychain: open the keychain and log out again, or say --store file if nothing was ever kept there"
    )]
    Keychain(#[from] KeychainError),
}

/// The logins at one server.
pub(super) struct Store {
    config: Config,
    server: String,
    name: String,
}

/// What is kept of one server.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// When: the keychain and the file may both have one.
    #[serde(default)]
    saved: Option<Timestamp>,
    /// The server's URL, for people who look.
    server: String,
    /// One for each issuer and grant, the newest first.
    pub(super) logins: Vec<Login>,
}

/// A login, and whatever else is needed to go on with it.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Login {
    pub(super) issuer: String,
    /// Whom it is for.
    #[serde(default)]
    pub(super) grant: Grant,
    pub(super) client: Client,
    pub(super) token_endpoint: Url,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revocation_endpoint: Option<Url>,
    /// The resource's identifier, as the token was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resource: Option<String>,
    /// The scopes that were asked for, and with them those that were given.
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    pub(super) access_token: String,
    /// When the access token ends, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ends: Option<Timestamp>,
    /// From when on it is renewed ahead of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renew: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refresh_token: Option<String>,
}

/// As whom the bridge asks an authorization server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Client {
    pub(super) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    /// How it says so at the token endpoint.
    pub(super) method: Method,
    /// Where the browser is sent back to, with the port that was registered.
    pub(super) redirect: Url,
    pub(super) origin: Origin,
}

/// How a client says who it is (RFC 7591, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    ClientSecretBasic,
    ClientSecretPost,
    None,
}

/// Whom a login is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grant {
    #[default]
    Person,
    /// The client itself, because somebody said so.
    Program,
    /// The client itself, because the provider has nothing for people.
    OnlyProgram,
}

/// Where a client id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Origin {
    Configured,
    MetadataDocument,
    Registered,
}

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("issuer", &self.issuer).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("id", &self.id).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Kept {
    /// The logins at an issuer.
    pub(super) fn at(&self, issuer: &str) -> impl Iterator<Item = &Login> {
        self.logins.iter().filter(move |login| login.issuer == issuer)
    }

    /// Forgets a login and its like, and with it the client that was registered there.
    pub(super) fn forget(&mut self, gone: &Login) {
        self.logins.retain(|login| login.issuer != gone.issuer || login.grant != gone.grant);
    }

    /// Puts a login first, in place of an older one at its issuer by the same grant.
    pub(super) fn put(&mut self, login: Login) {
        self.forget(&login);
        self.logins.insert(0, login);
    }
}

impl Store {
    pub(super) fn new(config: Config, server: &Url) -> Self {
        let digest = Sha256::digest(server.as_str());
        let name = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { config, server: server.to_string(), name }
    }

    /// What is kept. Whatever cannot be understood counts as nothing: a login makes it anew.
    pub(super) async fn load(&self) -> Result<Kept, StoreError> {
        let file = read(&self.path("json"))?.as_deref().and_then(understand);
        let keychain = if self.config.keychain { self.of_keychain().await } else { None };
        // A keychain that could not be written to for a while may have an older one than the file.
        let newest =
            keychain.into_iter().chain(file).reduce(|one, other| if other.saved > one.saved { other } else { one });
        Ok(newest.unwrap_or_default())
    }

    async fn of_keychain(&self) -> Option<Kept> {
        match keychain::load(&self.server).await {
            Ok(text) => text.as_deref().and_then(understand),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the keychain cannot be read");
                None
            }
        }
    }

    /// Keeps this in place of what was kept.
    pub(super) async fn save(&self, mut kept: Kept, now: Timestamp) -> Result<(), StoreError> {
        // Whatever the clock does, what is kept later is the later one.
        let next = kept.saved.and_then(|saved| saved.checked_add(jiff::SignedDuration::from_micros(1)).ok());
        kept.saved = Some(next.map_or(now, |next| next.max(now)));
        (kept.version, kept.server) = (VERSION, self.server.clone());
        // INVARIANT: strings, numbers and lists can always be written.
        let text = serde_json::to_string(&kept).unwrap_or_default();
        if self.config.keychain && keychain::save(&self.server, &text).await {
            return remove(&self.path("json"));
        }
        write(&self.path("json"), text.as_bytes())
    }

    /// Forgets the server, as far as that can be done.
    pub(super) async fn clear(&self) -> Result<(), StoreError> {
        let removed = remove(&self.path("json")).and(remove(&self.path("attempt")));
        if self.config.keychain {
            keychain::clear(&self.server).await?;
        }
        removed
    }

    /// A file of this server's, beside the lock.
    pub(super) fn path(&self, ending: &str) -> PathBuf {
        self.config.directory.join(format!("{}.{ending}", self.name))
    }

    /// Waits for the lock. `waiting` is told once, if somebody else holds it.
    pub(super) async fn lock(&self, waiting: impl FnOnce()) -> Result<Lock, StoreError> {
        let path = self.path("lock");
        let wrong = |source| StoreError::File { path: path.clone(), source };
        file::make_directory(&self.config.directory)?;
        let file = file::writable().create(true).truncate(false).open(&path).map_err(wrong)?;
        let mut waiting = Some(waiting);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(std::fs::TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Err(std::fs::TryLockError::Error(source)) => return Err(wrong(source)),
            }
        }
    }
}

fn understand(text: &[u8]) -> Option<Kept> {
    serde_json::from_slice(text).ok().filter(|kept: &Kept| kept.version == VERSION)
}

/// Where logins are kept unless something else is said: where the system wants state of programs.
pub fn default_directory(
    variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    home: Option<&Path>,
) -> Option<PathBuf> {
    let stated = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let state = match stated {
        Some(state) => state,
        None if cfg!(target_os = "macos") => home?.join("Library/Application Support"),
        None => home?.join(".local/state"),
    };
    Some(state.join("whitelistmcp"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn login(issuer: &str, token: &str) -> Login {
        let url = || Url::parse("http://127.0.0.1/callback").expect("a URL");
        Login {
            issuer: issuer.to_owned(),
            grant: Grant::Person,
            client: Client {
                id: "x".to_owned(),
                secret: None,
                method: Method::None,
                redirect: url(),
                origin: Origin::Configured,
            },
            token_endpoint: url(),
            revocation_endpoint: None,
            resource: None,
            scopes: vec![],
            access_token: token.to_owned(),
            ends: None,
            renew: None,
            refresh_token: Some("refresh-secret".to_owned()),
        }
    }

    fn store(directory: &Path) -> Store {
        let config = Config { directory: directory.join("state/whitelistmcp"), keychain: false };
        Store::new(config, &Url::parse("https://x.example/mcp").expect("a URL"))
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again_and_nobody_else_s_to_read() {
        let directory = std::env::temp_dir().join(format!("whitelistmcp-store-{}", uuid::Uuid::new_v4()));
        let store = store(&directory);
        assert!(store.load().await.expect("nothing").logins.is_empty());
        let mut kept = Kept::default();
        for (issuer, token) in [("a", "1"), ("b", "2"), ("a", "3")] {
            kept.put(login(issuer, token));
        }
        store.save(kept, Timestamp::UNIX_EPOCH).await.expect("kept");
        let kept = store.load().await.expect("read");
        let tokens: Vec<&str> = kept.logins.iter().map(|login| login.access_token.as_str()).collect();
        assert_eq!((tokens, kept.at("b").count() == 1, kept.at("c").count() == 0), (vec!["3", "2"], true, true));
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!(mode(&store.path("json")), 0o600);
        assert_eq!(mode(&store.config.directory), 0o700);
        // A directory that was opened to others is closed to them again.
        std::fs::set_permissions(&store.config.directory, std::fs::Permissions::from_mode(0o755)).expect("changed");
        store.save(Kept::default(), Timestamp::UNIX_EPOCH).await.expect("kept");
        assert_eq!(mode(&store.config.directory), 0o700);
        // What is no document of ours is nothing, and is replaced.
        for wrong in ["", "{", "[]", "{\"version\":2,\"server\":\"x\",\"logins\":[]}"] {
            std::fs::write(store.path("json"), wrong).expect("written");
            assert!(store.load().await.expect("nothing").logins.is_empty(), "{wrong}");
        }
        store.clear().await.expect("gone");
        assert!(!store.path("json").exists());
        store.clear().await.expect("gone already");
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[tokio::test]
    async fn a_lock_is_one_s_own_and_goes_with_its_holder() {
        let directory = std::env::temp_dir().join(format!("whitelistmcp-lock-{}", uuid::Uuid::new_v4()));
        let store = store(&directory);
        let held = store.lock(|| panic!("nobody holds it")).await.expect("locked");
        let mut told = false;
        let waiting = store.lock(|| told = true);
        assert!(tokio::time::timeout(Duration::from_millis(300), waiting).await.is_err());
        assert!(told);
        drop(held);
        store.lock(|| {}).await.expect("locked");
        std::fs::remove_dir_all(directory).expect("removed");
    }

    #[test]
    fn nothing_of_a_login_shows() {
        let shown = format!("{:?}", login("https://x.example", "access-secret"));
        assert!(shown.contains("x.example") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn the_directory_is_where_the_system_keeps_state() {
        let home = Some(Path::new("/home/x"));
        let stated = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".into());
        assert_eq!(default_directory(stated, home), Some("/state/whitelistmcp".into()));
        assert_eq!(default_directory(|_| None, None), None);
        if !cfg!(target_os = "macos") {
            assert_eq!(
                default_directory(|_| Some("relative".into()), home),
                Some("/home/x/.local/state/whitelistmcp".into())
            );
        }
    }
}
