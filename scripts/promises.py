#!/usr/bin/env python3
"""Runs the command behind every promise of docs/PROMISES.md that is kept, each command once, and counts what is open."""

import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
SHORT = {
    "it": ["cargo", "test", "--quiet", "--locked", "--test", "it", "--"],
    "unit": ["cargo", "test", "--quiet", "--locked", "--lib", "--"],
}


def main() -> int:
    rows = [row for row in (read(line) for line in (CHECKOUT / "docs/PROMISES.md").read_text().splitlines()) if row]
    results: dict[str, bool] = {}
    for promise, command in rows:
        if command is not None and command not in results:
            results[command] = run(command)
        word = "open" if command is None else "kept" if results[command] else "BROKEN"
        print(f"{word:<7} {promise}" + (f"   [{command}]" if command else ""), flush=True)
    kept = sum(command is not None and results[command] for _, command in rows)
    broken = sum(command is not None and not results[command] for _, command in rows)
    print(f"\n{kept} kept, {broken} broken, {len(rows) - kept - broken} open")
    return 1 if broken else 0


def read(line: str) -> tuple[str, str | None] | None:
    """A row of a table: the promise, and its command or None where it is open."""
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
    if len(cells) < 2 or cells[-1] == "shown by" or set(cells[-1]) <= set("- "):
        return None
    command = re.fullmatch(r"`(.+)`", cells[-1])
    if command is None and cells[-1] != "*open*":
        raise SystemExit(f"docs/PROMISES.md: neither a command nor *open*: {line}")
    return cells[0], command[1] if command else None


def run(command: str) -> bool:
    name, *rest = command.split()
    words = SHORT[name] + rest if name in SHORT else [name, *rest]
    done = subprocess.run(words, cwd=CHECKOUT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    # A filter that matches nothing shows nothing.
    shown = name not in SHORT or re.search(r"^test result: ok\. [1-9]", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not shown:
        print(done.stdout[-2000:] + done.stderr[-2000:], file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
