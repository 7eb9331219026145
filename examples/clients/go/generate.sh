#!/usr/bin/env bash
# Generates the stubs below GOPATH_DIRECTORY, in the package that main.go imports.
#
#   generate.sh GOPATH_DIRECTORY
#
# Wants protoc and protoc-gen-go with its plugin for gRPC: Debian 12's protobuf-compiler and protoc-gen-go-1-3.
set -euo pipefail
proto=$(cd "$(dirname "$0")/../../../proto" && pwd)
pb=whitelistmcp.example/pb
mapped="Mwhitelistmcp/v1/whitelist.proto=$pb/whitelistmcp/v1,Mwhitelistmcp/v1/aws.proto=$pb/whitelistmcp/v1,Mmcp/v1/annotations.proto=$pb/mcp/v1"
# Where that plugin's own library has it; a newer one needs no such word.
mapped+=",Mgoogle/protobuf/descriptor.proto=github.com/golang/protobuf/protoc-gen-go/descriptor"
mkdir -p "$1/src/$pb"
# One call for each package.
protoc -I "$proto" --go_out="plugins=grpc,paths=source_relative,$mapped:$1/src/$pb" whitelistmcp/v1/whitelist.proto whitelistmcp/v1/aws.proto
protoc -I "$proto" --go_out="plugins=grpc,paths=source_relative,$mapped:$1/src/$pb" mcp/v1/annotations.proto
