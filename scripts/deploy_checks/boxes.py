"""Boxes: what a container engine would make of an image, as far as this machine can. It has no checks of its own.

A box is a root of its own under chroot, in mount and process namespaces of its own, as a user without rights, its root read-only, and
nothing writable but what is mounted as such. It is no sandbox against the program in it, and has the machine's network unless
it is started in another.
"""

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .judge import Wrong, must

# What distroless's `cc` has of Debian, less what no program here asks for (OpenSSL, OpenMP).
PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "tzdata", "netbase")
ROOTS_OF_TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
NOBODY = 65532
PASSWD = f"root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\nnonroot:x:{NOBODY}:{NOBODY}:nonroot:/home/nonroot:/sbin/nologin\n"
GROUP = f"root:x:0:\nnobody:x:65534:\nnonroot:x:{NOBODY}:\n"


def distroless(root: Path) -> None:
    """A root that stands in for gcr.io/distroless/cc-debian12:nonroot, which cannot be fetched here: the same packages' files, from this
    machine, and the same user."""
    for package in PACKAGES:
        listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True)
        must(listed.returncode == 0, f"{package} is not installed: {listed.stderr}")
        for name in listed.stdout.splitlines():
            source = Path(name)
            if name.startswith(("/usr/share/doc/", "/usr/share/lintian/")) or (source.is_dir() and not source.is_symlink()) or not os.path.lexists(source):
                continue
            # /lib is a link to /usr/lib: through it, so that the file comes to stand where it is.
            target = root / source.parent.resolve().relative_to("/") / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(target):
                shutil.copy2(source, target, follow_symlinks=False)
    files = {
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "etc/nsswitch.conf": "hosts: files dns\n",
        "etc/os-release": 'PRETTY_NAME="Distroless, or what stands in for it"\n',
        ROOTS_OF_TRUST.relative_to("/"): ROOTS_OF_TRUST.read_text(),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "tmp").mkdir(mode=0o1777)
    (root / "var/lib/dpkg").mkdir(parents=True)
    home = root / "home/nonroot"
    home.mkdir(parents=True)
    os.chown(home, NOBODY, NOBODY)


def libraries(program: Path) -> list[Path]:
    """The shared libraries of one of this machine's programs."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [Path(word) for word in said.split() if word.startswith("/")]


def add(root: Path, program: Path) -> None:
    """Puts one of this machine's programs, and its libraries, where they stand here."""
    for file in (program, *libraries(program)):
        target = root / file.parent.resolve().relative_to("/") / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(file.resolve(), target)


@dataclass
class Mount:
    source: Path
    target: str
    writable: bool = False


@dataclass
class Box:
    """A root to start programs in. The root itself gets mount points, and is otherwise left alone."""

    root: Path
    user: str = f"{NOBODY}:{NOBODY}"
    variables: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    # Where a tmpfs is.
    passing: list[str] = field(default_factory=list)
    writable: bool = False

    def within(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def command(self, *words: str | Path) -> list[str]:
        """What starts it; its variables are `variables` and no others."""
        steps = ["set -e", 'root=$1; shift', 'mount --bind "$root" "$root"']
        arguments: list[str] = []
        (self.within("proc")).mkdir(exist_ok=True)
        (self.within("dev")).mkdir(exist_ok=True)
        # An engine gives a container names of its own making, on every start.
        hosts = [] if any(mount.target == "/etc/hosts" for mount in self.mounts) else [Mount(Path("/etc/hosts"), "/etc/hosts")]
        for mount in [*hosts, *self.mounts]:
            target = self.within(mount.target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if mount.source.is_dir():
                target.mkdir(exist_ok=True)
            else:
                must(mount.source.exists(), f"{mount.source} is to be mounted on {mount.target}, and is not there")
                target.touch()
            steps.append('mount --bind "$1" "$root$2"')
            if not mount.writable:
                steps.append('mount -o remount,bind,ro "$root$2"')
            steps.append("shift 2")
            arguments += [str(mount.source), mount.target]
        for target in self.passing:
            self.within(target).mkdir(parents=True, exist_ok=True)
            steps += ['mount -t tmpfs -o mode=1777 tmpfs "$root$1"', "shift"]
            arguments.append(target)
        steps += ['mount -t proc proc "$root/proc"', 'mount --rbind /dev "$root/dev"']
        if not self.writable:
            steps.append('mount -o remount,bind,ro "$root"')
        steps.append('exec chroot --userspec="$1" "$root" "${@:2}"')
        inner = ["bash", "-c", "\n".join(steps), "box", str(self.root), *arguments, self.user, *map(str, words)]
        return ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", *inner]

    def run(self, *words: str | Path, fails: bool = False, stdin: str = "", within: int = 60) -> str:
        """Runs a program to its end, and gives what it said on stdout and then on stderr."""
        done = subprocess.run(self.command(*words), input=stdin, capture_output=True, text=True, timeout=within, env=self.environment())
        said = done.stdout + done.stderr
        if (done.returncode != 0) is not fails:
            raise Wrong(f"in the box, `{' '.join(map(str, words))}` ended with {done.returncode}:\n{said[-4000:]}")
        return said

    def start(self, *words: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts a program that stays. It ends with whoever started it."""
        with log.open("ab") as out:
            return subprocess.Popen(self.command(*words), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment())

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} | self.variables


def end(process: subprocess.Popen[bytes], within: float = 40) -> int:
    """Asks what runs in a box to stop, as an engine does by SIGTERM, and gives its exit code."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGTERM)
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Wrong(f"{process.args} did not stop within {within} s of SIGTERM") from None
