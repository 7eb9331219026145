#!/usr/bin/env python3
"""Judges everything in deploy/ by the tools of its field, and runs of it what can run here.

    deploy_check.py [SUBJECT...]        all subjects, or those named: the modules in scripts/deploy_checks

Every check says in a line what it showed. A check that could not run has failed: nothing is skipped.
"""

import importlib
import pkgutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import deploy_checks  # noqa: E402
from deploy_checks.judge import CHECKS, Wrong  # noqa: E402


def main() -> int:
    subjects = [module.name for module in pkgutil.iter_modules(deploy_checks.__path__) if module.name != "judge"]
    asked = sys.argv[1:] or subjects
    if unknown := [name for name in asked if name not in subjects]:
        print(f"deploy_check.py: no subject named {', '.join(unknown)}; there are: {', '.join(subjects)}", file=sys.stderr)
        return 2
    for name in asked:
        importlib.import_module(f"deploy_checks.{name}")
    passed = failed = 0
    for subject, words, check in CHECKS:
        if subject not in asked:
            continue
        begun = time.monotonic()
        try:
            check()
        except Wrong as wrong:
            failed += 1
            print(f"FAILED  {subject}: {words}\n{wrong}", flush=True)
        else:
            passed += 1
            print(f"passed  {subject}: {words} ({time.monotonic() - begun:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
