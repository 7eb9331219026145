#!/usr/bin/env python3
"""Starts what the demo starts, and stays: prints where everything is, and ends at Ctrl-C.

    WHITELISTMCP=path/to/whitelistmcp sandbox.py
"""

import json
import shutil
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stack import CHECKOUT, HERE, TOOLS, NotReady, Stack  # noqa: E402

DIRECTORY = CHECKOUT / ".sandbox"


def main() -> int:
    # A sandbox that was killed leaves its files, and they are for looking at only until the next one.
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(0))
    try:
        with Stack(DIRECTORY, edge_port=8080 if free(8080) else 0, core_port=8443 if free(8443) else 0) as stack:
            print(welcome(stack), flush=True)
            signal.pause()
    except NotReady as error:
        print(f"sandbox.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nEnding; nothing is left running.")
    return 0


def free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def welcome(stack: Stack) -> str:
    ca = stack.certs / "ca.pem"
    token = f"SSL_CERT_FILE={ca} python3 {HERE / 'client/login.py'} {stack.url} --user alice"
    question = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whitelist_list", "arguments": {"security_group": "staging-db"}}})
    desktop = stack.once([stack.binary, "bridge", stack.url, "--ca", ca, "--print-config"])
    groups, opted_in = (", ".join(f"{name} ({group})" for name, group in stack.aws[kind].items()) for kind in ("groups", "opted_in"))
    certificate = f"--cacert {ca} --cert {stack.certs / 'ci-runner.pem'} --key {stack.certs / 'ci-runner.key'}"
    call = "whitelistmcp.v1.WhitelistService/ListRules"
    return f"""\
Running. Ctrl-C ends it.

  MCP endpoint     {stack.url}
  gRPC             localhost:{stack.core_port}, by client certificate
  OpenID provider  {stack.issuer} (any name, any password)
  AWS emulator     {stack.aws_endpoint} (moto), account {stack.aws["account"]}, {stack.aws["region"]}
  groups           {groups}
  by their tag     {opted_in}
  CA certificate   {ca}
  audit journal    {stack.journal}
  telemetry        {stack.telemetry}
  logs             {stack.directory}/*.log

A token for alice:

  TOKEN=$({token})

A call by hand:

  curl --cacert {ca} -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    {stack.url} -d '{question}'

The same by gRPC, as a program with a certificate:

  {TOOLS / 'node/node_modules/.bin/buf'} curl --protocol grpc {certificate} \\
    -d '{{"security_group":"staging-db"}}' https://localhost:{stack.core_port}/{call}

Claude Desktop (claude_desktop_config.json; it logs in with your browser):

{desktop}
"""


if __name__ == "__main__":
    sys.exit(main())
