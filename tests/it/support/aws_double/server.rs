//! Connections and requests: who asks, what goes wrong with it, who does it, and how the answer leaves.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::history::BY_HAND;
use super::session::{self, Caller, Signature};
use super::world::World;
use super::{Asked, AwsDouble, Fault, Refusal, xml};

/// Serves until the test is over.
pub(super) async fn serve(listener: TcpListener, double: AwsDouble, down: watch::Receiver<bool>) {
    let router = axum::Router::new().fallback(answer).with_state(double);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut down = down.clone();
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                biased;
                _ = down.wait_for(|down| *down) => {}
                _ = connection => {}
            }
        });
    }
}

async fn answer(State(double): State<AwsDouble>, headers: HeaderMap, body: String) -> Response {
    let mut response = respond(&double, &headers, &body).await;
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&double.lock().now()).expect("a date");
    response.headers_mut().insert("date", HeaderValue::from_str(&date).expect("a header"));
    response
}

async fn respond(double: &AwsDouble, headers: &HeaderMap, body: &str) -> Response {
    let params: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let action = params.get("Action").cloned().unwrap_or_default();
    let signature = Signature::of(headers);
    let asked = Asked { action: action.clone(), key: signature.key.clone(), params };
    let (fault, is_lost) = {
        let mut world = double.lock();
        if let Some(see) = &world.seen {
            see(&asked);
        }
        world.asked.push(asked.clone());
        let role = asked.params.get("RoleArn");
        let is_lost = role.is_some_and(|role| world.black_hole.as_ref().is_some_and(|hole| role.contains(hole)));
        (world.faults.get_mut(&action).and_then(VecDeque::pop_front), is_lost)
    };
    if is_lost {
        std::future::pending::<()>().await;
    }
    match fault {
        Some(Fault::Refuse(status, code)) => return refuse(&asked, (status, code)),
        Some(Fault::Hang(time)) => tokio::time::sleep(time).await,
        Some(Fault::ActThenCut) => {
            drop(double.lock().admit(&asked, &signature));
            // A body that ends before its announced length: the client sees the connection break.
            let body = Body::from_stream(futures_util::stream::once(async {
                Err::<bytes::Bytes, _>(std::io::Error::other("cut"))
            }));
            return Response::builder().header("content-length", "100").body(body).expect("an answer");
        }
        Some(Fault::ActThenHang(time)) => {
            let answered = double.lock().admit(&asked, &signature);
            tokio::time::sleep(time).await;
            return match answered {
                Ok(xml) => (StatusCode::OK, [("content-type", "text/xml")], xml).into_response(),
                Err(refusal) => refuse(&asked, refusal),
            };
        }
        Some(Fault::ActLate(time)) => {
            let late = double.clone();
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                drop(late.lock().admit(&asked, &signature));
            });
            return std::future::pending().await;
        }
        Some(Fault::Race) => double.lock().act_first(&asked, &signature),
        Some(Fault::Pass) | None => {}
    }
    let answered = double.lock().admit(&asked, &signature);
    match answered {
        Ok(xml) => {
            (StatusCode::OK, [("content-type", "text/xml"), ("x-amzn-requestid", xml::REQUEST_ID)], xml).into_response()
        }
        Err(refusal) => refuse(&asked, refusal),
    }
}

fn is_sts(asked: &Asked) -> bool {
    ["AssumeRole", "AssumeRoleWithWebIdentity", "GetCallerIdentity"].contains(&asked.action.as_str())
}

fn refuse(asked: &Asked, (status, code): Refusal) -> Response {
    let xml = if is_sts(asked) { xml::sts_error(code) } else { xml::ec2_error(code) };
    (StatusCode::from_u16(status).expect("a status"), [("content-type", "text/xml")], xml).into_response()
}

impl World {
    /// Carries a request out, if the caller is known, not too fast, and allowed to.
    fn admit(&mut self, asked: &Asked, signature: &Signature) -> Result<String, Refusal> {
        let sts = is_sts(asked);
        let Some(caller) = self.caller(signature) else {
            return Err(if sts { (403, "InvalidClientTokenId") } else { (401, "AuthFailure") });
        };
        if self.buckets.get_mut(&asked.action).is_some_and(|bucket| !bucket.take(&caller.at)) {
            return Err(if sts { (400, "Throttling") } else { (503, "RequestLimitExceeded") });
        }
        if !sts && !self.permits(asked, &caller) {
            return Err((403, "UnauthorizedOperation"));
        }
        if asked.params.get("DryRun").is_some_and(|dry| dry == "true") {
            return Err((412, "DryRunOperation"));
        }
        self.act(asked, &caller)
    }

    /// Lets somebody else do what a request asks for, without its tags.
    fn act_first(&mut self, asked: &Asked, signature: &Signature) {
        let Some(caller) = self.caller(signature) else { return };
        let mut asked = asked.clone();
        asked.params.retain(|name, _| !name.starts_with("TagSpecification."));
        let somebody = Caller { name: BY_HAND.to_owned(), session: None, ..caller };
        drop(self.act(&asked, &somebody));
    }

    fn act(&mut self, asked: &Asked, caller: &Caller) -> Result<String, Refusal> {
        match asked.action.as_str() {
            "AssumeRole" => self.assume_role(asked),
            "AssumeRoleWithWebIdentity" => self.assume_role_with_web_identity(asked),
            "GetCallerIdentity" => Ok(session::identity(caller)),
            "DescribeSecurityGroupRules" => self.describe_rules(asked, &caller.at),
            "DescribeSecurityGroups" => self.describe_groups(asked, &caller.at),
            "DescribeNetworkInterfaces" => self.describe_interfaces(asked, &caller.at),
            "DescribeManagedPrefixLists" => self.describe_prefix_lists(asked, &caller.at),
            "AuthorizeSecurityGroupIngress" => self.authorize(asked, caller),
            "RevokeSecurityGroupIngress" => self.revoke(asked, caller),
            "ModifySecurityGroupRules" => self.modify(asked, caller),
            "CreateTags" => self.create_tags(asked, caller),
            "DeleteTags" => self.delete_tags(asked, caller),
            _ => Err((400, "InvalidAction")),
        }
    }
}
