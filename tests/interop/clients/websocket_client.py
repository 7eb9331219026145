"""A WebSocket client of another make (`websockets`): the token in the upgrade's header or as the first message, both eras, a call
that is given up, and a token that is renewed once and then ends."""

import asyncio
import base64
import json
import ssl
import sys
import time
from contextlib import asynccontextmanager
from itertools import count

import driver  # noqa: I001  (first: it says where the next one is)
import login as person
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

MODERN = "2026-07-28"
# What the service allows for clocks that are apart, and how long before that a token is renewed, in seconds.
LEEWAY, EARLY = 30, 15


class Failed(Exception):
    """An error that came as an answer."""

    def __init__(self, error: dict) -> None:
        super().__init__(error["message"])
        self.code, self.message = error["code"], error["message"]


class Socket:
    """MCP over one socket; answers come in any order."""

    def __init__(self, socket, modern: bool) -> None:
        self.socket, self.modern, self.ids = socket, modern, count(1)

    async def say(self, message: dict) -> None:
        await self.socket.send(json.dumps(message))

    async def ask(self, method: str, params: dict, request_id=None) -> dict:
        request_id = next(self.ids) if request_id is None else request_id
        await self.say(self.request(method, params, request_id))
        while (answer := json.loads(await asyncio.wait_for(self.socket.recv(), 30))).get("id") != request_id:
            self.stray.append(answer)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["result"]

    def request(self, method: str, params: dict, request_id) -> dict:
        meta = {f"io.modelcontextprotocol/{name}": value for name, value in (("protocolVersion", MODERN), ("clientCapabilities", {}))}
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**params, **({"_meta": meta} if self.modern else {})}}

    async def open(self) -> dict:
        self.stray: list[dict] = []
        if self.modern:
            found = await self.ask("server/discover", {})
            server = found["_meta"]["io.modelcontextprotocol/serverInfo"]
            return {"revision": MODERN if MODERN in found["supportedVersions"] else None, "server": server, "instructions": found.get("instructions")}
        asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "websockets", "version": "0"}}
        found = await self.ask("initialize", asked)
        await self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return {"revision": found["protocolVersion"], "server": found["serverInfo"], "instructions": found.get("instructions")}

    async def call(self, tool: str, arguments: dict) -> dict:
        result = await self.ask("tools/call", {"name": tool, "arguments": arguments})
        text = "\n".join(block["text"] for block in result["content"] if block["type"] == "text")
        return {"isError": result.get("isError", False), "text": text, "structured": result.get("structuredContent")}

    async def give_up(self, tool: str, arguments: dict) -> str | None:
        """Gives a call up; what is wrong with what comes of it."""
        await self.say(self.request("tools/call", {"name": tool, "arguments": arguments}, "given-up"))
        await self.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "given-up"}})
        # The socket lives, and the id is free again.
        await self.ask("tools/list", {})
        again = await self.ask("tools/call", {"name": tool, "arguments": arguments}, "given-up")
        # It may have been answered before anybody knew; nothing else may come.
        late = [answer for answer in self.stray if answer.get("id") != "given-up"]
        return None if not late and len(self.stray) < 2 and "content" in again else f"a call that was given up: {self.stray}, then {again}"


@asynccontextmanager
async def session(job: dict, token: str):
    way, era = job["mode"].split(" ")
    trust = ssl.create_default_context()
    url = job["url"].replace("https://", "wss://")
    at = url.removesuffix("/mcp") + "/ws" if way == "message" else url
    headers = {} if way == "message" else {"Authorization": f"Bearer {token}"}
    async with connect(at, ssl=trust, additional_headers=headers, proxy=None) as socket:
        if way == "message":
            await socket.send(json.dumps({"token": token}))
        yield Socket(socket, era == "modern")


async def drive(job: dict) -> None:
    async with session(job, job["login"]["token"]) as socket:
        opened = await socket.open()
        tools = [tool["name"] for tool in (await socket.ask("tools/list", {}))["tools"]]
        answers = {name: await driver.outcome(socket.call(tool, arguments)) for name, tool, arguments in job["calls"]}
        given_up = await socket.give_up(*job["calls"][0][1:])
        driver.say({**opened, "tools": tools, "answers": answers, "tokens": 0, "wrong": given_up})
    driver.say({"expiry": await expire(job, json.loads(sys.stdin.readline())["token"])})


async def expire(job: dict, token: str) -> dict:
    call = job["calls"][0][1:]
    end = claims(token)["exp"] + LEEWAY
    renewed, before, after = False, None, None
    async with session(job, token) as socket:
        try:
            await socket.open()
            before = await driver.outcome(socket.call(*call))
            while True:
                await asyncio.sleep(driver.PACE)
                if not renewed and time.time() > end - EARLY:
                    fresh = await asyncio.to_thread(person.login, job["url"], job["brief_person"], None, "demo")
                    await socket.say({"token": fresh["access_token"]})
                    renewed = True
                result = {"result": await socket.call(*call)}
                if time.time() > end + 1:  # Only the second token can have answered this.
                    after = result
        except ConnectionClosed as closed:
            frame = closed.rcvd
            return {"before": before, "after": after, "tokens": 1 + renewed, "challenges": None, "closed": frame and [frame.code, frame.reason]}


def claims(token: str) -> dict:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


if __name__ == "__main__":
    asyncio.run(drive(json.loads(sys.stdin.readline())))
