"""FastMCP's client: its own OAuth, with registration, a loopback callback and the system's browser; or a bearer."""

from contextlib import asynccontextmanager

import driver
from fastmcp.client import Client
from fastmcp.client.auth import OAuth
from fastmcp.client.transports import StreamableHttpTransport
from mcp.shared._httpx_utils import create_mcp_http_client


class Counted(OAuth):
    """FastMCP's OAuth, which notes what it was given."""

    def __init__(self, login: driver.Login, port: int) -> None:
        super().__init__(callback_port=port, callback_host="127.0.0.1", client_name="interop")
        self.login = login

    def _bind(self, url: str) -> None:
        super()._bind(url)
        storage = self.context.storage
        store = storage.set_tokens

        async def set_tokens(tokens) -> None:
            self.login.tokens += 1
            await store(tokens)

        storage.set_tokens = set_tokens


def noting(login: driver.Login):
    """FastMCP's own HTTP client, which notes refusals by status 401."""

    async def note(response) -> None:
        if response.status_code == 401:
            login.challenges.append(response.headers.get("www-authenticate", ""))

    def factory(**settings):
        client = create_mcp_http_client(**{name: value for name, value in settings.items() if name != "follow_redirects"})
        client.event_hooks["response"].append(note)
        return client

    return factory


@asynccontextmanager
async def session(job: dict, login: driver.Login):
    auth = login.token or Counted(login, job["port"])
    # The browser that stands in for the system's is told by the environment who signs in.
    driver.signs_in(login.user)
    async with Client(StreamableHttpTransport(job["url"], auth=auth, httpx_client_factory=noting(login)), mode=job["mode"]) as client:

        async def tools() -> list[str]:
            return [tool.name for tool in await client.list_tools()]

        async def call(tool: str, arguments: dict) -> dict:
            answer = await client.call_tool(tool, arguments, raise_on_error=False)
            text = "\n".join(block.text for block in answer.content if block.type == "text")
            return {"isError": answer.is_error, "text": text, "structured": answer.structured_content}

        server = client.server_info
        yield driver.Session(client.protocol_version, server and {"name": server.name, "version": server.version}, client.instructions, tools, call)


if __name__ == "__main__":
    driver.main(session)
