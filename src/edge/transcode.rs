//! JSON arguments to a protobuf message and a protobuf message to JSON, by descriptor alone.
//!
//! What goes in is held to exactly what the tool's schema says: names as in the proto, no name twice, no unknown name,
//! no null, no number for a string, and every limit. ProtoJSON itself is far looser, so it is not used on the way in.

mod shape;
mod value;

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, SerializeOptions, Value};
use serde_json::value::RawValue;

use crate::annotations::{Annotations, Exchange, is_aside};
use crate::mcp::catalogue::WHOLE_MOST;
use crate::mcp::envelope::fields;
use crate::pb::mcp::v1::{Content, FieldAnnotations};

pub(super) use shape::shape;
pub(super) use value::{number, object as object_of, to_serde, to_struct};

/// Arguments that do not fit the tool. The texts tell a model what to change.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    #[error("`arguments` must be a JSON object in which no name is given twice")]
    NotAnObject,
    #[error("there is no argument `{name}`{}; the arguments are: {known}", nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<String>, known: String },
    #[error("the argument `{name}` is refused: {message}")]
    Refused { name: String, message: String },
    #[error("the argument `{0}` is missing")]
    Missing(String),
    #[error("the argument `{name}` must be {expected}")]
    Type { name: String, expected: String },
    #[error("the argument `{name}` has {length} characters, and must have {bound}")]
    Length { name: String, length: usize, bound: String },
    #[error("the argument `{name}` must be one of: {values}")]
    Value { name: String, values: String },
    #[error("the argument `{name}` has {length} items, and may have {most}")]
    Items { name: String, length: usize, most: u32 },
    #[error("the arguments `{name}` and `{other}` exclude each other; leave one out")]
    OneOf { name: String, other: String },
}

impl ArgumentError {
    /// The stable reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotAnObject => "ARGUMENTS_MALFORMED",
            Self::Unknown { .. } => "ARGUMENT_UNKNOWN",
            Self::Refused { .. } => "ARGUMENT_REFUSED",
            Self::Missing(_) => "ARGUMENT_MISSING",
            Self::Type { .. } | Self::Length { .. } | Self::Value { .. } | Self::Items { .. } | Self::OneOf { .. } => {
                "ARGUMENT_INVALID"
            }
        }
    }
}

/// Encodes arguments as a message. No arguments at all count as an empty object.
pub(super) fn to_message(
    descriptor: &MessageDescriptor,
    arguments: Option<&RawValue>,
    annotations: &Annotations,
) -> Result<Bytes, ArgumentError> {
    let message = match arguments {
        None => object(descriptor, BTreeMap::new(), annotations, ""),
        Some(arguments) => read_object(descriptor, arguments, annotations, ""),
    };
    message.map(|message| message.encode_to_vec().into())
}

/// What a service's message says.
#[derive(Debug)]
pub(super) struct Said {
    /// The sentence for people, where the message has one.
    pub(super) summary: Option<String>,
    /// Blocks of content.
    pub(super) content: Vec<Content>,
    /// Everything else, unless there is nothing else that it could say.
    pub(super) structured: Option<serde_json::Value>,
}

/// Why an answer cannot be read.
type Unreadable = Box<dyn std::error::Error + Send + Sync>;

/// Decodes a message.
pub(super) fn to_json(
    descriptor: &MessageDescriptor,
    exchange: &Exchange,
    message: Bytes,
    annotations: &Annotations,
) -> Result<Said, Unreadable> {
    let message = DynamicMessage::decode(descriptor.clone(), message)?;
    let mut content = Vec::new();
    for field in &exchange.content {
        content.extend(messages(&message, field)?);
    }
    let summary = descriptor
        .fields()
        .find(|field| annotations.field(field).is_some_and(|about| about.summary))
        .and_then(|field| message.get_field(&field).as_str().map(str::to_owned))
        .filter(|summary| !summary.is_empty());
    if !exchange.has_results {
        return Ok(Said { summary, content, structured: None });
    }
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    let mut json = message.serialize_with_options(serde_json::value::Serializer, &options)?;
    if let Some(json) = json.as_object_mut() {
        for field in descriptor.fields().filter(is_aside) {
            json.remove(field.name());
        }
    }
    Ok(Said { summary, content, structured: Some(json) })
}

/// What stands in a field that holds messages of a type of ours, one or several.
fn messages<T: Message + Default>(within: &DynamicMessage, field: &FieldDescriptor) -> Result<Vec<T>, Unreadable> {
    if !within.has_field(field) {
        return Ok(Vec::new());
    }
    let value = within.get_field(field);
    let one = |value: &Value| Ok(value.as_message().ok_or("a message is missing")?.transcode_to()?);
    match value.as_list() {
        Some(items) => items.iter().map(one).collect(),
        None => Ok(vec![one(&value)?]),
    }
}

/// What stands in a field of a message that is still encoded; nothing if the field is not set.
pub(super) fn field<T: Message + Default>(
    descriptor: &MessageDescriptor,
    field: &FieldDescriptor,
    message: &Bytes,
) -> Result<Option<T>, Unreadable> {
    let message = DynamicMessage::decode(descriptor.clone(), message.clone())?;
    Ok(messages(&message, field)?.into_iter().next_back())
}

/// What a message says, in one form whatever the order of its maps.
pub(super) fn canonical(descriptor: &MessageDescriptor, message: &Bytes) -> String {
    let read = DynamicMessage::decode(descriptor.clone(), message.clone()).ok();
    let json = read.and_then(|read| serde_json::to_value(&read).ok());
    let sorted = json.map(|mut json| {
        json.sort_all_objects();
        json.to_string()
    });
    sorted.unwrap_or_else(|| crate::digest::sha256_hex(message))
}

/// Adds a message as a field to one that is encoded already (Protocol Buffers, "Encoding": fields may come in any order).
pub(super) fn with_field(message: &Bytes, field: &FieldDescriptor, value: &impl Message) -> Bytes {
    let mut whole = message.to_vec();
    prost::encoding::encode_key(field.number(), prost::encoding::WireType::LengthDelimited, &mut whole);
    // INVARIANT: a vector has room for whatever is written to it.
    value.encode_length_delimited(&mut whole).unwrap_or_default();
    whole.into()
}

/// Reads a header value: as it is, or as `=?base64?…?=` (2026-07-28, Streamable HTTP, "Headers").
pub(super) fn decode_header(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Some(value.to_owned()),
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()),
    }
}

fn read_object(
    descriptor: &MessageDescriptor,
    json: &RawValue,
    annotations: &Annotations,
    path: &str,
) -> Result<DynamicMessage, ArgumentError> {
    let not_an_object = || {
        if path.is_empty() {
            ArgumentError::NotAnObject
        } else {
            wrong_type(path, "an object in which no name is given twice")
        }
    };
    if !json.get().starts_with('{') {
        return Err(not_an_object());
    }
    object(descriptor, fields(json).ok_or_else(not_an_object)?, annotations, path)
}

fn object(
    descriptor: &MessageDescriptor,
    mut given: BTreeMap<String, &RawValue>,
    annotations: &Annotations,
    path: &str,
) -> Result<DynamicMessage, ArgumentError> {
    // Credentials first: they are refused by name whatever else is wrong, and nothing of their value is repeated.
    for name in given.keys() {
        let bare: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        let refused =
            annotations.refused().iter().find(|(word, _)| bare == **word || (word.len() > 8 && bare.contains(*word)));
        if let Some((_, message)) = refused {
            return Err(ArgumentError::Refused { name: shown(name), message: message.clone() });
        }
    }
    let none = FieldAnnotations::default();
    let mut message = DynamicMessage::new(descriptor.clone());
    for oneof in descriptor.oneofs() {
        let mut members = oneof.fields().filter(|field| given.contains_key(field.name()));
        if let (Some(one), Some(other)) = (members.next(), members.next()) {
            let named = |field: &FieldDescriptor| format!("{path}{}", field.name());
            return Err(ArgumentError::OneOf { name: named(&one), other: named(&other) });
        }
    }
    for field in arguments(descriptor) {
        let name = format!("{path}{}", field.name());
        let about = annotations.field(&field).unwrap_or(&none);
        match given.remove(field.name()) {
            None if about.required => {
                return Err(unknown(descriptor, &given, path).unwrap_or(ArgumentError::Missing(name)));
            }
            None => {}
            Some(json) => message.set_field(&field, value(&field, about, json, annotations, &name)?),
        }
    }
    match unknown(descriptor, &given, path) {
        Some(error) => Err(error),
        None => Ok(message),
    }
}

/// The fields that are arguments.
fn arguments(descriptor: &MessageDescriptor) -> impl Iterator<Item = FieldDescriptor> {
    descriptor.fields().filter(|field| !is_aside(field))
}

/// A name as it can be repeated.
fn shown(name: &str) -> String {
    name.chars().take(64).filter(|c| !c.is_control()).collect()
}

/// The first name that the message does not have, with the nearest that it has.
fn unknown(descriptor: &MessageDescriptor, given: &BTreeMap<String, &RawValue>, path: &str) -> Option<ArgumentError> {
    let known: Vec<String> = arguments(descriptor).map(|field| field.name().to_owned()).collect();
    let name = given.keys().find(|name| !known.contains(name))?;
    let name = shown(name);
    let distance = |known: &String| strsim::osa_distance(known, &name.to_lowercase());
    let nearest = known
        .iter()
        .min_by_key(|known| distance(known))
        .filter(|known| distance(known) <= 3 || known.contains(name.as_str()) || name.contains(known.as_str()));
    Some(ArgumentError::Unknown { name: format!("{path}{name}"), nearest: nearest.cloned(), known: known.join(", ") })
}

fn value(
    field: &FieldDescriptor,
    about: &FieldAnnotations,
    json: &RawValue,
    annotations: &Annotations,
    name: &str,
) -> Result<Value, ArgumentError> {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        return map(&entry.map_entry_value_field(), about, json, annotations, name);
    }
    if !field.is_list() {
        return one(field, about, json, annotations, name);
    }
    let items: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(|_| wrong_type(name, "an array"))?;
    if about.max_items > 0 && items.len() > about.max_items as usize {
        return Err(ArgumentError::Items { name: name.to_owned(), length: items.len(), most: about.max_items });
    }
    let items = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| one(field, about, item, annotations, &format!("{name}[{index}]")));
    items.collect::<Result<_, _>>().map(Value::List)
}

fn map(
    values: &FieldDescriptor,
    about: &FieldAnnotations,
    json: &RawValue,
    annotations: &Annotations,
    name: &str,
) -> Result<Value, ArgumentError> {
    let given = json.get().starts_with('{').then(|| fields(json)).flatten();
    let given = given.ok_or_else(|| wrong_type(name, "an object in which no name is given twice"))?;
    let most = about.max_items;
    if most > 0 && given.len() > most as usize {
        return Err(ArgumentError::Items { name: name.to_owned(), length: given.len(), most });
    }
    let entries = given.into_iter().map(|(key, value)| {
        let name = format!("{name}.{}", shown(&key));
        Ok((MapKey::String(key), one(values, about, value, annotations, &name)?))
    });
    entries.collect::<Result<_, _>>().map(Value::Map)
}

/// A message with a JSON form of its own (ProtoJSON), as it is written in that form.
fn well_known(message: &MessageDescriptor, json: &RawValue, name: &str) -> Option<Result<Value, ArgumentError>> {
    let kind = message.full_name().strip_prefix("google.protobuf.")?;
    if kind == "Empty" {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(json.get());
    // Its numbers in quotes and quotes around numbers are ProtoJSON's own leave, and no schema's.
    let quoted = json.get().starts_with('"');
    let is_text = !matches!(
        kind,
        "Struct" | "ListValue" | "BoolValue" | "FloatValue" | "DoubleValue" | "Int32Value" | "UInt32Value"
    );
    let fits = kind == "Value" || quoted == is_text && json.get() != "null";
    let read = DynamicMessage::deserialize(message.clone(), &mut reader).ok().filter(|_| fits);
    Some(read.map(Value::Message).ok_or_else(|| wrong_type(name, &format!("what google.protobuf.{kind} is in JSON"))))
}

fn one(
    field: &FieldDescriptor,
    about: &FieldAnnotations,
    json: &RawValue,
    annotations: &Annotations,
    name: &str,
) -> Result<Value, ArgumentError> {
    fn number<T: serde::de::DeserializeOwned>(json: &RawValue, name: &str, expected: &str) -> Result<T, ArgumentError> {
        serde_json::from_str(json.get()).map_err(|_| wrong_type(name, expected))
    }
    fn whole_of<T: TryFrom<i64>>(json: &RawValue, name: &str, expected: &str) -> Result<T, ArgumentError> {
        whole(json).and_then(|whole| T::try_from(whole).ok()).ok_or_else(|| wrong_type(name, expected))
    }
    fn quoted<T: std::str::FromStr>(json: &RawValue, name: &str) -> Result<T, ArgumentError> {
        let text: Option<String> = serde_json::from_str(json.get()).ok();
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| wrong_type(name, "a whole number in quotes (64-bit numbers do not fit JSON's own)"))
    }
    match field.kind() {
        Kind::Bool => number(json, name, "true or false").map(Value::Bool),
        Kind::Double => number(json, name, "a number").map(Value::F64),
        Kind::Float => number::<f32>(json, name, "a number")
            .ok()
            .filter(|number| number.is_finite())
            .map(Value::F32)
            .ok_or_else(|| wrong_type(name, "a number that 32 bits hold")),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            whole_of(json, name, "a whole number of 32 bits").map(Value::I32)
        }
        Kind::Uint32 | Kind::Fixed32 => whole_of(json, name, "a whole number of 32 bits, not negative").map(Value::U32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => quoted(json, name).map(Value::I64),
        Kind::Uint64 | Kind::Fixed64 => quoted(json, name).map(Value::U64),
        Kind::Bytes => {
            let text: Option<String> = serde_json::from_str(json.get()).ok();
            let bytes = text.and_then(|text| BASE64_STANDARD.decode(text).ok());
            bytes.map(|bytes| Value::Bytes(bytes.into())).ok_or_else(|| wrong_type(name, "a string in base64"))
        }
        Kind::Enum(kind) => {
            let names = || kind.values().map(|value| value.name().to_owned()).collect::<Vec<_>>().join(", ");
            let text: Option<String> = serde_json::from_str(json.get()).ok();
            let value = text.and_then(|text| kind.get_value_by_name(&text));
            value
                .map(|value| Value::EnumNumber(value.number()))
                .ok_or_else(|| ArgumentError::Value { name: name.to_owned(), values: names() })
        }
        Kind::Message(message) => well_known(&message, json, name)
            .unwrap_or_else(|| read_object(&message, json, annotations, &format!("{name}.")).map(Value::Message)),
        Kind::String => string(about, json, name).map(Value::String),
    }
}

/// A whole number, however it is written: JSON Schema takes `1.0` and `1e0` for integers too.
pub(super) fn whole(json: &RawValue) -> Option<i64> {
    let text = json.get();
    // `parse` takes words as well, and JSON's numbers begin otherwise.
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let value: f64 = text.parse().ok().filter(|_| is_number)?;
    let value = number(value);
    value.as_i64().filter(|whole| whole.unsigned_abs() <= WHOLE_MOST.unsigned_abs())
}

fn string(about: &FieldAnnotations, json: &RawValue, name: &str) -> Result<String, ArgumentError> {
    let text = match serde_json::from_str::<String>(json.get()) {
        Ok(text) => text,
        Err(_) => {
            let expected = if about.accept_integer { "a string or a whole number" } else { "a string" };
            let whole = whole(json).filter(|_| about.accept_integer);
            whole.ok_or_else(|| wrong_type(name, expected))?.to_string()
        }
    };
    let length = text.chars().count();
    let length_error = |bound| ArgumentError::Length { name: name.to_owned(), length, bound };
    if about.max_length > 0 && length > about.max_length as usize {
        return Err(length_error(format!("at most {}", about.max_length)));
    }
    if length < about.min_length.max(1) as usize {
        return Err(length_error(format!(
            "at least {}; leave it out if it has nothing to say",
            about.min_length.max(1)
        )));
    }
    if !about.values.is_empty() && !about.values.contains(&text) {
        return Err(ArgumentError::Value { name: name.to_owned(), values: about.values.join(", ") });
    }
    Ok(text)
}

fn wrong_type(name: &str, expected: &str) -> ArgumentError {
    ArgumentError::Type { name: name.trim_end_matches('.').to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
mod tests;
