//! What a descriptor set says of its tools: the `mcp.v1` annotations, read once and checked.
//!
//! Both sides read the same: the edge makes its tool list of it, the core the scopes that it asks for. Nothing here
//! knows of any product.

use std::collections::{BTreeMap, HashMap};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FileDescriptor, MethodDescriptor, ServiceDescriptor};

use crate::identity::scope::Hierarchy;
use crate::pb::mcp::v1::{FieldAnnotations, ServiceAnnotations, ToolAnnotations};

/// The tools of a descriptor set, in the order of the proto.
#[derive(Clone, Debug)]
pub struct Annotations {
    tools: Vec<ToolSpec>,
    instructions: String,
    scopes: Hierarchy,
    refused: BTreeMap<String, String>,
    fields: HashMap<String, FieldAnnotations>,
}

/// One annotated RPC.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// The annotation.
    pub annotations: ToolAnnotations,
    /// The RPC's comment.
    pub description: String,
    /// The RPC.
    pub method: MethodDescriptor,
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
    /// A tool whose scope the service does not declare.
    #[error("the tool `{0}` asks for a scope that its service does not declare")]
    Scope(String),
}

impl Annotations {
    /// Reads every annotated RPC of a descriptor set.
    pub fn read(descriptor_set: &[u8]) -> Result<Self, AnnotationError> {
        let pool = DescriptorPool::decode(descriptor_set)?;
        let extension = |name| pool.get_extension_by_name(name).ok_or(AnnotationError::NoAnnotations);
        let (of_service, of_tool, field) =
            (extension("mcp.v1.service")?, extension("mcp.v1.tool")?, extension("mcp.v1.field")?);
        let mut read = Self {
            tools: Vec::new(),
            instructions: String::new(),
            scopes: Hierarchy::default(),
            refused: BTreeMap::new(),
            fields: fields(&pool, &field),
        };
        let mut scopes = Vec::new();
        for service in pool.services() {
            read.service(&service, &of_service, &of_tool, &mut scopes)?;
        }
        read.scopes = Hierarchy::new(scopes);
        if let Some(tool) =
            read.tools.iter().find(|tool| !read.scopes.scopes().any(|scope| scope == tool.annotations.scope))
        {
            return Err(AnnotationError::Scope(tool.annotations.name.clone()));
        }
        Ok(read)
    }

    fn service(
        &mut self,
        service: &ServiceDescriptor,
        of_service: &ExtensionDescriptor,
        of_tool: &ExtensionDescriptor,
        scopes: &mut Vec<(String, Vec<String>)>,
    ) -> Result<(), AnnotationError> {
        let malformed = |name: &str| AnnotationError::Malformed(name.to_owned());
        let options = service.options();
        if options.has_extension(of_service) {
            let value = options.get_extension(of_service);
            let annotations: ServiceAnnotations = value
                .as_message()
                .and_then(|message| message.transcode_to().ok())
                .ok_or_else(|| malformed(service.full_name()))?;
            self.instructions.push_str(&annotations.instructions);
            scopes.extend(annotations.scopes.into_iter().map(|scope| (scope.name, scope.includes)));
            self.refused.extend(annotations.refused.into_iter().flat_map(|refused| {
                let message = refused.message;
                refused.names.into_iter().map(move |name| (name, message.clone()))
            }));
        }
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(of_tool) {
                continue;
            }
            let value = options.get_extension(of_tool);
            let annotations: ToolAnnotations = value
                .as_message()
                .and_then(|message| message.transcode_to().ok())
                .ok_or_else(|| malformed(method.full_name()))?;
            let name = &annotations.name;
            if !(1..=64).contains(&name.len())
                || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            {
                return Err(AnnotationError::Name(name.clone()));
            }
            if self.find(name).is_some() {
                return Err(AnnotationError::Twice(name.clone()));
            }
            let description = comment(&method.parent_file(), method.path());
            self.tools.push(ToolSpec { annotations, description, method });
        }
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
