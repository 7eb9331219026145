//! A certificate's thumbprint, by which an access token names the one certificate that it may come with.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The SHA-256 of a certificate in DER: `x5t#S256` (RFC 8705, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// Reads base64url without padding, as tokens carry it.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl From<[u8; 32]> for Thumbprint {
    fn from(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints_are_base64url_of_32_bytes() {
        let text = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0";
        assert_eq!(Thumbprint::parse(text).map(|thumbprint| thumbprint.to_string()).as_deref(), Some(text));
        for wrong in ["", "A4Dt", &format!("{text}="), &format!("{text}A"), &text.replace('A', "+"), "not base64url"] {
            assert_eq!(Thumbprint::parse(wrong), None, "{wrong}");
        }
    }
}
