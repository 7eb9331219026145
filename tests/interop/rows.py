"""The clients: which there are, how each logs in, and what it has to negotiate."""

from dataclasses import dataclass

MODERN, LEGACY = "2026-07-28", "2025-11-25"
GATEWAY = "gateway.py"


@dataclass(frozen=True)
class Row:
    """One client in one mode."""

    name: str
    title: str
    # What drives it, in `clients/`.
    driver: str
    # How it is told to open a session, in its own words, and the revision that has to come of it.
    mode: str
    revision: str
    # `user`: its own OAuth, by code and PKCE; `program`: its own OAuth, by client credentials; `token`: a bearer.
    login: str
    through_gateway: bool = False
    # It has asked for the list of tools, and answers for one that is not in it by itself.
    knows_list: bool = False

    @property
    def kind(self) -> str:
        return {"py": "python", "mjs": "node", "rust": "rust"}[self.driver.rsplit(".", 1)[-1]]

    @property
    def who(self) -> str:
        return f"for-{self.name}"

    @property
    def brief(self) -> str:
        return f"brief-{self.name}"

    @property
    def means(self) -> str:
        return {"user": "code + PKCE", "program": "client credentials", "token": "bearer"}[self.login]

    @property
    def address(self) -> str:
        """An address of its own, so that no client sees another's rules."""
        return f"198.51.100.{10 + ROWS.index(self)}"


ROWS = [
    Row("python-legacy", "Python SDK 2.3.0, legacy", "python_sdk.py", "legacy", LEGACY, "user"),
    Row("python-modern", "Python SDK 2.3.0, 2026-07-28", "python_sdk.py", MODERN, MODERN, "user"),
    Row("python-auto", "Python SDK 2.3.0, auto", "python_sdk.py", "auto", MODERN, "program"),
    Row("python-1", "Python SDK 1.30.0", "python_old.py", "", LEGACY, "user"),
    Row("python-1-token", "Python SDK 1.30.0", "python_old.py", "", LEGACY, "token"),
    Row("typescript-legacy", "TypeScript SDK 2.4.0, legacy", "typescript.mjs", "legacy", LEGACY, "user"),
    Row("typescript-auto", "TypeScript SDK 2.4.0, auto", "typescript.mjs", "auto", MODERN, "user"),
    Row("typescript-program", "TypeScript SDK 2.4.0, auto", "typescript.mjs", "auto", MODERN, "program"),
    Row("typescript-modern", "TypeScript SDK 2.4.0, 2026-07-28", "typescript.mjs", MODERN, MODERN, "token"),
    Row("typescript-1", "TypeScript SDK 1.32.2", "typescript_old.mjs", "", LEGACY, "user"),
    Row("typescript-1-token", "TypeScript SDK 1.32.2", "typescript_old.mjs", "", LEGACY, "token"),
    Row("rust-initialize", "Rust SDK 3.11.0, initialize", "rust", "initialize", LEGACY, "user"),
    Row("rust-discover", "Rust SDK 3.11.0, discover", "rust", "discover", MODERN, "user"),
    Row("rust-auto", "Rust SDK 3.11.0, auto", "rust", "auto", MODERN, "token"),
    Row("fastmcp-legacy", "FastMCP 4.1.0, legacy", "fastmcp_client.py", "legacy", LEGACY, "user"),
    Row("fastmcp-auto", "FastMCP 4.1.0, auto", "fastmcp_client.py", "auto", MODERN, "user"),
    Row("fastmcp-token", "FastMCP 4.1.0, 2026-07-28", "fastmcp_client.py", MODERN, MODERN, "token"),
    Row("inspector-legacy", "Inspector 2.12.0, legacy", "inspector.py", "legacy", LEGACY, "user", knows_list=True),
    Row("inspector-modern", "Inspector 2.12.0, modern", "inspector.py", "modern", MODERN, "user", knows_list=True),
    Row("inspector-token", "Inspector 2.12.0, modern", "inspector.py", "modern", MODERN, "token", knows_list=True),
    Row("remote-legacy", "mcp-remote 0.15.1, legacy", "mcp_remote.py", "legacy", LEGACY, "user"),
    Row("remote-auto", "mcp-remote 0.15.1, auto", "mcp_remote.py", "auto", MODERN, "user"),
    Row("remote-program", "mcp-remote 0.15.1, auto", "mcp_remote.py", "auto", MODERN, "program"),
    Row("remote-token", "mcp-remote 0.15.1, legacy", "mcp_remote.py", "legacy", LEGACY, "token"),
    Row("gateway-legacy", "Python SDK 2.3.0, legacy, through FastMCP's proxy", "python_sdk.py", "legacy", LEGACY, "token", True, True),
    Row("gateway-modern", "Python SDK 2.3.0, auto, through FastMCP's proxy", "python_sdk.py", "auto", MODERN, "token", True, True),
    Row("socket-legacy", "websockets 17.4, token as a message", "websocket_client.py", "message legacy", LEGACY, "token"),
    Row("socket-modern", "websockets 17.4, token in the header", "websocket_client.py", "header modern", MODERN, "token"),
]
