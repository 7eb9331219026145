//! Any bytes as a client's message: read, or refused, and never anything else.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use whitelistmcp::annotations::Annotations;
use whitelistmcp::pb::DESCRIPTOR_SET;

#[path = "../properties.rs"]
mod properties;

static ANNOTATIONS: LazyLock<Annotations> =
    LazyLock::new(|| Annotations::read(DESCRIPTOR_SET).expect("the product's own annotations"));

fuzz_target!(|bytes: &[u8]| properties::message(&ANNOTATIONS, bytes));
