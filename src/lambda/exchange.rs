//! From a request as API Gateway or a function URL hands it over to one of HTTP, and from HTTP's answer back.
//!
//! Read here and not by the crate of the runtime: what stands in a header twice must still be seen to, a stage is no part of a path, and
//! a body that is not what it says is the caller's fault and no panic.
//! Sources: API Gateway developer guide, "Lambda proxy integrations" (format 1.0) and "Lambda integrations" of HTTP APIs (format 2.0);
//! Lambda developer guide, "Function URL invocation".

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::body::Body;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{COOKIE, HOST, SET_COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::mcp::message::RpcError;

/// The most bytes of an answer, with room for its headers in what the platform takes (quota "Invocation payload", 6 MB).
const ANSWER_MOST: usize = 5 * 1024 * 1024;

/// A request that was handed over.
pub(super) struct Handed {
    /// The request, or what is wrong with it.
    pub(super) request: Result<Request<Body>, &'static str>,
    pub(super) shape: Shape,
    /// Where it came from, in the platform's word.
    pub(super) address: Option<IpAddr>,
    /// Since when a gateway waits for the answer.
    pub(super) waited: Option<Timestamp>,
}

/// How the answer is written.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Format 2.0: header values joined, cookies apart. Format 1.0 has a list for each header.
    is_second: bool,
    stage: Option<String>,
}

impl Shape {
    /// The stage of the API that was called, if it has one that stands in paths.
    pub(super) fn stage(&self) -> Option<&str> {
        self.stage.as_deref().filter(|stage| *stage != "$default")
    }
}

/// Format 1.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct First {
    path: String,
    http_method: String,
    headers: Option<BTreeMap<String, Option<String>>>,
    multi_value_headers: Option<BTreeMap<String, Vec<String>>>,
    query_string_parameters: Option<BTreeMap<String, String>>,
    multi_value_query_string_parameters: Option<BTreeMap<String, Vec<String>>>,
    request_context: FirstContext,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FirstContext {
    stage: Option<String>,
    domain_name: Option<String>,
    identity: FirstIdentity,
    request_time_epoch: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FirstIdentity {
    source_ip: Option<String>,
}

/// Format 2.0.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Second {
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    headers: Option<BTreeMap<String, String>>,
    cookies: Option<Vec<String>>,
    request_context: SecondContext,
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecondContext {
    stage: Option<String>,
    domain_name: Option<String>,
    http: SecondHttp,
    time_epoch: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecondHttp {
    method: String,
    source_ip: Option<String>,
}

/// A request in parts.
struct Parts {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    /// What the platform calls the host, for a request that does not.
    domain: Option<String>,
    body: Option<String>,
    is_base64: bool,
}

/// Reads format 1.0: REST APIs, and HTTP APIs that are told to.
pub(super) fn first(payload: &RawValue) -> Option<Handed> {
    let event: First = serde_json::from_str(payload.get()).ok()?;
    let single = event.headers.into_iter().flatten().filter_map(|(name, value)| Some((name, value?)));
    let headers: Vec<(String, String)> = match event.multi_value_headers.filter(|headers| !headers.is_empty()) {
        Some(all) => all.into_iter().flat_map(|(name, values)| each(name, values)).collect(),
        None => single.collect(),
    };
    let query: Vec<(String, String)> = match event.multi_value_query_string_parameters {
        Some(all) => all.into_iter().flat_map(|(name, values)| each(name, values)).collect(),
        None => event.query_string_parameters.into_iter().flatten().collect(),
    };
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    let FirstContext { stage, domain_name, identity, request_time_epoch } = event.request_context;
    let parts = Parts {
        method: event.http_method,
        path: event.path,
        query,
        headers,
        domain: domain_name,
        body: event.body,
        is_base64: event.is_base64_encoded.unwrap_or_default(),
    };
    Some(Handed {
        request: parts.request(),
        shape: Shape { is_second: false, stage },
        address: address(identity.source_ip),
        waited: request_time_epoch.and_then(|at| Timestamp::from_millisecond(at).ok()),
    })
}

/// Reads format 2.0: HTTP APIs and function URLs.
pub(super) fn second(payload: &RawValue) -> Option<Handed> {
    let event: Second = serde_json::from_str(payload.get()).ok()?;
    let mut headers: Vec<(String, String)> = event.headers.into_iter().flatten().collect();
    if let Some(cookies) = event.cookies.filter(|cookies| !cookies.is_empty()) {
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case(COOKIE.as_str()));
        headers.push((COOKIE.as_str().to_owned(), cookies.join("; ")));
    }
    let SecondContext { stage, domain_name, http: SecondHttp { method, source_ip }, time_epoch } =
        event.request_context;
    // A function URL is no gateway: it waits for as long as the function may take.
    let is_url = domain_name.as_deref().is_some_and(|domain| domain.contains(".lambda-url."));
    let parts = Parts {
        method,
        path: event.raw_path,
        query: event.raw_query_string,
        headers,
        domain: domain_name,
        body: event.body,
        is_base64: event.is_base64_encoded.unwrap_or_default(),
    };
    Some(Handed {
        request: parts.request(),
        shape: Shape { is_second: true, stage },
        address: address(source_ip),
        waited: time_epoch.filter(|_| !is_url).and_then(|at| Timestamp::from_millisecond(at).ok()),
    })
}

fn each(name: String, values: Vec<String>) -> impl Iterator<Item = (String, String)> {
    values.into_iter().map(move |value| (name.clone(), value))
}

/// What the platform says of where a request came from. The console's own tests have words there.
fn address(text: Option<String>) -> Option<IpAddr> {
    text?.parse().ok()
}

impl Parts {
    fn request(self) -> Result<Request<Body>, &'static str> {
        let body = match (self.body, self.is_base64) {
            (None, _) => Bytes::new(),
            (Some(body), false) => body.into(),
            (Some(body), true) => {
                BASE64_STANDARD.decode(body).map_err(|_| "the body is not the base64 that it is said to be")?.into()
            }
        };
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).map_err(|_| "the method is none of HTTP")?;
        *request.uri_mut() = uri(&self.path, &self.query).ok_or("the path is none of HTTP")?;
        let headers = request.headers_mut();
        for (name, value) in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header's name is none of HTTP")?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| "a header's value is none of HTTP")?;
            headers.append(name, value);
        }
        if let Some(domain) = self.domain.and_then(|domain| HeaderValue::try_from(domain).ok()) {
            headers.entry(HOST).or_insert(domain);
        }
        Ok(request)
    }
}

/// A path and a query; a path that was decoded on the way is encoded again.
fn uri(path: &str, query: &str) -> Option<Uri> {
    let mut whole = url::Url::parse("http://localhost/").ok()?;
    if !path.starts_with('/') || path.starts_with("//") {
        return None;
    }
    whole.set_path(path);
    let text = if query.is_empty() { whole.path().to_owned() } else { format!("{}?{query}", whole.path()) };
    Some(Uri::from(PathAndQuery::try_from(text).ok()?))
}

/// The path as it stands in the router. Under the API's own domain a path begins with the stage in format 2.0, and without it in
/// format 1.0; under a domain of one's own it is as that was mapped. A path that clients know by `public_url` stays as it is.
pub(super) fn without_stage(uri: &Uri, stage: Option<&str>, public: &str) -> Uri {
    let path = uri.path();
    let is_public = !public.is_empty() && (path == public || path.starts_with(&format!("{public}/")));
    let inner = stage.filter(|_| !is_public).and_then(|stage| path.strip_prefix('/')?.strip_prefix(stage));
    let Some(inner) = inner.filter(|inner| inner.starts_with('/')) else { return uri.clone() };
    let text = match uri.query() {
        Some(query) => format!("{inner}?{query}"),
        None => inner.to_owned(),
    };
    PathAndQuery::try_from(text).map_or_else(|_| uri.clone(), Uri::from)
}

/// An answer's whole body, however it is produced.
pub(super) async fn gather(body: Body) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(body, ANSWER_MOST).collect().await?.to_bytes())
}

/// An answer as the platform takes it.
pub(super) fn answer(shape: &Shape, response: Response<Bytes>) -> Value {
    let (parts, body) = response.into_parts();
    let (body, is_base64) = match std::str::from_utf8(&body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (BASE64_STANDARD.encode(&body), true),
    };
    let mut answer = json!({"statusCode": parts.status.as_u16(), "body": body, "isBase64Encoded": is_base64});
    if let Some(answer) = answer.as_object_mut() {
        if shape.is_second {
            let cookies: Vec<Value> = texts(&parts.headers, &SET_COOKIE).map(Value::from).collect();
            let headers = parts.headers.keys().filter(|name| **name != SET_COOKIE).map(|name| {
                (name.as_str().to_owned(), Value::from(texts(&parts.headers, name).collect::<Vec<_>>().join(", ")))
            });
            answer.insert("headers".to_owned(), Value::Object(headers.collect::<Map<_, _>>()));
            answer.insert("cookies".to_owned(), cookies.into());
        } else {
            let headers = parts.headers.keys().map(|name| {
                (name.as_str().to_owned(), texts(&parts.headers, name).map(Value::from).collect::<Vec<_>>().into())
            });
            answer.insert("multiValueHeaders".to_owned(), Value::Object(headers.collect::<Map<_, _>>()));
        }
    }
    answer
}

fn texts<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
}

/// A refusal that the router has not made, in the form of its own.
pub(super) fn refusal(shape: &Shape, status: StatusCode, words: &str) -> Value {
    let body = RpcError::new(status.as_u16().into(), words.to_owned()).to_body(None);
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer(shape, response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_no_part_of_a_path() {
        for (path, stage, public, expected) in [
            ("/mcp", Some("prod"), "/prod/mcp", "/mcp"),
            ("/prod/mcp", Some("prod"), "/prod/mcp", "/prod/mcp"),
            ("/prod/mcp?a=b", Some("prod"), "/mcp", "/mcp?a=b"),
            (
                "/prod/.well-known/oauth-protected-resource/mcp",
                Some("prod"),
                "/prod/mcp",
                "/.well-known/oauth-protected-resource/mcp",
            ),
            ("/prod/aws", Some("prod"), "/prod/aws", "/prod/aws"),
            ("/production/mcp", Some("prod"), "/mcp", "/production/mcp"),
            ("/prod", Some("prod"), "/mcp", "/prod"),
            ("/mcp", None, "/mcp", "/mcp"),
        ] {
            let uri: Uri = path.parse().expect("a path");
            assert_eq!(without_stage(&uri, stage, public).to_string(), expected, "{path}");
        }
    }

    #[test]
    fn a_path_is_a_path_and_nothing_else() {
        for (path, query, expected) in [
            ("/mcp", "", Some("/mcp")),
            ("/a b/ü", "x=1&x=2", Some("/a%20b/%C3%BC?x=1&x=2")),
            ("/mcp?x", "", Some("/mcp%3Fx")),
            ("//evil.example/mcp", "", None),
            ("http://evil.example/mcp", "", None),
            ("", "", None),
        ] {
            assert_eq!(uri(path, query).map(|uri| uri.to_string()).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn each_format_has_every_value_of_a_header() {
        let mut response = Response::new(Bytes::from_static(b"\xff\x00"));
        for value in ["origin", "accept"] {
            response.headers_mut().append("vary", HeaderValue::from_static(value));
        }
        for value in ["a=1", "b=2"] {
            response.headers_mut().append(SET_COOKIE, HeaderValue::from_static(value));
        }
        let (again, shape) = (response.clone(), |is_second| Shape { is_second, stage: None });
        assert_eq!(
            answer(&shape(false), response),
            json!({"statusCode": 200, "body": "/wA=", "isBase64Encoded": true, "multiValueHeaders": {"vary": ["origin", "accept"], "set-cookie": ["a=1", "b=2"]}})
        );
        assert_eq!(
            answer(&shape(true), again),
            json!({"statusCode": 200, "body": "/wA=", "isBase64Encoded": true, "headers": {"vary": "origin, accept"}, "cookies": ["a=1", "b=2"]})
        );
    }
}
