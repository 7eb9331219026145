//! Compiles `proto/` to Rust types and to one descriptor set, without a system `protoc`.
//!
//! The descriptor set is written byte for byte as protox encodes it: re-encoding it through prost's own types would
//! drop the annotations (they are extensions), and with them the tools, their scopes and their IAM actions.

use std::path::PathBuf;

const PROTOS: [&str; 8] = [
    "proto/mcp/v1/annotations.proto",
    "proto/mcp/v1/approvals.proto",
    "proto/mcp/v1/catalogue.proto",
    "proto/mcp/v1/content.proto",
    "proto/mcp/v1/exchange.proto",
    "proto/mcp/v1/offers.proto",
    "proto/whitelistmcp/v1/aws.proto",
    "proto/whitelistmcp/v1/whitelist.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    for proto in PROTOS {
        compiler.open_file(proto)?;
    }
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        .build_transport(false)
        .disable_comments(["."])
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
