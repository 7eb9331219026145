"""The official Python SDK, first generation: OAuth by code and PKCE with registration, or a bearer. It has an environment of its own."""

import asyncio
import ssl
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import driver  # noqa: I001  (first: it says where the next modules are)
import browser
import httpx
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

REDIRECT_URI = "http://127.0.0.1:1/callback"  # Never opened: the browser gives back where it would have gone.


class Memory:
    """The SDK's store, for one session."""

    def __init__(self, login: driver.Login) -> None:
        self.login, self.tokens, self.client = login, None, None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.login.tokens += 1
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def oauth(job: dict, login: driver.Login) -> OAuthClientProvider:
    callbacks: list[str] = []

    async def open_browser(url: str) -> None:
        callbacks.append(await asyncio.to_thread(browser.visit, url, login.user))

    async def callback() -> tuple[str, str | None]:
        answer = parse_qs(urlsplit(callbacks.pop()).query)
        return answer["code"][0], answer["state"][0]

    metadata = OAuthClientMetadata(
        client_name="interop", redirect_uris=[REDIRECT_URI], grant_types=["authorization_code", "refresh_token"], token_endpoint_auth_method="none"
    )
    return OAuthClientProvider(job["url"], metadata, Memory(login), open_browser, callback)


@asynccontextmanager
async def session(job: dict, login: driver.Login):
    async def note(response: httpx.Response) -> None:
        if response.status_code == 401:
            login.challenges.append(response.headers.get("www-authenticate", ""))

    headers = {"Authorization": f"Bearer {login.token}"} if login.token else {}
    auth = None if login.token else oauth(job, login)
    trust = ssl.create_default_context()
    async with (
        httpx.AsyncClient(headers=headers, auth=auth, timeout=30, verify=trust, trust_env=False, event_hooks={"response": [note]}) as http,
        streamable_http_client(job["url"], http_client=http) as (read, write, _),
        ClientSession(read, write) as client,
    ):
        opened = await client.initialize()

        async def tools() -> list[str]:
            return [tool.name for tool in (await client.list_tools()).tools]

        async def call(tool: str, arguments: dict) -> dict:
            # A transport that is refused ends; the call then waits for nobody.
            answer = await asyncio.wait_for(client.call_tool(tool, arguments), 30)
            text = "\n".join(block.text for block in answer.content if block.type == "text")
            return {"isError": answer.isError, "text": text, "structured": answer.structuredContent}

        server = {"name": opened.serverInfo.name, "version": opened.serverInfo.version}
        yield driver.Session(opened.protocolVersion, server, opened.instructions, tools, call)


if __name__ == "__main__":
    driver.main(session)
