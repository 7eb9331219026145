#!/usr/bin/env python3
"""The whole OAuth login of an MCP client, without a person; prints the access token.

    login.py MCP_URL [--user NAME] [--scope "A B"] [--client-id ID] [--json]
    login.py --issuer URL --resource URI …        (the same, without asking an MCP server where to log in)

The road that the MCP specification prescribes: 401 -> protected resource metadata (RFC 9728) -> authorization server
metadata (RFC 8414, else OpenID Connect) -> authorization code with PKCE and a resource indicator (RFC 8707). What the
specification tells a client to check on the way is checked. Standard library only; a private CA is trusted through
SSL_CERT_FILE.
"""

import argparse
import base64
import hashlib
import json
import re
import secrets
import sys
import urllib.error
import urllib.request
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import browser

# Never opened: the stand-in browser hands over the callback URL instead of visiting it.
REDIRECT_URI = "http://127.0.0.1:1/callback"


class LoginFailed(Exception):
    """Some step of the login did not go as it has to; the message says which."""


def login(mcp_url: str, user: str = "alice", scope: str | None = None, client_id: str = "demo") -> dict:
    """Logs in to an MCP server; returns the token endpoint's answer. Without `scope`, what the server asks for."""
    resource, issuer, challenged = discover(mcp_url)
    return authorize(issuer, resource, user, scope or challenged, client_id)


def discover(mcp_url: str) -> tuple[str, str, str | None]:
    """Asks an MCP server, by a request without a token, for its resource identifier, its issuer and its scopes."""
    ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    status, answered, body = _request(mcp_url, ping, headers)
    if status != 401:
        raise LoginFailed(f"{mcp_url} answered {status}, not 401, to a request without a token: {body[:200]!r}")
    challenge = dict(re.findall(r'(\w+)="([^"]*)"', answered.get("WWW-Authenticate", "")))
    metadata_url = challenge.get("resource_metadata")
    if metadata_url is None:
        raise LoginFailed(f"the 401 of {mcp_url} names no resource_metadata: {answered.get('WWW-Authenticate')!r}")
    metadata = _json(metadata_url)
    if not _within(mcp_url, metadata["resource"]):
        raise LoginFailed(f"{metadata_url} speaks for {metadata['resource']}, which does not cover {mcp_url}")
    scope = challenge.get("scope") or " ".join(metadata.get("scopes_supported", []))
    return metadata["resource"], metadata["authorization_servers"][0], scope or None


def authorize(issuer: str, resource: str, user: str, scope: str | None, client_id: str = "demo") -> dict:
    """Authorization code with PKCE at `issuer`, for a token whose audience is `resource`."""
    server = authorization_server(issuer)
    verifier = secrets.token_urlsafe(48)
    state = secrets.token_urlsafe(16)
    question = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": REDIRECT_URI,
        "resource": resource,
        "state": state,
        "code_challenge": _base64url(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
    } | ({"scope": scope} if scope else {})
    callback = browser.visit(f"{server['authorization_endpoint']}?{urlencode(question)}", user)
    answer = {name: values[0] for name, values in parse_qs(urlsplit(callback).query).items()}
    if "error" in answer:
        raise LoginFailed(f"{issuer} refused: {answer['error']}: {answer.get('error_description', '')}")
    if answer.get("state") != state:
        raise LoginFailed("the callback carries another state than the one sent")
    if server.get("authorization_response_iss_parameter_supported") and answer.get("iss") != server["issuer"]:
        raise LoginFailed(f"the callback comes from {answer.get('iss')}, not from {server['issuer']}")  # RFC 9207
    exchange = {
        "grant_type": "authorization_code",
        "code": answer["code"],
        "client_id": client_id,
        "redirect_uri": REDIRECT_URI,
        "code_verifier": verifier,
        "resource": resource,
    }
    status, _, body = _request(server["token_endpoint"], urlencode(exchange).encode(), {})
    if status != 200:
        raise LoginFailed(f"{server['token_endpoint']} answered {status}: {body.decode('utf-8', 'replace')[:300]}")
    return json.loads(body)


def authorization_server(issuer: str) -> dict:
    """The issuer's metadata, from the first of the well-known places that has it."""
    scheme, netloc, path = urlsplit(issuer)[:3]
    path = path.rstrip("/")
    places = [f"/.well-known/oauth-authorization-server{path}", f"/.well-known/openid-configuration{path}"]
    if path:
        places.append(f"{path}/.well-known/openid-configuration")
    for place in places:
        status, _, body = _request(urlunsplit((scheme, netloc, place, "", "")), None, {})
        if status != 200:
            continue
        metadata = json.loads(body)
        if metadata["issuer"] != issuer:
            raise LoginFailed(f"the metadata of {issuer} names another issuer: {metadata['issuer']}")
        if "S256" not in metadata.get("code_challenge_methods_supported", []):
            raise LoginFailed(f"{issuer} does not offer PKCE with S256")
        return metadata
    raise LoginFailed(f"{issuer} publishes no metadata at {', '.join(places)}")


def _within(url: str, resource: str) -> bool:
    return url == resource or url.startswith(resource.rstrip("/") + "/")


def _json(url: str) -> dict:
    status, _, body = _request(url, None, {})
    if status != 200:
        raise LoginFailed(f"{url} answered {status}")
    return json.loads(body)


def _request(url: str, data: bytes | None, headers: dict[str, str]):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(urllib.request.Request(url, data=data, headers=headers), timeout=15)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def main() -> int:
    parser = argparse.ArgumentParser(description="Log in to an MCP server without a person; print the access token.")
    parser.add_argument("mcp_url", nargs="?", metavar="MCP_URL")
    parser.add_argument("--issuer", help="log in here, without asking an MCP server")
    parser.add_argument("--resource", help="with --issuer: the audience of the token")
    parser.add_argument("--user", default="alice")
    parser.add_argument("--scope", help="default: what the MCP server asks for")
    parser.add_argument("--client-id", default="demo")
    parser.add_argument("--json", action="store_true", help="print the token endpoint's whole answer")
    asked = parser.parse_args()
    if (asked.mcp_url is None) == (asked.issuer is None) or (asked.issuer is None) != (asked.resource is None):
        parser.error("give either MCP_URL, or --issuer and --resource")
    try:
        if asked.issuer:
            answer = authorize(asked.issuer, asked.resource, asked.user, asked.scope, asked.client_id)
        else:
            answer = login(asked.mcp_url, asked.user, asked.scope, asked.client_id)
    except (LoginFailed, browser.Stuck, OSError) as error:
        print(f"login.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer) if asked.json else answer["access_token"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
