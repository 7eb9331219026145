"""A loopback Canaille, an identity provider whose tokens only it can explain, with one person and two clients in it.

    opaque_provider.py DIRECTORY

It keeps its database in DIRECTORY. Ready when it prints its one line, {"issuer": …, "person": {…}, "program": {…},
"resource": {…}}: the person's name and password, the client that gets tokens for them, and the client that may ask what
those tokens mean.
"""

import json
import logging
import socket
import sys
from pathlib import Path

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

PERSON = {"name": "dora", "password": "a password that nobody else has"}
PROGRAM = {"id": "program", "secret": "program-secret"}
RESOURCE = {"id": "allow-lists", "secret": "resource-secret"}


class Quiet(WSGIRequestHandler):
    def log(self, *_words: object) -> None:
        pass


def main() -> None:
    directory = Path(sys.argv[1])
    # The issuer is an address, and the address is known only once the socket is bound.
    listening = socket.create_server(("127.0.0.1", 0))
    issuer = f"http://127.0.0.1:{listening.getsockname()[1]}"
    logging.disable(logging.CRITICAL)
    app = create_app(
        {
            "SECRET_KEY": "of this run",
            "SERVER_NAME": issuer.removeprefix("http://"),
            "PREFERRED_URL_SCHEME": "http",
            "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{directory}/canaille.sqlite", "AUTO_MIGRATE": True},
            "CANAILLE_OIDC": {"ACTIVE_JWKS": [RSAKey.generate_key(2048, {"kid": "one"}, private=True).as_dict(private=True)]},
            "CANAILLE": {"LOGGING": {"version": 1}},
        }
    )
    with app.app_context(), Backend.instance.session():
        fill()
    print(json.dumps({"issuer": issuer, "person": PERSON, "program": PROGRAM, "resource": RESOURCE}), flush=True)
    make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet, fd=listening.fileno()).serve_forever()


def fill() -> None:
    save = Backend.instance.save
    person = models.User(user_name=PERSON["name"], family_name="Example", formatted_name="Dora Example", emails=["dora@example.test"], password=PERSON["password"])
    save(person)
    resource = client(RESOURCE, [])
    save(resource)
    program = client(PROGRAM, ["password", "refresh_token", "client_credentials"])
    program.audience = [program, resource]
    save(program)


def client(who: dict[str, str], grants: list[str]) -> models.Client:
    return models.Client(
        client_id=who["id"],
        client_secret=who["secret"],
        client_name=who["id"],
        contacts=["ops@example.test"],
        redirect_uris=["http://127.0.0.1:1/callback"],
        grant_types=grants,
        response_types=["code"],
        token_endpoint_auth_method="client_secret_basic",
        scope=["openid", "profile", "email", "whitelist:read", "whitelist:write"],
    )


if __name__ == "__main__":
    main()
