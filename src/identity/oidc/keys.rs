//! The provider's keys, cached: refreshed as they age, asked for again when an unknown one is named, never in a flood.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;

use super::provider::{Provider, ProviderError};
use crate::clock::Monotonic;
use crate::telemetry;

/// The age at which keys are fetched anew, behind the calls that still use them.
const REFRESH_AFTER: Duration = Duration::from_secs(600);

/// The age beyond which keys are not used any more: better no answer than a guess.
const USE_FOR: Duration = Duration::from_secs(3600);

/// The least time between two questions to the provider, whatever tokens name.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The same, while there are no keys at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Where keys come from.
pub(super) trait Source: Send + Sync + 'static {
    /// The keys that are published now.
    fn fetch_keys(&self) -> impl Future<Output = Result<Vec<Jwk>, ProviderError>> + Send;
}

/// One issuer's keys.
#[derive(Debug)]
pub(super) struct Keys<S = Provider>(Arc<Inner<S>>);

#[derive(Debug)]
struct Inner<S> {
    source: Arc<S>,
    current: ArcSwapOption<KeySet>,
    last_asked: Mutex<Option<Instant>>,
    time: Monotonic,
}

struct KeySet {
    fetched: Instant,
    keys: Vec<Key>,
}

struct Key {
    jwk: Jwk,
    decoding: Arc<DecodingKey>,
}

/// Why there is no key for a token.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The provider has no such key, or not for this algorithm.
    #[error("it names no key that its issuer publishes for that algorithm")]
    Unknown,
    /// The provider could not be asked, and what is known is too old.
    #[error("the issuer's keys cannot be had")]
    Unavailable(#[source] Option<ProviderError>),
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.jwk.common.key_id)).finish()
    }
}

impl Source for Provider {
    fn fetch_keys(&self) -> impl Future<Output = Result<Vec<Jwk>, ProviderError>> + Send {
        Self::fetch_keys(self)
    }
}

impl<S: Source> Keys<S> {
    pub(super) fn new(source: Arc<S>, time: Monotonic) -> Self {
        Self(Arc::new(Inner { source, current: ArcSwapOption::empty(), last_asked: Mutex::new(None), time }))
    }

    /// What is wrong with the keys that are known; nothing before they were needed for the first time.
    pub(super) fn problem(&self) -> Option<String> {
        match self.0.current.load_full() {
            Some(set) if self.0.time.since(set.fetched) >= USE_FOR => {
                Some("they are too old, and could not be refreshed".to_owned())
            }
            Some(_) => None,
            None => {
                let asked = self.0.last_asked.try_lock().is_ok_and(|asked| asked.is_some());
                asked.then(|| "they could not be fetched".to_owned())
            }
        }
    }

    /// The key that a token names.
    pub(super) async fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, KeyError> {
        if let Some(set) = self.0.usable()
            && let Some(key) = set.find(key_id, algorithm)
        {
            telemetry::record_cache("keys", true);
            // A key that is known serves while newer ones are fetched: a slow issuer must not hold up every caller.
            if self.0.time.since(set.fetched) >= REFRESH_AFTER && self.0.last_asked.try_lock().is_ok() {
                let inner = Arc::clone(&self.0);
                // What goes wrong is logged where it happens, and tried again later.
                tokio::spawn(async move { inner.refresh().await.map(drop).unwrap_or_default() });
            }
            return Ok(key);
        }
        telemetry::record_cache("keys", false);
        // A task of its own: a caller that hangs up must not end what others wait for, nor start it once more.
        let inner = Arc::clone(&self.0);
        let refreshed = tokio::spawn(async move { inner.refresh().await }).await;
        let set = refreshed.unwrap_or(Err(KeyError::Unavailable(None)))?;
        set.find(key_id, algorithm).ok_or(KeyError::Unknown)
    }
}

impl<S: Source> Inner<S> {
    /// The keys that are known, unless they are too old.
    fn usable(&self) -> Option<Arc<KeySet>> {
        self.current.load_full().filter(|set| self.time.since(set.fetched) < USE_FOR)
    }

    /// Fetches the keys unless that was just done; whoever comes meanwhile waits for the same answer.
    async fn refresh(&self) -> Result<Arc<KeySet>, KeyError> {
        let mut last_asked = self.last_asked.lock().await;
        let pause = if self.usable().is_some() { ASK_AGAIN_AFTER } else { RETRY_AFTER };
        if last_asked.is_some_and(|asked| self.time.since(asked) < pause) {
            return self.usable().ok_or(KeyError::Unavailable(None));
        }
        let fetched = self.source.fetch_keys().await;
        // Counted from the answer: those who waited for it take it, and do not ask one after another.
        *last_asked = Some(self.time.now());
        // A set without one key that any token could be verified by is no answer: nobody takes all keys back at once.
        let usable = fetched.and_then(|published| {
            let keys: Vec<Key> = published.into_iter().filter_map(Key::new).collect();
            if keys.iter().any(Key::serves) { Ok(keys) } else { Err(ProviderError::NoKeys) }
        });
        match usable {
            Ok(keys) => {
                let set = Arc::new(KeySet { fetched: self.time.now(), keys });
                self.current.store(Some(Arc::clone(&set)));
                Ok(set)
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::Chain(&error), "the issuer's keys could not be fetched");
                self.usable().ok_or(KeyError::Unavailable(Some(error)))
            }
        }
    }
}

impl KeySet {
    fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.fits(algorithm) && (key_id.is_none() || key.jwk.common.key_id.as_deref() == key_id));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Some(Arc::clone(&key.decoding)),
            // Without a key id, or with one that is given twice, there must be no choice.
            _ => None,
        }
    }
}

impl Key {
    fn new(jwk: Jwk) -> Option<Self> {
        let decoding = Arc::new(DecodingKey::from_jwk(&jwk).ok()?);
        Some(Self { jwk, decoding })
    }

    /// Whether any token could be verified by the key.
    fn serves(&self) -> bool {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        [ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512]
            .into_iter()
            .any(|algorithm| self.fits(algorithm))
    }

    /// Whether the key was published for signatures of this algorithm: its type must fit, and where it names a use or
    /// an algorithm, those must be the ones (RFC 8725, section 3.1).
    fn fits(&self, algorithm: Algorithm) -> bool {
        let for_signing = self.jwk.common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature);
        let named = self.jwk.common.key_algorithm.is_none_or(|named| named == algorithm.into());
        let typed = match &self.jwk.algorithm {
            AlgorithmParameters::RSA(_) => {
                matches!(
                    algorithm,
                    Algorithm::RS256
                        | Algorithm::RS384
                        | Algorithm::RS512
                        | Algorithm::PS256
                        | Algorithm::PS384
                        | Algorithm::PS512
                )
            }
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => algorithm == Algorithm::ES256,
                EllipticCurve::P384 => algorithm == Algorithm::ES384,
                _ => false,
            },
            AlgorithmParameters::OctetKeyPair(_) => algorithm == Algorithm::EdDSA,
            _ => false,
        };
        for_signing && named && typed
    }
}

/// How many of these keys could verify a token by one of these algorithms.
pub(super) fn serving(published: Vec<Jwk>, algorithms: &[Algorithm]) -> usize {
    let keys = published.into_iter().filter_map(Key::new);
    keys.filter(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm))).count()
}

#[cfg(test)]
mod tests;
