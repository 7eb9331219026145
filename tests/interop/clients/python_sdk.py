"""The official Python SDK: OAuth by code and PKCE, by client credentials, or a bearer; `mode` opens the session."""

import ssl
from contextlib import asynccontextmanager

import driver  # noqa: F401  (first: it says where the next modules are)
import httpx2
import mcp_session
from mcp.client import Client
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client


@asynccontextmanager
async def session(job: dict, login: driver.Login):
    headers, auth = {}, None
    if login.token:
        headers["Authorization"] = f"Bearer {login.token}"
    elif login.program:
        auth = ClientCredentialsOAuthProvider(job["url"], mcp_session.Memory(None), login.program, f"{login.program}-secret", issuer=job["issuer"])
    else:
        auth = mcp_session.oauth(job["url"], login.user)
    if auth:
        count(auth.context.storage, login)

    async def note(response: httpx2.Response) -> None:
        if response.status_code == 401:
            login.challenges.append(response.headers.get("www-authenticate", ""))

    trust = ssl.create_default_context()
    async with httpx2.AsyncClient(headers=headers, auth=auth, timeout=30, verify=trust, trust_env=False, event_hooks={"response": [note]}) as http:
        async with Client(streamable_http_client(job["url"], http_client=http), mode=job["mode"], read_timeout_seconds=30) as client:
            yield opened(client)


def count(storage, login: driver.Login) -> None:
    """Notes each token that is stored."""
    store = storage.set_tokens

    async def set_tokens(tokens) -> None:
        login.tokens += 1
        await store(tokens)

    storage.set_tokens = set_tokens


def opened(client: Client) -> driver.Session:
    async def tools() -> list[str]:
        return [tool["name"] for tool in await mcp_session.list_tools(client)]

    async def call(tool: str, arguments: dict) -> dict:
        answer = await mcp_session.call(client, tool, arguments)
        return {"isError": answer["isError"], "text": answer["text"], "structured": answer["structuredContent"]}

    server = client.server_info
    return driver.Session(client.protocol_version, server and {"name": server.name, "version": server.version}, client.instructions, tools, call)


if __name__ == "__main__":
    driver.main(session)
