#!/usr/bin/env python3
"""Serves the configurations of deploy/kubernetes/load-balancer without a cluster, and does to them what a cluster would.

    WHITELISTMCP=path/to/whitelistmcp rehearse_kubernetes.py

Edge and core run from edge.toml and core.toml as they are, but for addresses and accounts, with their files laid out as the
kubelet lays out a projected volume, against an AWS emulator and an OpenID provider (examples/demo/stack.py). Certificates are
made by openssl in the shape that cert-manager gives them, and then in that of SPIRE. Exits 0 only if everything held.
"""

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "examples/demo"))
from stack import NotReady, Stack, environment, free_port, reachable  # noqa: E402

MANIFESTS = CHECKOUT / "deploy/kubernetes/load-balancer"
CORE = "whitelistmcp-core.whitelistmcp.svc"
EDGE = "spiffe://example.org/edge"
PATIENCE = 20.0


class Broken(Exception):
    """Something that did not hold."""


class Authority:
    """A CA out of openssl, which signs what it is told to."""

    def __init__(self, directory: Path, name: str, subject: str = "/CN=whitelistmcp CA", names: str = "", above: "Authority | None" = None) -> None:
        self.directory, self.name, self.above = directory, name, above
        extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n" + (f"subjectAltName={names}\n" if names else "")
        self.key = directory / f"{name}.key"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.key)
        self.pem = sign(directory, name, self.key, subject, extensions, above)

    def issue(self, name: str, names: str, usage: str, subject: str = "/", keys: str = "digitalSignature") -> tuple[str, str]:
        """A certificate with what is above it, and its key."""
        key = self.directory / f"{name}.key"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        # RFC 5280, section 4.2.1.6: where the subject is empty the names are critical.
        critical = "critical," if subject == "/" else ""
        extensions = f"basicConstraints=critical,CA:FALSE\nkeyUsage=critical,{keys}\nextendedKeyUsage={usage}\nsubjectAltName={critical}{names}\n"
        certificate = sign(self.directory, name, key, subject, extensions, self)
        chain = certificate + (self.pem if self.above else "")
        return chain, key.read_text()


def openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    if done.returncode != 0:
        raise Broken(f"openssl {words[0]}: {done.stderr}")


def sign(directory: Path, name: str, key: Path, subject: str, extensions: str, by: Authority | None) -> str:
    request, certificate, file = directory / f"{name}.csr", directory / f"{name}.pem", directory / f"{name}.ext"
    file.write_text(extensions)
    openssl("req", "-new", "-key", key, "-subj", subject, "-out", request)
    signer = ["-CA", directory / f"{by.name}.pem", "-CAkey", by.key, "-CAcreateserial"] if by else ["-signkey", key]
    openssl("x509", "-req", "-in", request, "-days", "2", "-extfile", file, *signer, "-out", certificate)
    return certificate.read_text()


class Volume:
    """A projected volume as the kubelet writes one: a new directory, and one link that is swapped."""

    def __init__(self, at: Path) -> None:
        self.at, self.turn = at, 0
        at.mkdir()

    def put(self, files: dict[str, str]) -> None:
        self.turn += 1
        fresh = self.at / f"..turn_{self.turn}"
        for name, text in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_text(text)
        (self.at / "..data_tmp").symlink_to(fresh.name)
        before = os.readlink(self.at / "..data") if (self.at / "..data").is_symlink() else None
        (self.at / "..data_tmp").rename(self.at / "..data")
        for name in {Path(name).parts[0] for name in files}:
            if not (self.at / name).is_symlink():
                (self.at / name).symlink_to(f"..data/{name}")
        if before:
            shutil.rmtree(self.at / before)


class Cluster(Stack):
    """The stack of the demo, with the manifests' own configurations and volumes."""

    def __init__(self, directory: Path, files: dict[str, dict[str, str]]) -> None:
        super().__init__(directory)
        self.files = files
        self.health = {"edge": free_port(), "core": free_port()}
        self.volumes: dict[str, Volume] = {}

    def make_certificates(self) -> None:
        for component in ("edge", "core"):
            self.volumes[component] = Volume(self.directory / f"files-{component}")
        self.certs.mkdir()

    def put(self, component: str) -> None:
        config = {"edge": self.edge_config, "core": self.core_config}[component]()
        self.volumes[component].put({"whitelistmcp.toml": config, **self.files[component]})

    def replaced(self, component: str, changes: dict[str, str]) -> str:
        text = (MANIFESTS / f"{component}.toml").read_text()
        changes |= {
            '"/etc/whitelistmcp/': f'"{self.volumes[component].at}/',
            "0.0.0.0:8082": f"127.0.0.1:{self.health[component]}",
            "https://whitelist.example.com/mcp": self.url,
            "https://login.example.com": self.issuer,
            # Nobody waits here for a balancer to notice.
            'lame_duck = "15s"': 'lame_duck = "0s"',
        }
        for before, after in changes.items():
            if before not in text:
                raise Broken(f"{component}.toml has no {before} to put {after} for")
            text = text.replace(before, after)
        return text

    def edge_config(self) -> str:
        # The name in the core's certificate stays that of the cluster.
        backend = f'"localhost:{self.core_port}"\nserver_name = "{CORE}"'
        return self.replaced("edge", {"0.0.0.0:8080": f"127.0.0.1:{self.edge_port}", f'"{CORE}:8443"': backend})

    def core_config(self) -> str:
        aws = self.aws
        changes = {
            "0.0.0.0:8443": f"127.0.0.1:{self.core_port}",
            "arn:aws:iam::111111111111:role/whitelistmcp-target": aws["role_arn"],
            '"111111111111"': f'"{aws["account"]}"',
            "an-id-that-the-role-demands": aws["external_id"],
            "sg-0123456789abcdef0": aws["groups"]["staging-db"],
            '"/var/lib/whitelistmcp/journal"': f'"{self.journal}"',
        }
        return self.replaced("core", changes)

    def start_core(self) -> None:
        self.put("core")
        settings = {
            "AWS_ACCESS_KEY_ID": self.aws["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": self.aws["secret_access_key"],
            "WHITELISTMCP_AWS__ENDPOINT": self.aws_endpoint,
            "WHITELISTMCP_AUDIT__VOLUME": "persistent",
            "WHITELISTMCP_LEASES__SETTLE": "1s",
            "WHITELISTMCP_CONFIG": str(self.volumes["core"].at / "whitelistmcp.toml"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.spawn("core", [self.binary, "core"], settings)
        self.until("core", lambda: self.answers("core", "/livez") == 200)

    def start_edge(self) -> None:
        self.put("edge")
        self.spawn("edge", [self.binary, "edge"], {"WHITELISTMCP_CONFIG": str(self.volumes["edge"].at / "whitelistmcp.toml")})
        self.until("edge", lambda: self.answers("edge", "/livez") == 200)

    def answers(self, component: str, path: str) -> int:
        """The status of a probe, as the kubelet asks it; 0 for none."""
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{self.health[component]}{path}", timeout=3) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (urllib.error.URLError, OSError):
            return 0

    def trust(self) -> dict[str, str]:
        (self.certs / "public-ca.pem").write_text(self.files["public-ca"]["ca"])
        return {"SSL_CERT_FILE": str(self.certs / "public-ca.pem")}

    def call(self, name: str, **arguments: object) -> dict:
        """A tool call over HTTPS, with somebody's token."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        headers = {"Authorization": f"Bearer {self.bearer}", "Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        context = ssl.create_default_context(cafile=self.trust()["SSL_CERT_FILE"])
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        with opener.open(urllib.request.Request(self.url, json.dumps(body).encode(), headers), timeout=40) as answer:
            text = answer.read().decode()
        text = text if text.startswith("{") else text.partition("data: ")[2].partition("\n")[0]
        return json.loads(text)["result"]

    def serial(self, component: str) -> int:
        """The serial number of the certificate that a listener shows now."""
        port = {"edge": self.edge_port, "core": self.core_port}[component]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as tcp, context.wrap_socket(tcp) as tls:
            shown = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
        done = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True, text=True, timeout=10, check=True)
        return int(done.stdout.strip().partition("=")[2], 16)

    def end(self, name: str) -> None:
        """Ends one of the processes, whose name is its subcommand."""
        for child in [child for child in self.running if child.args[-1] == name]:
            child.stdin.close()
            child.wait()
            self.running.remove(child)

    def restart(self) -> None:
        self.end("edge")
        self.end("core")
        self.start_core()
        self.start_edge()


def until(words: str, holds: Callable[[], bool], cluster: Cluster) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise Broken(f"{words}: not so.\nedge: {cluster.last_words('edge')}\ncore: {cluster.last_words('core')}")
        time.sleep(0.1)
    print(f"held: {words}", flush=True)


def hold(holds: object, words: str, cluster: Cluster) -> None:
    if not holds:
        raise Broken(f"{words}: not so.\nedge: {cluster.last_words('edge')}\ncore: {cluster.last_words('core')}")
    print(f"held: {words}", flush=True)


def mounted(link: Authority, bundle: str, public: Authority, number: int) -> dict[str, dict[str, str]]:
    """What the two pods mount, with the certificates that the chart's Certificates ask cert-manager for."""
    edge = link.issue(f"edge-{number}", f"URI:{EDGE}", "clientAuth")
    core = link.issue(f"core-{number}", f"DNS:{CORE}", "serverAuth")
    shown = public.issue(f"public-{number}", "DNS:localhost", "serverAuth")
    files = {
        "edge": {
            "certs/edge/tls.crt": edge[0], "certs/edge/tls.key": edge[1], "certs/edge/ca.crt": bundle,
            "certs/public/tls.crt": shown[0], "certs/public/tls.key": shown[1], "sealing.key": "5e" * 32,
        },
        "core": {"certs/core/tls.crt": core[0], "certs/core/tls.key": core[1], "certs/core/ca.crt": bundle},
        "public-ca": {"ca": public.pem},
    }
    return files


def svid(authority: Authority, name: str, identity: str, dns: str = "") -> tuple[str, str]:
    """An X.509-SVID as SPIRE makes one: one URI name, and DNS names where the registration entry has them, of which the
    first is the common name as well."""
    subject = "/C=US/O=SPIRE" + (f"/CN={dns}" if dns else "")
    return authority.issue(name, f"URI:{identity}" + (f",DNS:{dns}" if dns else ""), "serverAuth,clientAuth", subject, "digitalSignature,keyEncipherment,keyAgreement")


def certificates(cluster: Cluster, made: Path, first: Authority, public: Authority) -> None:
    """Those of cert-manager: at the start, renewed, and of another CA."""
    for component in ("core", "edge"):
        until(f"{component} is ready, to a probe on its own port", lambda each=component: cluster.answers(each, "/readyz") == 200, cluster)
    for component in ("edge", "core"):
        cluster.once([cluster.binary, "health", "--ready", "--config", cluster.volumes[component].at / "whitelistmcp.toml"])
        print(f"held: `whitelistmcp health` says the same of the {component}", flush=True)
    cluster.bearer = cluster.token()
    asked = {"security_group": "staging-db", "address": "198.51.100.23", "port": "postgres", "reason": "rehearsal", "duration": "1h"}
    opened = cluster.call("whitelist_add", **asked)
    hold(opened["structuredContent"]["outcome"] == "opened", "a call opens a door, through edge and core, into AWS", cluster)
    hold(any(entry["type"] == "end" and entry.get("outcome") == "done" for entry in cluster.entries()), "and it is in the journal on the volume", cluster)

    before = {component: cluster.serial(component) for component in ("edge", "core")}
    cluster.files = mounted(first, first.pem, public, 2)
    for component in ("edge", "core"):
        cluster.put(component)
    until("renewed certificates are shown without a restart", lambda: all(cluster.serial(component) != before[component] for component in before), cluster)
    hold(cluster.call("whitelist_list", security_group="staging-db")["structuredContent"]["rules"], "and calls go on", cluster)

    # As docs/deploy/certificates.md says it: trust both, new certificates, trust the new one alone.
    second = Authority(made, "second")
    for words, signer, bundle in (
        ("both CAs are trusted", first, first.pem + second.pem),
        ("certificates are the new CA's", second, first.pem + second.pem),
        ("the old CA is trusted no more", second, second.pem),
    ):
        cluster.files = mounted(signer, bundle, public, 3)
        before = {component: cluster.serial(component) for component in ("edge", "core")}
        for component in ("core", "edge"):
            cluster.put(component)
        until(words, lambda: all(cluster.serial(component) != before[component] for component in before), cluster)
        until("calls go through", lambda: not cluster.call("whitelist_list", security_group="staging-db").get("isError"), cluster)
    # An edge that still shows what the old one signed.
    stale = mounted(first, second.pem, public, 4)
    cluster.files["edge"] |= {name: stale["edge"][name] for name in ("certs/edge/tls.crt", "certs/edge/tls.key")}
    cluster.put("edge")
    until("a certificate of the old CA reaches no core", lambda: cluster.answers("edge", "/readyz") == 503, cluster)
    hold(cluster.call("whitelist_list", security_group="staging-db").get("isError"), "and calls are told so", cluster)


def spiffe(cluster: Cluster, made: Path, public: Authority) -> None:
    """Those of SPIRE, from a server that has an upstream authority: the leaf has an intermediate above it, and the bundle holds the root alone."""
    root = Authority(made, "spire-root", "/C=US/O=SPIFFE", "URI:spiffe://example.org")
    server = Authority(made, "spire-server", "/C=US/O=SPIRE", "URI:spiffe://example.org", root)
    files = mounted(server, root.pem, public, 5)
    edge, core = svid(server, "svid-edge", EDGE), svid(server, "svid-core", "spiffe://example.org/core", CORE)

    def give(component: str, identity: tuple[str, str]) -> None:
        files[component] |= {f"certs/{component}/tls.crt": identity[0], f"certs/{component}/tls.key": identity[1]}

    give("edge", edge)
    give("core", core)
    cluster.files = files
    cluster.restart()
    until("with SVIDs (edge: URI alone; core: URI and, by `-dns`, its name) both are ready", lambda: all(cluster.answers(component, "/readyz") == 200 for component in ("edge", "core")), cluster)
    hold(not cluster.call("whitelist_list", security_group="staging-db").get("isError"), "and a call goes through", cluster)
    # What is connected stays so until its own end; a new set of the edge's makes it connect anew.
    give("core", svid(server, "svid-core-nameless", "spiffe://example.org/core"))
    give("edge", svid(server, "svid-edge-renewed", EDGE))
    before = cluster.serial("core")
    cluster.put("core")
    until("the core shows another one", lambda: cluster.serial("core") != before, cluster)
    cluster.put("edge")
    until("a core whose SVID has no DNS name is not believed", lambda: cluster.answers("edge", "/readyz") == 503, cluster)
    give("core", core)
    cluster.put("core")
    until("with one, it is again", lambda: cluster.answers("edge", "/readyz") == 200, cluster)
    give("edge", svid(server, "svid-other", "spiffe://example.org/other"))
    cluster.put("edge")
    until("an SVID of the same trust domain that no [[core.peers]] names is refused", lambda: bool(cluster.call("whitelist_list", security_group="staging-db").get("isError")), cluster)


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="whitelistmcp-kubernetes-"))
    made = directory / "made"
    made.mkdir()
    try:
        first, public = Authority(made, "first"), Authority(made, "public-ca")
        with Cluster(directory / "run", mounted(first, first.pem, public, 1)) as cluster:
            certificates(cluster, made, first, public)
            spiffe(cluster, made, public)
    except (Broken, NotReady, urllib.error.URLError, KeyError) as error:
        print(f"rehearse_kubernetes.py: {error!r}" if isinstance(error, KeyError) else f"rehearse_kubernetes.py: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("everything held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
