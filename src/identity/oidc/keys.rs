//! The provider's keys, cached: refreshed as they age, asked for again when an unknown one is named, never in a flood.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::provider::{Provider, ProviderError};

/// The age at which keys are fetched anew, behind the calls that still use them.
const REFRESH_AFTER: Duration = Duration::from_secs(600);

/// The age beyond which keys are not used any more: better no answer than a guess.
const USE_FOR: Duration = Duration::from_secs(3600);

/// The least time between two questions to the provider, whatever tokens name.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The same, while there are no keys at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One issuer's keys. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Keys(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: Arc<Provider>,
    current: ArcSwapOption<KeySet>,
    last_asked: Mutex<Option<Instant>>,
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

impl Keys {
    pub(super) fn new(provider: Arc<Provider>) -> Self {
        Self(Arc::new(Inner { provider, current: ArcSwapOption::empty(), last_asked: Mutex::new(None) }))
    }

    /// The key that a token names.
    pub(super) async fn find(&self, key_id: Option<&str>, algorithm: Algorithm) -> Result<Arc<DecodingKey>, KeyError> {
        let usable = self.0.current.load_full().filter(|set| set.fetched.elapsed() < USE_FOR);
        if let Some(set) = usable
            && let Some(key) = set.find(key_id, algorithm)
        {
            // A key that is known serves while newer ones are fetched: a slow issuer must not hold up every caller.
            if set.fetched.elapsed() >= REFRESH_AFTER && self.0.last_asked.try_lock().is_ok() {
                let inner = Arc::clone(&self.0);
                // What goes wrong is logged where it happens, and tried again later.
                tokio::spawn(async move { inner.refresh().await.map(drop).unwrap_or_default() });
            }
            return Ok(key);
        }
        self.0.refresh().await?.find(key_id, algorithm).ok_or(KeyError::Unknown)
    }
}

impl Inner {
    /// Fetches the keys unless that was just done; whoever comes meanwhile waits for the same answer.
    async fn refresh(&self) -> Result<Arc<KeySet>, KeyError> {
        let mut last_asked = self.last_asked.lock().await;
        let current = self.current.load_full();
        let pause = if current.is_some() { ASK_AGAIN_AFTER } else { RETRY_AFTER };
        let usable = |set: &Arc<KeySet>| set.fetched.elapsed() < USE_FOR;
        if last_asked.is_some_and(|asked| asked.elapsed() < pause) {
            return current.filter(usable).ok_or(KeyError::Unavailable(None));
        }
        *last_asked = Some(Instant::now());
        match self.provider.fetch_keys().await {
            Ok(keys) => {
                let set =
                    Arc::new(KeySet { fetched: Instant::now(), keys: keys.into_iter().filter_map(Key::new).collect() });
                self.current.store(Some(Arc::clone(&set)));
                Ok(set)
            }
            Err(error) => {
                tracing::warn!(error = %crate::error::Chain(&error), "the issuer's keys could not be fetched");
                current.filter(usable).ok_or(KeyError::Unavailable(Some(error)))
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
