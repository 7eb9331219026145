#!/usr/bin/env python3
"""Runs a command that must not outlive who started it.

    leash.py CMD [ARGUMENT…]

The command gets a process group of its own and no input; its output is the leash's own. Whoever starts the leash holds
the other end of its standard input. When that closes, be it because the holder has died, or the leash gets TERM, INT
or HUP, the whole group gets TERM, and two seconds later KILL. A command that ends by itself takes what it left in its
group along, and its exit code becomes the leash's; ended by a signal, 128 plus its number, as in a shell.
"""

import os
import select
import signal
import subprocess
import sys
import time

GRACE = 2.0


def main() -> int:
    if len(sys.argv) < 2:
        print("usage: leash.py CMD [ARGUMENT…]", file=sys.stderr)
        return 2
    # Signals become bytes on a pipe, so that one `select` waits for all there is to wait for: the end of the input, a
    # request to stop, the end of the child. In place before the child is: none may slip through between.
    wakes, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"leash.py: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 127
    watch(child, wakes)
    code = finish(child)
    return code if code >= 0 else 128 - code


def watch(child: subprocess.Popen, wakes: int) -> None:
    """Returns when the child has ended or has to."""
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([stdin, wakes], [], [])
        if wakes in ready:
            numbers = os.read(wakes, 64)
            if child.poll() is not None or any(number != signal.SIGCHLD for number in numbers):
                return
        if stdin in ready and not os.read(stdin, 4096):
            return


def finish(child: subprocess.Popen) -> int:
    """Ends what is left of the group; returns the child's code."""
    deadline = time.monotonic() + GRACE
    number = signal.SIGTERM
    while signalled(child.pid, number):
        child.poll()  # Reaps it: a dead child would still count as a member of its group.
        if time.monotonic() > deadline:
            signalled(child.pid, signal.SIGKILL)
            break
        number = 0  # Only looks whether anyone is left.
        time.sleep(0.02)
    return child.wait()


def signalled(group: int, number: int) -> bool:
    """Whether the group had a member to send the signal to."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
