//! What a message looks like, for the log: which fields it has, and of their values only what cannot be anything: numbers,
//! switches, and words that the schema lists. Any other text is told by its length, since it may hold what somebody pasted.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};
use serde_json::json;

use crate::annotations::Annotations;

/// How many items of a list are shown.
const ITEMS_MOST: usize = 10;

/// The shape of an encoded message.
pub(in crate::edge) fn shape(
    descriptor: &MessageDescriptor,
    message: &Bytes,
    known: &Annotations,
) -> serde_json::Value {
    match DynamicMessage::decode(descriptor.clone(), message.clone()) {
        Ok(message) => of_message(&message, known),
        Err(_) => json!(format!("<{} bytes>", message.len())),
    }
}

fn of_message(message: &DynamicMessage, known: &Annotations) -> serde_json::Value {
    let fields = message.fields().map(|(field, value)| (field.name().to_owned(), of_value(&field, value, known)));
    serde_json::Value::Object(fields.collect())
}

fn of_value(field: &FieldDescriptor, value: &Value, known: &Annotations) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(text) => {
            let listed = known.field(field).is_some_and(|about| about.values.iter().any(|value| value == text));
            if listed { json!(text) } else { json!(format!("<{} characters>", text.chars().count())) }
        }
        Value::Bytes(bytes) => json!(format!("<{} bytes>", bytes.len())),
        Value::Message(message) => of_message(message, known),
        Value::List(items) if items.len() > ITEMS_MOST => json!(format!("<{} items>", items.len())),
        Value::List(items) => items.iter().map(|item| of_value(field, item, known)).collect(),
        Value::Map(entries) => json!(format!("<{} entries>", entries.len())),
    }
}
