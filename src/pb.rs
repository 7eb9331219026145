//! The types, the service and the descriptors that `build.rs` makes from `proto/`.
//!
//! Nothing here is written by hand but the shape; read the `.proto` files instead.

/// What the edge asks of any service: the annotations that make an RPC an MCP tool, which of the tools somebody may
/// call, and approvals.
pub mod mcp {
    /// Version 1.
    pub mod v1 {
        #![expect(
            missing_docs,
            unused_qualifications,
            clippy::allow_attributes_without_reason,
            clippy::doc_markdown,
            reason = "generated; the proto file is the documentation"
        )]
        tonic::include_proto!("mcp.v1");
    }
}

/// The product's own service.
pub mod whitelistmcp {
    /// Version 1.
    pub mod v1 {
        #![expect(
            missing_docs,
            unused_qualifications,
            clippy::allow_attributes_without_reason,
            clippy::doc_markdown,
            reason = "generated; the proto file is the documentation"
        )]
        tonic::include_proto!("whitelistmcp.v1");
    }
}

/// The encoded `FileDescriptorSet` of everything in `proto/`, with imports, comments and annotations.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
