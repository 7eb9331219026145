#!/usr/bin/env python3
"""A browser without a person: walks from an authorization URL through the provider's pages to the client's callback.

    browser.py URL [--user NAME]
    browser.py URL --device [--user NAME]   (a device's verification page, which leads nowhere else)

As a command it also delivers the callback, so it can stand in for the program that opens URLs (BROWSER, `xdg-open`).
It knows no provider in particular: it fills the text field of a page's first form with the user's name, the password
field with anything, and submits. Standard library only; a private CA is trusted through SSL_CERT_FILE.
"""

import argparse
import http.cookiejar
import re
import sys
import time
import urllib.error
import urllib.request
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

MOST_PAGES = 20
PATIENCE_FOR_CALLBACK = 10.0


class Stuck(Exception):
    """The pages do not lead to the callback; the message says where they ended."""


def visit(url: str, user: str, device: bool = False) -> str | None:
    """Signs in as `user`, agrees to what is asked, and returns the callback URL without opening it. A device has none."""
    opener = _opener()
    home, form = _origin(url), None
    for _ in range(MOST_PAGES):
        status, location, body = _open(opener, url, form)
        form = None
        if location is not None:
            url = urljoin(url, location)
            if _origin(url) != home:
                return url
            continue
        page = _FirstForm()
        page.feed(body)
        if device and status == 200 and page.action is None:
            return None
        if status != 200 or page.action is None:
            raise Stuck(f"{url} answered {status} and shows no form: {_text(body)}")
        url, form = urljoin(url, page.action), page.filled(user)
    raise Stuck(f"no callback after {MOST_PAGES} pages; the last was {url}")


def deliver(callback: str) -> int:
    """Opens the callback. A client may open the browser before it listens, so a refused connection is tried again."""
    deadline = time.monotonic() + PATIENCE_FOR_CALLBACK
    while True:
        try:
            return _open(_opener(), callback, None)[0]
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _FirstForm(HTMLParser):
    """Action and fields of a page's first form."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self._fields: list[tuple[str, str, str]] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action, self._inside = attrs.get("action", ""), True
        elif tag == "input" and self._inside and "name" in attrs:
            self._fields.append((attrs["name"], attrs.get("type", "text"), attrs.get("value", "")))

    def handle_endtag(self, tag):
        if tag == "form":
            self._inside = False

    def filled(self, user: str) -> dict[str, str]:
        typed = {"text": user, "email": user, "password": "any"}
        return {name: value or typed.get(kind, value) for name, kind, value in self._fields}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The walk follows redirects itself: the last one is its result."""

    def redirect_request(self, *_):
        return None


def _opener() -> urllib.request.OpenerDirector:
    cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), cookies, _NoRedirect())


def _open(opener, url: str, form: dict[str, str] | None) -> tuple[int, str | None, str]:
    data = None if form is None else urlencode(form).encode()
    try:
        answer = opener.open(urllib.request.Request(url, data=data), timeout=15)
    except urllib.error.HTTPError as error:  # Redirects come this way too; it reads like any other answer.
        answer = error
    with answer:
        return answer.status, answer.headers.get("Location"), answer.read().decode("utf-8", "replace")


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url)[:2]


def _text(body: str) -> str:
    body = re.sub(r"<(style|script|title).*?</\1>", "", body, flags=re.DOTALL)
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append
    parser.feed(body)
    return " ".join(" ".join(words).split())[:300]


def main() -> int:
    parser = argparse.ArgumentParser(description="Sign in at a provider's pages without a person.")
    parser.add_argument("url")
    parser.add_argument("--user", default="alice")
    parser.add_argument("--device", action="store_true", help="the pages of a device's login")
    asked = parser.parse_args()
    try:
        callback = visit(asked.url, asked.user, asked.device)
        status = 200 if callback is None else deliver(callback)
    except (Stuck, OSError) as error:
        print(f"browser.py: {error}", file=sys.stderr)
        return 1
    return 0 if status < 400 else 1


if __name__ == "__main__":
    sys.exit(main())
