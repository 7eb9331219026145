//! What can be said of certificates and revocation lists before they are used (RFC 5280).

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::authorities::Authorities;
use super::load::{LoadError, load_certificates};
use super::provider;

/// What a certificate is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To serve by (extended key usage `serverAuth`).
    Server,
    /// To call with (extended key usage `clientAuth`).
    Client,
}

/// A certificate or a revocation list that must not be used.
#[derive(Debug, thiserror::Error)]
pub enum UnfitError {
    /// A certificate from the future.
    #[error("the certificate in {path} is not valid before {from}")]
    Early {
        /// The file.
        path: PathBuf,
        /// When it becomes valid.
        from: Timestamp,
    },
    /// A certificate past its end.
    #[error("the certificate in {path} expired on {until}")]
    Expired {
        /// The file.
        path: PathBuf,
        /// When it ended.
        until: Timestamp,
    },
    /// A certificate for something else.
    #[error("the extended key usage of the certificate in {path} lacks {}", match purpose { Purpose::Server => "serverAuth", Purpose::Client => "clientAuth" })]
    Purpose {
        /// The file.
        path: PathBuf,
        /// What it should be for.
        purpose: Purpose,
    },
    /// A file of CAs of which none is valid.
    #[error("no CA in {path} is valid now: {why}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with each.
        why: String,
    },
    /// A revocation list of another CA, or one that was tampered with.
    #[error("{0} holds a revocation list that is not signed by a CA in the client CA's file")]
    Issuer(PathBuf),
    /// A revocation list from the future.
    #[error("the revocation list in {path} is not valid before {from}")]
    ListEarly {
        /// The file.
        path: PathBuf,
        /// Its `thisUpdate`.
        from: Timestamp,
    },
    /// A revocation list that its issuer has promised to replace.
    #[error("the revocation list in {path} ended on {until} (nextUpdate); a newer one is due")]
    ListExpired {
        /// The file.
        path: PathBuf,
        /// Its `nextUpdate`.
        until: Timestamp,
    },
    /// The file.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// From when to when the first certificate of a file is valid.
pub fn validity(path: &Path) -> Result<(Timestamp, Timestamp), LoadError> {
    let certificates = load_certificates(path)?;
    let certificate = certificates.first().and_then(parse).ok_or_else(|| LoadError::NoCertificate(path.to_owned()))?;
    window(&certificate).ok_or_else(|| LoadError::NoCertificate(path.to_owned()))
}

/// When a certificate ends (its last valid second), if that can be read.
pub fn end_of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    window(&parse(certificate)?).map(|(_, until)| until)
}

/// Checks the certificates that are shown as one's own, the leaf first; when the first of them ends.
pub(super) fn check_identity(
    path: &Path,
    chain: &[CertificateDer<'_>],
    purpose: Purpose,
    now: Timestamp,
) -> Result<Timestamp, UnfitError> {
    let broken = || LoadError::NoCertificate(path.to_owned());
    let leaf = chain.first().and_then(parse).ok_or_else(broken)?;
    let usage = leaf.extended_key_usage().map_err(|_| broken())?;
    let fits = usage.is_none_or(|usage| {
        let usage = usage.value;
        usage.any || if purpose == Purpose::Server { usage.server_auth } else { usage.client_auth }
    });
    if !fits {
        return Err(UnfitError::Purpose { path: path.to_owned(), purpose });
    }
    all_valid(path, chain, now)
}

/// Checks a revocation list against those who may issue it; its `nextUpdate`, or none if it is the list of a CA that was set
/// aside, whose dates bind nobody: when its CA's time is over it is not renewed any more.
pub(super) fn check_revocation_list(
    path: &Path,
    list: &CertificateRevocationListDer<'_>,
    authorities: &Authorities<'_>,
    now: Timestamp,
) -> Result<Option<Timestamp>, UnfitError> {
    let broken = || LoadError::NoRevocationList(path.to_owned());
    let (rest, list) = CertificateRevocationList::from_der(list).map_err(|_| broken())?;
    if !rest.is_empty() {
        return Err(broken().into());
    }
    let signed_by =
        |of: &[CertificateDer<'_>]| of.iter().filter_map(parse).any(|authority| is_signed_by(&list, &authority));
    if !signed_by(&authorities.trusted) {
        return if signed_by(&authorities.set_aside) { Ok(None) } else { Err(UnfitError::Issuer(path.to_owned())) };
    }
    let from = timestamp(list.last_update()).ok_or_else(broken)?;
    // RFC 5280, section 5.1.2.5: conforming CAs say when the next list comes.
    let until = list.next_update().and_then(timestamp).ok_or_else(broken)?;
    match () {
        () if now < from => Err(UnfitError::ListEarly { path: path.to_owned(), from }),
        () if until < now => Err(UnfitError::ListExpired { path: path.to_owned(), until }),
        () => Ok(Some(until)),
    }
}

/// Whether an authority named itself in a list and signed it, by any algorithm that TLS accepts here.
fn is_signed_by(list: &CertificateRevocationList<'_>, authority: &X509Certificate<'_>) -> bool {
    let key = &authority.public_key().subject_public_key.data;
    let signs = authority.key_usage().ok().flatten().is_none_or(|usage| usage.value.crl_sign());
    signs
        && list.issuer().as_raw() == authority.subject().as_raw()
        && provider().signature_verification_algorithms.all.iter().any(|algorithm| {
            algorithm.verify_signature(key, list.tbs_cert_list.as_ref(), &list.signature_value.data).is_ok()
        })
}

fn all_valid(path: &Path, certificates: &[CertificateDer<'_>], now: Timestamp) -> Result<Timestamp, UnfitError> {
    let mut end = Timestamp::MAX;
    for certificate in certificates {
        let (from, until) = parse(certificate)
            .and_then(|certificate| window(&certificate))
            .ok_or_else(|| LoadError::NoCertificate(path.to_owned()))?;
        if now < from {
            return Err(UnfitError::Early { path: path.to_owned(), from });
        }
        if until < now {
            return Err(UnfitError::Expired { path: path.to_owned(), until });
        }
        end = end.min(until);
    }
    Ok(end)
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

pub(super) fn window(certificate: &X509Certificate<'_>) -> Option<(Timestamp, Timestamp)> {
    let validity = certificate.validity();
    Some((timestamp(validity.not_before)?, timestamp(validity.not_after)?))
}

fn timestamp(time: ASN1Time) -> Option<Timestamp> {
    Timestamp::from_second(time.timestamp()).ok()
}
