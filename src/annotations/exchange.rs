//! What passes between a service and a client beside arguments and results: fields by their types, wherever they stand.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

/// The types of `mcp.v1` that no schema shows.
const ASIDE: [&str; 4] = ["mcp.v1.Client", "mcp.v1.Content", "mcp.v1.InputRequired", "mcp.v1.Notice"];

/// The fields of an RPC's messages that are neither arguments nor structured results.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// In the request: what is known of the client.
    pub client: Option<FieldDescriptor>,
    /// In the response: something on the way to the result.
    pub notice: Option<FieldDescriptor>,
    /// In the response: something that is needed of the client first.
    pub input_required: Option<FieldDescriptor>,
    /// In the response: blocks of content.
    pub content: Vec<FieldDescriptor>,
    /// Whether the response has any other field.
    pub has_results: bool,
}

impl Exchange {
    /// The fields of that RPC.
    pub(super) fn of(method: &MethodDescriptor) -> Self {
        let find = |message: MessageDescriptor, name: &str| message.fields().find(|field| is_message(field, name));
        let (input, output) = (method.input(), method.output());
        Self {
            client: find(input, "mcp.v1.Client"),
            notice: find(output.clone(), "mcp.v1.Notice"),
            input_required: find(output.clone(), "mcp.v1.InputRequired"),
            content: output.fields().filter(|field| is_message(field, "mcp.v1.Content")).collect(),
            has_results: output.fields().any(|field| !is_aside(&field)),
        }
    }
}

/// Whether a field is of a type that no schema shows.
pub fn is_aside(field: &FieldDescriptor) -> bool {
    ASIDE.iter().any(|name| is_message(field, name))
}

fn is_message(field: &FieldDescriptor, name: &str) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == name)
}
