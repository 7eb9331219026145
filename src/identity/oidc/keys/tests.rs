use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jsonwebtoken::EncodingKey;

use super::*;

/// A provider that answers when the test lets it.
#[derive(Default)]
struct Published {
    keys: Mutex<Option<Vec<Jwk>>>,
    asked: AtomicUsize,
    answers: tokio::sync::Mutex<()>,
    passed: AtomicU64,
}

impl Source for Published {
    async fn fetch_keys(&self) -> Result<Vec<Jwk>, ProviderError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _may = self.answers.lock().await;
        self.keys.lock().expect("not poisoned").clone().ok_or(ProviderError::Missing("jwks_uri"))
    }
}

impl Published {
    fn publish(&self, ids: &[&str]) {
        *self.keys.lock().expect("not poisoned") = Some(ids.iter().map(|id| jwk(id)).collect());
    }

    fn fall_silent(&self) {
        *self.keys.lock().expect("not poisoned") = None;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Lets time pass.
    fn pass(&self, time: Duration) {
        self.passed.fetch_add(u64::try_from(time.as_millis()).expect("fits"), Ordering::SeqCst);
    }
}

fn jwk(id: &str) -> Jwk {
    let pair = rcgen::KeyPair::generate().expect("a key");
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("a JWK");
    jwk.common.key_id = Some(id.to_owned());
    jwk
}

fn keys(ids: &[&str]) -> (Arc<Published>, Arc<Keys<Published>>) {
    let source = Arc::new(Published::default());
    source.publish(ids);
    let (start, ticks) = (Monotonic::system().now(), Arc::clone(&source));
    let time = Monotonic::from_fn(move || start + Duration::from_millis(ticks.passed.load(Ordering::SeqCst)));
    (Arc::clone(&source), Arc::new(Keys::new(source, time)))
}

async fn found(keys: &Keys<Published>, id: &str) -> Result<(), KeyError> {
    keys.find(Some(id), Algorithm::ES256).await.map(drop)
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn callers(keys: &Arc<Keys<Published>>, number: usize) -> Vec<tokio::task::JoinHandle<Result<(), KeyError>>> {
    let call = |_| {
        let keys = Arc::clone(keys);
        tokio::spawn(async move { found(&keys, "a").await })
    };
    (0..number).map(call).collect()
}

#[tokio::test]
async fn many_callers_are_one_question() {
    let (source, keys) = keys(&["a"]);
    let slow = source.answers.lock().await;
    let callers = callers(&keys, 50);
    settle().await;
    drop(slow);
    for caller in callers {
        assert!(caller.await.expect("ends").is_ok());
    }
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn a_caller_that_hangs_up_neither_ends_nor_repeats_the_question() {
    let (source, keys) = keys(&["a"]);
    let slow = source.answers.lock().await;
    for caller in callers(&keys, 20) {
        settle().await;
        caller.abort();
    }
    drop(slow);
    settle().await;
    assert!(found(&keys, "a").await.is_ok());
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn a_silent_issuer_holds_nobody_up_one_after_another() {
    let (source, keys) = keys(&[]);
    source.fall_silent();
    let slow = source.answers.lock().await;
    let callers = callers(&keys, 20);
    settle().await;
    source.pass(Duration::from_secs(5));
    drop(slow);
    for caller in callers {
        assert!(matches!(caller.await.expect("ends"), Err(KeyError::Unavailable(_))));
    }
    assert_eq!(source.asked(), 1);
    // It is tried again, and as soon as it answers it is believed.
    source.publish(&["a"]);
    source.pass(RETRY_AFTER);
    assert!(found(&keys, "a").await.is_ok());
}

#[tokio::test]
async fn unknown_ids_are_asked_about_once_in_a_while() {
    let (source, keys) = keys(&["a"]);
    assert!(found(&keys, "a").await.is_ok());
    for n in 0..1000 {
        assert!(matches!(found(&keys, &format!("made-up-{n}")).await, Err(KeyError::Unknown)));
    }
    assert_eq!(source.asked(), 1);
    source.pass(ASK_AGAIN_AFTER);
    for n in 0..1000 {
        assert!(matches!(found(&keys, &format!("made-up-{n}")).await, Err(KeyError::Unknown)));
    }
    assert_eq!(source.asked(), 2);
}

#[tokio::test]
async fn a_rotation_is_followed() {
    let (source, keys) = keys(&["a"]);
    assert!(found(&keys, "a").await.is_ok());
    source.publish(&["b"]);
    source.pass(ASK_AGAIN_AFTER);
    assert!(found(&keys, "b").await.is_ok());
    // A key that was taken back does not count any more.
    assert!(matches!(found(&keys, "a").await, Err(KeyError::Unknown)));
}

#[tokio::test]
async fn keys_that_age_are_fetched_anew_behind_the_calls_that_use_them() {
    let (source, keys) = keys(&["a"]);
    assert!(found(&keys, "a").await.is_ok());
    source.pass(REFRESH_AFTER);
    let slow = source.answers.lock().await;
    for _ in 0..100 {
        // The issuer is not answering, and nobody waits for it.
        assert!(found(&keys, "a").await.is_ok());
        settle().await;
    }
    assert_eq!(source.asked(), 2);
    drop(slow);
    settle().await;
    assert!(found(&keys, "a").await.is_ok());
    settle().await;
    assert_eq!(source.asked(), 2, "they are fresh again");
    // A withdrawn key is gone with the refresh, whoever asks.
    source.publish(&["b"]);
    source.pass(REFRESH_AFTER);
    assert!(found(&keys, "a").await.is_ok(), "still known while the refresh runs");
    settle().await;
    source.pass(ASK_AGAIN_AFTER);
    assert!(matches!(found(&keys, "a").await, Err(KeyError::Unknown)));
    // A refresh that fails leaves the keys in place.
    source.fall_silent();
    source.pass(REFRESH_AFTER);
    assert!(found(&keys, "b").await.is_ok());
    settle().await;
    assert!(found(&keys, "b").await.is_ok());
}

#[tokio::test]
async fn an_answer_without_a_usable_key_is_none() {
    let useless = || {
        let mut encrypting = jwk("a");
        encrypting.common.public_key_use = Some(PublicKeyUse::Encryption);
        let mut secret = jwk("a");
        secret.algorithm = AlgorithmParameters::OctetKey(jsonwebtoken::jwk::OctetKeyParameters {
            key_type: jsonwebtoken::jwk::OctetKeyType::Octet,
            value: "c2VjcmV0".to_owned(),
        });
        [Vec::new(), vec![encrypting], vec![secret]]
    };
    for published in useless() {
        let (source, keys) = keys(&["a"]);
        assert!(found(&keys, "a").await.is_ok());
        *source.keys.lock().expect("not poisoned") = Some(published);
        source.pass(ASK_AGAIN_AFTER);
        assert!(matches!(found(&keys, "made-up").await, Err(KeyError::Unknown)));
        assert_eq!(source.asked(), 2);
        assert!(found(&keys, "a").await.is_ok(), "the keys from before serve");
        source.pass(USE_FOR);
        assert!(matches!(found(&keys, "a").await, Err(KeyError::Unavailable(_))), "and not beyond their age");
    }
    for published in useless() {
        let (source, keys) = keys(&["a"]);
        *source.keys.lock().expect("not poisoned") = Some(published);
        assert!(matches!(found(&keys, "a").await, Err(KeyError::Unavailable(Some(_)))));
        source.publish(&["a"]);
        source.pass(RETRY_AFTER);
        assert!(found(&keys, "a").await.is_ok());
    }
}

#[tokio::test]
async fn staleness_is_bounded() {
    let (source, keys) = keys(&["a"]);
    assert!(found(&keys, "a").await.is_ok());
    source.fall_silent();
    source.pass(USE_FOR - Duration::from_secs(1));
    assert!(found(&keys, "a").await.is_ok(), "an issuer that is away is covered for a while");
    source.pass(Duration::from_secs(2));
    assert!(matches!(found(&keys, "a").await, Err(KeyError::Unavailable(_))));
    let asked = source.asked();
    for _ in 0..100 {
        assert!(matches!(found(&keys, "a").await, Err(KeyError::Unavailable(_))));
    }
    assert!(source.asked() <= asked + 1, "not even a dead issuer is flooded");
}

#[test]
fn a_key_serves_what_it_was_published_for() {
    let with = |change: &dyn Fn(&mut Jwk)| {
        let mut jwk = jwk("a");
        change(&mut jwk);
        KeySet { fetched: Monotonic::system().now(), keys: Key::new(jwk).into_iter().collect() }
    };
    let plain = with(&|jwk| jwk.common.key_algorithm = None);
    assert!(plain.find(Some("a"), Algorithm::ES256).is_some() && plain.find(None, Algorithm::ES256).is_some());
    for algorithm in [Algorithm::ES384, Algorithm::RS256, Algorithm::PS256, Algorithm::EdDSA, Algorithm::HS256] {
        assert!(plain.find(Some("a"), algorithm).is_none(), "{algorithm:?}");
    }
    let encrypts = with(&|jwk| jwk.common.public_key_use = Some(PublicKeyUse::Encryption));
    assert!(encrypts.find(Some("a"), Algorithm::ES256).is_none());
    let other = with(&|jwk| jwk.common.key_algorithm = Some(jsonwebtoken::jwk::KeyAlgorithm::ES384));
    assert!(other.find(Some("a"), Algorithm::ES256).is_none());
    // No choice is made between two keys.
    let twice = KeySet {
        fetched: Monotonic::system().now(),
        keys: [jwk("a"), jwk("a")].into_iter().filter_map(Key::new).collect(),
    };
    assert!(twice.find(Some("a"), Algorithm::ES256).is_none() && twice.find(None, Algorithm::ES256).is_none());
    // A symmetric key among the published ones verifies nothing.
    let symmetric = serde_json::json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"});
    let symmetric: Jwk = serde_json::from_value(symmetric).expect("a JWK");
    let set = KeySet { fetched: Monotonic::system().now(), keys: Key::new(symmetric).into_iter().collect() };
    assert!(set.find(Some("a"), Algorithm::HS256).is_none());
}
