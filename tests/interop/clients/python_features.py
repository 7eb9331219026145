"""The official Python SDK with everything that a service may offer besides tools that answer: see `features.py`."""

import asyncio
import contextlib
import json
import ssl
import sys

import driver  # noqa: F401  (first: it says where the next modules are)
import httpx2
import mcp_types as types
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError


class Person:
    """Who answers what the server asks of the client, and hears what it tells."""

    def __init__(self) -> None:
        self.says, self.heard, self.lines = {"username": "alice", "email": "alice@example.test"}, asyncio.Queue(), []
        self.action = "accept"

    async def elicit(self, _context, params) -> types.ElicitResult:
        return types.ElicitResult(action=self.action, content=self.says if self.action == "accept" else None)

    async def sample(self, _context, params) -> types.CreateMessageResult:
        return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text="Paris"), model="none")

    async def roots(self, _context) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[types.Root(uri="file:///home/alice")])

    async def log(self, params) -> None:
        self.lines.append(params.data)

    async def hear(self, message) -> None:
        if isinstance(message, Exception):
            return
        name = message.method.removeprefix("notifications/")
        if name in CHANGES:
            self.heard.put_nowait(name)


CHANGES = ("tools/list_changed", "prompts/list_changed", "resources/updated")
WATCHED = "test://watched-resource"


def text(result) -> str:
    return "\n".join(block.text for block in result.content if block.type == "text")


async def see(client: Client, person: Person) -> dict:
    seen: dict = {"revision": client.protocol_version}
    seen["resources"] = [str(resource.uri) for resource in (await client.list_resources()).resources]
    seen["templates"] = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
    seen["read"] = (await client.read_resource("test://static-text")).contents[0].text
    seen["blob"] = (await client.read_resource("test://static-binary")).contents[0].mime_type
    seen["by template"] = json.loads((await client.read_resource("test://template/7/data")).contents[0].text)["id"]
    try:
        await client.read_resource("test://nothing")
    except MCPError as error:
        seen["nothing there"] = error.code
    seen["prompts"] = [prompt.name for prompt in (await client.list_prompts()).prompts]
    prompt = await client.get_prompt("test_prompt_with_arguments", {"arg1": "a", "arg2": "b"})
    seen["prompt"] = prompt.messages[0].content.text
    reference = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
    seen["completion"] = (await client.complete(reference, {"name": "arg1", "value": "pa"})).completion.values
    mixed = await client.call_tool("test_multiple_content_types")
    seen["content"] = [block.type for block in mixed.content]

    steps: list = []

    async def step(progress, total, message) -> None:
        steps.append([progress, total, message])

    await client.call_tool("test_tool_with_progress", progress_callback=step)
    seen["progress"] = steps
    if client.protocol_version < "2026":
        await client.set_logging_level("info")
    await client.call_tool("test_tool_with_logging")
    seen["log"] = person.lines
    seen["elicited"] = text(await client.call_tool("test_elicitation", {"message": "Who are you?"}))
    person.action = "decline"
    seen["declined"] = text(await client.call_tool("test_elicitation", {"message": "Who are you?"}))
    person.action = "accept"
    seen["sampled"] = text(await client.call_tool("test_sampling", {"prompt": "Which capital?"}))
    seen["roots"] = text(await client.call_tool("test_input_required_result_list_roots"))
    seen["changes"] = await (changes_by_listening(client) if client.protocol_version >= "2026" else changes_heard(client, person))
    return seen


async def changes_by_listening(client: Client) -> list[str]:
    names = {"ToolsListChanged": CHANGES[0], "PromptsListChanged": CHANGES[1], "ResourceUpdated": CHANGES[2]}
    found = []
    async with client.listen(tools_list_changed=True, prompts_list_changed=True, resource_subscriptions=[WATCHED]) as events:
        for tool in TRIGGERS:
            await client.call_tool(tool)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                async for event in events:
                    found.append(names[type(event).__name__])
                    if len(found) == len(TRIGGERS):
                        break
    return sorted(found)


async def changes_heard(client: Client, person: Person) -> list[str]:
    await client.subscribe_resource(WATCHED)
    for tool in TRIGGERS:
        await client.call_tool(tool)
    found = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20):
            while len(found) < len(TRIGGERS):
                found.append(await person.heard.get())
    return sorted(found)


TRIGGERS = ("test_trigger_tool_change", "test_trigger_prompt_change", "touch_watched_resource")


async def main(job: dict) -> None:
    person = Person()
    headers = {"Authorization": f"Bearer {job['token']}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30, verify=ssl.create_default_context(), trust_env=False) as http:
        asked = {"elicitation_callback": person.elicit, "sampling_callback": person.sample, "list_roots_callback": person.roots}
        told = {"logging_callback": person.log, "log_level": "info", "message_handler": person.hear}
        async with Client(streamable_http_client(job["url"], http_client=http), mode=job["mode"], read_timeout_seconds=30, **asked, **told) as client:
            driver.say(await see(client, person))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline())))
