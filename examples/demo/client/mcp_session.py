#!/usr/bin/env python3
"""MCP as its users speak it: the official Python SDK, with its own OAuth client and a browser without a person.

    mcp_session.py URL [--user NAME | --token TOKEN] [--mode auto|legacy|2026-07-28] list
    mcp_session.py URL … call TOOL [ARGUMENTS_AS_JSON]
    mcp_session.py URL … lines

`lines` keeps one session open for many calls: it reads {"tool": NAME, "arguments": {…}} or {"list": true}, one a line,
and answers each with one line, which is {"error": …} where the server refused.

As a library: `async with connect(url, user="alice") as client`, then the SDK's own `Client`, or `list_tools` and
`call` below. `mode` decides how a session opens: `legacy` is the initialize handshake, a revision such as 2026-07-28
goes without one, and `auto` asks the server and falls back.
"""

import argparse
import asyncio
import json
import logging
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import httpx2
from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.exceptions import MCPError

import browser

REDIRECT_URI = "http://127.0.0.1:1/callback"  # Never opened, see login.py.
TIMEOUT = 30.0


@asynccontextmanager
async def connect(
    url: str,
    *,
    user: str = "alice",
    token: str | None = None,
    client_id: str | None = "demo",
    mode: str = "auto",
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Client]:
    """A session with the MCP server at `url`: with `token` as it stands, else logged in as `user` when the server asks
    for it. `client_id` is known to the provider beforehand; None makes the SDK register itself."""
    headers = dict(headers or {})
    auth = None
    if token is None:
        auth = oauth(url, user, client_id)
    else:
        headers["Authorization"] = f"Bearer {token}"
    # Python's own default trust, because that honours SSL_CERT_FILE; and no proxies, because everything is on loopback.
    trust = ssl.create_default_context()
    async with httpx2.AsyncClient(headers=headers, auth=auth, timeout=TIMEOUT, verify=trust, trust_env=False) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=TIMEOUT) as client:
            yield client


def oauth(url: str, user: str, client_id: str | None = "demo") -> OAuthClientProvider:
    """The SDK's own OAuth client, whose browser signs in as `user`."""
    callbacks: list[str] = []

    async def open_browser(authorization_url: str) -> None:
        callbacks.append(await asyncio.to_thread(browser.visit, authorization_url, user))

    async def callback() -> AuthorizationCodeResult:
        answer = {name: values[0] for name, values in parse_qs(urlsplit(callbacks.pop()).query).items()}
        if "error" in answer:
            raise PermissionError(f"the provider refused: {answer['error']}: {answer.get('error_description', '')}")
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

    metadata = OAuthClientMetadata(
        client_name="Demo client",
        redirect_uris=[REDIRECT_URI],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="none",
    )
    return OAuthClientProvider(url, metadata, Memory(client_id), open_browser, callback)


class Memory:
    """The SDK's store of tokens and registration, for one session."""

    def __init__(self, client_id: str | None) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        if client_id is not None:
            self.client = OAuthClientInformationFull(
                client_id=client_id, redirect_uris=[REDIRECT_URI], token_endpoint_auth_method="none"
            )

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


async def list_tools(client: Client) -> list[dict]:
    """Every tool, as the server describes it."""
    tools, cursor = [], None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return tools


async def call(client: Client, tool: str, arguments: dict | None = None) -> dict:
    """Calls a tool: {"isError", "structuredContent", "text"}."""
    result = await client.call_tool(tool, arguments or {})
    return {
        "isError": result.is_error,
        "structuredContent": result.structured_content,
        "text": "\n".join(block.text for block in result.content if block.type == "text"),
    }


async def listing(client: Client) -> dict:
    return {"protocolVersion": client.protocol_version, "tools": await list_tools(client)}


async def answer_lines(client: Client) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        question = json.loads(line)
        try:
            if question.get("list"):
                answer = await listing(client)
            else:
                answer = await call(client, question["tool"], question.get("arguments"))
        except MCPError as error:
            answer = {"error": {"code": error.code, "message": error.message, "data": error.data}}
        print(json.dumps(answer), flush=True)


async def run(asked: argparse.Namespace) -> int:
    async with connect(asked.url, user=asked.user, token=asked.token, client_id=asked.client_id, mode=asked.mode) as client:
        if asked.action == "lines":
            await answer_lines(client)
            return 0
        if asked.action == "list":
            print(json.dumps(await listing(client), indent=2))
            return 0
        outcome = await call(client, asked.tool, json.loads(asked.arguments))
        print(json.dumps(outcome, indent=2))
        return 1 if outcome["isError"] else 0


def root_cause(error: BaseException) -> BaseException:
    """The SDK runs in task groups, which wrap what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> int:
    parser = argparse.ArgumentParser(description="List or call an MCP server's tools through the official Python SDK.")
    parser.add_argument("url")
    parser.add_argument("--user", default="alice")
    parser.add_argument("--token", help="a bearer token, instead of a login")
    parser.add_argument("--client-id", default="demo", help="empty: register dynamically")
    parser.add_argument("--mode", default="auto")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list")
    actions.add_parser("lines")
    calling = actions.add_parser("call")
    calling.add_argument("tool")
    calling.add_argument("arguments", nargs="?", default="{}")
    asked = parser.parse_args()
    asked.client_id = asked.client_id or None
    logging.disable(logging.CRITICAL)  # The SDK logs a stack trace of what is raised below anyway.
    try:
        return asyncio.run(run(asked))
    except Exception as error:
        cause = root_cause(error)
        print(f"mcp_session.py: {type(cause).__name__}: {cause}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
