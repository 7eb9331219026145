//! The whole service, started as the binary starts it, against real counterparts and one double for what none of them
//! has. One binary, so that everything is linked once.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    reason = "a helper that cannot go on fails the test, and says why"
)]

mod support;

mod api_keys;
mod approvals;
mod arguments;
mod attacks;
mod audit;
mod aws_double;
mod aws_faults;
mod challenges;
mod command_line;
mod documents;
mod emulators;
mod fleet;
mod http;
mod introspection;
mod issuers;
mod journey;
mod leases;
mod limits;
mod limits_shared;
mod peers;
mod policies;
mod properties;
mod providers;
mod reconciler;
mod sessions;
mod shared;
mod tokens;
