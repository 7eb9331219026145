//! Clients that are slow, silent or many: each is cut off in time, and nobody else notices.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use whitelistmcp::pb::whitelistmcp::v1 as pb;

use crate::support::aws_double::AwsDouble;
use crate::support::{Options, Stack, tls};

/// A TLS connection to the edge that speaks HTTP/1.1.
async fn http1(stack: &Stack) -> TlsStream<TcpStream> {
    // What the system keeps for us to send is not what the service has taken.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(16 * 1024).expect("a small buffer");
    let tcp = socket.connect(stack.edge).await.expect("it listens");
    shake(stack, tcp, b"http/1.1").await.expect("a handshake")
}

async fn shake(stack: &Stack, tcp: TcpStream, protocol: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(tls::client(stack.directory.path(), Some("ci-runner"), &[protocol])));
    connector.connect("localhost".try_into().expect("a name"), tcp).await
}

/// How long it takes until the other end closes, whatever it says before.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin, most: Duration) -> Duration {
    let started = Instant::now();
    let mut bytes = vec![0; 16 * 1024];
    let ended = tokio::time::timeout(most, async { while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {} });
    ended.await.expect("it is cut off");
    started.elapsed()
}

/// Others are served, at once.
async fn unharmed(stack: &Stack) {
    let started = Instant::now();
    assert_eq!(stack.rpc(&stack.token(), "ping", json!({})).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_handshake_is_cut_off() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut held = Vec::new();
    for port in [stack.edge, stack.core] {
        for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n"] {
            let mut tcp = TcpStream::connect(port).await.expect("it listens");
            tcp.write_all(bytes).await.expect("sent");
            held.push(tcp);
        }
    }
    unharmed(&stack).await;
    for tcp in held {
        closed(tcp, Duration::from_secs(8)).await;
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_drip_in_are_cut_off() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let started = Instant::now();
    let mut slow = http1(&stack).await;
    slow.write_all(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\n").await.expect("sent");
    let (read, mut write) = tokio::io::split(slow);
    let drip = tokio::spawn(async move {
        while write.write_all(b"x-slow: 1\r\n").await.is_ok() && write.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    // One that says nothing after the handshake, and one that says nothing after a first request.
    let silent = http1(&stack).await;
    let mut once = http1(&stack).await;
    once.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    unharmed(&stack).await;
    let (read, silent, once) = tokio::join!(
        closed(read, Duration::from_secs(16)),
        closed(silent, Duration::from_secs(16)),
        closed(once, Duration::from_secs(16))
    );
    assert!(started.elapsed() < Duration::from_secs(18), "{read:?} {silent:?} {once:?}");
    drip.abort();
    // And headers without end.
    let mut large = http1(&stack).await;
    large.write_all(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-large: ").await.expect("sent");
    let mut sent = 0;
    while sent < 10_000_000 && large.write_all(&[b'x'; 8192]).await.is_ok() {
        sent += 8192;
    }
    assert!(sent < 2_000_000, "{sent} bytes of headers were taken");
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_drips_in_is_cut_off() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut slow = http1(&stack).await;
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        stack.token()
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    let (mut read, mut write) = tokio::io::split(slow);
    let drip = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() && write.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(20), read.read_exact(&mut answer)).await.expect("in time").expect("some");
    assert_eq!(answer, *b"HTTP/1.1 408");
    drip.abort();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_the_core_that_never_ends_is_cut_off() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let tcp = TcpStream::connect(stack.core).await.expect("it listens");
    let tls = shake(&stack, tcp, b"h2").await.expect("a handshake");
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    // Half of a message's own header, and then nothing.
    let begun = [Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from_static(b"\0\0")))];
    let body = futures_util::stream::iter(begun).chain(futures_util::stream::pending());
    let body = http_body_util::StreamBody::new(body);
    let request = http::Request::post("http://localhost/whitelistmcp.v1.WhitelistService/ListRules")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    let started = Instant::now();
    let answer = tokio::time::timeout(Duration::from_secs(40), requests.send_request(request)).await.expect("in time");
    let status = answer.expect("an answer").headers().get("grpc-status").cloned();
    assert!(status.is_some_and(|status| status != "0"), "refused");
    assert!(started.elapsed() > Duration::from_secs(1));
    connection.abort();
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_kept() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();

    // HTTP/1.1: a socket that takes little, and requests for far more than fits.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small one");
    let tcp = socket.connect(stack.edge).await.expect("it listens");
    let mut deaf = shake(&stack, tcp, b"http/1.1").await.expect("a handshake");
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        stack.token(),
        body.len()
    );
    let flood = async { while deaf.write_all(request.as_bytes()).await.is_ok() && deaf.flush().await.is_ok() {} };
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(40), flood).await.expect("it is cut off");
    assert!(started.elapsed() > Duration::from_secs(10), "but not at once: {:?}", started.elapsed());
    unharmed(&stack).await;

    // HTTP/2: a client that reads everything but opens no window for the answer.
    let tcp = TcpStream::connect(stack.edge).await.expect("it listens");
    let tls = shake(&stack, tcp, b"h2").await.expect("a handshake");
    let (mut requests, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(tls))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("https://localhost:{}/mcp", stack.edge.port()))
        .header("authorization", format!("Bearer {}", stack.token()))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    let answer = requests.send_request(request).await.expect("its head");
    assert_eq!(answer.status(), 200);
    let started = Instant::now();
    // The body is held, unread, until the edge gives up on the connection.
    let ended = tokio::time::timeout(Duration::from_secs(40), connection).await.expect("it is cut off");
    drop(ended);
    assert!(started.elapsed() > Duration::from_secs(10), "but not at once: {:?}", started.elapsed());
    assert!(answer.into_body().collect().await.is_err());
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_connections_and_no_more() {
    let options = Options {
        edge_extra: "connections_per_address = 8",
        core_keys: "connections_per_address = 8",
        ..Options::default()
    };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    for address in [stack.edge, stack.core] {
        // From another address of the machine than everybody else's.
        let connect = || async move {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind("127.0.0.2:0".parse().expect("an address")).expect("a port");
            socket.connect(address).await.expect("it listens")
        };
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(shake(&stack, connect().await, b"h2").await.expect("a place"));
        }
        for _ in 0..40 {
            assert!(shake(&stack, connect().await, b"h2").await.is_err(), "closed before TLS");
        }
        // Those who call from elsewhere are served, at the edge and behind it.
        unharmed(&stack).await;
        let list = pb::ListRulesRequest { security_group: "staging-db".to_owned(), ..Default::default() };
        assert!(stack.grpc("ci-runner").list_rules(list).await.is_ok());
        // A place that is given back is free again.
        held.pop();
        let started = Instant::now();
        while shake(&stack, connect().await, b"h2").await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(3), "the place stays taken");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_not_counted() {
    let options =
        Options { edge_extra: "connections_per_address = 2\ntrusted_proxies = [\"127.0.0.2\"]", ..Options::default() };
    let stack = Stack::with(&AwsDouble::start().await.access(), options).await;
    let mut held = Vec::new();
    for _ in 0..12 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("a port");
        let tcp = socket.connect(stack.edge).await.expect("it listens");
        held.push(shake(&stack, tcp, b"h2").await.expect("a place"));
    }
    drop(held);
    stack.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_many_addresses_leaves_others_unharmed() {
    let stack = Stack::start(&AwsDouble::start().await).await;
    let mut held = Vec::new();
    // More half-open handshakes than are let in at once would be if each counted for nothing: 20 addresses with 60 each.
    for host in 2..22 {
        for _ in 0..60 {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(format!("127.0.1.{host}:0").parse().expect("an address")).expect("a port");
            let mut tcp = socket.connect(stack.edge).await.expect("it listens");
            tcp.write_all(b"\x16\x03\x01").await.expect("sent");
            held.push(tcp);
        }
    }
    let started = Instant::now();
    while stack
        .http
        .send(
            http::Request::get(format!("https://localhost:{}/livez", stack.edge.port()))
                .body(Vec::new())
                .expect("a request"),
        )
        .await
        .is_err()
    {
        assert!(started.elapsed() < Duration::from_secs(12), "locked out");
    }
    for tcp in held {
        closed(tcp, Duration::from_secs(14)).await;
    }
    unharmed(&stack).await;
    stack.stop().await;
}
