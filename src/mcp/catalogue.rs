//! The lists: every annotated RPC as an MCP tool, resource or prompt, with JSON Schemas made from its messages.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::annotations::{Annotations, PromptSpec, ResourceSpec, comment, is_aside};
use crate::pb::mcp::v1::FieldAnnotations;

/// The tools as `tools/list` gives them, in the order of the proto.
pub fn tools(annotations: &Annotations) -> Vec<Value> {
    let tool = |spec: &crate::annotations::ToolSpec| {
        let about = &spec.annotations;
        let mut tool = json!({
            "name": about.name,
            "title": about.title,
            "description": spec.description,
            "inputSchema": object(&spec.method.input(), annotations, Side::Input),
            "annotations": {
                "title": about.title,
                "readOnlyHint": about.read_only,
                "destructiveHint": about.destructive,
                "idempotentHint": about.idempotent,
                "openWorldHint": true,
            },
        });
        // What is nothing but content has no structure to describe.
        if let (Some(tool), true) = (tool.as_object_mut(), spec.exchange.has_results) {
            let schema = object(&spec.method.output(), annotations, Side::Output);
            tool.insert("outputSchema".to_owned(), schema);
        }
        tool
    };
    annotations.tools().iter().map(tool).collect()
}

/// The resource as `resources/list` gives it, or `resources/templates/list` where it has variables.
pub fn resource(spec: &ResourceSpec) -> Value {
    let about = &spec.annotations;
    let mut resource = Map::new();
    let texts = [
        ("uri", &about.uri),
        ("uriTemplate", &about.uri_template),
        ("name", &about.name),
        ("title", &about.title),
        ("description", &spec.description),
        ("mimeType", &about.mime_type),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        resource.insert(name.to_owned(), text.as_str().into());
    }
    resource.into()
}

/// The prompt as `prompts/list` gives it.
pub fn prompt(spec: &PromptSpec, annotations: &Annotations) -> Value {
    let about = &spec.annotations;
    let fields = spec.method.input().fields().filter(|field| !is_aside(field)).collect::<Vec<_>>();
    let arguments = fields.iter().map(|field| {
        json!({
            "name": field.name(),
            "description": comment(&field.parent_file(), field.path()),
            "required": annotations.field(field).is_some_and(|about| about.required),
        })
    });
    let arguments: Vec<Value> = arguments.collect();
    let mut prompt = json!({"name": about.name, "description": spec.description, "arguments": arguments});
    if let (Some(prompt), false) = (prompt.as_object_mut(), about.title.is_empty()) {
        prompt.insert("title".to_owned(), about.title.as_str().into());
    }
    prompt
}

/// The largest whole number that JSON's readers agree on (RFC 8259, section 6).
pub const WHOLE_MOST: i64 = (1 << 53) - 1;

/// Which way a message goes. Inputs are strict; an output may gain fields in a later release.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Input,
    Output,
}

fn object(message: &MessageDescriptor, annotations: &Annotations, side: Side) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in message.fields().filter(|field| !is_aside(field)) {
        let none = FieldAnnotations::default();
        let about = annotations.field(&field).unwrap_or(&none);
        // Of an output every field is there, except a message that is not set.
        if about.required || (side == Side::Output && !field.supports_presence()) {
            required.push(Value::from(field.name()));
        }
        properties.insert(field.name().to_owned(), property(&field, about, annotations, side));
    }
    let mut schema =
        Map::from_iter([("type".to_owned(), json!("object")), ("properties".to_owned(), properties.into())]);
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    if side == Side::Input {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    schema.into()
}

fn property(field: &FieldDescriptor, about: &FieldAnnotations, annotations: &Annotations, side: Side) -> Value {
    let entry = match field.kind() {
        Kind::Message(entry) if field.is_map() => Some(entry),
        _ => None,
    };
    let mut schema = match &entry {
        Some(entry) => {
            let values = one(&entry.map_entry_value_field(), about, annotations, side);
            json!({"type": "object", "additionalProperties": values})
        }
        None => one(field, about, annotations, side),
    };
    if entry.is_none() && field.cardinality() == Cardinality::Repeated {
        let mut list = Map::from_iter([("type".to_owned(), json!("array")), ("items".to_owned(), schema)]);
        if about.max_items > 0 {
            list.insert("maxItems".to_owned(), about.max_items.into());
        }
        schema = list.into();
    }
    let description = comment(&field.parent_file(), field.path());
    if let (Some(schema), false) = (schema.as_object_mut(), description.is_empty()) {
        schema.insert("description".to_owned(), description.into());
    }
    if let (Some(schema), false, Side::Input) = (schema.as_object_mut(), about.header.is_empty(), side) {
        schema.insert("x-mcp-header".to_owned(), about.header.as_str().into());
    }
    schema
}

/// The schema of a message that has a JSON form of its own (ProtoJSON), if it is one.
fn well_known(message: &MessageDescriptor) -> Option<Value> {
    Some(match message.full_name().strip_prefix("google.protobuf.")? {
        "Struct" => json!({"type": "object"}),
        "Value" => json!({}),
        "ListValue" => json!({"type": "array"}),
        "Timestamp" => json!({"type": "string", "format": "date-time"}),
        "Duration" => json!({"type": "string", "pattern": "^-?[0-9]{1,12}(\\.[0-9]{1,9})?s$"}),
        "FieldMask" | "StringValue" => json!({"type": "string"}),
        "BytesValue" => json!({"type": "string", "contentEncoding": "base64"}),
        "BoolValue" => json!({"type": "boolean"}),
        "FloatValue" | "DoubleValue" => json!({"type": "number"}),
        "Int32Value" => json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX}),
        "UInt32Value" => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        "Int64Value" => json!({"type": "string", "pattern": "^-?[0-9]{1,19}$"}),
        "UInt64Value" => json!({"type": "string", "pattern": "^[0-9]{1,20}$"}),
        _ => return None,
    })
}

/// The schema of one value. 64-bit integers are strings, as JSON numbers cannot hold them (ProtoJSON).
fn one(field: &FieldDescriptor, about: &FieldAnnotations, annotations: &Annotations, side: Side) -> Value {
    match field.kind() {
        Kind::Bool => json!({"type": "boolean"}),
        // ProtoJSON writes what is no number in words.
        Kind::Double | Kind::Float if side == Side::Output => {
            json!({"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]})
        }
        Kind::Double => json!({"type": "number"}),
        Kind::Float => json!({"type": "number", "minimum": f32::MIN, "maximum": f32::MAX}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({"type": "integer", "minimum": i32::MIN, "maximum": i32::MAX})
        }
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "pattern": "^-?[0-9]{1,19}$"}),
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "pattern": "^[0-9]{1,20}$"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Enum(kind) => {
            json!({"type": "string", "enum": kind.values().map(|value| value.name().to_owned()).collect::<Vec<_>>()})
        }
        Kind::Message(message) => well_known(&message).unwrap_or_else(|| object(&message, annotations, side)),
        Kind::String => string(about, side),
    }
}

fn string(about: &FieldAnnotations, side: Side) -> Value {
    let mut schema = Map::from_iter([("type".to_owned(), json!("string"))]);
    // A string that is given and empty says nothing, and would be taken for one that is left out. An answer has every field,
    // and what it has nothing to say of is empty.
    let shortest = if side == Side::Input { about.min_length.max(1) } else { 0 };
    if shortest > 0 {
        schema.insert("minLength".to_owned(), shortest.into());
    }
    if about.max_length > 0 {
        schema.insert("maxLength".to_owned(), about.max_length.into());
    }
    if !about.values.is_empty() {
        // A default message carries an empty string where nothing was said.
        let empty = (side == Side::Output).then(String::new);
        schema.insert("enum".to_owned(), about.values.iter().cloned().chain(empty).collect::<Vec<_>>().into());
    }
    if about.accept_integer && side == Side::Input {
        // Two schemas rather than two types in one: not every client knows the latter.
        let integer = json!({"type": "integer", "minimum": -WHOLE_MOST, "maximum": WHOLE_MOST});
        schema = Map::from_iter([("anyOf".to_owned(), json!([schema, integer]))]);
    }
    if !about.examples.is_empty() {
        schema.insert("examples".to_owned(), about.examples.clone().into());
    }
    schema.into()
}
