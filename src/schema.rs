//! What JSON Schema says of values that the configuration reads from text. Nothing here exists at run time: the schema is
//! made by `whitelistmcp reference` alone.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::duration;

/// A duration within bounds in milliseconds, as [`duration::within`] reads it.
pub(crate) struct Length<const LEAST: u64, const MOST: u64>;

/// A duration within bounds, or the word `off`.
pub(crate) struct LengthOrOff<const LEAST: u64, const MOST: u64>;

/// A network; a bare address is a network of one.
pub(crate) struct Network;

fn text(title: &str, example: &str) -> Schema {
    json_schema!({"type": "string", "title": title, "examples": [example]})
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for Length<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Length_{LEAST}_{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text(&format!("duration {}", duration::bounds(LEAST, MOST)), &duration::example(LEAST, MOST))
    }
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for LengthOrOff<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("LengthOrOff_{LEAST}_{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let bounds = duration::bounds(LEAST, MOST);
        text(&format!("duration {bounds}, or `off`"), &duration::example(LEAST, MOST))
    }
}

impl JsonSchema for Network {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text("network", "10.0.0.0/8")
    }
}
