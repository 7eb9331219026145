//! What JSON Schema says of values that the configuration reads from text. Nothing here exists at run time: the schema is
//! made by `whitelistmcp reference` alone.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A duration, as [`crate::operation::term::length`] reads it.
pub(crate) struct Length;

/// A duration, or the word `off`.
pub(crate) struct LengthOrOff;

/// A network; a bare address is a network of one.
pub(crate) struct Network;

fn text(title: &str, example: &str) -> Schema {
    json_schema!({"type": "string", "title": title, "examples": [example]})
}

impl JsonSchema for Length {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Length".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text("duration", "30s")
    }
}

impl JsonSchema for LengthOrOff {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LengthOrOff".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        text("duration or `off`", "5m")
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
