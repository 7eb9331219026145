"""What the Python drivers share: a client is driven through one job, and what it said is reported as it was.

A driver reads its job, one line of JSON, from standard input, and reports in one line what came of the calls. Then it reads a
second login, whose token ends soon, and reports what came of that. `session` opens a client: an async context manager that gives a `Session`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples/demo/client"))

# How often a client whose token is about to end is used, in seconds, and for how long at most.
PACE, PATIENCE = 2.0, 150.0


@dataclass
class Login:
    """How a client proves who it is: by its own OAuth as `user`, or as the program `program`, or with `token`."""

    user: str | None = None
    program: str | None = None
    token: str | None = None
    # How many tokens the client has been given, and what refusals by status 401 came; None where nobody can look.
    tokens: int = 0
    challenges: list[str] | None = field(default_factory=list)


@dataclass
class Session:
    """A client that is connected."""

    revision: str | None
    server: dict | None
    instructions: str | None
    tools: Callable[[], Awaitable[list[str]]]
    # Calls a tool: {"isError", "text", "structured"}, or raises.
    call: Callable[[str, dict], Awaitable[dict]]


def signs_in(user: str | None) -> None:
    """Who signs in at the provider's pages when a client opens the browser (`xdg-open`)."""
    os.environ["INTEROP_USER"] = user or ""


def cause(error: BaseException) -> BaseException:
    """SDKs run in task groups, which wrap what went wrong."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def outcome(call: Awaitable[dict]) -> dict:
    try:
        return {"result": await call}
    except Exception as error:  # Whatever a client raises is what is looked at.
        error = cause(error)
        code = getattr(error, "code", None) or getattr(getattr(error, "error", None), "code", None)
        if isinstance(code, int):
            return {"error": {"code": code, "message": getattr(error, "message", None) or str(error)}}
        return {"failed": f"{type(error).__name__}: {error}"}


def say(report: dict) -> None:
    print(json.dumps(report), flush=True)


async def drive(job: dict, session: Callable[[dict, Login], AbstractAsyncContextManager[Session]]) -> None:
    login = Login(**job["login"])
    async with session(job, login) as client:
        say({
            "revision": client.revision,
            "server": client.server,
            "instructions": client.instructions,
            "tools": await client.tools(),
            "answers": {name: await outcome(client.call(tool, arguments)) for name, tool, arguments in job["calls"]},
            "tokens": login.tokens,
        })  # fmt: skip
    brief = Login(**json.loads(sys.stdin.readline()))
    say({"expiry": await expire(job, brief, session)})


async def expire(job: dict, login: Login, session) -> dict:
    """A session whose token ends: used until the client has got a new one, or is refused."""
    before = after = None
    try:
        async with session(job, login) as client:
            name, tool, arguments = job["calls"][0]
            begun = time.monotonic()
            before = await outcome(client.call(tool, arguments))
            while time.monotonic() - begun < PATIENCE:
                after = await outcome(client.call(tool, arguments))
                if login.tokens > 1 or "result" not in after:
                    break
                await asyncio.sleep(PACE)
    except Exception as error:  # Some clients end with their session.
        error = cause(error)
        after = {"failed": f"{type(error).__name__}: {error}"}
    return {"before": before, "after": after, "tokens": login.tokens, "challenges": login.challenges}


def main(session) -> None:
    import logging

    logging.disable(logging.CRITICAL)  # SDKs log a stack trace of what is reported anyway.
    job = json.loads(sys.stdin.readline())
    asyncio.run(drive(job, session))
