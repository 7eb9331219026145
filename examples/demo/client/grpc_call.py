#!/usr/bin/env python3
"""An internal service: calls the core straight over gRPC, with a client certificate and no token.

    grpc_call.py HOST:PORT METHOD ARGUMENTS_AS_JSON --ca FILE [--certificate FILE --key FILE]

It knows no schema beforehand: the core's own reflection tells. Prints {"ok": ANSWER} or {"error": {code, reason,
message}}.
"""

import argparse
import json
import sys
from pathlib import Path

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "whitelistmcp.v1.WhitelistService"
TIMEOUT = 20.0


def call(address: str, method: str, arguments: dict, ca: Path, certificate: Path | None, key: Path | None) -> dict:
    read = lambda path: path.read_bytes() if path else None
    credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(certificate))
    with grpc.secure_channel(address, credentials) as channel:
        try:
            pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
            about = pool.FindServiceByName(SERVICE).FindMethodByName(method)
            request = json_format.ParseDict(arguments, message_factory.GetMessageClass(about.input_type)())
            answer = channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_factory.GetMessageClass(about.output_type).FromString,
            )(request, timeout=TIMEOUT)
            return {"ok": json_format.MessageToDict(answer, preserving_proto_field_name=True)}
        except grpc.RpcError as error:
            return {"error": {"code": error.code().name, "reason": reason(error), "message": error.details()}}


def reason(error: grpc.RpcError) -> str:
    """The stable reason in the status's `google.rpc.ErrorInfo`."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Call the core over gRPC with a client certificate.")
    parser.add_argument("address")
    parser.add_argument("method")
    parser.add_argument("arguments", type=json.loads)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--certificate", type=Path)
    parser.add_argument("--key", type=Path)
    asked = parser.parse_args()
    print(json.dumps(call(asked.address, asked.method, asked.arguments, asked.ca, asked.certificate, asked.key)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
