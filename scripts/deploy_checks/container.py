"""The image: Dockerfile and .dockerignore at the top of the checkout.

There is no engine here, and no base image can be fetched. What is shown is that the file is sound, that the layer of dependencies is
what it is for, and that the last stage, built by buildah over a root of this machine's own Debian files, makes an image in which the
binary does its work as 65532 with nothing writable but its volume.
"""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import boxes
from .boxes import Box, Mount
from .judge import BINARY, CHECKOV, CHECKOUT, LINT, Wrong, check, must, run

DOCKERFILE = CHECKOUT / "Dockerfile"
# Those of the stack to try: the emulator and the provider.
OTHERS = sorted((CHECKOUT / "examples").glob("**/Dockerfile"))
PROGRAM = "/usr/local/bin/whitelistmcp"
BUILDAH = "/usr/bin/buildah"


@check("hadolint and checkov find nothing in any Dockerfile, and every base is named by digest")
def sound() -> None:
    files = [DOCKERFILE, *OTHERS]
    run(LINT / "hadolint", *files)
    for file in files:
        said = run(CHECKOV, "--skip-download", "--quiet", "--compact", "--output", "json", "--framework", "dockerfile", "--file", file)
        summary = json.loads(said[: said.rindex("}") + 1])["summary"]
        must(summary["parsing_errors"] == 0 and summary["failed"] == 0 and summary["passed"] > 20, f"{file}: {summary}")
        stages = set()
        for words in re.findall(r"^FROM (.+)$", file.read_text(), re.MULTILINE):
            base, _, stage = words.partition(" AS ")
            must(base in stages or base == "scratch" or re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", base), f"{file}: {base} is not named by tag and digest")
            stages.add(stage)


# --- The stages that build. ---


def stages() -> dict[str, list[str]]:
    """The instructions of each stage by its name, each as one line; the last one's name is empty."""
    text = re.sub(r"^ *#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    made: dict[str, list[str]] = {}
    for line in filter(None, (" ".join(line.split()) for line in text.splitlines())):
        if line.startswith("FROM "):
            name = line.partition(" AS ")[2]
            made[name] = []
        elif made:
            made[list(made)[-1]].append(line)
    return made


def copied(stage: str) -> list[str]:
    """What a stage takes from the checkout."""
    lines = [line.removeprefix("COPY ").split()[:-1] for line in stages()[stage] if line.startswith("COPY ") and "--from=" not in line]
    return [name for names in lines for name in names]


def take(stage: str, into: Path) -> None:
    for name in copied(stage):
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, into / name, dirs_exist_ok=True)
        else:
            shutil.copy2(CHECKOUT / name, into / name)


def targets(directory: Path) -> list[tuple[str, tuple[str, ...], str]]:
    """What cargo makes of a manifest: each target's name, kinds and file. It asks no registry."""
    said = run("cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1", cwd=directory)
    made = json.loads(next(line for line in said.splitlines() if line.startswith("{")))["packages"][0]["targets"]
    return sorted((target["name"], tuple(target["kind"]), str(Path(target["src_path"]).relative_to(directory))) for target in made)


@check("the layer of dependencies is made of the manifests alone, and its empty files are every target that Cargo.toml names")
def dependencies() -> None:
    made = stages()
    must(copied("manifests") == ["Cargo.toml", "Cargo.lock"] and not copied("dependencies"), f"more than the manifests: {copied('manifests')}, {copied('dependencies')}")
    steps = [line.removeprefix("RUN ") for stage in ("manifests", "dependencies") for line in made[stage] if line.startswith("RUN ")]
    with tempfile.TemporaryDirectory(prefix="layer-") as scratch:
        layer, programs = Path(scratch).resolve() / "build", Path(scratch) / "bin"
        layer.mkdir()
        programs.mkdir()
        take("manifests", layer)
        # In place of cargo, which would take half an hour: it writes down what it was asked for.
        (programs / "cargo").write_text('#!/bin/sh\necho "$*" >> ../asked\n')
        (programs / "cargo").chmod(0o755)
        for step in steps:
            run("sh", "-e", "-c", step, cwd=layer, PATH=f"{programs}:{os.environ['PATH']}")
        asked = (layer / "../asked").read_text().splitlines()
        must(asked[0] == "build --locked --release --bin whitelistmcp", f"it builds otherwise: {asked}")
        must(asked[1:] == ["clean --locked --release --package whitelistmcp"], f"what is of the empty files must go: {asked}")
        must(f"RUN cargo {asked[0]}" in " ".join(made["builder"]), "the next stage builds otherwise, and would build everything anew")
        must(targets(layer) == targets(CHECKOUT), f"Cargo.toml names other targets:\n{targets(layer)}\n{targets(CHECKOUT)}")


@check("sources that are older than the layer of dependencies are compiled all the same")
def anew() -> None:
    with tempfile.TemporaryDirectory(prefix="anew-") as scratch:
        build = Path(scratch)
        # The same manifest without what it depends on, so that cargo itself can do each step here.
        manifest = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())
        sections = re.split(r"^(?=\[)", (CHECKOUT / "Cargo.toml").read_text(), flags=re.MULTILINE)
        kept = [section for section in sections if not re.match(r"\[((build-|dev-)?dependencies|profile|lints)", section)]
        must(manifest["bin"][0]["path"] == "src/bin/whitelistmcp/main.rs" and len(kept) >= 5, f"{len(kept)} sections are left")
        (build / "Cargo.toml").write_text("".join(kept))
        steps = {stage: [line.removeprefix("RUN ") for line in stages()[stage] if line.startswith("RUN ")] for stage in ("manifests", "dependencies", "builder")}
        cargo = {"CARGO_TARGET_DIR": str(build / "target"), "CARGO_NET_OFFLINE": "true"}

        def do(step: str) -> None:
            run("sh", "-e", "-c", step.replace("/out", f"{build}/out"), cwd=build, **cargo)

        do(*steps["manifests"])
        run("cargo", "generate-lockfile", "--offline", cwd=build, **cargo)
        do(*steps["dependencies"])
        main = build / "src/bin/whitelistmcp/main.rs"
        main.write_text('fn main() { println!("our own"); }')
        os.utime(main, (10**9, 10**9))
        do(*steps["builder"])
        must(run(build / "out/whitelistmcp") == "our own\n", "the empty program is in the image")


@check("what the build takes holds every file that the binary is made of")
def complete() -> None:
    # cargo writes down what went into the binary that it has just made. Elsewhere it may stand under another name.
    sources = []
    for name in BINARY.with_suffix(".d").read_text().partition(": ")[2].replace("\\ ", " ").split():
        here = next((part for part in (Path(name).relative_to(parent) for parent in Path(name).parents) if (CHECKOUT / part).exists()), None)
        if "/out/" not in name:
            must(here, f"{name} is not in this checkout")
            sources.append(here)
    must(len(sources) > 100 and Path("src/lib.rs") in sources and Path("build.rs") in sources, f"too few: {sources}")
    taken = [Path(name) for stage in ("manifests", "builder") for name in copied(stage)]
    for file in sources:
        must(any(file == name or name in file.parents for name in taken), f"{file} is part of the binary, and no stage copies it")
    # What is included by a path that leads out of src would be missed by nobody until the image is built.
    for file in sorted((CHECKOUT / "src").rglob("*.rs")):
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', file.read_text()):
            here = (file.parent / name).resolve().relative_to(CHECKOUT)
            must(any(taken_name in (here, *here.parents) for taken_name in taken), f"{file} includes {here}, and no stage copies it")


@check("nothing but what a stage copies goes to the build")
def ignored() -> None:
    lines = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    must(lines[0] == "*" and all(line.startswith("!") for line in lines[1:]), "it must shut out everything, and then let in by name")
    let_in, wanted = {line[1:] for line in lines[1:]}, {name for stage in stages() for name in copied(stage)}
    must(let_in == wanted, f"let in: {sorted(let_in)}; copied: {sorted(wanted)}")


# --- The image. ---


class Image:
    """The last stage, as buildah makes it."""

    def __init__(self, scratch: Path) -> None:
        self.storage = ["--storage-driver", "vfs", "--root", str(scratch / "storage"), "--runroot", str(scratch / "run")]
        base, built = scratch / "base", scratch / "out"
        base.mkdir()
        boxes.distroless(base)
        must(Path(BUILDAH).exists(), "buildah is missing; `make tools` installs it")
        # What the stages before would have left, at the places that the last one takes it from.
        (built / "out/empty").mkdir(parents=True)
        shutil.copy2(BINARY, built / "out/whitelistmcp")
        (built / "build").mkdir()
        (built / "build/sbom.cdx.json").write_text("{}")
        text = DOCKERFILE.read_text()
        found = re.search(r"^FROM (gcr\.io/\S+)\n(?!.*^FROM )", text, re.MULTILINE | re.DOTALL)
        must(found, "the last stage does not start from distroless")
        last = scratch / "Dockerfile"
        last.write_text("FROM localhost/distroless\n" + text[found.end() :])
        container = self.buildah("from", "--pull-never", "scratch").strip()
        # As an archive, which keeps owners.
        run("tar", "--create", "--file", scratch / "base.tar", "--directory", base, ".")
        self.buildah("add", "--quiet", container, str(scratch / "base.tar"), "/")
        self.buildah("config", "--user", str(boxes.NOBODY), "--env", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", container)
        self.buildah("commit", "--quiet", "--rm", container, "localhost/distroless")
        shutil.rmtree(base)
        contexts = [f"--build-context={name}={built}" for name in ("builder", "listed")]
        arguments = [f"--build-arg={name}" for name in ("VERSION=9.8.7", "REVISION=0123abc", "CREATED=2026-01-02T03:04:05Z")]
        # HEALTHCHECK is of Docker's format; OCI's own has no place for it.
        self.buildah("bud", "--pull-never", "--isolation", "chroot", "--format", "docker", *contexts, *arguments, "--tag", "localhost/whitelistmcp", "--file", str(last), str(built))
        self.about = json.loads(self.buildah("inspect", "--type", "image", "localhost/whitelistmcp"))["Docker"]["config"]
        self.container = self.buildah("from", "--pull-never", "localhost/whitelistmcp").strip()
        self.root = Path(self.buildah("mount", self.container).strip())

    def buildah(self, *words: str) -> str:
        done = subprocess.run([BUILDAH, *self.storage, *words], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise Wrong(f"`buildah {' '.join(words)}`: {done.stdout}{done.stderr}")
        return done.stdout

    def box(self, **more: object) -> Box:
        variables = dict(entry.split("=", 1) for entry in self.about["Env"])
        return Box(self.root, user=self.about["User"], variables=variables | more.pop("variables", {}), **more)  # type: ignore[arg-type]


@cache
def scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="image-")


@cache
def image() -> Image:
    must(os.geteuid() == 0, "this needs root, for roots and mounts of its own")
    return Image(Path(scratch().name))


@check("the last stage builds, and the image says what it is to say")
def says() -> None:
    about = image().about
    must(about["Entrypoint"] == [PROGRAM] and not about.get("Cmd"), f"entry point: {about['Entrypoint']}, {about.get('Cmd')}")
    must(about["User"] == "65532:65532", f"user: {about['User']}")
    must(set(about["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "8443/tcp"}, f"ports: {about['ExposedPorts']}")
    must(about["StopSignal"] == "SIGTERM" and not about.get("Volumes"), f"stop signal and volumes: {about}")
    health = about["Healthcheck"]
    must(health == {"Test": ["CMD", PROGRAM, "health"], "Interval": 30 * 10**9, "Timeout": 10 * 10**9, "Retries": 3}, f"health check: {health}")
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in about["Labels"].items()}
    expected = {"version": "9.8.7", "revision": "0123abc", "created": "2026-01-02T03:04:05Z", "title": "whitelistmcp", "licenses": "MIT OR Apache-2.0"}
    must(expected.items() <= labels.items(), f"labels: {labels}")
    base = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)[-1]
    must(f"{labels.get('base.name')}@{labels.get('base.digest')}" == base, f"the labels say another base than {base}: {labels}")
    # Where the sources are is said where the manifest says it, and nowhere made up.
    repository = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"].get("repository")
    must(labels.get("source") == repository, f"the label says that the sources are at {labels.get('source')}, and Cargo.toml at {repository}")
    must(all(labels.values()), f"a label says nothing: {labels}")
    must(not any(entry.startswith(("WHITELISTMCP_", "MCP_", "AWS_")) for entry in about["Env"]), f"variables: {about['Env']}")


@check("what our stage adds to a base that stands in for distroless: no shell, nothing set-uid, nothing of the service's to write but its two places; and every library is found")
def bare() -> None:
    root = image().root
    programs = []
    for file in root.rglob("*"):
        if file.is_symlink() or not file.is_file():
            continue
        mode, name = file.stat(), file.relative_to(root)
        must(not mode.st_mode & 0o6000, f"{name} is set-uid or set-gid")
        must(not mode.st_mode & 0o002, f"{name} is everybody's to write")
        if mode.st_mode & 0o111 and file.open("rb").read(4) in (b"\x7fELF", b"#!/b", b"#!/u"):
            programs.append(str(name))
    programs = [name for name in programs if ".so" not in name]
    must(programs == [PROGRAM.lstrip("/")], f"there are other programs in it: {programs}")
    own = [str(path.relative_to(root)) for path in root.rglob("*") if not path.is_symlink() and path.lstat().st_uid == boxes.NOBODY]
    must(sorted(own) == ["etc/whitelistmcp/certs", "home/nonroot", "var/lib/whitelistmcp"], f"{own} are the user's")
    must((root / "usr/local/bin/whitelistmcp").stat().st_uid == 0, "the program must not be the user's to change")
    must((root / "usr/share/whitelistmcp/sbom.cdx.json").exists(), "the bill of materials is not there")
    # The loader itself says what it finds, from inside; where it finds nothing it fails.
    loader = next(path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1") if (root / path.lstrip("/")).exists())
    said = image().box().run(loader, "--list", PROGRAM)
    must("libc.so.6 => /" in said and "not found" not in said, f"libraries: {said}")


@check("in the image, as 65532 with a read-only root: the version, by buildah as well")
def version() -> None:
    must(image().box().run(PROGRAM, "--version").startswith("whitelistmcp "), "no version")
    said = image().buildah("run", "--isolation", "chroot", "--user", "65532:65532", "--cap-drop", "all", image().container, "--", PROGRAM, "--version")
    must(said.startswith("whitelistmcp "), said)


class Answers(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def https(directory: Path) -> Iterator[int]:
    """A server on loopback with a certificate of the CA in a directory."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "core.pem", directory / "core.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@check("in the image: it trusts the CAs that the image brings, and no others")
def trusts() -> None:
    with tempfile.TemporaryDirectory(prefix="trust-") as scratch:
        certs, bundle = Path(scratch) / "certs", Path(scratch) / "bundle.crt"
        run(BINARY, "certs", "--directory", certs)
        ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
        for known in (False, True):
            bundle.write_text(boxes.ROOTS_OF_TRUST.read_text() + (certs / "ca.pem").read_text() * known)
            Answers.asked.clear()
            with https(certs) as port:
                box = image().box(mounts=[Mount(bundle, str(boxes.ROOTS_OF_TRUST))], passing=["/home/nonroot"])
                box.variables["HOME"] = "/home/nonroot"
                box.variables["MCP_AUTH_TOKEN"] = "not-a-token"
                box.run(PROGRAM, "bridge", f"https://localhost:{port}/mcp", stdin=ping)
            must(bool(Answers.asked) is known, f"a server whose CA {'stands' if known else 'does not stand'} in the image's bundle was {'' if Answers.asked else 'not '}asked")


SERVE = """\
[edge]
listen = "127.0.0.1:{edge}"
public_url = "https://localhost:{edge}/mcp"
[edge.tls]
certificate = "/etc/whitelistmcp/certs/edge.pem"
key = "/etc/whitelistmcp/certs/edge.key"
[health]
listen = "127.0.0.1:{health}"
[oidc.company]
issuer = "https://login.example.com"
audience = "https://localhost:{edge}/mcp"
[[aws.accounts]]
id = "111111111111"
role_arn = "arn:aws:iam::111111111111:role/whitelistmcp-target"
regions = ["eu-central-1"]
[targets]
account = "111111111111"
region = "eu-central-1"
[audit]
directory = "/var/lib/whitelistmcp/journal"
[leases]
close = false
discover = false
"""


@contextmanager
def serving() -> Iterator[tuple[Box, Path, Path, subprocess.Popen[bytes]]]:
    """`serve` in the image, its configuration, certificates and journal mounted; and what it says, and its journal."""
    with tempfile.TemporaryDirectory(prefix="serve-") as scratch:
        place = Path(scratch)
        certs, state, config, log = place / "certs", place / "state", place / "whitelistmcp.toml", place / "log"
        run(BINARY, "certs", "--directory", certs)
        state.mkdir()
        for path in (certs, *certs.iterdir(), state):
            os.chown(path, boxes.NOBODY, boxes.NOBODY)
        config.write_text(SERVE.format(edge=free_port(), health=free_port()))
        mounts = [Mount(config, "/etc/whitelistmcp/whitelistmcp.toml"), Mount(certs, "/etc/whitelistmcp/certs"), Mount(state, "/var/lib/whitelistmcp", writable=True)]
        settings = {"WHITELISTMCP_CONFIG": "/etc/whitelistmcp/whitelistmcp.toml", "AWS_EC2_METADATA_DISABLED": "true"}
        box = image().box(mounts=mounts, variables=settings)
        box.run(PROGRAM, "check")
        service = box.start(PROGRAM, "serve", log=log)
        try:
            yield box, log, state, service
        finally:
            service.kill()
            service.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@check("in the image: `serve` runs with a read-only root, `whitelistmcp health` says so and says when it does not, and SIGTERM ends it well")
def healthy() -> None:
    with serving() as (box, log, state, service):
        asked = image().about["Healthcheck"]["Test"][1:]
        deadline = time.monotonic() + 30
        while True:
            must(service.poll() is None, f"it did not start: {log.read_text()}")
            try:
                box.run(*asked)
                break
            except Wrong:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        must(list((state / "journal").glob("journal-*.jsonl")), f"there is no journal: {sorted(state.rglob('*'))}")
        must(boxes.end(service) == 0, f"it did not end well: {log.read_text()[-2000:]}")
        box.run(*asked, fails=True)
        must("Read-only file system" not in log.read_text() and "Permission denied" not in log.read_text(), f"it wanted to write elsewhere: {log.read_text()[-2000:]}")
