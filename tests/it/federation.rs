//! AWS without an AWS key: the platform says who the service is, and STS takes its word.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, Uri};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use whitelistmcp::app;
use whitelistmcp::aws::Aws;
use whitelistmcp::aws::federation::FederationError;
use whitelistmcp::clock::Clock;
use whitelistmcp::error::{Chain, Code};
use whitelistmcp::operation::target::{AccountId, Region};

use crate::support::aws_double::{AwsDouble, Fault};
use crate::support::temporary::Directory;
use crate::support::{ACCOUNT, REGION, parse, reconciler_config};

const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ3b3JrbG9hZCJ9.c2lnbmF0dXJlLW9mLXRoZS1wbGF0Zm9ybQ";
const ROLE: &str = "arn:aws:iam::123456789012:role/whitelistmcp-core";
const AUDIENCE: &str = "api://whitelistmcp-aws";

/// A double of Google's metadata server and of Azure's identity endpoints.
struct Platform {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// What it answers in place of a token.
    instead: Mutex<Option<(u16, String)>>,
    /// Whether it says that it is Google's.
    unflavoured: Mutex<bool>,
    asked: Mutex<Vec<String>>,
}

impl Platform {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::<Shared>::default();
        let router = axum::Router::new()
            .route("/computeMetadata/v1/instance/service-accounts/default/identity", get(google))
            .route("/metadata/identity/oauth2/token", get(azure))
            .route("/msi/token", get(own))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    fn instead(&self, answer: Option<(u16, &str)>) {
        *self.shared.instead.lock().expect("not poisoned") = answer.map(|(status, text)| (status, text.to_owned()));
    }

    fn asked(&self) -> usize {
        self.shared.asked.lock().expect("not poisoned").len()
    }
}

/// What a question says behind its path.
fn query(uri: &Uri) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

impl Shared {
    /// Notes a question; what is answered in place of a token, if anything.
    fn note(&self, asked: &str) -> Option<Response> {
        self.asked.lock().expect("not poisoned").push(asked.to_owned());
        let instead = self.instead.lock().expect("not poisoned").clone();
        instead.map(|(status, text)| {
            let flavor = [("metadata-flavor", "Google"), ("location", "http://127.0.0.1:9/")];
            (StatusCode::from_u16(status).expect("a status"), flavor, text).into_response()
        })
    }
}

async fn google(State(shared): State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Response {
    let asked = query(&uri);
    if let Some(instead) = shared.note("google") {
        return instead;
    }
    let good = headers.get("metadata-flavor").is_some_and(|flavor| flavor == "Google")
        && asked.get("audience").is_some_and(|audience| audience == AUDIENCE)
        && asked.get("format").is_some_and(|format| format == "full");
    match good {
        true if *shared.unflavoured.lock().expect("not poisoned") => TOKEN.into_response(),
        true => ([("metadata-flavor", "Google")], TOKEN).into_response(),
        false => StatusCode::FORBIDDEN.into_response(),
    }
}

async fn azure(State(shared): State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Response {
    let asked = query(&uri);
    if let Some(instead) = shared.note("azure") {
        return instead;
    }
    let good = headers.get("metadata").is_some_and(|value| value == "true")
        && asked.get("api-version").is_some_and(|version| version == "2018-02-01");
    token_of_azure(good, &asked)
}

async fn own(State(shared): State<Arc<Shared>>, headers: HeaderMap, uri: Uri) -> Response {
    let asked = query(&uri);
    if let Some(instead) = shared.note("own") {
        return instead;
    }
    let good = headers.get("x-identity-header").is_some_and(|value| value == "platform-s3cret")
        && asked.get("api-version").is_some_and(|version| version == "2019-08-01")
        && asked.get("client_id").is_some_and(|id| id == "identity-1");
    token_of_azure(good, &asked)
}

fn token_of_azure(good: bool, asked: &BTreeMap<String, String>) -> Response {
    if good && asked.get("resource").is_some_and(|resource| resource == AUDIENCE) {
        return axum::Json(json!({"access_token": TOKEN, "expires_on": "1795947330", "token_type": "Bearer"}))
            .into_response();
    }
    StatusCode::BAD_REQUEST.into_response()
}

/// The configuration of AWS and a journal, with credentials by federation alone.
fn config(directory: &Directory, aws: &AwsDouble, federation: &str) -> String {
    let whole = reconciler_config(directory, &aws.access());
    let lines = whole.lines().filter(|line| !line.starts_with("credentials_file"));
    let section = format!("[aws.federation]\nrole_arn = \"{ROLE}\"\naudience = \"{AUDIENCE}\"\n{federation}\n");
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    text.replacen("[[aws.accounts]]", &format!("{section}[[aws.accounts]]"), 1)
}

async fn aws_of(directory: &Directory, aws: &AwsDouble, federation: &str) -> Aws {
    aws_at(directory, aws, federation, Clock::system()).await
}

async fn aws_at(directory: &Directory, aws: &AwsDouble, federation: &str, clock: Clock) -> Aws {
    let config = parse(&config(directory, aws, federation));
    let (accounts, _) = app::targets(&config).expect("sound");
    Aws::new(&config.aws, accounts, clock).await.expect("sound")
}

/// Longer than a failure is the answer for everybody, in seconds.
const REMEMBERED: i64 = 4;

/// A clock that stands until it is told to go on: however busy the machine is, what is remembered stays so.
#[derive(Clone)]
struct Stopped(Arc<Mutex<Timestamp>>);

impl Stopped {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Clock::system().now())))
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Clock::from_fn(move || *now.lock().expect("not poisoned"))
    }

    fn pass(&self, seconds: i64) {
        *self.0.lock().expect("not poisoned") += SignedDuration::from_secs(seconds);
    }
}

async fn who(aws: &Aws) -> Result<String, String> {
    let (account, region) = (AccountId::parse(ACCOUNT).expect("an id"), Region::parse(REGION).expect("a Region"));
    aws.self_test(&account, &region).await.map_err(|error| Chain(&error).to_string())
}

fn google_at(platform: &Platform) -> String {
    format!("from = \"google\"\nendpoint = \"{}\"", platform.url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_platform_s_identity_is_the_base_role_s() {
    for from in ["google", "azure"] {
        let (aws, platform, directory) = (AwsDouble::start().await, Platform::start().await, Directory::new());
        aws.web_identity(TOKEN, 3600);
        let section = format!("from = \"{from}\"\nendpoint = \"{}\"", platform.url);
        let service = aws_of(&directory, &aws, &section).await;
        assert_eq!(platform.asked(), 0, "nothing is asked before it is needed");
        let arn = who(&service).await.expect("the role");
        assert!(arn.contains("assumed-role/whitelistmcp-target/"), "{arn}");
        let asked = aws.asked();
        let federated = asked.iter().find(|asked| asked.action == "AssumeRoleWithWebIdentity").expect("it was asked");
        assert_eq!((federated.key.as_str(), federated.params["RoleArn"].as_str()), ("", ROLE), "nobody signs it");
        let assumed = asked.iter().find(|asked| asked.action == "AssumeRole").expect("it was asked");
        assert!(assumed.key.starts_with("ASIAFEDERATED"), "{}", assumed.key);
        // Ten at once and ten more are one token and one session.
        let many = (0..10).map(|_| who(&service));
        assert!(futures_util::future::join_all(many).await.iter().all(Result::is_ok));
        assert_eq!(platform.asked(), 1, "{from}");
        assert!(!format!("{service:?}").contains("c2lnbmF0dXJl"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_says_no_is_said_with_the_step_and_the_remedy() {
    let (aws, platform, directory) = (AwsDouble::start().await, Platform::start().await, Directory::new());
    aws.web_identity(TOKEN, 3600);
    for (status, text, part) in [
        (404, "Service account not found", "answers 404 Not Found (Service account not found): attach an identity"),
        (200, "<html>a login page</html>", "holds no signed token"),
        (200, "", "holds no signed token"),
        // A redirect is an answer like any other: nobody follows it.
        (302, "", "answers 302"),
        (403, "no \u{1b}[31m escape", "(no [31m escape)"),
    ] {
        platform.instead(Some((status, text)));
        let before = platform.asked();
        let service = aws_of(&directory, &aws, &google_at(&platform)).await;
        let said = who(&service).await.expect_err("no token");
        assert!(said.contains("first step of [aws.federation]") && said.contains(part), "{status}: {said}");
        assert_eq!(platform.asked(), before + 1, "{status}");
    }
    // What may pass is asked again at once.
    platform.instead(Some((503, "starting")));
    let (before, time) = (platform.asked(), Stopped::now());
    let service = aws_at(&directory, &aws, &google_at(&platform), time.clock()).await;
    // Those who ask at once, and right after, are all told what came of one attempt.
    let asked = futures_util::future::join_all((0..4).map(|_| who(&service))).await;
    assert!(asked.iter().all(|said| said.as_ref().is_err_and(|said| said.contains("503"))), "{asked:?}");
    assert!(who(&service).await.expect_err("no token").contains("503"));
    assert_eq!(platform.asked(), before + 3);
    platform.instead(None);
    time.pass(REMEMBERED);
    *platform.shared.unflavoured.lock().expect("not poisoned") = true;
    let said = who(&service).await.expect_err("somebody else");
    assert!(said.contains("is not its metadata server"), "{said}");
    *platform.shared.unflavoured.lock().expect("not poisoned") = false;
    time.pass(REMEMBERED);
    assert!(who(&service).await.is_ok(), "well again, without a restart");

    let azure = format!("from = \"azure\"\nendpoint = \"{}\"", platform.url);
    platform
        .instead(Some((400, "{\"error\": \"invalid_resource\", \"error_description\": \"AADSTS500011: not found\"}")));
    let said = who(&aws_of(&directory, &aws, &azure).await).await.expect_err("no token");
    assert!(said.contains("invalid_resource: AADSTS500011") && said.contains("client_id"), "{said}");
    platform.instead(None);

    let nobody = aws_of(&directory, &aws, "from = \"google\"\nendpoint = \"http://127.0.0.1:9\"").await;
    let said = who(&nobody).await.expect_err("nobody");
    assert!(said.contains("does not answer where this runs"), "{said}");

    // The second step.
    aws.web_identity("another.token.entirely", 3600);
    let said = who(&aws_of(&directory, &aws, &google_at(&platform)).await).await.expect_err("refused");
    assert!(
        said.contains("second step") && said.contains("InvalidIdentityToken") && said.contains("trust policy"),
        "{said}"
    );
    aws.web_identity(TOKEN, 3600);
    aws.fail("AssumeRoleWithWebIdentity", Fault::Refuse(403, "AccessDenied"));
    let service = aws_of(&directory, &aws, &google_at(&platform)).await;
    let said = who(&service).await.expect_err("refused");
    assert!(said.contains(ROLE) && said.contains("AccessDenied"), "{said}");
    assert!(!said.contains("c2lnbmF0dXJl"), "{said}");
    // What is no verdict is not told as one, and passes.
    for code in ["Throttling", "ServiceUnavailable", "IDPCommunicationError"] {
        // The SDK asks three times by itself.
        for _ in 0..3 {
            aws.fail(
                "AssumeRoleWithWebIdentity",
                Fault::Refuse(if code == "ServiceUnavailable" { 503 } else { 400 }, code),
            );
        }
        let service = aws_at(&directory, &aws, &google_at(&platform), time.clock()).await;
        let error = service.federated().await.expect_err("no verdict");
        assert!(matches!(*error, FederationError::NoAnswer { .. }), "{code}: {}", Chain(&error));
        let told = whitelistmcp::error::Error::from(error);
        assert_eq!(
            (told.code(), told.reason(), told.wait().is_some()),
            (Code::Unavailable, "AWS_IDENTITY_UNUSABLE", true)
        );
        time.pass(REMEMBERED);
        assert!(who(&service).await.is_ok(), "{code}");
    }
    // For whoever calls it is an operator's matter, and nothing of ours.
    let error = FederationError::Incomplete("credentials");
    let told = whitelistmcp::error::Error::from(Arc::new(error));
    assert_eq!(told.reason(), "AWS_IDENTITY_UNUSABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_soon_is_renewed_and_used_on_where_that_fails() {
    let (aws, platform, directory) = (AwsDouble::start().await, Platform::start().await, Directory::new());
    let federated = || aws.actions().iter().filter(|action| *action == "AssumeRoleWithWebIdentity").count();
    // Good for four minutes: within five of its end it is renewed while it is used on.
    aws.web_identity(TOKEN, 240);
    let service = aws_of(&directory, &aws, &google_at(&platform)).await;
    for times in 1..=3 {
        for _ in 0..200 {
            who(&service).await.expect("the role");
            tokio::time::sleep(Duration::from_millis(25)).await;
            if federated() >= times {
                break;
            }
        }
        assert_eq!(federated(), times);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The platform is away: what there is goes on, and nobody waits for the platform each time.
    platform.instead(Some((404, "gone")));
    let before = platform.asked();
    for _ in 0..3 {
        who(&service).await.expect("what there is");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((federated(), platform.asked()), (3, before + 1));
    // What has ended is not used, and not kept.
    platform.instead(None);
    aws.web_identity(TOKEN, 5);
    let service = aws_of(&directory, &aws, &google_at(&platform)).await;
    let before = platform.asked();
    who(&service).await.expect("the role");
    platform.instead(Some((404, "gone")));
    assert!(who(&service).await.is_err(), "it ends within seconds");
    assert_eq!(platform.asked(), before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_aws_does_not_take_is_not_kept() {
    let federated =
        |aws: &AwsDouble| aws.actions().iter().filter(|action| *action == "AssumeRoleWithWebIdentity").count();
    for code in ["ExpiredToken", "InvalidClientTokenId"] {
        let (aws, platform, directory) = (AwsDouble::start().await, Platform::start().await, Directory::new());
        aws.web_identity(TOKEN, 3600);
        let service = aws_of(&directory, &aws, &google_at(&platform)).await;
        who(&service).await.expect("the role");
        // What they may not do says nothing of them.
        aws.fail("AssumeRole", Fault::Refuse(403, "AccessDenied"));
        assert!(who(&service).await.is_err() && who(&service).await.is_ok());
        assert_eq!(federated(&aws), 1, "{code}");
        aws.fail("AssumeRole", Fault::Refuse(403, code));
        assert!(who(&service).await.is_err() && who(&service).await.is_ok(), "{code}");
        assert_eq!(federated(&aws), 2, "{code}");
        // Where AWS takes the new ones no more than the old, STS is not asked with each call.
        aws.fail("AssumeRole", Fault::Refuse(403, code));
        assert!(who(&service).await.is_err() && who(&service).await.is_ok(), "{code}");
        assert_eq!(federated(&aws), 2, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_shows_the_token_to_nobody_but_sts() {
    let (aws, platform, directory) = (AwsDouble::start().await, Platform::start().await, Directory::new());
    aws.web_identity(TOKEN, 3600);
    let run = |command: &[&str], section: &str, environment: &[(&str, &str)]| {
        let text = config(&directory, &aws, section) + "[telemetry]\nlog = \"trace\"\n";
        let file = directory.write("whitelistmcp.toml", &text).display().to_string();
        let output = Command::new(env!("CARGO_BIN_EXE_whitelistmcp"))
            .env_clear()
            .envs(environment.iter().copied())
            .args(command)
            .args(["--config", &file])
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    let run = |command: &'static [&'static str], section: String, environment: Vec<(&'static str, String)>| {
        tokio::task::block_in_place(|| {
            let environment: Vec<(&str, &str)> =
                environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            run(command, &section, &environment)
        })
    };
    let google = google_at(&platform);
    let (well, said) = run(&["reconcile", "--once"], google.clone(), Vec::new());
    assert!(well && said.contains("AWS has given the base role"), "{said}");
    for secret in ["c2lnbmF0dXJl", "federated-secret", "federated-session-token"] {
        assert!(!said.contains(secret), "{secret} is in the log");
    }
    let (well, said) = run(&["check", "--aws"], google.clone(), Vec::new());
    assert!(well && said.contains("ok     aws.federation") && said.contains("Google"), "{said}");
    let (_, said) = run(&["doctor"], google, Vec::new());
    assert!(said.contains("ok     aws.federation") && said.contains("ok     aws.trust"), "{said}");
    // A platform of Azure's names its endpoint by itself.
    let own = vec![
        ("IDENTITY_ENDPOINT", format!("{}/msi/token", platform.url)),
        ("IDENTITY_HEADER", "platform-s3cret".to_owned()),
    ];
    let azure = "from = \"azure\"\nclient_id = \"identity-1\"".to_owned();
    let (well, said) = run(&["check", "--aws"], azure.clone(), own.clone());
    assert!(well && !said.contains("platform-s3cret"), "{said}");
    let elsewhere = vec![("IDENTITY_ENDPOINT", "http://192.0.2.1/token".to_owned()), own[1].clone()];
    let (well, said) = run(&["check", "--aws"], azure, elsewhere);
    assert!(!well && said.contains("IDENTITY_ENDPOINT is `http://192.0.2.1/token`"), "{said}");
    for (section, part) in [
        ("from = \"google\"\nendpoint = \"http://192.0.2.1\"".to_owned(), "`endpoint` must be http to loopback"),
        ("from = \"google\"\nclient_id = \"x\"".to_owned(), "Azure's"),
    ] {
        let (well, said) = run(&["check"], section, Vec::new());
        assert!(
            !well && said.lines().any(|line| line.starts_with("WRONG  aws.federation") && line.contains(part)),
            "{said}"
        );
    }
    platform.instead(Some((404, "no such account")));
    let (_, said) = run(&["doctor"], google_at(&platform), Vec::new());
    assert!(said.contains("WRONG  aws.federation") && said.contains("attach an identity"), "{said}");
}

#[test]
fn two_kinds_of_credentials_are_one_too_many() {
    let text = format!(
        "[aws]\ncredentials_file = \"/x\"\n[aws.federation]\nfrom = \"google\"\nrole_arn = \"{ROLE}\"\naudience = \"a\"\n"
    );
    let error = app::targets(&parse(&text)).expect_err("both");
    assert!(Chain(&error).to_string().contains("take one out"), "{}", Chain(&error));
}
