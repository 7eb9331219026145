//! A CA for the run, which also makes what a real one never would.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};

use super::issuer::now;

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
    serials: Mutex<HashMap<String, SerialNumber>>,
}

impl Authority {
    /// Makes a CA and writes `ca.pem`.
    pub(crate) fn new(directory: &Path) -> Self {
        let authority = Self::unpublished(directory);
        authority.publish("ca.pem");
        authority
    }

    /// A CA that nobody trusts.
    pub(crate) fn unpublished(directory: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the same name as what it signs, gRPC's own verifier would take these for signed by themselves.
        params.distinguished_name.push(DnType::CommonName, "the tests' own CA");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        Self { issuer, directory: directory.to_owned(), serials: Mutex::default() }
    }

    /// Writes the CA's certificate.
    pub(crate) fn publish(&self, file: &str) {
        std::fs::write(self.directory.join(file), self.issuer.pem()).expect("a file");
    }

    pub(crate) fn issue(&self, name: &str, names: &[&str]) {
        self.issue_until(name, names, 2100);
    }

    /// A certificate that ends with that year's beginning.
    pub(crate) fn issue_until(&self, name: &str, names: &[&str], year: i32) {
        self.sign(name, names, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1));
    }

    /// A certificate that ends that many seconds from now.
    pub(crate) fn issue_for(&self, name: &str, names: &[&str], seconds: u64) {
        let end = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now() + seconds);
        self.sign(name, names, |params| params.not_after = end);
    }

    fn sign(&self, name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) {
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
        let serial = SerialNumber::from(uuid::Uuid::new_v4().as_u64_pair().0 >> 1);
        params.serial_number = Some(serial.clone());
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.serials.lock().expect("sound").insert(name.to_owned(), serial);
        std::fs::write(self.directory.join(format!("{name}.pem")), certificate.pem()).expect("a file");
        std::fs::write(self.directory.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    }

    /// Remembers a certificate by another name before a newer one takes its own.
    pub(crate) fn copy_of<'a>(&self, name: &str, other: &'a str) -> &'a str {
        let mut serials = self.serials.lock().expect("sound");
        let serial = serials[name].clone();
        serials.insert(other.to_owned(), serial);
        other
    }

    /// Writes a revocation list of the newest certificates by those names.
    pub(crate) fn revoke(&self, file: &str, names: &[&str]) {
        self.sign_list(file, names, |_| ());
    }

    /// A revocation list that is to be replaced that many seconds from now.
    pub(crate) fn revoke_for(&self, file: &str, names: &[&str], seconds: u64) {
        let end = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now() + seconds);
        self.sign_list(file, names, |list| list.next_update = end);
    }

    fn sign_list(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateRevocationListParams)) {
        let serials = self.serials.lock().expect("sound");
        let revoked = |name: &&str| RevokedCertParams {
            serial_number: serials[*name].clone(),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let mut list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        let list = list.signed_by(&self.issuer).expect("a list");
        std::fs::write(self.directory.join(file), list.pem().expect("PEM")).expect("a file");
    }
}
