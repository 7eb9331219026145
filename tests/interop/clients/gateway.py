"""A gateway of another make in front of the service: FastMCP's proxy, which sends the caller's own bearer on.

    gateway.py URL PORT
"""

import logging
import sys

from fastmcp.server import create_proxy

logging.disable(logging.INFO)
create_proxy(sys.argv[1], name="gateway").run(transport="http", host="127.0.0.1", port=int(sys.argv[2]), path="/mcp", show_banner=False)
