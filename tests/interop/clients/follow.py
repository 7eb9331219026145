"""Walks an authorization URL to the client's callback and prints that, for clients that take it by hand.

    follow.py URL USER
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples/demo/client"))
import browser  # noqa: E402

print(browser.visit(sys.argv[1], sys.argv[2]))
