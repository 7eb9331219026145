//! The connection to Redis: one, shared by all callers, kept up by a task of its own.
//!
//! The task connects, proves with a write that Redis can be used, and waits until the connection ends or a caller says
//! that it failed; then it begins again. Callers never connect: they take what the task has brought, or are told at
//! once that there is nothing to take. So only those who were waiting when Redis went away are slowed, once.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Once};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Host;

use super::{SharedError, TIMEOUT};
use crate::error::Chain;
use crate::telemetry;

/// How long after a failure Redis is tried again.
pub const RETRY: Duration = Duration::from_secs(1);

/// How long connecting may take, with TLS and the proof that Redis can be used.
const CONNECT: Duration = Duration::from_secs(2);

/// Where Redis is.
pub(super) struct Address {
    pub(super) host: Host<String>,
    pub(super) port: u16,
    /// How its certificate is verified; plain text where there is nothing.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
}

/// How Redis was found last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has not been asked yet.
    NotAsked,
    /// It answers.
    Up,
    /// It does not answer, and is looked for in the background.
    Down,
}

/// The connection, and the task that keeps it up.
pub(super) struct Link {
    keeper: Keeper,
    started: Once,
    stop: DropGuard,
}

/// What callers and the task share.
#[derive(Clone)]
struct Keeper {
    address: Arc<Address>,
    account: RedisConnectionInfo,
    probe: Arc<str>,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    NotAsked,
    /// Being connected for the first time, or anew after an idle connection has ended: worth waiting for.
    Connecting,
    Up(Connection),
    Down,
}

#[derive(Clone)]
struct Connection {
    commands: MultiplexedConnection,
    /// Which of the connections made so far this is.
    number: u64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("no usable connection within {CONNECT:?}")]
    Timeout,
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    #[error("the name cannot stand in a certificate")]
    Name(#[from] rustls_pki_types::InvalidDnsNameError),
    #[error("the connection cannot be used")]
    Redis(#[from] RedisError),
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

// === impl Link ===

impl Link {
    pub(super) fn new(address: Address, account: RedisConnectionInfo, probe: String) -> Self {
        let keeper = Keeper {
            address: Arc::new(address),
            account,
            probe: probe.into(),
            state: watch::Sender::new(State::NotAsked),
        };
        Self { keeper, started: Once::new(), stop: CancellationToken::new().drop_guard() }
    }

    pub(super) fn condition(&self) -> Condition {
        match *self.keeper.state.borrow() {
            State::NotAsked | State::Connecting => Condition::NotAsked,
            State::Up(_) => Condition::Up,
            State::Down => Condition::Down,
        }
    }

    /// Starts the task that connects, once. It ends with the link.
    pub(super) fn start(&self) {
        self.started.call_once(|| {
            self.keeper.state.send_replace(State::Connecting);
            let (keeper, stop) = (self.keeper.clone(), self.stop.token().clone());
            tokio::spawn(async move { stop.run_until_cancelled(keeper.keep()).await });
        });
    }

    /// Asks something of Redis, for [`TIMEOUT`] at most.
    pub(super) async fn with<T>(
        &self,
        ask: impl AsyncFnOnce(MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, SharedError> {
        self.start();
        let mut used = None;
        let exchange = async {
            let connection = self.connection().await.ok_or(SharedError::Down)?;
            used = Some(connection.number);
            ask(connection.commands).await.map_err(|error| SharedError::Failed(Arc::new(error)))
        };
        let answer = timeout(TIMEOUT, exchange).await.unwrap_or(Err(SharedError::Timeout));
        if let Err(error @ (SharedError::Timeout | SharedError::Failed(_))) = &answer {
            self.keeper.fail(used, error);
        }
        answer
    }

    /// The connection, waited for only while it is first made or was cut off idle.
    async fn connection(&self) -> Option<Connection> {
        if let State::Up(connection) = &*self.keeper.state.borrow() {
            return Some(connection.clone());
        }
        let mut states = self.keeper.state.subscribe();
        let state = states.wait_for(|state| !matches!(state, State::NotAsked | State::Connecting)).await;
        match state.as_deref() {
            Ok(State::Up(connection)) => Some(connection.clone()),
            _ => None,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port, tls } = &*self.keeper.address;
        f.debug_struct("Link")
            .field("address", &format_args!("{host}:{port}"))
            .field("tls", &tls.is_some())
            .field("condition", &self.condition())
            .finish_non_exhaustive()
    }
}

// === impl Keeper ===

impl Keeper {
    /// A caller found that Redis does not answer, on this connection or while there was none: nobody else is to wait
    /// for the same.
    fn fail(&self, used: Option<u64>, error: &SharedError) {
        let newly = self.state.send_if_modified(|state| {
            let current = match state {
                State::Up(connection) => used == Some(connection.number),
                State::Connecting => used.is_none(),
                State::NotAsked | State::Down => false,
            };
            if current {
                *state = State::Down;
            }
            current
        });
        if newly {
            self.say_down(error);
        }
    }

    /// Connects, and connects again.
    async fn keep(self) {
        let mut states = self.state.subscribe();
        for number in 0.. {
            match timeout(CONNECT, self.connect()).await.unwrap_or(Err(ConnectError::Timeout)) {
                Ok((commands, driver)) => {
                    if matches!(self.state.send_replace(State::Up(Connection { commands, number })), State::Down) {
                        tracing::info!(redis = %self.name(), "Redis is back: limits are shared between replicas again");
                    }
                    telemetry::record_redis(true);
                    tokio::select! {
                        // Redis, or something on the way, has ended the connection: no reason to wait.
                        () = driver => {
                            self.state.send_if_modified(|state| {
                                let up = matches!(state, State::Up(_));
                                if up {
                                    *state = State::Connecting;
                                }
                                up
                            });
                            continue;
                        }
                        _ = states.wait_for(|state| matches!(state, State::Down)) => {}
                    }
                }
                Err(error) => {
                    if !matches!(self.state.send_replace(State::Down), State::Down) {
                        self.say_down(&error);
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A connection that a write has gone through.
    async fn connect(&self) -> Result<(MultiplexedConnection, Driver), ConnectError> {
        let stream = self.stream().await?;
        // Time is bounded around each question as a whole.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (mut connection, driver) = MultiplexedConnection::new_with_config(&self.account, stream, config).await?;
        let mut driver: Driver = Box::pin(driver);
        let mut probe = redis::cmd("SET");
        probe.arg(&*self.probe).arg(1).arg("PX").arg(1000);
        tokio::select! {
            result = probe.query_async::<()>(&mut connection) => result?,
            () = &mut driver => return Err(ConnectError::Connect(std::io::ErrorKind::ConnectionReset.into())),
        }
        Ok((connection, driver))
    }

    async fn stream(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let Address { host, port, tls } = &*self.address;
        let tcp = match host {
            Host::Domain(name) => TcpStream::connect((name.as_str(), *port)).await,
            Host::Ipv4(address) => TcpStream::connect((*address, *port)).await,
            Host::Ipv6(address) => TcpStream::connect((*address, *port)).await,
        };
        let tcp = tcp.and_then(|tcp| tcp.set_nodelay(true).map(|()| tcp)).map_err(ConnectError::Connect)?;
        let Some(tls) = tls else { return Ok(Box::new(tcp)) };
        let name = match host {
            Host::Domain(name) => ServerName::try_from(name.clone())?,
            Host::Ipv4(address) => ServerName::from(IpAddr::from(*address)),
            Host::Ipv6(address) => ServerName::from(IpAddr::from(*address)),
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(tls));
        Ok(Box::new(connector.connect(name, tcp).await.map_err(ConnectError::Connect)?))
    }

    fn say_down(&self, error: &(dyn std::error::Error + 'static)) {
        telemetry::record_redis(false);
        tracing::warn!(
            redis = %self.name(),
            error = %Chain(error),
            "Redis does not answer: until it is back, limits hold for each process by itself, and approvals are refused"
        );
    }

    fn name(&self) -> String {
        format!("{}:{}", self.address.host, self.address.port)
    }
}
