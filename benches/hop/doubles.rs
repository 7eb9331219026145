//! What stands around the service, in this process: AWS, as far as one `whitelist_check` needs it, and an OpenID
//! Connect provider that signs access tokens.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::routing::{any, get};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use serde_json::{Value, json};
use whitelistmcp::clock::Clock;

use crate::Result;
use crate::stack::{ACCOUNT, AUDIENCE, GROUP, serve};

/// How many rules the group has.
const RULES: u32 = 10;

/// AWS on loopback: every `AssumeRole` and every `DescribeSecurityGroupRules` is answered alike.
pub(crate) struct AwsDouble {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
}

/// The first request of each kind, as the core's SDK sent and signed it.
#[derive(Default)]
struct Seen {
    assume: OnceLock<Recorded>,
    describe: OnceLock<Recorded>,
}

/// A request that can be sent again, byte for byte.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

struct Answers {
    seen: Arc<Seen>,
    assume: Bytes,
    describe: Bytes,
}

impl AwsDouble {
    pub(crate) async fn start() -> Result<Self> {
        let seen = Arc::<Seen>::default();
        let answers = Answers { seen: Arc::clone(&seen), assume: assume_role().into(), describe: describe().into() };
        let router = Router::new().fallback(any(answer)).with_state(Arc::new(answers));
        Ok(Self { address: serve(router, None).await?, seen })
    }

    /// What the core asked AWS for in one check: `AssumeRole`, then `DescribeSecurityGroupRules`.
    pub(crate) fn recorded(&self) -> Result<[Recorded; 2]> {
        let (assume, describe) = (self.seen.assume.get(), self.seen.describe.get());
        Ok([assume.ok_or("no AssumeRole was seen")?.clone(), describe.ok_or("no Describe… was seen")?.clone()])
    }
}

async fn answer(
    State(answers): State<Arc<Answers>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(http::HeaderName, &'static str); 1], Bytes) {
    let xml = [(CONTENT_TYPE, "text/xml;charset=UTF-8")];
    let (slot, answer) = if body.starts_with(b"Action=AssumeRole&") {
        (&answers.seen.assume, &answers.assume)
    } else if body.starts_with(b"Action=DescribeSecurityGroupRules&") {
        (&answers.seen.describe, &answers.describe)
    } else {
        return (StatusCode::BAD_REQUEST, xml, Bytes::new());
    };
    slot.get_or_init(|| Recorded { headers, body });
    (StatusCode::OK, xml, answer.clone())
}

fn assume_role() -> String {
    // A real session token has several hundred characters.
    let token = "IQoJb3JpZ2luX2VjEXAMPLE".repeat(30);
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:bench</AssumedRoleId>\
         <Arn>arn:aws:sts::{ACCOUNT}:assumed-role/bench/bench</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>example</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult><ResponseMetadata><RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId>\
         </ResponseMetadata></AssumeRoleResponse>"
    )
}

fn describe() -> String {
    let tag = |key: &str, value: &str| format!("<item><key>whitelistmcp:{key}</key><value>{value}</value></item>");
    let rule = |number: u32| {
        let tags = [
            tag("call", "019a0000-0000-7000-8000-000000000000"),
            tag("holder", "alice@example.com"),
            tag("holder-id", "alice@example.com-0123456789abcdef"),
            tag("reason", "debugging ticket OPS-1234"),
            tag("since", "2026-01-01T00:00:00Z"),
        ];
        format!(
            "<item><securityGroupRuleId>sgr-{number:017x}</securityGroupRuleId><groupId>{GROUP}</groupId>\
             <groupOwnerId>{ACCOUNT}</groupOwnerId><isEgress>false</isEgress><ipProtocol>tcp</ipProtocol>\
             <fromPort>5432</fromPort><toPort>5432</toPort><cidrIpv4>203.0.113.{number}/32</cidrIpv4>\
             <description>debugging ticket OPS-1234 - alice@example.com</description><tagSet>{}</tagSet></item>",
            tags.concat()
        )
    };
    let rules: String = (1..=RULES).map(rule).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><DescribeSecurityGroupRulesResponse \
         xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>59dbff89-35bd-4eac-99ed-be587EXAMPLE</requestId>\
         <securityGroupRuleSet>{rules}</securityGroupRuleSet></DescribeSecurityGroupRulesResponse>"
    )
}

/// An OpenID Connect provider on loopback.
pub(crate) struct Provider {
    pub(crate) issuer: String,
    key: EncodingKey,
}

const KEY_ID: &str = "bench";

impl Provider {
    pub(crate) async fn start() -> Result<Self> {
        let key = KeyPair::generate()?;
        // An uncompressed point: a byte that says so, then both coordinates.
        let (x, y) = key.public_key_raw().get(1..).and_then(|point| point.split_at_checked(32)).ok_or("not P-256")?;
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": encode(x), "y": encode(y)});
        // The metadata names the address, which is known only once it is bound.
        let issuer = Arc::new(OnceLock::<String>::new());
        let told = Arc::clone(&issuer);
        let metadata = move || {
            let issuer = told.get().cloned().unwrap_or_default();
            async move { axum::Json(metadata(&issuer)) }
        };
        let keys = json!({"keys": [jwk]});
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(move || std::future::ready(axum::Json(keys))));
        let address = serve(router, None).await?;
        let issuer = issuer.get_or_init(|| format!("http://{address}")).clone();
        Ok(Self { issuer, key: EncodingKey::from_ec_der(&key.serialize_der()) })
    }

    /// An access token (RFC 9068) of one client of one person.
    pub(crate) fn token(&self, number: usize) -> Result<String> {
        let now = Clock::system().now().as_second();
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("at+jwt".to_owned());
        header.kid = Some(KEY_ID.to_owned());
        let claims = json!({
            "iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "client_id": "bench", "jti": format!("bench-{number}"),
            "iat": now, "exp": now + 3600, "scope": "whitelist:write", "email": "alice@example.com", "groups": ["dba"],
        });
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

fn metadata(issuer: &str) -> Value {
    json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256"],
    })
}
