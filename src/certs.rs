//! A small certificate authority, to try the service out: one CA, and leaf certificates for the edge, the core and
//! services. For production use the company's own CA; `certs/README.md` says what it must put into them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// What a leaf certificate is for.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The files' name: `NAME.pem` and `NAME.key`.
    pub name: String,
    /// The names in it: URIs (with `://`), IP addresses, or DNS names.
    pub names: Vec<String>,
}

/// Certificates that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file.
    #[error("{path} cannot be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is there already.
    #[error("{0} is there already, and nothing is overwritten")]
    Exists(PathBuf),
    /// The certificate itself.
    #[error("the certificate `{name}` cannot be made")]
    Make {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// Makes a CA (`ca.pem`; its key is not kept) and leaf certificates signed by it. Files that exist are not touched.
pub fn create(directory: &Path, leaves: &[Leaf]) -> Result<(), CertsError> {
    std::fs::create_dir_all(directory).map_err(|source| CertsError::Write { path: directory.to_owned(), source })?;
    let files = leaves.iter().flat_map(|leaf| [format!("{}.pem", leaf.name), format!("{}.key", leaf.name)]);
    let mut files = std::iter::once("ca.pem".to_owned()).chain(files).map(|file| directory.join(file));
    if let Some(path) = files.find(|path| path.exists()) {
        return Err(CertsError::Exists(path));
    }
    let ca = authority().map_err(|source| CertsError::Make { name: "ca".to_owned(), source })?;
    write(&directory.join("ca.pem"), &ca.pem())?;
    for leaf in leaves {
        let (certificate, key) =
            sign(leaf, &ca).map_err(|source| CertsError::Make { name: leaf.name.clone(), source })?;
        write(&directory.join(format!("{}.pem", leaf.name)), &certificate)?;
        write(&directory.join(format!("{}.key", leaf.name)), &key)?;
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "whitelistmcp trial CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn sign(leaf: &Leaf, ca: &CertifiedIssuer<'static, KeyPair>) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, leaf.name.clone());
    params.subject_alt_names = leaf.names.iter().map(|name| subject_name(name)).collect::<Result<_, _>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn subject_name(name: &str) -> Result<SanType, rcgen::Error> {
    if name.contains("://") {
        return Ok(SanType::URI(Ia5String::try_from(name)?));
    }
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(Ia5String::try_from(name)?)),
    }
}

/// Writes a new file that only its owner can read.
fn write(path: &Path, text: &str) -> Result<(), CertsError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|source| CertsError::Write { path: path.to_owned(), source })
}
