//! What a descriptor set says of its tools, resources and prompts: the `mcp.v1` annotations, read once and checked.
//!
//! Both sides read the same: the edge makes its lists of it, the core the scopes that it asks for. Nothing here knows of
//! any product.

mod exchange;
mod sound;

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor};

use crate::identity::scope::Hierarchy;
use crate::mcp::template::Template;
use crate::pb::mcp::v1::{
    FieldAnnotations, PromptAnnotations, ResourceAnnotations, ServiceAnnotations, ToolAnnotations, Watched,
};

pub use exchange::{Exchange, is_aside};

/// The tools, resources and prompts of a descriptor set, in the order of the proto.
#[derive(Clone, Debug)]
pub struct Annotations {
    tools: Vec<ToolSpec>,
    resources: Vec<ResourceSpec>,
    prompts: Vec<PromptSpec>,
    completes: Option<MethodDescriptor>,
    watches: Option<MethodDescriptor>,
    watched: Vec<Watched>,
    logs: bool,
    title: String,
    instructions: String,
    scopes: Hierarchy,
    refused: BTreeMap<String, String>,
    fields: HashMap<String, FieldAnnotations>,
}

/// One RPC that is a tool.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// The annotation.
    pub annotations: ToolAnnotations,
    /// The RPC's comment.
    pub description: String,
    /// The RPC.
    pub method: MethodDescriptor,
    /// What passes beside its arguments and results.
    pub exchange: Exchange,
}

/// One RPC that reads a resource, or those of a template.
#[derive(Clone, Debug)]
pub struct ResourceSpec {
    /// The annotation.
    pub annotations: ResourceAnnotations,
    /// The RPC's comment.
    pub description: String,
    /// The RPC.
    pub method: MethodDescriptor,
    /// What passes beside its arguments and results.
    pub exchange: Exchange,
    /// The URI, with variables or without.
    pub template: Template,
}

/// One RPC that makes a prompt.
#[derive(Clone, Debug)]
pub struct PromptSpec {
    /// The annotation.
    pub annotations: PromptAnnotations,
    /// The RPC's comment.
    pub description: String,
    /// The RPC.
    pub method: MethodDescriptor,
    /// What passes beside its arguments and results.
    pub exchange: Exchange,
}

/// Annotations that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AnnotationError {
    /// Not a descriptor set.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// No `mcp.v1` annotations in it.
    #[error("the descriptor set does not hold mcp/v1/annotations.proto")]
    NoAnnotations,
    /// An annotation that is malformed.
    #[error("the annotation of {0} cannot be read")]
    Malformed(String),
    /// A tool's name that some clients refuse, and their whole list with it.
    #[error("the tool name `{0}` is not 1 to 64 of A-Z a-z 0-9 _ and -")]
    Name(String),
    /// Two tools of one name.
    #[error("the tool name `{0}` is given twice")]
    Twice(String),
    /// Something whose scope the service does not declare.
    #[error("`{0}` asks for a scope that its service does not declare")]
    Scope(String),
    /// An RPC that takes a stream.
    #[error("{0} takes a stream of requests, and a client sends one")]
    Streams(String),
    /// A resource's URI.
    #[error("the resource {rpc} must have either `uri` or `uri_template`: {why}")]
    Uri {
        /// The RPC.
        rpc: String,
        /// What is wrong.
        why: String,
    },
    /// Arguments that no resource or prompt can have.
    #[error("{rpc}: the field `{field}` must be a single string, as every variable and every argument of a prompt is")]
    Argument {
        /// The RPC.
        rpc: String,
        /// The field.
        field: String,
    },
    /// Messages of another shape than the option wants.
    #[error("{rpc} must take {takes} and answer {answers}")]
    Shape {
        /// The RPC.
        rpc: String,
        /// What it must take.
        takes: &'static str,
        /// What it must answer.
        answers: &'static str,
    },
    /// A message that holds itself.
    #[error("{rpc}: the message {message} holds itself, which no schema here can say")]
    Recursive {
        /// The RPC.
        rpc: String,
        /// The message.
        message: String,
    },
    /// A type that has no place in arguments or results.
    #[error("{rpc}: the field {field} is {kind}, which is not carried")]
    Kind {
        /// The RPC.
        rpc: String,
        /// The field.
        field: String,
        /// What it is.
        kind: &'static str,
    },
    /// `header` where it cannot be.
    #[error("{rpc}: `header` of the field {field} {why}")]
    Header {
        /// The RPC.
        rpc: String,
        /// The field.
        field: String,
        /// Why.
        why: &'static str,
    },
}

/// The options of `mcp.v1`.
struct Options {
    service: ExtensionDescriptor,
    tool: ExtensionDescriptor,
    resource: Option<ExtensionDescriptor>,
    prompt: Option<ExtensionDescriptor>,
    completes: Option<ExtensionDescriptor>,
    watches: Option<ExtensionDescriptor>,
}

impl Annotations {
    /// Reads every annotated RPC of a descriptor set.
    pub fn read(descriptor_set: &[u8]) -> Result<Self, AnnotationError> {
        let pool = DescriptorPool::decode(descriptor_set)?;
        let extension = |name| pool.get_extension_by_name(name);
        let needed = |name| extension(name).ok_or(AnnotationError::NoAnnotations);
        let options = Options {
            service: needed("mcp.v1.service")?,
            tool: needed("mcp.v1.tool")?,
            resource: extension("mcp.v1.resource"),
            prompt: extension("mcp.v1.prompt"),
            completes: extension("mcp.v1.completes"),
            watches: extension("mcp.v1.watches"),
        };
        let mut read = Self {
            tools: Vec::new(),
            resources: Vec::new(),
            prompts: Vec::new(),
            completes: None,
            watches: None,
            watched: Vec::new(),
            logs: false,
            title: String::new(),
            instructions: String::new(),
            scopes: Hierarchy::default(),
            refused: BTreeMap::new(),
            fields: fields(&pool, &needed("mcp.v1.field")?),
        };
        let mut scopes = Vec::new();
        for service in pool.services() {
            read.service(&service, &options, &mut scopes)?;
        }
        read.scopes = Hierarchy::new(scopes);
        let asked = read.tools.iter().map(|tool| (&tool.annotations.name, &tool.annotations.scope));
        let asked = asked
            .chain(read.resources.iter().map(|resource| (&resource.annotations.name, &resource.annotations.scope)))
            .chain(read.prompts.iter().map(|prompt| (&prompt.annotations.name, &prompt.annotations.scope)));
        for (name, scope) in asked {
            if !read.scopes.scopes().any(|known| known == scope) {
                return Err(AnnotationError::Scope(name.clone()));
            }
        }
        Ok(read)
    }

    fn service(
        &mut self,
        service: &ServiceDescriptor,
        options: &Options,
        scopes: &mut Vec<(String, Vec<String>)>,
    ) -> Result<(), AnnotationError> {
        if let Some(annotations) =
            option::<ServiceAnnotations>(&service.options(), Some(&options.service), service.full_name())?
        {
            self.instructions.push_str(&annotations.instructions);
            self.title.push_str(&annotations.title);
            self.logs |= annotations.logs;
            self.watched.extend(annotations.watched());
            scopes.extend(annotations.scopes.into_iter().map(|scope| (scope.name, scope.includes)));
            self.refused.extend(annotations.refused.into_iter().flat_map(|refused| {
                let message = refused.message;
                refused.names.into_iter().map(move |name| (name, message.clone()))
            }));
        }
        for method in service.methods() {
            let (of_method, name) = (method.options(), method.full_name());
            if let Some(annotations) = option(&of_method, Some(&options.tool), name)? {
                self.tool(annotations, &method)?;
            }
            if let Some(annotations) = option(&of_method, options.resource.as_ref(), name)? {
                self.resource(annotations, &method)?;
            }
            if let Some(annotations) = option(&of_method, options.prompt.as_ref(), name)? {
                self.prompt(annotations, &method)?;
            }
            if is_set(&of_method, options.completes.as_ref()) {
                sound::shape(&method, "mcp.v1.CompleteRequest", "mcp.v1.CompleteResponse")?;
                self.completes = Some(method.clone());
            }
            if is_set(&of_method, options.watches.as_ref()) {
                sound::shape(&method, "mcp.v1.WatchRequest", "a stream of mcp.v1.Changed")?;
                self.watches = Some(method.clone());
            }
        }
        Ok(())
    }

    fn tool(&mut self, annotations: ToolAnnotations, method: &MethodDescriptor) -> Result<(), AnnotationError> {
        let name = &annotations.name;
        if !is_name(name) {
            return Err(AnnotationError::Name(name.clone()));
        }
        if self.find(name).is_some() {
            return Err(AnnotationError::Twice(name.clone()));
        }
        sound::tool(method, &self.fields)?;
        let (description, exchange) = (comment(&method.parent_file(), method.path()), Exchange::of(method));
        self.tools.push(ToolSpec { annotations, description, method: method.clone(), exchange });
        Ok(())
    }

    fn resource(&mut self, annotations: ResourceAnnotations, method: &MethodDescriptor) -> Result<(), AnnotationError> {
        let template = sound::resource(&annotations, method)?;
        let (description, exchange) = (comment(&method.parent_file(), method.path()), Exchange::of(method));
        self.resources.push(ResourceSpec { annotations, description, method: method.clone(), exchange, template });
        Ok(())
    }

    fn prompt(&mut self, annotations: PromptAnnotations, method: &MethodDescriptor) -> Result<(), AnnotationError> {
        let name = &annotations.name;
        if !is_name(name) {
            return Err(AnnotationError::Name(name.clone()));
        }
        if self.prompts.iter().any(|prompt| prompt.annotations.name == *name) {
            return Err(AnnotationError::Twice(name.clone()));
        }
        sound::prompt(method)?;
        let (description, exchange) = (comment(&method.parent_file(), method.path()), Exchange::of(method));
        self.prompts.push(PromptSpec { annotations, description, method: method.clone(), exchange });
        Ok(())
    }

    /// The tools.
    pub fn tools(&self) -> &[ToolSpec] {
        &self.tools
    }

    /// The tool of that name.
    pub fn find(&self, name: &str) -> Option<&ToolSpec> {
        self.tools.iter().find(|tool| tool.annotations.name == name)
    }

    /// The resources and resource templates.
    pub fn resources(&self) -> &[ResourceSpec] {
        &self.resources
    }

    /// The prompts.
    pub fn prompts(&self) -> &[PromptSpec] {
        &self.prompts
    }

    /// The RPC that completes arguments, if there is one.
    pub fn completes(&self) -> Option<&MethodDescriptor> {
        self.completes.as_ref()
    }

    /// The RPC that tells of changes, if there is one.
    pub fn watches(&self) -> Option<&MethodDescriptor> {
        self.watches.as_ref()
    }

    /// Whether changes of that are told.
    pub fn watched(&self, what: Watched) -> bool {
        self.watches.is_some() && self.watched.contains(&what)
    }

    /// Whether any of the RPCs writes lines for the client's log.
    pub fn logs(&self) -> bool {
        self.logs
    }

    /// Whether any of the RPCs may need something of the client before it answers.
    pub fn asks(&self) -> bool {
        let tools = self.tools.iter().map(|tool| &tool.exchange);
        let resources = self.resources.iter().map(|resource| &resource.exchange);
        let prompts = self.prompts.iter().map(|prompt| &prompt.exchange);
        tools.chain(resources).chain(prompts).any(|exchange| exchange.input_required.is_some())
    }

    /// A name for people of it all; empty where none is given.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// What the tools are for, told to the model.
    pub fn instructions(&self) -> &str {
        &self.instructions
    }

    /// The scopes that the tools ask for, and which of them hold others.
    pub fn scopes(&self) -> &Hierarchy {
        &self.scopes
    }

    /// Argument names that are refused with a sentence of their own: the bare name in lower case, and the sentence.
    pub fn refused(&self) -> &BTreeMap<String, String> {
        &self.refused
    }

    /// The limits of a field; none for a field without an annotation.
    pub fn field(&self, field: &prost_reflect::FieldDescriptor) -> Option<&FieldAnnotations> {
        self.fields.get(field.full_name())
    }
}

/// A name that every client takes.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// An option that is a message, if it is set.
fn option<T: prost::Message + Default>(
    options: &prost_reflect::DynamicMessage,
    extension: Option<&ExtensionDescriptor>,
    of: &str,
) -> Result<Option<T>, AnnotationError> {
    let Some(extension) = extension.filter(|extension| options.has_extension(extension)) else {
        return Ok(None);
    };
    let value = options.get_extension(extension);
    let read = value.as_message().and_then(|message| message.transcode_to().ok());
    read.map(Some).ok_or_else(|| AnnotationError::Malformed(of.to_owned()))
}

/// Whether an option that is true or false is true.
fn is_set(options: &prost_reflect::DynamicMessage, extension: Option<&ExtensionDescriptor>) -> bool {
    extension.is_some_and(|extension| options.get_extension(extension).as_bool().unwrap_or_default())
}

/// The annotation of every field that has one. Decoding options for each call would cost more than the call's own
/// message.
fn fields(pool: &DescriptorPool, extension: &ExtensionDescriptor) -> HashMap<String, FieldAnnotations> {
    let all = pool.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    let annotated = all.filter_map(|field| {
        let options = field.options();
        let value = options.has_extension(extension).then(|| options.get_extension(extension))?;
        Some((field.full_name().to_owned(), value.as_message()?.transcode_to().ok()?))
    });
    annotated.collect()
}

/// The comment that stands before an element of a proto file, as one line.
pub fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let locations =
        file.file_descriptor_proto().source_code_info.as_ref().map(|info| info.location.as_slice()).unwrap_or_default();
    let comment = locations
        .iter()
        .find(|location| location.path == path)
        .map(prost_types::source_code_info::Location::leading_comments);
    comment.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
