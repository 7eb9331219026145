#!/usr/bin/env python3
"""A service that opens a security group for a while, looks, and closes it again, by gRPC over mTLS.

    client.py HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT

The messages come from the core itself, by reflection; stubs that were generated from proto/ serve as well.
"""

import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "whitelistmcp.v1.WhitelistService"
# How long one call may take, in seconds. The core ends it after 60 whatever a caller says.
CALL_TIMEOUT = 20
# How often, and for how long, a call that was told to come back does so.
ATTEMPTS = 4
PATIENCE = 60


def main() -> int:
    if len(sys.argv) != 8:
        print("usage: client.py HOST:PORT CA CERTIFICATE KEY GROUP ADDRESS PORT", file=sys.stderr)
        return 2
    target, ca, certificate, key, group, address, port = sys.argv[1:]
    # The core's CA alone is trusted, and the certificate says which service this is.
    credentials = grpc.ssl_channel_credentials(*(Path(name).read_bytes() for name in (ca, key, certificate)))
    with grpc.secure_channel(target, credentials) as channel:
        try:
            call = caller(channel)
            # The same word with every attempt: the change is made once, however often it is sent.
            opened = call(
                "AddRule", security_group=group, address=address, port=port, reason="example client in Python", duration="30m",
                idempotency_key=f"python-{uuid.uuid4().hex}",
            )
            print(f"add: {opened.outcome} {opened.rule.rule_id} until {opened.until}")
            checked = call("CheckAccess", security_group=group, address=address, port=port)
            print(f"check: {checked.verdict}")
            listed = call("ListRules", security_group=group, managed_only=True)
            print(f"list: {listed.total}")
            removed = call("RemoveRules", security_group=group, rule_id=opened.rule.rule_id, reason="done")
            print(f"remove: {removed.outcome}")
        except grpc.RpcError as error:
            explain(error)
            return 1
    return 0


def caller(channel: grpc.Channel) -> Callable[..., Any]:
    """What calls an RPC by its name and the fields of its request."""
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName(SERVICE)

    def call(rpc: str, **fields: object) -> Any:
        method = service.FindMethodByName(rpc)
        request = message_factory.GetMessageClass(method.input_type)(**fields)
        answer = message_factory.GetMessageClass(method.output_type)
        send = channel.unary_unary(f"/{SERVICE}/{rpc}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)
        return again(lambda: send(request, timeout=CALL_TIMEOUT))

    return call


def again(send: Callable[[], Any]) -> Any:
    """Makes a call, and makes it again where the core says when that may help."""
    end = time.monotonic() + PATIENCE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return send()
        except grpc.RpcError as error:
            retry = next((detail for detail in details(error) if isinstance(detail, error_details_pb2.RetryInfo)), None)
            wait = retry.retry_delay.ToTimedelta().total_seconds() if retry else 0
            if retry is None or attempt == ATTEMPTS or time.monotonic() + wait > end:
                raise
            print(f"told to come back in {wait:g} s", file=sys.stderr)
            time.sleep(wait)


def details(error: grpc.RpcError) -> list[Any]:
    """What the status carries besides its code and its words."""
    found = []
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                    if packed.Is(kind.DESCRIPTOR):
                        packed.Unpack(detail := kind())
                        found.append(detail)
    return found


def explain(error: grpc.RpcError) -> None:
    """Prints what a program can act on: the class, the stable reason, the field that is wrong."""
    print(f"{error.code().name}: {error.details()}", file=sys.stderr)
    for detail in details(error):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            print(f"reason: {detail.reason}", file=sys.stderr)
        elif isinstance(detail, error_details_pb2.BadRequest):
            for violation in detail.field_violations:
                print(f"field: {violation.field}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
