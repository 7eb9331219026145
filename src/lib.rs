//! `whitelistmcp` opens, lists, checks and closes IP allow-list rules in AWS EC2 security groups, for people and
//! programs. An *edge* speaks MCP to clients; a *core* speaks gRPC over mTLS to edges and services, and AWS behind it.
//!
//! # The road of one call
//!
//! 1. [`listen`] accepts a connection: TLS, bounds, and whose certificate is on the other end.
//! 2. [`edge`] reads an HTTP request: [`edge::router`] has every route and layer. The token is verified
//!    ([`identity::bearer`]), the message read ([`mcp::envelope`], [`mcp::era`]), a tool call turned into one RPC by the
//!    proto's annotations ([`annotations`]).
//! 3. [`grpc::client`] carries it to the core, with the person's own token. [`grpc::authn`] establishes who calls, once
//!    more and from nothing that the edge says. A service comes straight here, by its certificate.
//! 4. [`operation`] makes the request into something valid, or refuses it.
//! 5. [`broker`] is the rest of the road, top to bottom: [`policy`] permits a look, [`audit`] begins an entry, [`aws`]
//!    borrows power for this call alone and looks, [`policy`] permits the change, [`aws`] makes it, [`audit`] ends the
//!    entry.
//! 6. The answer goes back the same way: `grpc::present` puts it in words.
//!
//! In a function of AWS Lambda [`lambda`] is in place of the first step: it hands events to the same router.
//!
//! What the service does for itself goes the same road: [`broker::upkeep`] closes what has ended, and finds out what became
//! of changes that a crash cut off.
//!
//! Each step takes a type that only the step before can make, so none can be skipped.
//!
//! # Who may import whom
//!
//! One way only: the binary → [`app`] → [`edge`] → [`grpc::client`], [`mcp`] → [`annotations`]; [`app`] → `grpc::server` →
//! [`broker`] → [`aws`] → [`audit`] → [`policy`] → [`approval`] → [`identity`], [`operation`]. [`lambda`], where the service is a
//! function, stands above the edge and looks after the core behind it as [`app`] does. The edge imports nothing that could
//! reach AWS. Only [`app`] and the binary import [`config`]. [`bridge`] is a client: it shares [`mcp`], [`tls`] and
//! [`http_client`] with the edge, and nothing with the core. [`limit`] counts what a caller does, by [`identity`] and
//! [`operation`].
//!
//! Leaves: what replicas share ([`shared`], Redis), error codes, TLS, sealing, addresses, durations, the HTTP client,
//! certificates to try it with, telemetry, and what the configuration's schema is made with. [`mcp`] and [`operation`] do no I/O,
//! and deciding by [`policy`] does none.

pub mod annotations;
pub mod app;
pub mod approval;
pub mod audit;
pub mod aws;
pub mod bridge;
pub mod broker;
pub mod certs;
pub mod clock;
pub mod config;
pub mod digest;
mod duration;
pub mod edge;
pub mod error;
pub mod grpc;
pub mod health;
pub mod http_client;
pub mod identity;
pub mod lambda;
pub mod limit;
mod lines;
pub mod listen;
pub mod mcp;
pub mod network;
pub mod operation;
pub mod pb;
pub mod policy;
mod schema;
pub mod seal;
pub mod shared;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
