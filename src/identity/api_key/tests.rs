use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::Monotonic;

fn scopes() -> Vec<String> {
    ["whitelist:read", "whitelist:write"].map(str::to_owned).to_vec()
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn new_key() -> NewKey {
    let networks = ["203.0.113.0/24".to_owned(), "2001:db8::7".to_owned()];
    NewKey::make("ops@example.test", &scopes()[..1], &networks, 30, &scopes(), now()).expect("a key")
}

fn part(key: &NewKey, range: std::ops::Range<usize>) -> &str {
    key.secret().get(range).expect("long enough")
}

/// A file of keys, and a hand on the time that passes for it.
struct Fixture {
    path: std::path::PathBuf,
    passed: Arc<AtomicU64>,
    keys: ApiKeys,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("whitelistmcp-keys-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("a file");
        let passed = Arc::new(AtomicU64::new(0));
        let (start, ticks) = (Monotonic::system().now(), Arc::clone(&passed));
        let time = Monotonic::from_fn(move || start + Duration::from_millis(ticks.load(Ordering::SeqCst)));
        let keys = ApiKeys::open(&Config { file: path.clone() }, scopes(), time).expect("sound");
        Self { path, passed, keys }
    }

    fn rewrite(&self, text: &str) {
        std::fs::write(&self.path, text).expect("a file");
        self.passed.fetch_add(1000, Ordering::SeqCst);
    }

    async fn verify(&self, key: &str, address: &str) -> Result<Arc<Principal>, ApiKeyError> {
        self.keys.verify(key, address.parse().ok(), now()).await
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap_or_default();
    }
}

#[tokio::test]
async fn a_key_is_let_in_with_what_its_entry_says() {
    let key = new_key();
    let fixture = Fixture::new(key.entry());
    let principal = fixture.verify(key.secret(), "203.0.113.7").await.expect("known");
    assert_eq!((principal.kind(), principal.issuer()), (Kind::ApiKey, "api-key"));
    assert_eq!(principal.scopes().iter().collect::<Vec<_>>(), ["whitelist:read"]);
    assert_eq!(principal.expires(), Some("2026-01-31T00:00:00Z".parse().expect("a time")));
    assert!(principal.name().starts_with("ops@example.test/"), "{}", principal.name());
    assert!(principal.id().starts_with("ops@example.test-"), "{}", principal.id());
    assert!(fixture.verify(key.secret(), "::ffff:203.0.113.7").await.is_ok());
    assert!(fixture.verify(key.secret(), "2001:db8::7").await.is_ok());
    let other = new_key();
    assert!(
        !principal.is(Fixture::new(other.entry()).verify(other.secret(), "203.0.113.7").await.expect("known").id())
    );
}

#[tokio::test]
async fn everything_else_is_refused() {
    let (key, other) = (new_key(), new_key());
    let fixture = Fixture::new(key.entry());
    let refusal = async |key: &str, address: &str| fixture.verify(key, address).await.expect_err(key).to_string();
    // An unknown id, and another secret under a known id: the same words.
    let unknown = refusal(other.secret(), "203.0.113.7").await;
    let (start, tail) = (part(&key, 0..17), part(&other, 17..89));
    let mixed = format!("{start}{}", tail.get(..64).expect("a secret"));
    let wrong_secret = format!("{mixed}{}", checksum(&mixed));
    assert_eq!(refusal(&wrong_secret, "203.0.113.7").await, unknown);
    assert!(matches!(fixture.verify(&wrong_secret, "203.0.113.7").await, Err(ApiKeyError::Unknown)));
    for address in ["203.0.114.7", "2001:db8::8", "not known"] {
        assert!(matches!(fixture.verify(key.secret(), address).await, Err(ApiKeyError::Network)), "{address}");
    }
    let end: Timestamp = "2026-01-31T00:00:00Z".parse().expect("a time");
    let address = "203.0.113.7".parse().ok();
    assert!(matches!(fixture.keys.verify(key.secret(), address, end).await, Err(ApiKeyError::Expired)));
    for damaged in
        ["wlk_", "wlk_x_y", part(&key, 0..80), &key.secret().replace("wlk_", "wlk_0"), &key.secret().to_uppercase()]
    {
        assert!(matches!(fixture.verify(damaged, "203.0.113.7").await, Err(ApiKeyError::Malformed)), "{damaged}");
    }
    // The checksum finds a slip of the pen before anybody is asked.
    let last = if key.secret().ends_with('0') { "1" } else { "0" };
    let slip = format!("{}{last}", part(&key, 0..88));
    assert!(matches!(fixture.verify(&slip, "203.0.113.7").await, Err(ApiKeyError::Malformed)));
}

#[tokio::test]
async fn the_file_is_followed_and_a_bad_one_is_not() {
    let (key, other) = (new_key(), new_key());
    let fixture = Fixture::new(key.entry());
    assert!(fixture.verify(key.secret(), "203.0.113.7").await.is_ok());
    fixture.rewrite(&(key.entry().to_owned() + "disabled = true\n" + other.entry()));
    assert!(matches!(fixture.verify(key.secret(), "203.0.113.7").await, Err(ApiKeyError::Disabled)));
    assert!(fixture.verify(other.secret(), "203.0.113.7").await.is_ok());
    for bad in ["[[keys]]\n", "keys = 1", &(other.entry().to_owned() + other.entry())] {
        fixture.rewrite(bad);
        assert!(fixture.verify(other.secret(), "203.0.113.7").await.is_ok(), "{bad}");
    }
    std::fs::remove_file(&fixture.path).expect("it was there");
    fixture.passed.fetch_add(1000, Ordering::SeqCst);
    assert!(fixture.verify(other.secret(), "203.0.113.7").await.is_ok());
    fixture.rewrite("");
    assert!(matches!(fixture.verify(other.secret(), "203.0.113.7").await, Err(ApiKeyError::Unknown)));
}

#[test]
fn an_entry_must_be_whole() {
    let key = new_key();
    let entry = key.entry();
    assert!(file::parse(entry, &scopes()).is_ok());
    let swap = |from: &str, to: &str| {
        let changed = entry.replace(from, to);
        assert_ne!(changed, entry);
        file::parse(&changed, &scopes()).expect_err(to).to_string()
    };
    for (from, to, part) in [
        ("owner = \"ops@example.test\"", "owner = \" \"", "owner"),
        ("scopes = [\"whitelist:read\"]", "scopes = []", "scopes"),
        ("scopes = [\"whitelist:read\"]", "scopes = [\"admin\"]", "whitelist:write"),
        ("expires = \"2026-01-31T00:00:00Z\"", "expires = \"never\"", "expires"),
        ("expires = \"2026-01-31T00:00:00Z\"", "", "file of keys"),
        ("networks = [\"203.0.113.0/24\", \"2001:db8::7\"]", "networks = []", "networks"),
        ("203.0.113.0/24", "0.0.0.0/0", "networks"),
        ("203.0.113.0/24", "0.0.0.0/1", "0.0.0.0/1, which is too wide"),
        ("203.0.113.0/24", "10.0.0.0/7", "at most a /8 of IPv4"),
        ("2001:db8::7", "2000::/15", "a /16 of IPv6"),
        ("203.0.113.0/24", "here", "networks"),
        ("sha256 = \"", "sha256 = \"0", "sha256"),
        ("id = \"", "id = \"A", "id of a key"),
        ("owner", "onwer", "file of keys"),
    ] {
        let error = swap(from, to);
        assert!(error.contains(part), "{to}: {error}");
    }
    assert!(file::parse(&(entry.to_owned() + entry), &scopes()).is_err());
}

#[test]
fn what_is_made_is_bounded() {
    let make = |owner: &str, scope: &str, network: &str, days: u16| {
        NewKey::make(owner, &[scope.to_owned()], &[network.to_owned()], days, &scopes(), now())
    };
    assert!(make("ops", "whitelist:read", "10.0.0.0/8", 366).is_ok());
    assert!(make("ops \"x\"\nscopes", "whitelist:read", "10.0.0.0/8", 1).is_err());
    assert!(make("ops", "admin", "10.0.0.0/8", 1).is_err());
    assert!(make("ops", "whitelist:read", "0.0.0.0/0", 1).is_err());
    assert!(make("ops", "whitelist:read", "10.0.0.0/8", 0).is_err());
    assert!(make("ops", "whitelist:read", "10.0.0.0/8", 367).is_err());
    let (a, b) = (new_key(), new_key());
    assert_ne!(a.secret(), b.secret());
    assert!(!a.entry().contains(part(&a, 17..40)) && !format!("{a:?}").contains(part(&a, 17..40)));
    assert!(is_api_key(a.secret()) && a.secret().len() == 4 + 12 + 1 + 64 + 8);
}
