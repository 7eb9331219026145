//! The whole service, started as the binary starts it, against real counterparts and one double for what none of them
//! has. One binary, so that everything is linked once.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a helper that cannot go on fails the test, and says why"
)]

mod support;

mod api_keys;
mod approval_page;
mod approvals;
mod approvals_shared;
mod arguments;
mod attacks;
mod audit;
mod audit_show;
mod aws_double;
mod aws_faults;
mod aws_resilience;
mod backend;
mod bound_tokens;
mod bridge;
mod bridge_login;
mod bridge_servers;
mod bridge_socket;
mod challenges;
mod clients;
mod command_line;
mod corpus;
mod crash;
mod describe_cache;
mod doctor;
mod documents;
mod edge_events;
mod emulators;
mod faults;
mod federation;
mod fleet;
mod floods;
mod guide;
mod http;
mod iam;
mod introspection;
mod issuers;
mod journey;
mod lambda;
mod leases;
mod limits;
mod limits_shared;
mod local;
mod mcpb;
mod mode;
mod observability;
mod peers;
mod policies;
mod policy_facts;
mod policy_files;
mod probes;
mod properties;
mod providers;
mod reconciler;
mod reference;
mod reload;
mod schemas;
mod sessions;
mod shared;
mod shutdown;
mod socket;
mod telemetry;
mod tls;
mod tokens;
mod wire;
