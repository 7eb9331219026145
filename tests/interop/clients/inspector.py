"""The Inspector's command line: one process a call, and one store of tokens. Its own OAuth with registration and a browser, or a
header."""

import asyncio
import hashlib
import json
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path

import driver  # noqa: I001  (first: it says where the next one is)
import browser

PROGRAM = Path(os.environ["TOOLS_DIR"]) / "interop-node/node_modules"
CALL_TIMEOUT = 60.0


class Refused(Exception):
    """What the command ended with."""


@asynccontextmanager
async def session(job: dict, login: driver.Login):
    login.challenges = None  # What it hears from the service is its own.
    home = Path(job["home"]) / hashlib.sha256(repr(login).encode()).hexdigest()[:8]
    home.mkdir()
    settings = {**os.environ, "HOME": str(home), "MCP_INSPECTOR_SECRET_STORE": "file", "MCP_AUTO_OPEN_ENABLED": "true"}
    common = ["--server-url", job["url"], "--transport", "http", "--protocol-era", job["mode"], "--format", "json"]
    if login.token:
        common += ["--stored-auth-only", "--header", f"Authorization: Bearer {login.token}"]
    else:
        common += ["--callback-url", f"http://127.0.0.1:{job['port']}/oauth/callback"]

    async def run(*arguments: str) -> dict:
        cli = PROGRAM / "@modelcontextprotocol/inspector/clients/cli/build/index.js"
        child = await asyncio.create_subprocess_exec(
            PROGRAM / ".bin/node", cli, *common, *arguments, env=settings,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said = asyncio.create_task(listen(child.stderr, login.user))
        out = await asyncio.wait_for(child.stdout.read(), CALL_TIMEOUT)
        await child.wait()
        words = await said
        login.tokens = len(kept(home))
        if out:
            return json.loads(out)["result"]
        raise Refused(f"exit {child.returncode}: {words}")

    kept_so_far: set[str] = set()

    def kept(home: Path) -> set[str]:
        for file in home.rglob("*.json"):
            kept_so_far.update(re.findall(r'access_token\\*":\s*\\*"([^"\\]+)', file.read_text()))
        return kept_so_far

    async def tools() -> list[str]:
        return [tool["name"] for tool in (await run("--method", "tools/list"))["tools"]]

    async def call(tool: str, arguments: dict) -> dict:
        result = await run("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments))
        text = "\n".join(block["text"] for block in result["content"] if block["type"] == "text")
        return {"isError": result.get("isError", False), "text": text, "structured": result.get("structuredContent")}

    opened = await run("--method", "initialize")
    server = {name: opened["serverInfo"][name] for name in ("name", "version")}
    yield driver.Session(opened["protocolVersion"], server, opened.get("instructions"), tools, call)


async def listen(stream, user: str | None) -> str:
    """What it says; where it sends somebody to sign in, they do."""
    words = []
    while line := (await stream.readline()).decode():
        if page := line.removeprefix("Please navigate to: ").strip() if line.startswith("Please navigate to: ") else None:
            callback = await asyncio.to_thread(browser.visit, page, user)
            await asyncio.to_thread(browser.deliver, callback)
        elif not line.startswith("[mcp-inspector]"):
            words.append(line.strip())
    return " ".join(words)


if __name__ == "__main__":
    driver.main(session)
