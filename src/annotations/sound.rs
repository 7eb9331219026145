//! Whether annotated RPCs are such that the edge can serve them. What is not is refused when the service starts, rather than
//! call by call.

use std::collections::{BTreeSet, HashMap};

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{AnnotationError, is_aside};
use crate::mcp::template::Template;
use crate::pb::mcp::v1::{FieldAnnotations, ResourceAnnotations};

/// Messages with a JSON form of their own (ProtoJSON), which hold themselves and are no trouble.
pub(super) const WELL_KNOWN: [&str; 3] =
    ["google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"];

/// A tool's messages.
pub(super) fn tool(
    method: &MethodDescriptor,
    fields: &HashMap<String, FieldAnnotations>,
) -> Result<(), AnnotationError> {
    takes_one(method)?;
    message(method, &method.input(), &mut Vec::new())?;
    message(method, &method.output(), &mut Vec::new())?;
    headers(method, fields)
}

/// A resource's URI and messages.
pub(super) fn resource(about: &ResourceAnnotations, method: &MethodDescriptor) -> Result<Template, AnnotationError> {
    takes_one(method)?;
    shape(method, "what its URI has variables for", "mcp.v1.ReadResourceResponse")?;
    let wrong = |why: String| AnnotationError::Uri { rpc: method.full_name().to_owned(), why };
    let template = match (about.uri.as_str(), about.uri_template.as_str()) {
        ("", "") => return Err(wrong("neither is there".to_owned())),
        (uri, "") => Template::literal(uri),
        ("", template) => Template::parse(template).map_err(|error| wrong(error.to_string()))?,
        _ => return Err(wrong("both are there".to_owned())),
    };
    let variables: BTreeSet<&str> = template.variables().collect();
    let fields: Vec<FieldDescriptor> = arguments(&method.input()).collect();
    if let Some(missing) = variables.iter().find(|variable| !fields.iter().any(|field| field.name() == **variable)) {
        return Err(wrong(format!("the request has no field for the variable `{missing}`")));
    }
    for field in fields {
        let unused = !variables.contains(field.name());
        strings(method, &field)?;
        if unused {
            return Err(wrong(format!("the URI has no variable for the field `{}`", field.name())));
        }
    }
    Ok(template)
}

/// A prompt's messages.
pub(super) fn prompt(method: &MethodDescriptor) -> Result<(), AnnotationError> {
    takes_one(method)?;
    shape(method, "strings", "mcp.v1.GetPromptResponse")?;
    arguments(&method.input()).try_for_each(|field| strings(method, &field))
}

/// The messages that an option wants.
pub(super) fn shape(
    method: &MethodDescriptor,
    takes: &'static str,
    answers: &'static str,
) -> Result<(), AnnotationError> {
    let streams = answers.starts_with("a stream of ");
    let fits = |message: &MessageDescriptor, wanted: &str| {
        let wanted = wanted.trim_start_matches("a stream of ");
        !wanted.starts_with("mcp.v1.") || message.full_name() == wanted
    };
    let fits = fits(&method.input(), takes) && fits(&method.output(), answers);
    if fits && !method.is_client_streaming() && method.is_server_streaming() == streams {
        Ok(())
    } else {
        Err(AnnotationError::Shape { rpc: method.full_name().to_owned(), takes, answers })
    }
}

fn takes_one(method: &MethodDescriptor) -> Result<(), AnnotationError> {
    if method.is_client_streaming() {
        return Err(AnnotationError::Streams(method.full_name().to_owned()));
    }
    Ok(())
}

fn arguments(input: &MessageDescriptor) -> impl Iterator<Item = FieldDescriptor> {
    input.fields().filter(|field| !is_aside(field)).collect::<Vec<_>>().into_iter()
}

fn strings(method: &MethodDescriptor, field: &FieldDescriptor) -> Result<(), AnnotationError> {
    if field.kind() == Kind::String && !field.is_list() && !field.is_map() {
        return Ok(());
    }
    Err(AnnotationError::Argument { rpc: method.full_name().to_owned(), field: field.name().to_owned() })
}

/// No message may hold itself: its schema would have no end, and neither would a hostile argument.
fn message(
    method: &MethodDescriptor,
    within: &MessageDescriptor,
    path: &mut Vec<String>,
) -> Result<(), AnnotationError> {
    let name = within.full_name();
    if WELL_KNOWN.contains(&name) {
        return Ok(());
    }
    let rpc = || method.full_name().to_owned();
    if path.iter().any(|outer| outer == name) {
        return Err(AnnotationError::Recursive { rpc: rpc(), message: name.to_owned() });
    }
    path.push(name.to_owned());
    for field in within.fields().filter(|field| !is_aside(field)) {
        let unfit = |kind| AnnotationError::Kind { rpc: rpc(), field: field.full_name().to_owned(), kind };
        if field.is_group() {
            return Err(unfit("a group"));
        }
        if let Kind::Message(inner) = field.kind() {
            if inner.full_name() == "google.protobuf.Any" {
                return Err(unfit("an Any"));
            }
            let map = field.is_map().then(|| (inner.map_entry_key_field(), inner.map_entry_value_field()));
            match map {
                Some((key, _)) if key.kind() != Kind::String => {
                    return Err(unfit("a map with keys that are no strings"));
                }
                Some((_, value)) => {
                    if let Kind::Message(value) = value.kind() {
                        message(method, &value, path)?;
                    }
                }
                None => message(method, &inner, path)?,
            }
        }
    }
    path.pop();
    Ok(())
}

/// Values that are said in headers as well (MCP 2026-07-28, Streamable HTTP, "x-mcp-header").
fn headers(method: &MethodDescriptor, about: &HashMap<String, FieldAnnotations>) -> Result<(), AnnotationError> {
    let mut seen = BTreeSet::new();
    for field in method.input().fields() {
        let Some(header) = about.get(field.full_name()).map(|about| &about.header).filter(|header| !header.is_empty())
        else {
            continue;
        };
        let wrong = |why| {
            let (rpc, field) = (method.full_name().to_owned(), field.full_name().to_owned());
            Err(AnnotationError::Header { rpc, field, why })
        };
        if http::HeaderName::try_from(header.as_str()).is_err() {
            return wrong("is no token of RFC 9110");
        }
        if !seen.insert(header.to_ascii_lowercase()) {
            return wrong("is another field's too");
        }
        let single = !field.is_list() && !field.is_map();
        let kind = matches!(
            field.kind(),
            Kind::String | Kind::Bool | Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32
        );
        if !single || !kind {
            return wrong("is only for a single string, bool or integer of 32 bits");
        }
    }
    Ok(())
}
