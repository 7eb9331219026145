"""A gateway of another make in front of the service: FastMCP's proxy. It verifies tokens by the provider's keys, as gateways do,
and sends the caller's own bearer on.

    gateway.py URL ISSUER PORT
"""

import logging
import sys

from fastmcp.server import create_proxy
from fastmcp.server.auth.providers.jwt import JWTVerifier

url, issuer, port = sys.argv[1:]
logging.disable(logging.INFO)
verifier = JWTVerifier(jwks_uri=f"{issuer}/jwks", issuer=issuer, audience=url)
create_proxy(url, name="gateway", auth=verifier).run(transport="http", host="127.0.0.1", port=int(port), path="/mcp", show_banner=False)
