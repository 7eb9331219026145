//! Clients that call one thing over and over: an MCP tool over HTTPS, or an RPC by mTLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use whitelistmcp::grpc::client::Link;
use whitelistmcp::mcp::era::MODERN;
use whitelistmcp::pb::whitelistmcp::v1::{AddRuleRequest, CheckAccessRequest};
use whitelistmcp::tls;

use crate::Result;
use crate::stack::{Certificates, GROUP_NAME};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `whitelist_add` of the whole internet, which policy refuses before AWS is asked.
    Refused,
    /// `whitelist_check`, which asks STS and EC2.
    Check,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "whitelist_add",
            Self::Check => "whitelist_check",
        }
    }

    fn arguments(self) -> Value {
        match self {
            Self::Refused => {
                json!({"security_group": GROUP_NAME, "address": "0.0.0.0/0", "port": "5432", "reason": "benchmark"})
            }
            Self::Check => json!({"security_group": GROUP_NAME, "address": "203.0.113.7", "port": "5432"}),
        }
    }

    /// The tool's RPC.
    pub(crate) fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(match self {
            Self::Refused => "/whitelistmcp.v1.WhitelistService/AddRule",
            Self::Check => "/whitelistmcp.v1.WhitelistService/CheckAccess",
        })
    }

    /// The RPC's request.
    pub(crate) fn message(self) -> Bytes {
        let (security_group, port) = (GROUP_NAME.to_owned(), "5432".to_owned());
        let message = match self {
            Self::Refused => {
                let (address, reason) = ("0.0.0.0/0".to_owned(), "benchmark".to_owned());
                AddRuleRequest { security_group, address, port, reason, ..Default::default() }.encode_to_vec()
            }
            Self::Check => {
                let address = "203.0.113.7".to_owned();
                CheckAccessRequest { security_group, address, port, ..Default::default() }.encode_to_vec()
            }
        };
        message.into()
    }

    /// What a right answer says.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Refused => "whole internet",
            Self::Check => "203.0.113.7/32",
        }
    }
}

/// One client with one connection.
pub(crate) enum Client {
    Mcp(Box<Mcp>),
    Grpc { link: Link, tool: Tool },
}

/// MCP (2026-07-28) over one keep-alive connection.
pub(crate) struct Mcp {
    sender: SendRequest<Full<Bytes>>,
    path: &'static str,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    pub(crate) async fn mcp(
        certificates: &Certificates,
        address: SocketAddr,
        path: &'static str,
        tool: Tool,
        token: &str,
    ) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(tls::public_client(Some(&certificates.ca()))?));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = tls.connect("localhost".try_into()?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": tool.name(),
            "arguments": tool.arguments(),
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        }});
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        headers.insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert("mcp-protocol-version", HeaderValue::from_static(MODERN));
        headers.insert("mcp-method", HeaderValue::from_static("tools/call"));
        headers.insert("mcp-name", HeaderValue::from_static(tool.name()));
        Ok(Self::Mcp(Box::new(Mcp { sender, path, headers, body: body.to_string().into() })))
    }

    pub(crate) fn grpc(certificates: &Certificates, address: SocketAddr, tool: Tool) -> Result<Self> {
        Ok(Self::Grpc { link: certificates.link("service", address)?, tool })
    }

    /// One call, from the request to the last byte of the answer.
    pub(crate) async fn call(&mut self) -> Result<Bytes> {
        match self {
            Self::Mcp(mcp) => mcp.call().await,
            Self::Grpc { link, tool } => match link.unary(tool.path(), tonic::Request::new(tool.message())).await {
                Ok(answer) => Ok(answer.into_inner()),
                Err(status) if *tool == Tool::Refused && status.code() == tonic::Code::PermissionDenied => {
                    Ok(status.message().to_owned().into())
                }
                Err(status) => Err(status.into()),
            },
        }
    }
}

impl Mcp {
    async fn call(&mut self) -> Result<Bytes> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(self.path);
        *request.headers_mut() = self.headers.clone();
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status == StatusCode::OK { Ok(body) } else { Err(format!("HTTP {status}: {body:?}").into()) }
    }
}
