"""mcp-remote, the bridge most people use today: a client on stdin and stdout (the Python SDK) starts it, and it speaks to the
service. Its own OAuth with registration and a browser, its own client credentials, or a header."""

import asyncio
import hashlib
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

import driver
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from python_sdk import opened

PROGRAM = Path(os.environ["TOOLS_DIR"]) / "interop-node/node_modules"

# What it writes when a 401 makes it log in.
ACTS = "Authorizing with the scope the server asked for: whitelist:read whitelist:write"

# What it writes when the service speaks a later revision than its client.
SPEAKS = "Remote server speaks MCP "


def said() -> list[str]:
    return Path(os.environ["INTEROP_LOG"]).read_text().splitlines()


@asynccontextmanager
async def session(job: dict, login: driver.Login):
    login.challenges = None  # What it hears from the service is its own.
    # Sessions of one person share what it stores; here each is a person of its own.
    state = Path(job["home"]) / hashlib.sha256(repr(login).encode()).hexdigest()[:8]
    state.mkdir()
    arguments = [str(PROGRAM / "mcp-remote/dist/proxy.js"), job["url"], str(job["port"]), "--protocol", job["mode"], "--auth-timeout", "60"]
    settings = {"MCP_REMOTE_CONFIG_DIR": str(state), "INTEROP_USER": login.user or job["brief_person"]}
    if login.program:
        settings["SECRET"] = f"{login.program}-secret"
        known = json.dumps({"client_id": login.program, "client_secret": "${SECRET}"})
        arguments += ["--client-credentials", "--static-oauth-client-info", known]
    elif login.token:
        settings["BEARER"] = f"Bearer {login.token}"
        arguments += ["--header", "Authorization:${BEARER}"]
    log = open(os.environ["INTEROP_LOG"], "a")
    bridge = StdioServerParameters(command=str(PROGRAM / ".bin/node"), args=arguments, env={**os.environ, **settings})
    async with Client(stdio_client(bridge, errlog=log), mode="legacy", read_timeout_seconds=60) as client:
        session = opened(client)
        # Its own client is of 2025; which revision it speaks to the service, it says in its log.
        session.revision = next((line.split("MCP ")[1].split(";")[0] for line in said() if SPEAKS in line), session.revision)
        call = session.call

        async def noted(tool: str, arguments: dict) -> dict:
            try:
                answer = await call(tool, arguments)
            except Exception as error:
                acts = [line for line in said() if ACTS in line]
                if login.token and acts:  # It leaves the header and logs in; what it sends then is its own affair.
                    raise ConnectionRefusedError(f"{error}; {acts[-1]}") from error
                raise
            kept.update(json.loads(file.read_text())["access_token"] for file in state.rglob("*_tokens.json"))
            login.tokens = len(kept)
            return answer

        kept: set[str] = set()
        session.call = noted
        yield session


if __name__ == "__main__":
    driver.main(session)
