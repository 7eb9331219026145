//! Sessions of the legacy revisions over HTTP. A session is its id: what the client said when it began, sealed. Nothing is
//! stored, any replica with the key can read it, and it is nobody's but the caller's who began it.

use std::time::Duration;

use crate::digest::sha256_hex;
use crate::mcp::client::Can;
use crate::mcp::era::LEGACY;

use super::sealed::Sealed;

/// How long a session is good for. A client whose session is over begins another one.
const GOOD_FOR: Duration = Duration::from_secs(24 * 3600);

/// What was said when a session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begun {
    /// The revision that was agreed on.
    pub(super) revision: &'static str,
    /// What the client can be asked for.
    pub(super) can: Can,
}

/// The session's id.
pub(super) fn begin(sealed: &Sealed, principal: &str, begun: Begun) -> String {
    let revision = LEGACY.iter().position(|known| *known == begun.revision).unwrap_or_default();
    let Can { fill_forms, open_urls, sample, tell_roots } = begun.can;
    let flags = [fill_forms, open_urls, sample, tell_roots].map(u8::from);
    let mut bytes = vec![u8::try_from(revision).unwrap_or_default()];
    bytes.extend_from_slice(&flags);
    sealed.close(&purpose(principal), &bytes, GOOD_FOR)
}

/// What was said when the session of that id began; nothing if there is none, or it is somebody else's.
pub(super) fn read(sealed: &Sealed, principal: &str, id: &str) -> Option<Begun> {
    let bytes = sealed.open(&purpose(principal), id).ok()?;
    let [revision, fill_forms, open_urls, sample, tell_roots] = <[u8; 5]>::try_from(bytes).ok()?;
    let revision = LEGACY.get(usize::from(revision))?;
    let [fill_forms, open_urls, sample, tell_roots] = [fill_forms, open_urls, sample, tell_roots].map(|flag| flag == 1);
    Some(Begun { revision, can: Can { fill_forms, open_urls, sample, tell_roots } })
}

fn purpose(principal: &str) -> Vec<u8> {
    format!("session:{}", sha256_hex(principal)).into_bytes()
}
