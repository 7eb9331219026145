"""One run of the conformance suite's client side: the official Python SDK over stdio, in front of a stdio bridge.

The suite calls this with the URL of its own server as the last word. BRIDGE (JSON, a list of words) is the bridge; whatever it
keeps, it keeps in a directory that goes with the run. What the suite hands a client (`MCP_CONFORMANCE_CONTEXT`) becomes
what a person would have configured."""

import asyncio
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import mcp.types as types
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

URL = sys.argv[-1]
SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
VERSION = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25")
CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
# The one client id by document that the suite takes.
DOCUMENT = "https://conformance-test.local/client-metadata.json"


def issuer() -> str:
    """Whom the server names: a person would have registered their client there."""
    url = urlsplit(URL)
    for path in (url.path, ""):
        try:
            with urllib.request.urlopen(f"{url.scheme}://{url.netloc}/.well-known/oauth-protected-resource{path}") as answer:
                return json.load(answer)["authorization_servers"][0]
        except urllib.error.HTTPError:
            continue
    return f"{url.scheme}://{url.netloc}"


def command(directory: Path) -> list[str]:
    words = json.loads(os.environ["BRIDGE"])
    kind = os.environ["BRIDGE_KIND"]
    words.append(URL)
    if kind == "whitelistmcp":
        words += ["--store", "file", "--timeout", "30"]
        if "client_id" in CONTEXT:
            words += ["--client-id", CONTEXT["client_id"]]
            if "client_secret" in CONTEXT:
                secret = directory / "secret"
                secret.write_text(CONTEXT["client_secret"])
                words += ["--client-secret-file", str(secret), "--issuer", issuer()]
        else:
            words += ["--client-metadata", DOCUMENT]
    elif "client_id" in CONTEXT:
        known = {key: CONTEXT[key] for key in ("client_id", "client_secret") if key in CONTEXT}
        words += ["--static-oauth-client-info", json.dumps(known)]
    return words


async def elicit(_context, params) -> types.ElicitResult:
    """Accepts with every field's default, as a person does who changes nothing."""
    properties = params.requested_schema.get("properties", {})
    content = {name: schema["default"] for name, schema in properties.items() if "default" in schema}
    return types.ElicitResult(action="accept", content=content)


async def sample(_context, _params) -> types.CreateMessageResult:
    return types.CreateMessageResult(role="assistant", model="none", content=types.TextContent(type="text", text="none"))


async def roots(_context) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


def arguments_of(tool) -> dict:
    """Arguments that a schema admits; those that the suite itself names come first."""
    for call in CONTEXT.get("toolCalls", []):
        if call.get("name") == tool.name:
            return call.get("arguments", {})
    values = {"string": "x", "integer": 5, "number": 5, "boolean": True, "array": [], "object": {}}
    schema = tool.input_schema
    properties = schema.get("properties") or {}
    return {name: values.get(part.get("type"), "x") for name, part in properties.items() if isinstance(part, dict)}


async def run(directory: Path) -> None:
    words = command(directory)
    environment = dict(os.environ, HOME=str(directory), XDG_STATE_HOME=str(directory), MCP_REMOTE_CONFIG_DIR=str(directory))
    server = StdioServerParameters(command=words[0], args=words[1:], env=environment)
    mode = "legacy" if VERSION < "2026" else "auto"
    client = Client(server, mode=mode, elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots)
    async with client:
        tools = (await client.list_tools()).tools
        if SCENARIO == "json-schema-2020-12-preservation":
            echo = next(tool for tool in tools if "schema" in (tool.input_schema.get("properties") or {}))
            other = next(tool for tool in tools if tool is not echo)
            await client.call_tool(echo.name, {"schema": other.input_schema})
            return
        print("tools", [tool.name for tool in tools])
        for tool in tools:
            calls = [call for call in CONTEXT.get("toolCalls", []) if call.get("name") == tool.name]
            for arguments in [call.get("arguments", {}) for call in calls] or [arguments_of(tool)]:
                result = await client.call_tool(tool.name, arguments)
                print(tool.name, result.content[:1])
        if SCENARIO == "http-standard-headers":
            for resource in (await client.list_resources()).resources:
                await client.read_resource(str(resource.uri))
            for prompt in (await client.list_prompts()).prompts:
                await client.get_prompt(prompt.name)


def leaf(error: BaseException) -> BaseException:
    return leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        try:
            asyncio.run(asyncio.wait_for(run(Path(directory)), 35))
        except BaseException as error:  # noqa: BLE001
            print(f"{type(leaf(error)).__name__}: {leaf(error)}", file=sys.stderr)
            return 1
    return 0


sys.exit(main())
