//! Blocks of content as MCP writes them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use crate::mcp::message::text;
use crate::pb::mcp::v1::content::Kind;
use crate::pb::mcp::v1::resource_contents::Body;
use crate::pb::mcp::v1::{Content, Media, PromptMessage, ResourceContents, ResourceLink, Role};

/// A block; nothing for one of a kind that is not known here.
pub(super) fn block(content: Content) -> Option<Value> {
    Some(match content.kind? {
        Kind::Text(words) => text(words),
        Kind::Image(media) => with_data("image", &media),
        Kind::Audio(media) => with_data("audio", &media),
        Kind::ResourceLink(link) => link_to(link),
        Kind::Resource(contents) => json!({"type": "resource", "resource": resource(contents)}),
    })
}

/// What is in a resource.
pub(super) fn resource(contents: ResourceContents) -> Value {
    let mut whole = Map::from_iter([("uri".to_owned(), contents.uri.into())]);
    if !contents.mime_type.is_empty() {
        whole.insert("mimeType".to_owned(), contents.mime_type.into());
    }
    match contents.body {
        Some(Body::Blob(bytes)) => whole.insert("blob".to_owned(), BASE64_STANDARD.encode(bytes).into()),
        Some(Body::Text(text)) => whole.insert("text".to_owned(), text.into()),
        None => whole.insert("text".to_owned(), "".into()),
    };
    whole.into()
}

/// A message of a prompt; nothing for one without content that is known here.
pub(super) fn message(message: PromptMessage) -> Option<Value> {
    let role = if message.role() == Role::Assistant { "assistant" } else { "user" };
    Some(json!({"role": role, "content": block(message.content?)?}))
}

fn with_data(kind: &str, media: &Media) -> Value {
    json!({"type": kind, "data": BASE64_STANDARD.encode(&media.data), "mimeType": media.mime_type})
}

fn link_to(link: ResourceLink) -> Value {
    let mut whole = Map::from_iter([("type".to_owned(), "resource_link".into())]);
    let ResourceLink { uri, name, title, description, mime_type } = link;
    let texts = [("title", title), ("description", description), ("mimeType", mime_type)];
    whole.extend([("uri".to_owned(), uri.into()), ("name".to_owned(), name.into())]);
    whole.extend(
        texts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (name.to_owned(), text.into())),
    );
    whole.into()
}
