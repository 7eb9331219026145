use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use super::*;
use crate::clock::Clock;
use crate::error::Chain;

/// A CA and what it signs, in a directory of its own.
struct Authority {
    at: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn moment(text: &str) -> Timestamp {
    text.parse().expect("a moment")
}

impl Authority {
    fn new(name: &str) -> Self {
        Self::until(4096, name)
    }

    /// One that ends when a year begins.
    fn until(year: i32, name: &str) -> Self {
        Self::from_until(1975, year, name)
    }

    /// One that begins when a year begins, and ends when another does.
    fn from_until(from: i32, until: i32, name: &str) -> Self {
        let at = std::env::temp_dir().join(format!("whitelistmcp-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&at).expect("a directory");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let authority = Self { at, issuer };
        authority.write("ca.pem", authority.issuer.pem());
        authority.leaf("leaf", |_| ());
        authority.list("ca.crl", |_| ());
        authority
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.at.join(name), text).expect("a file");
    }

    fn leaf(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params.serial_number = Some(SerialNumber::from(7));
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        self.write(&format!("{name}.pem"), params.signed_by(&key, &self.issuer).expect("a certificate").pem());
        self.write(&format!("{name}.key"), key.serialize_pem());
    }

    fn list(&self, name: &str, change: impl FnOnce(&mut CertificateRevocationListParams)) -> Vec<u8> {
        let mut list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2025, 1, 1),
            next_update: rcgen::date_time_ymd(2028, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut list);
        let list = list.signed_by(&self.issuer).expect("a list");
        self.write(name, list.pem().expect("PEM"));
        list.der().to_vec()
    }

    fn identity(&self, name: &str) -> Identity {
        Identity { certificate: self.at.join(format!("{name}.pem")), key: self.at.join(format!("{name}.key")) }
    }

    fn files(&self, name: &str) -> ServerFiles {
        ServerFiles::mutual("test.tls", &self.identity(name), &self.at.join("ca.pem"), &[self.at.join("ca.crl")])
    }

    fn refusal(&self, name: &str, now: &str) -> String {
        Chain(&self.files(name).load(moment(now)).expect_err(name)).to_string()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.at).unwrap_or_default();
    }
}

const NOW: &str = "2026-06-01T00:00:00Z";

/// A clock that stands at `NOW` until it is set.
fn stopped_clock() -> (Arc<Mutex<Timestamp>>, Clock) {
    let time = Arc::new(Mutex::new(moment(NOW)));
    let told = Arc::clone(&time);
    (time, Clock::from_fn(move || *told.lock().expect("sound")))
}

/// Whether a set believes what an authority has signed.
fn believed(set: &ServerSet, of: &Authority, now: &str) -> bool {
    let chain = load::load_certificates(&of.at.join("leaf.pem")).expect("a certificate");
    set.believes(&chain, moment(now)).is_ok()
}

#[test]
fn a_set_is_sound_as_a_whole_or_refused_with_the_reason() {
    let authority = Authority::new("one");
    let set = authority.files("leaf").load(moment(NOW)).expect("sound");
    assert_eq!(ServerFiles::end(&set), moment("2028-01-01T00:00:00Z"), "the list ends first");

    for (now, part) in [
        ("2019-12-31T00:00:00Z", "is not valid before 2020-01-01"),
        ("2030-01-01T00:00:01Z", "expired on 2030-01-01"),
        ("2024-06-01T00:00:00Z", "the revocation list"),
        ("2028-01-01T00:00:01Z", "ended on 2028-01-01T00:00:00Z (nextUpdate)"),
    ] {
        let refusal = authority.refusal("leaf", now);
        assert!(refusal.contains(part), "{now}: {refusal}");
    }
    authority.leaf("client", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(authority.refusal("client", NOW).contains("lacks serverAuth"));
    let files = ClientFiles::mutual("test.backend", &authority.identity("client"), &authority.at.join("ca.pem"));
    assert!(files.load(moment(NOW)).is_ok());
    authority.leaf("other", |_| ());
    std::fs::copy(authority.at.join("other.key"), authority.at.join("client.key")).expect("a copy");
    assert!(files.load(moment(NOW)).expect_err("unfit").to_string().contains("cannot be used together"));
}

#[test]
fn authorities_are_authorities_and_valid() {
    let authority = Authority::new("one");
    let leaf = std::fs::read(authority.at.join("leaf.pem")).expect("a file");
    let ca = std::fs::read(authority.at.join("ca.pem")).expect("a file");
    authority.write("ca.pem", [ca.as_slice(), &leaf].concat());
    assert!(authority.refusal("leaf", NOW).contains("no CA certificate"), "a leaf among them");
    authority.write("ca.pem", Authority::until(2025, "old").issuer.pem());
    assert!(authority.refusal("leaf", NOW).contains("expired on 2025-01-01"), "an expired one, and no other");
    authority.write("ca.pem", "");
    assert!(authority.refusal("leaf", NOW).contains("holds no certificate"));
}

#[tokio::test]
async fn of_two_authorities_the_one_that_ended_is_trusted_no_longer() {
    let (new, old) = (Authority::new("new"), Authority::until(2027, "old"));
    new.write("ca.pem", old.issuer.pem() + &new.issuer.pem());
    // The old CA's last list ends with it; nobody writes another.
    old.list("ca.crl", |list| list.next_update = rcgen::date_time_ymd(2027, 1, 1));
    let lists = [new.at.join("ca.crl"), old.at.join("ca.crl")];
    let files = ServerFiles::mutual("test.tls", &new.identity("leaf"), &new.at.join("ca.pem"), &lists);

    let (time, clock) = stopped_clock();
    let (mut reloader, mut current) = Reloader::new(files.clone(), clock).expect("sound");
    assert!(believed(&current.borrow(), &new, NOW) && believed(&current.borrow(), &old, NOW));
    // In files that nobody touches.
    *time.lock().expect("sound") = moment("2027-01-02T00:00:00Z");
    reloader.look().await;
    assert!(current.has_changed().expect("running"));
    assert!(believed(&current.borrow_and_update(), &new, NOW) && !believed(&current.borrow(), &old, NOW));
    reloader.look().await;
    assert!(!current.has_changed().expect("running"), "once");

    let started = files.load(moment("2027-01-02T00:00:00Z")).expect("what is left is sound");
    assert!(believed(&started, &new, NOW) && !believed(&started, &old, NOW));
}

#[tokio::test]
async fn an_authority_that_was_staged_is_trusted_from_its_begin_on() {
    let (old, next) = (Authority::new("old"), Authority::from_until(2027, 4096, "next"));
    let later = Authority::from_until(2028, 4096, "later");
    old.write("ca.pem", later.issuer.pem() + &old.issuer.pem() + &next.issuer.pem());
    // A list of the CA to come is there as early as it is.
    next.list("ca.crl", |list| list.this_update = rcgen::date_time_ymd(2026, 12, 31));
    let lists = [old.at.join("ca.crl"), next.at.join("ca.crl")];
    let files = ServerFiles::mutual("test.tls", &old.identity("leaf"), &old.at.join("ca.pem"), &lists);

    let (time, clock) = stopped_clock();
    let (mut reloader, mut current) = Reloader::new(files.clone(), clock).expect("the others are sound");
    assert!(believed(&current.borrow(), &old, NOW) && !believed(&current.borrow(), &next, NOW));
    let almost = "2026-12-31T23:59:59Z";
    *time.lock().expect("sound") = moment(almost);
    reloader.look().await;
    assert!(!current.has_changed().expect("running"), "a second too early");
    // In files that nobody touches.
    let begun = "2027-01-01T00:00:00Z";
    *time.lock().expect("sound") = moment(begun);
    reloader.look().await;
    assert!(current.has_changed().expect("running"));
    assert!(believed(&current.borrow_and_update(), &old, begun) && believed(&current.borrow(), &next, begun));
    assert!(!believed(&current.borrow(), &later, begun), "there is one more to come");
    reloader.look().await;
    assert!(!current.has_changed().expect("running"), "once");
    // A clock that was ahead, and is set right.
    *time.lock().expect("sound") = moment(almost);
    reloader.look().await;
    assert!(believed(&current.borrow_and_update(), &old, almost) && !believed(&current.borrow(), &next, almost));
    // Alone in their file they are refused.
    old.write("ca.pem", next.issuer.pem() + &later.issuer.pem());
    let refused = Chain(&files.load(moment(almost)).expect_err("early")).to_string();
    for part in
        ["CN=next", "is trusted from 2027-01-01T00:00:00Z on", "CN=later", "is trusted from 2028-01-01T00:00:00Z on"]
    {
        assert!(refused.contains(part), "{refused}");
    }
}

#[tokio::test]
async fn an_authority_that_ended_while_a_clock_was_wrong_is_trusted_again() {
    let (new, old) = (Authority::new("new"), Authority::until(2027, "old"));
    new.write("ca.pem", old.issuer.pem() + &new.issuer.pem());
    let files = ServerFiles::mutual("test.tls", &new.identity("leaf"), &new.at.join("ca.pem"), &[]);
    let (time, clock) = stopped_clock();
    let (mut reloader, current) = Reloader::new(files, clock).expect("sound");
    for (now, trusted) in [(NOW, true), ("2027-06-01T00:00:00Z", false), (NOW, true)] {
        *time.lock().expect("sound") = moment(now);
        reloader.look().await;
        assert_eq!(believed(&current.borrow(), &old, NOW), trusted, "{now}");
    }
}

/// Where lists are configured, a certificate that none of them covers is refused, whichever CAs are set aside.
#[test]
fn lists_of_authorities_that_are_set_aside_leave_no_door_open() {
    for (aside, is_staged) in
        [(Authority::from_until(2027, 4096, "next"), true), (Authority::until(2026, "old"), false)]
    {
        let good = Authority::new("good");
        good.write("ca.pem", aside.issuer.pem() + &good.issuer.pem());
        aside.list("ca.crl", |list| {
            let year = if is_staged { 2029 } else { 2026 };
            list.next_update = rcgen::date_time_ymd(year, 1, 1);
        });
        let believed_by = |lists: &[PathBuf]| {
            let files = ServerFiles::mutual("test.tls", &good.identity("leaf"), &good.at.join("ca.pem"), lists);
            believed(&files.load(moment(NOW)).expect("sound"), &good, NOW)
        };
        let (its, own) = (aside.at.join("ca.crl"), good.at.join("ca.crl"));
        assert!(believed_by(&[]), "no lists, no question");
        assert!(!believed_by(std::slice::from_ref(&its)), "nobody speaks for it");
        assert!(believed_by(&[its, own]));
    }
}

#[tokio::test]
async fn a_staged_authority_that_cannot_be_trusted_at_its_begin_is_said_once_with_the_reason() {
    let (log, _logged) = Log::listen();

    let (old, next) = (Authority::until(2029, "old"), Authority::from_until(2027, 4096, "next"));
    old.write("ca.pem", old.issuer.pem() + &next.issuer.pem());
    // Made too early, and never again.
    next.list("ca.crl", |list| list.next_update = rcgen::date_time_ymd(2026, 12, 1));
    let lists = [old.at.join("ca.crl"), next.at.join("ca.crl")];
    let files = ServerFiles::mutual("test.tls", &old.identity("leaf"), &old.at.join("ca.pem"), &lists);
    let (time, clock) = stopped_clock();
    let (mut reloader, mut current) = Reloader::new(files, clock).expect("sound");
    let mut looks = async || {
        for _ in 0..3 {
            reloader.look().await;
        }
    };
    looks().await;
    assert_eq!(log.count("the CA CN=next"), 1, "said at the start");
    *time.lock().expect("sound") = moment("2027-01-02T00:00:00Z");
    looks().await;
    assert_eq!((log.count("have become unsound"), log.count("ended on 2026-12-01T00:00:00Z (nextUpdate)")), (1, 1));
    assert_eq!(log.count("the CA CN=next"), 1, "what is refused is not told of");
    assert!(!current.has_changed().expect("running"));
    next.list("ca.crl", |_| ());
    looks().await;
    assert!(current.has_changed().expect("running"));
    current.mark_unchanged();
    // The end of what is in force is said with the reason as well.
    *time.lock().expect("sound") = moment("2028-01-02T00:00:00Z");
    looks().await;
    assert_eq!(log.count("no newer ones are there"), 1);
    assert_eq!(log.count("ended on 2028-01-01T00:00:00Z (nextUpdate)"), 1);
}

#[test]
fn revocation_lists_are_those_of_the_ca() {
    let authority = Authority::new("one");
    let der = authority.list("ca.crl", |_| ());
    authority.write("ca.crl", &der);
    assert!(authority.files("leaf").load(moment(NOW)).is_ok(), "DER is fine");
    let mut forged = der.clone();
    *forged.last_mut().expect("a byte") ^= 1;
    authority.write("ca.crl", &forged);
    assert!(authority.refusal("leaf", NOW).contains("not signed by a CA"));
    authority.write("ca.crl", [der.as_slice(), b"\0"].concat());
    assert!(authority.refusal("leaf", NOW).contains("holds no certificate revocation list"));
    authority.write("ca.crl", "");
    assert!(authority.refusal("leaf", NOW).contains("holds no certificate revocation list"));
    // A CA of the same name with another key, and one of another name.
    for name in ["one", "two"] {
        let other = Authority::new(name);
        authority.write("ca.crl", other.list("ca.crl", |_| ()));
        assert!(authority.refusal("leaf", NOW).contains("not signed by a CA"), "{name}");
    }
}

#[test]
fn a_chain_that_was_believed_can_be_revoked_and_can_end() {
    let authority = Authority::new("one");
    let chain = load::load_certificates(&authority.at.join("leaf.pem")).expect("a certificate");
    let set = authority.files("leaf").load(moment(NOW)).expect("sound");
    assert!(set.believes(&chain, moment(NOW)).is_ok());
    assert!(set.believes(&chain, moment("2031-01-01T00:00:00Z")).is_err());
    assert!(set.believes(&[], moment(NOW)).is_err());
    authority.list("ca.crl", |list| {
        list.revoked_certs = vec![RevokedCertParams {
            serial_number: SerialNumber::from(7),
            revocation_time: rcgen::date_time_ymd(2025, 6, 1),
            reason_code: None,
            invalidity_date: None,
        }];
    });
    let set = authority.files("leaf").load(moment(NOW)).expect("sound");
    assert!(set.believes(&chain, moment(NOW)).is_err_and(|why| why.to_string().contains("Revoked")));
    let other = Authority::new("two");
    let set = other.files("leaf").load(moment(NOW)).expect("sound");
    assert!(set.believes(&chain, moment(NOW)).is_err());
}

/// Lines of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Hears what this thread logs, until the guard is dropped.
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn count(&self, part: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().expect("sound")).lines().filter(|line| line.contains(part)).count()
    }
}

#[tokio::test]
async fn a_bad_set_is_said_once_and_taken_as_soon_as_it_is_good() {
    let (log, _logged) = Log::listen();

    let authority = Authority::new("one");
    let (time, clock) = stopped_clock();
    let (mut reloader, mut current) = Reloader::new(authority.files("leaf"), clock).expect("sound");
    let mut looks = async || {
        for _ in 0..3 {
            reloader.look().await;
        }
    };
    looks().await;
    assert!(!current.has_changed().expect("running"), "nothing changes for nothing");

    // From the future: refused once, then taken when its time has come, without another change.
    authority.leaf("leaf", |params| params.not_before = rcgen::date_time_ymd(2026, 7, 1));
    looks().await;
    assert_eq!((log.count("new certificates are refused"), log.count("not valid before 2026-07-01")), (1, 1));
    assert!(!current.has_changed().expect("running"));
    *time.lock().expect("sound") = moment("2026-07-02T00:00:00Z");
    looks().await;
    assert!(current.has_changed().expect("running"));
    current.mark_unchanged();

    // Another bad one is said again; what ends while in force is said, once.
    std::fs::remove_file(authority.at.join("leaf.key")).expect("a file");
    looks().await;
    assert_eq!((log.count("new certificates are refused"), log.count("leaf.key cannot be read")), (2, 1));
    *time.lock().expect("sound") = moment("2028-01-02T00:00:00Z");
    looks().await;
    assert_eq!(log.count("have expired, and no newer ones are there"), 1);
    assert!(!current.has_changed().expect("running"));
}

#[test]
fn how_often_is_bounded() {
    let read = |text: &str| toml::from_str::<Config>(text).map(|config| config.reload);
    assert_eq!(read("").expect("the default"), Duration::from_secs(5));
    assert_eq!(read("reload = \"1m\"").expect("sound"), Duration::from_secs(60));
    for wrong in ["\"0s\"", "\"50ms\"", "\"2h\"", "\"-5s\"", "\"soon\"", "5"] {
        assert!(read(&format!("reload = {wrong}")).is_err(), "{wrong}");
    }
}
