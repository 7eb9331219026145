//! The Rust SDK, driven through one job: see `clients/driver.py`, whose protocol this speaks. OAuth by code and PKCE, by client
//! credentials, or a bearer; the mode is the SDK's own lifecycle.

use std::error::Error;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, AuthorizationRequest, ClientCredentialsConfig, OAuthState};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

type Failed = Box<dyn Error + Send + Sync>;

/// How often a client whose token is about to end is used, and for how long at most.
const PACE: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(150);
const REDIRECT: &str = "http://127.0.0.1:1/callback";

/// A client that is connected, and how to see the token that it has.
struct Session {
    client: RunningService<RoleClient, ()>,
    auth: Option<AuthClient<reqwest::Client>>,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    let job: Value = serde_json::from_str(&told.next_line().await?.ok_or("no job")?)?;

    let session = open(&job, &job["login"]).await?;
    let info = session.client.peer().peer_info();
    let info = info.as_deref().ok_or("the server said nothing of itself")?;
    let tools: Vec<_> = session.client.peer().list_all_tools().await?.into_iter().map(|tool| tool.name).collect();
    let mut answers = serde_json::Map::new();
    for call in job["calls"].as_array().ok_or("calls")? {
        answers.insert(word(&call[0])?, call_tool(&session, call).await?);
    }
    println!(
        "{}",
        json!({
            "revision": info.protocol_version,
            "server": info.server_info,
            "instructions": info.instructions,
            "tools": tools,
            "answers": answers,
            "tokens": session.auth.is_some() as u8,
        })
    );
    session.client.cancel().await?;
    let brief: Value = serde_json::from_str(&told.next_line().await?.ok_or("no second login")?)?;
    println!("{}", json!({ "expiry": expire(&job, &brief).await? }));
    Ok(())
}

fn word(value: &Value) -> Result<String, Failed> {
    Ok(value.as_str().ok_or("not a string")?.to_owned())
}

async fn open(job: &Value, login: &Value) -> Result<Session, Failed> {
    let url = word(&job["url"])?;
    let lifecycle = match job["mode"].as_str() {
        Some("initialize") => ClientLifecycleMode::Initialize,
        Some("discover") => ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] },
        _ => {
            ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None }
        }
    };
    let config = StreamableHttpClientTransportConfig::with_uri(url.clone());
    if let Some(token) = login["token"].as_str() {
        let transport = StreamableHttpClientTransport::from_config(config.auth_header(token));
        return Ok(Session { client: ().serve_with_lifecycle(transport, lifecycle).await?, auth: None });
    }
    let mut state = OAuthState::new(&url, None).await?;
    if let Some(program) = login["program"].as_str() {
        state
            .authenticate_client_credentials(ClientCredentialsConfig::ClientSecret {
                client_id: program.to_owned(),
                client_secret: format!("{program}-secret"),
                scopes: vec!["whitelist:write".to_owned()],
                resource: Some(url.clone()),
            })
            .await?;
    } else {
        state.start_authorization(AuthorizationRequest::new(REDIRECT).with_preregistered_client("demo")).await?;
        let page = state.get_authorization_url().await?;
        state.handle_callback_url(&follow(&page, &word(&login["user"])?).await?).await?;
    }
    let manager = state.into_authorization_manager().ok_or("not logged in")?;
    let auth = AuthClient::new(reqwest::Client::new(), manager);
    let transport = StreamableHttpClientTransport::with_client(auth.clone(), config);
    Ok(Session { client: ().serve_with_lifecycle(transport, lifecycle).await?, auth: Some(auth) })
}

/// A browser without a person.
async fn follow(page: &str, user: &str) -> Result<String, Failed> {
    let follow = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/follow.py");
    let done =
        tokio::process::Command::new("python3").args([follow, page, user]).stderr(Stdio::inherit()).output().await?;
    Ok(String::from_utf8(done.stdout)?.trim().to_owned())
}

async fn call_tool(session: &Session, call: &Value) -> Result<Value, Failed> {
    let arguments = call[2].as_object().cloned().unwrap_or_default();
    let asked = CallToolRequestParams::new(word(&call[1])?).with_arguments(arguments);
    Ok(match session.client.peer().call_tool(asked).await {
        Ok(result) => {
            let text: Vec<_> =
                result.content.iter().filter_map(|block| block.as_text()).map(|block| block.text.as_str()).collect();
            json!({ "result": {
                "isError": result.is_error.unwrap_or_default(),
                "text": text.join("\n"),
                "structured": result.structured_content,
            } })
        }
        Err(ServiceError::McpError(error)) => json!({ "error": { "code": error.code, "message": error.message } }),
        Err(error) => json!({ "failed": told(&error), "challenge": error.auth_challenge() }),
    })
}

/// An error and all its causes.
fn told(error: &dyn Error) -> String {
    let mut words = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push(error.to_string());
        cause = error.source();
    }
    words.join(": ")
}

async fn expire(job: &Value, brief: &Value) -> Result<Value, Failed> {
    let session = Arc::new(open(job, brief).await?);
    let held = async || match &session.auth {
        Some(auth) => auth.get_access_token().await.ok(),
        None => None,
    };
    let first = held().await;
    let (begun, call) = (Instant::now(), &job["calls"][0]);
    let before = call_tool(&session, call).await?;
    let mut after = Value::Null;
    let mut tokens = u8::from(session.auth.is_some());
    while begun.elapsed() < PATIENCE {
        after = call_tool(&session, call).await?;
        if held().await != first {
            tokens = 2;
        }
        if tokens > 1 || after.get("result").is_none() {
            break;
        }
        tokio::time::sleep(PACE).await;
    }
    let challenges = after["challenge"].as_str().map(|challenge| vec![challenge.to_owned()]);
    Ok(json!({ "before": before, "after": after, "tokens": tokens, "challenges": challenges }))
}
