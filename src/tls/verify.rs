//! What can be said of a certificate before it is used.

use std::path::Path;

use jiff::Timestamp;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::load::{LoadError, load_certificates};

/// From when to when the first certificate of a file is valid.
pub fn validity(path: &Path) -> Result<(Timestamp, Timestamp), LoadError> {
    let broken = || LoadError::NoCertificate(path.to_owned());
    let certificates = load_certificates(path)?;
    let (_, certificate) =
        certificates.first().and_then(|der| X509Certificate::from_der(der).ok()).ok_or_else(broken)?;
    let validity = certificate.validity();
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| broken());
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}
