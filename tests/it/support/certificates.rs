//! A CA for the run, which also makes what a real one never would.

use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    /// Makes a CA and writes `ca.pem`.
    pub(crate) fn new(directory: &Path) -> Self {
        let authority = Self::unpublished(directory);
        std::fs::write(directory.join("ca.pem"), authority.issuer.pem()).expect("a file");
        authority
    }

    /// A CA that nobody trusts.
    pub(crate) fn unpublished(directory: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        Self { issuer, directory: directory.to_owned() }
    }

    pub(crate) fn issue(&self, name: &str, names: &[&str]) {
        self.issue_until(name, names, 2100);
    }

    /// A certificate that ends with that year's beginning.
    pub(crate) fn issue_until(&self, name: &str, names: &[&str], year: i32) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| {
                let text = Ia5String::try_from(*name).expect("ASCII");
                if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
            })
            .collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.directory.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.directory.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }
}
