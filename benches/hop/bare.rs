//! The hop with nothing in it: an axum handler over the edge's TLS calls a tonic service over the core's mTLS, and both
//! answer with bytes that the real stack once gave. Listener, TLS, channel and generated service are the real ones, so
//! that the difference is what the service does and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_config::BehaviorVersion;
use aws_sdk_ec2::types::Filter;
use aws_smithy_http_client::tls as smithy_tls;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::{Request, Status};
use whitelistmcp::grpc::client::Link;
use whitelistmcp::pb::whitelistmcp::v1 as pb;
use whitelistmcp::pb::whitelistmcp::v1::whitelist_service_server::{WhitelistService, WhitelistServiceServer};

use crate::Result;
use crate::client::Tool;
use crate::doubles::Recorded;
use crate::stack::{self, Certificates, EXTERNAL_ID, GROUP, REGION, ROLE};

/// What the real stack answered: by HTTP and by gRPC, to the refused call and to the check.
pub(crate) struct Canned {
    pub(crate) refused_http: Bytes,
    pub(crate) refused_grpc: Status,
    pub(crate) check_http: Bytes,
    pub(crate) check_grpc: Bytes,
}

/// How the bare backend asks AWS in a check.
pub(crate) enum Aws {
    /// Two requests that were signed once, sent by a plain hyper client; the answers are read and thrown away.
    Plain { client: Box<HyperClient<HttpConnector, Full<Bytes>>>, uri: http::Uri, requests: Box<[Recorded; 2]> },
    /// Two calls of the AWS SDK with clients that live on and credentials that never change.
    Sdk { sts: aws_sdk_sts::Client, ec2: aws_sdk_ec2::Client },
}

struct Backend {
    refused: Status,
    check: pb::CheckAccessResponse,
    aws: Aws,
}

struct Front {
    link: Link,
    canned: Arc<Canned>,
}

/// Where a bare hop listens.
#[derive(Clone, Copy)]
pub(crate) struct Bare {
    pub(crate) front: SocketAddr,
    pub(crate) back: SocketAddr,
}

pub(crate) fn start(
    front_runtime: &Runtime,
    back_runtime: &Runtime,
    certificates: &Certificates,
    canned: &Arc<Canned>,
    aws: Aws,
) -> Result<Bare> {
    let backend = Backend {
        refused: canned.refused_grpc.clone(),
        check: pb::CheckAccessResponse::decode(canned.check_grpc.clone())?,
        aws,
    };
    let mut routes = tonic::service::RoutesBuilder::default();
    routes.add_service(WhitelistServiceServer::new(backend));
    let router = routes.routes().into_axum_router();
    let back = back_runtime.block_on(stack::serve(router, Some(stack::backend_tls(certificates)?)))?;
    let front = front_runtime.block_on(async {
        let front = Front { link: certificates.link("edge", back)?, canned: Arc::clone(canned) };
        let router =
            Router::new().route("/refused", post(refused)).route("/check", post(check)).with_state(Arc::new(front));
        stack::serve(router, Some(stack::front_tls(certificates)?)).await
    })?;
    Ok(Bare { front, back })
}

async fn refused(State(front): State<Arc<Front>>, body: Bytes) -> Response {
    front.call(Tool::Refused, &front.canned.refused_http, &body).await
}

async fn check(State(front): State<Arc<Front>>, body: Bytes) -> Response {
    front.call(Tool::Check, &front.canned.check_http, &body).await
}

impl Front {
    async fn call(&self, tool: Tool, answer: &Bytes, body: &Bytes) -> Response {
        // The body was read whole, as it must be; what goes on is the message that it stands for.
        let answered = !body.is_empty()
            && match self.link.unary(tool.path(), Request::new(tool.message())).await {
                Ok(_) => tool == Tool::Check,
                Err(status) => tool == Tool::Refused && status.code() == tonic::Code::PermissionDenied,
            };
        if answered {
            ([(CONTENT_TYPE, "application/json")], answer.clone()).into_response()
        } else {
            http::StatusCode::BAD_GATEWAY.into_response()
        }
    }
}

impl Aws {
    pub(crate) fn plain(aws: SocketAddr, requests: [Recorded; 2]) -> Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self::Plain {
            client: Box::new(client),
            uri: format!("http://{aws}/").parse()?,
            requests: Box::new(requests),
        })
    }

    pub(crate) async fn sdk(aws: SocketAddr) -> Result<Self> {
        let credentials = aws_sdk_sts::config::Credentials::new("AKIAEXAMPLE", "example", None, None, "bench");
        let provider = smithy_tls::Provider::Rustls(smithy_tls::rustls_provider::CryptoMode::AwsLc);
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().tls_provider(provider).build_https())
            .region(aws_config::Region::new(REGION))
            .credentials_provider(credentials)
            .endpoint_url(format!("http://{aws}"))
            .load()
            .await;
        Ok(Self::Sdk { sts: aws_sdk_sts::Client::new(&config), ec2: aws_sdk_ec2::Client::new(&config) })
    }

    async fn ask(&self) -> Result<()> {
        match self {
            Self::Plain { client, uri, requests } => {
                for recorded in requests.iter() {
                    let mut request = http::Request::new(Full::new(recorded.body.clone()));
                    *request.method_mut() = http::Method::POST;
                    *request.uri_mut() = uri.clone();
                    *request.headers_mut() = recorded.headers.clone();
                    let answer = client.request(request).await?;
                    let status = answer.status();
                    answer.into_body().collect().await?;
                    if !status.is_success() {
                        return Err(format!("the AWS double answered {status}").into());
                    }
                }
            }
            Self::Sdk { sts, ec2 } => {
                let request = sts.assume_role().role_arn(ROLE).role_session_name("bench").external_id(EXTERNAL_ID);
                request.duration_seconds(900).send().await?;
                let filter = Filter::builder().name("group-id").values(GROUP).build();
                ec2.describe_security_group_rules().filters(filter).max_results(1000).send().await?;
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl WhitelistService for Backend {
    async fn add_rule(
        &self,
        _: Request<pb::AddRuleRequest>,
    ) -> std::result::Result<tonic::Response<pb::AddRuleResponse>, Status> {
        Err(self.refused.clone())
    }

    async fn check_access(
        &self,
        _: Request<pb::CheckAccessRequest>,
    ) -> std::result::Result<tonic::Response<pb::CheckAccessResponse>, Status> {
        self.aws.ask().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(tonic::Response::new(self.check.clone()))
    }

    async fn remove_rules(
        &self,
        _: Request<pb::RemoveRulesRequest>,
    ) -> std::result::Result<tonic::Response<pb::RemoveRulesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_rules(
        &self,
        _: Request<pb::ListRulesRequest>,
    ) -> std::result::Result<tonic::Response<pb::ListRulesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn extend_leases(
        &self,
        _: Request<pb::ExtendLeasesRequest>,
    ) -> std::result::Result<tonic::Response<pb::ExtendLeasesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn move_leases(
        &self,
        _: Request<pb::MoveLeasesRequest>,
    ) -> std::result::Result<tonic::Response<pb::MoveLeasesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_leases(
        &self,
        _: Request<pb::ListLeasesRequest>,
    ) -> std::result::Result<tonic::Response<pb::ListLeasesResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_targets(
        &self,
        _: Request<pb::ListTargetsRequest>,
    ) -> std::result::Result<tonic::Response<pb::ListTargetsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn revoke_holder(
        &self,
        _: Request<pb::RevokeHolderRequest>,
    ) -> std::result::Result<tonic::Response<pb::RevokeHolderResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}
