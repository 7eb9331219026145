#!/usr/bin/env python3
"""A client that starts its servers itself, as Claude Desktop does, with the official Python SDK.

    mcp_desktop.py CONFIG SERVER [--mode auto|legacy|2026-07-28]

CONFIG is a file of the form of `claude_desktop_config.json`, and SERVER one of its entries. It reads questions and answers
them as `mcp_session.py … lines` does: {"tool": NAME, "arguments": {…}} or {"list": true}, one a line.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

import mcp_session


async def run(asked: argparse.Namespace) -> int:
    entry = json.loads(Path(asked.config).read_text())["mcpServers"][asked.server]
    # Nothing of this process's own environment but what the SDK passes on, and not in its directory: an entry is whole.
    server = StdioServerParameters(command=entry["command"], args=entry.get("args", []), env=entry.get("env"), cwd="/")
    with open(os.devnull, "w") as nowhere:
        errors = sys.stderr if asked.verbose else nowhere
        async with Client(stdio_client(server, errlog=errors), mode=asked.mode, read_timeout_seconds=mcp_session.TIMEOUT) as client:
            await mcp_session.answer_lines(client)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Call a server's tools as a client that starts its servers itself.")
    parser.add_argument("config")
    parser.add_argument("server")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--verbose", action="store_true", help="show what the server says on stderr")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    try:
        return asyncio.run(run(asked))
    except Exception as error:
        cause = mcp_session.root_cause(error)
        print(f"mcp_desktop.py: {type(cause).__name__}: {cause}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
