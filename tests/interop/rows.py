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
    # It keeps no token of its own: a driver that starts it anew for each call cannot renew one.
    renews: bool = True

    @property
    def kind(self) -> str:
        return {"py": "python", "js": "node", "rs": "rust"}[self.driver.rsplit(".", 1)[-1].removeprefix("m")]

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
]
