"""Cloud Run and Azure Container Instances: what the scripts would deploy, and what they would ask of `gcloud` and `az`, which stand-ins
write down.
"""

import json
import re
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from .judge import BINARY, CHECKOUT, DEPLOY, LINT, Wrong, check, judged_by_checkov, must, run
from .terraform import sound

DIGEST = "sha256:" + "0" * 64
ACCOUNTS = (
    '[{ id = "111111111111", role_arn = "arn:aws:iam::111111111111:role/whitelistmcp-target", external_id = "an-id-that-the-role-demands", regions = ["eu-central-1"] }]'
)
BOTH = {
    "PUBLIC_URL": "https://whitelist.example.com/mcp", "ISSUER": "https://login.example.com", "ACCOUNTS": ACCOUNTS,
    "BASE_ROLE_ARN": "arn:aws:iam::123456789012:role/whitelistmcp-core",
    "TARGET_GROUPS": '[{ name = "staging-db", id = "sg-0123456789abcdef0", account = "111111111111", region = "eu-central-1" }]',
}
GOOGLE = BOTH | {
    "PROJECT": "example-project", "REGION": "europe-west3", "ZONE": "europe-west3-a", "NETWORK": "default", "SUBNET": "default", "SUBNET_RANGE": "10.156.0.0/20",
    "CORE_ADDRESS": "10.156.0.10", "IMAGE": f"europe-west3-docker.pkg.dev/example-project/containers/whitelistmcp@{DIGEST}",
    "AWS_AUDIENCE": "https://whitelist.example.com/aws",
}
AZURE = BOTH | {
    "RESOURCE_GROUP": "whitelistmcp", "LOCATION": "germanywestcentral", "STORAGE_ACCOUNT": "whitelistmcpjournal", "DNS_LABEL": "whitelistmcp-example",
    "IMAGE": f"example.azurecr.io/whitelistmcp-aci@{DIGEST}", "AWS_AUDIENCE": "api://00000000-0000-4000-8000-000000000001/whitelistmcp-aws",
}
OWN_SECRETS = ("CERTIFICATE", "KEY", "SEALING_KEY", "JOURNAL_KEY")


def script(cloud: str, *arguments: str | Path, fails: bool = False, **environment: str) -> str:
    """Runs a deploy.sh with these variables and no others."""
    path = environment.pop("PATH", "/usr/bin:/bin")
    given = [f"{name}={value}" for name, value in environment.items()]
    return run("env", "-i", f"PATH={path}", *given, DEPLOY / cloud / "deploy.sh", *arguments, fails=fails)


def yaml(path: Path) -> Any:
    return json.loads(run(LINT / "python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))", stdin=path.read_text()))


def secrets(directory: Path) -> dict[str, str]:
    """A certificate and the keys that readers have, as files."""
    run(BINARY, "certs", "--directory", directory, "core=core.internal", "edge=spiffe://example.org/edge,whitelist.example.com")
    run(BINARY, "audit", "key", "--out", directory / "journal.pem")
    (directory / "sealing.key").write_text("ab" * 32 + "\n")
    return dict(zip(OWN_SECRETS, (str(directory / name) for name in ("edge.pem", "edge.key", "sealing.key", "journal.pem"))))


def put(text: str, places: dict[str, Path]) -> str:
    for inside, outside in places.items():
        text = text.replace(inside, str(outside))
    return text


# === The scripts ===


def documented(cloud: str, page: str, given: dict[str, str]) -> None:
    said = script(cloud, "render", "/", fails=True)
    required = set(re.findall(r"\b[A-Z][A-Z_]+\b", said.partition(";")[0]))
    text = (CHECKOUT / page).read_text()
    must(required and required <= set(given) | set(OWN_SECRETS), f"{cloud}: {required - set(given)}")
    unsaid = [name for name in set(given) | required if f"`{name}`" not in text]
    must(not unsaid, f"{page} does not say what {unsaid} are")


@check("deploy.sh names every variable that is missing, and the pages say what each is")
def missing() -> None:
    documented("cloud-run", "docs/deploy/cloud-run.md", GOOGLE)
    documented("azure", "docs/deploy/azure.md", AZURE)


@check("deploy.sh refuses what would not do, and calls nobody")
def refusals() -> None:
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        azure = AZURE | secrets(Path(scratch))
        for cloud, given, name, value, words in (
            ("cloud-run", GOOGLE, "IMAGE", "example/whitelistmcp:latest", "by digest"), ("cloud-run", GOOGLE, "PUBLIC_URL", "http://x/mcp", "https URL"),
            ("cloud-run", GOOGLE, "BASE_ROLE_ARN", "whitelistmcp-core", "ARN"), ("cloud-run", GOOGLE, "ISSUER", "https://x' }", "quotation mark"),
            ("azure", azure, "IMAGE", "example/whitelistmcp:1", "by digest"), ("azure", azure, "KEY", "/nowhere", "names? a file|name a file"),
            ("azure", azure, "ACCOUNTS", "[\n]", "line feed"), ("azure", azure, "DNS_LABEL", "", "DNS_LABEL"),
        ):
            said = script(cloud, "render", scratch, fails=True, **(given | {name: value}))
            must(re.search(words, said), f"{cloud}, {name}: {said}")


STAND_IN = """#!/bin/sh
printf '%s' "$(basename "$0")" >> "$LOG"
for word in "$@"; do printf ' %s' "$word" >> "$LOG"; done
printf '\\n' >> "$LOG"
for word in "$@"; do case $word in */group.yaml) stat -c '%a' "$word" >> "$LOG.modes";; esac; done
case " $* " in
  *"value(labels."*) [ "$EXISTS" = yes ] || echo unformatted ;;
  *"value(resourcePolicies)"*) [ "$EXISTS" = no ] || echo https://www.googleapis.com/compute/v1/projects/p/regions/r/resourcePolicies/whitelistmcp-journal ;;
  *" get-guest-attributes "*) echo formatted ;;
  *" describe "*|*" show --"*"--output none"*|*" show --"*) [ "$EXISTS" = yes ] || case " $* " in *" --query "*) ;; *) exit 1;; esac; echo value ;;
  *" --query "*) echo value ;;
esac
"""


def calls(cloud: str, program: str, exists: bool, given: dict[str, str], *arguments: str, fails: bool = False) -> list[str]:
    """What a script asks of its cloud, where everything is there already or nothing is."""
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        programs, log, left = Path(scratch) / "programs", Path(scratch) / "log", Path(scratch) / "tmp"
        programs.mkdir(), left.mkdir()
        (programs / program).write_text(STAND_IN)
        (programs / program).chmod(0o755)
        script(cloud, *arguments, fails=fails, PATH=f"{programs}:/usr/bin:/bin", LOG=str(log), EXISTS="yes" if exists else "no", TMPDIR=str(left), **given)
        must(not list(left.iterdir()), f"{cloud}: files with secrets are left behind")
        modes = Path(f"{log}.modes")
        must(cloud != "azure" or set(modes.read_text().split()) == {"600"}, f"{cloud}: the file with secrets can be read by others")
        return log.read_text().splitlines()


def asked(said: list[str], *words: str) -> int:
    """Where in the calls the one with these words is; -1 if there is none."""
    return next((at for at, call in enumerate(said) if all(word in call for word in words)), -1)


@check("Cloud Run: the script makes what is missing, keeps what is there, and stops the old core before the new one has its disk")
def gcloud() -> None:
    fresh, again = (calls("cloud-run", "gcloud", exists, GOOGLE, "setup") for exists in (False, True))
    for kind in ("service-accounts", "addresses", "firewall-rules", "resource-policies", "disks", "instances"):
        must(asked(fresh, kind, " create ") >= 0, f"no {kind} are made")
    must(asked(again, " create ") < 0, f"what is there is made again: {again[asked(again, ' create ')]}")
    order = [asked(again, "instances", word) for word in (" stop ", " remove-metadata ", " add-metadata ", " start ")]
    must(-1 < order[0] < order[1] < order[2] < order[3], f"the core is renewed in the order {order}")
    # A disk may be formatted from when it is made until the machine says that it is, and not once more.
    new = [asked(fresh, *words) for words in (("disks create", "--labels whitelistmcp=unformatted"), ("instances create", "journal-disk=new"), ("get-guest-attributes",), ("remove-metadata", "journal-disk"), ("disks remove-labels",))]
    must(-1 < new[0] and new == sorted(set(new)), f"a new disk is formatted in the order {new}")
    must(asked(again, "journal-disk=new") < 0 and asked(again, "remove-metadata", "--keys journal-disk") >= 0, "a disk that is there may be formatted")
    must(asked(fresh, "disks add-resource-policies") >= 0 and asked(again, "add-resource-policies") < 0, "no snapshots are taken, or the schedule is given twice")
    for said in (fresh, again):
        must(asked(said, "run services replace") >= 0 and asked(said, "run services add-iam-policy-binding", "allUsers", "roles/run.invoker") >= 0, "the edge is not served to everybody")
        # The edge reads no secret of the core's but the CA, and the other way round.
        for part, others in (("edge", ("core-key", "journal-key")), ("core", ("edge-key", "sealing-key"))):
            for other in others:
                must(asked(said, f"whitelistmcp-{other} ", f"serviceAccount:whitelistmcp-{part}@") < 0, f"the {part} can read {other}")
    made = fresh[asked(fresh, "instances", " create ")]
    for words in ("--no-address", "auto-delete=no", "device-name=journal", "--shielded-secure-boot", f"--private-network-ip {GOOGLE['CORE_ADDRESS']}", "cos-cloud"):
        must(words in made, f"the core's machine is made without {words}")


# What the page gives the workflow's account, and the calls that each role is for. None of them gives anybody a right.
ROLES = {"roles/run.developer": ("run services replace",), "roles/compute.instanceAdmin.v1": ("compute instances", "compute disks describe", "compute disks remove-labels")}


@check("Cloud Run: a workflow's run renews the core and the edge by the rights that the page gives it, gives nobody any, and needs what a person's setup has made")
def unattended() -> None:
    whole, said = (calls("cloud-run", "gcloud", True, GOOGLE, *arguments) for arguments in (("setup",), ()))
    must(asked(whole, "add-iam-policy-binding") >= 0 and asked(said, "iam") < 0, f"rights are given: {said[max(0, asked(said, 'iam'))]}")
    needed = {role for call in said for role, words in ROLES.items() if call.removeprefix("gcloud ").startswith(words)}
    others = [call for call in said if not call.removeprefix("gcloud ").startswith(sum(ROLES.values(), ()))]
    must(needed == set(ROLES) and not others, f"the page's roles do not cover {others}, or are not needed: {set(ROLES) - needed}")
    page = (CHECKOUT / "docs/deploy/ci-cd.md").read_text()
    given = set(re.findall(r"--role (roles/\S+)", page.partition("`github-deploy` gets")[2].partition("**5.")[0])) | set(re.findall(r"for role in ([^;]*);", page)[0].split())
    # To run something as the two accounts, and to read the image that it names.
    must(given >= set(ROLES) | {"roles/iam.serviceAccountUser", "roles/artifactregistry.reader"}, f"the page gives {given}")
    alone = calls("cloud-run", "gcloud", False, GOOGLE, fails=True)
    must(asked(alone, " create ") < 0 and asked(alone, "run services") < 0, f"without setup something is made: {alone}")
    must("there is no 'set-up'" in script("cloud-run", "set-up", fails=True, **GOOGLE), "an unknown word deploys")


@check("Cloud Run: what the pages show as settings is what the workflow's own loop makes variables of, and what they render is whole")
def settings() -> None:
    [said] = [step["run"] for step in yaml(CHECKOUT / ".github/workflows/deploy.yml")["jobs"]["cloud-run"]["steps"] if "SETTINGS" in step.get("run", "")]
    loop, command, _ = said.partition("deploy/cloud-run/deploy.sh\n")
    must(command, "the workflow deploys by something else")
    pages = {name: (CHECKOUT / f"docs/deploy/{name}.md").read_text() for name in ("ci-cd", "cloud-run")}
    [listed] = re.findall(r"^```text\n(PROJECT=.*?)```", pages["ci-cd"], re.MULTILINE | re.DOTALL)
    # As somebody who has deployed by hand pastes it, image and all, by a page of the web's.
    [pasted] = re.findall(r"<<'EOF'\n(.*?)^EOF$", pages["cloud-run"], re.MULTILINE | re.DOTALL)
    must("'" not in listed and "IMAGE=" not in listed and "'" in pasted, "the examples are otherwise than the pages say")
    for text in (listed, pasted, pasted.replace("\n", "\r\n")):
        with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
            script_of_it = f"{loop}deploy/cloud-run/deploy.sh render {scratch}"
            run("env", "-i", "PATH=/usr/bin:/bin", f"SETTINGS={text}", f"IMAGE={GOOGLE['IMAGE']}", "bash", "-e", "-c", script_of_it)
            made = yaml(Path(scratch) / "service.yaml"), yaml(Path(scratch) / "core.yaml")
            [told] = [one["content"] for one in made[1]["write_files"] if one["path"].endswith("core.env")]
            must(f"WHITELISTMCP_AWS__ACCOUNTS={ACCOUNTS}\n" in told and f"WHITELISTMCP_TARGETS__GROUPS={GOOGLE['TARGET_GROUPS']}\n" in told, f"the core is told otherwise:\n{told}")
            must(made[0]["spec"]["template"]["spec"]["containers"][0]["image"] == GOOGLE["IMAGE"], "the settings' image is deployed, and not the one that was built")


@check("Cloud Run: the core's machine formats its disk while it is new, and neither formats nor mounts one that it cannot read later")
def disk() -> None:
    [boot] = google()[1]["bootcmd"]
    run(LINT / "shellcheck", "--shell", "sh", "-", stdin=boot)
    written = {one["path"]: one["content"] for one in google()[1]["write_files"]}
    starts = re.findall(r"^(Exec\w+)=(.*)$", written["/etc/systemd/system/whitelistmcp-core.service"], re.MULTILINE)
    must(starts[0] == ("ExecStartPre", "/bin/bash -c 'mountpoint --quiet /mnt/disks/journal'"), "the core starts without its disk")
    for flag, readable, done, fails in (("new", False, ["mkfs.ext4", "told", "fsck.ext4", "mount"], False), ("new", True, ["told", "fsck.ext4", "mount"], False), ("", True, ["fsck.ext4", "mount"], False), ("", False, [], True)):
        with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
            programs, log, system = Path(scratch) / "programs", Path(scratch) / "log", Path(scratch) / "system"
            programs.mkdir(), log.touch()
            if readable:
                system.touch()
            for name, text in {
                "curl": f'case "$*" in *"Metadata-Flavor: Google"*attributes/journal-disk) [ -z "{flag}" ] && exit 22; printf %s "{flag}" ;; *"PUT --data formatted"*guest-attributes/whitelistmcp/journal) echo told >> {log} ;; *) exit 2 ;; esac',
                "blkid": f"[ -e {system} ]", "mkfs.ext4": f"echo mkfs.ext4 >> {log}; : > {system}", "fsck.ext4": f"echo fsck.ext4 >> {log}; exit 1",
                "mountpoint": "exit 32", "mount": f"echo mount >> {log}", "mkdir": "", "chown": "",
            }.items():
                (programs / name).write_text(f"#!/bin/sh\n{text}\n")
                (programs / name).chmod(0o755)
            run("env", "-i", f"PATH={programs}", "/bin/sh", "-c", boot, fails=fails)
            must(log.read_text().split() == done, f"{flag or 'old'}, {'readable' if readable else 'not readable'}: {log.read_text().split()}")


@check("Azure: the script makes what is missing, keeps what is there, and the old group is gone before the new one has the journal")
def az() -> None:
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        given = AZURE | secrets(Path(scratch))
        fresh, again = (calls("azure", "az", exists, given) for exists in (False, True))
        for words in ("group create", "identity create", "storage account create", "storage share-rm create", "container create"):
            must(asked(fresh, words) >= 0, f"no {words}")
        must([call for call in again if " create " in call] == [again[asked(again, "container create")]], "what is there is made again")
        order = [asked(again, f"container {word} ") for word in ("stop", "delete", "create")]
        must(-1 < order[0] < order[1] < order[2], f"the group is renewed in the order {order}")
        must(not any("placeholder" in call or "BEGIN" in call for call in fresh + again), "a secret is an argument, which every process of the machine can read")


# === What they deploy ===


@cache
def google() -> tuple[Any, Any]:
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        script("cloud-run", "render", scratch, **GOOGLE)
        for path in Path(scratch).iterdir():
            must(not re.search(r"@[A-Z_]+@", path.read_text()), f"{path.name}: a value is not put in")
        return yaml(Path(scratch) / "service.yaml"), yaml(Path(scratch) / "core.yaml")


def env_file() -> dict[str, str]:
    [own] = [one["content"] for one in google()[1]["write_files"] if one["path"].endswith("core.env")]
    return dict(line.split("=", 1) for line in own.splitlines())


@check("Cloud Run: the edge is asked where it listens, believes Google's front end alone, ends in time, and takes its variables")
def service() -> None:
    template = google()[0]["spec"]["template"]
    [container] = template["spec"]["containers"]
    told = {one["name"]: one["value"] for one in container["env"]}
    [port] = container["ports"]
    must(told["WHITELISTMCP_EDGE__LISTEN"] == f"0.0.0.0:{port['containerPort']}", "Google calls another port")
    must({container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe")} == {port["containerPort"]}, "probes ask another port")
    must({container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/livez"}, "probes ask something else than /livez")
    must(json.loads(told["WHITELISTMCP_EDGE__TRUSTED_PROXIES"]) == ["169.254.0.0/16"], "somebody else is believed")
    must(int(told["WHITELISTMCP_SHUTDOWN__GRACE"].removesuffix("s")) < 10, "Cloud Run kills before the service has ended")
    annotations = template["metadata"]["annotations"]
    must(int(annotations["autoscaling.knative.dev/minScale"]) >= 1 and annotations["run.googleapis.com/cpu-throttling"] == "false", "the edge sleeps between requests")
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    files = {f"{mounted[one['name']]}/{one['secret']['items'][0]['path']}": one["secret"]["secretName"] for one in template["spec"]["volumes"]}
    read = {value for value in told.values() if value.startswith("/etc/whitelistmcp/")}
    must(read == set(files), f"read and mounted differ: {read ^ set(files)}")
    must(told["WHITELISTMCP_EDGE__BACKEND__ADDRESS"] == f"{GOOGLE['CORE_ADDRESS']}:8443", "the edge looks for the core elsewhere")
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        secrets(Path(scratch))
        places = {path: Path(scratch) / Path(path).name for path in files}
        said = sound({name: put(value, places) for name, value in told.items()})
        must("The configuration is sound." in said, said)


@check("Cloud Run: the core's machine fetches what the core reads, gives it to nobody else, and the core takes its variables")
def machine() -> None:
    written = {one["path"]: one for one in google()[1]["write_files"]}
    told, unit, fetch = env_file(), written["/etc/systemd/system/whitelistmcp-core.service"]["content"], written["/etc/whitelistmcp/fetch.sh"]["content"]
    must(all(one["permissions"] in ("0600", "0700") for path, one in written.items() if path.startswith("/etc/whitelistmcp")), "everybody can read what the core is told")
    run(LINT / "shellcheck", "--shell", "bash", "-", stdin=fetch)
    [command] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    for words in ("--user 65532:65532", "--read-only", "--cap-drop ALL", "no-new-privileges", "--publish 8443:8443", "/mnt/disks/journal:/var/lib/whitelistmcp", ":/etc/whitelistmcp/certs:ro"):
        must(words in command, f"the core runs without {words}")
    must(command.endswith(f"{GOOGLE['IMAGE']} core"), command)
    must(told["WHITELISTMCP_CORE__LISTEN"].endswith(":8443"), "the core listens elsewhere")
    grace, stop, limit = (int(re.search(words, text)[1]) for words, text in ((r"^(\d+)s$", told["WHITELISTMCP_SHUTDOWN__GRACE"]), (r"--time (\d+)", unit), (r"TimeoutStopSec=(\d+)", unit)))
    must(grace < stop < limit, f"{grace} s are taken, {stop} s given by docker, {limit} s by systemd")
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        kept, certs, programs, var = (Path(scratch) / name for name in ("kept", "certs", "programs", "var"))
        kept.mkdir(), programs.mkdir(), var.mkdir()
        secrets(kept)
        for secret, name in (("core-certificate", "core.pem"), ("core-key", "core.key"), ("ca", "ca.pem"), ("journal-key", "journal.pem")):
            (kept / name).rename(kept / f"whitelistmcp-{secret}")
        # In the place of the metadata server and of Secret Manager, as each answers.
        (programs / "curl").write_text(f"""#!/bin/bash
for url; do :; done
case $url in
  http://metadata.google.internal/*) [[ "$*" == *'Metadata-Flavor: Google'* ]] && echo '{{"access_token":"a-token","expires_in":3599,"token_type":"Bearer"}}' ;;
  https://secretmanager.googleapis.com/v1/projects/example-project/secrets/*)
    [[ "$*" == *'Authorization: Bearer a-token'* ]] || exit 22
    secret=${{url#*/secrets/}}
    printf '{{\\n  "name": "x",\\n  "payload": {{\\n    "data": "%s",\\n    "dataCrc32c": "1"\\n  }}\\n}}\\n' "$(base64 --wrap 0 "{kept}/${{secret%%/*}}")" ;;
  *) exit 22 ;;
esac
""")
        (programs / "chown").write_text("#!/bin/sh\n[ \"$2\" = 65532:65532 ]\n")
        for program in programs.iterdir():
            program.chmod(0o755)
        run("env", "-i", f"PATH={programs}:/usr/bin:/bin", "bash", "-c", fetch, "fetch.sh", certs)
        must(all(path.stat().st_mode & 0o077 == 0 for path in certs.iterdir()), "secrets can be read by others")
        said = sound({name: put(value, {"/etc/whitelistmcp/certs": certs, "/var/lib/whitelistmcp": var}) for name, value in told.items()})
        must("The configuration is sound." in said, said)


@check("Cloud Run: the page verifies the journal where the core writes it, by the key that it signs with")
def verified() -> None:
    page = (CHECKOUT / "docs/deploy/cloud-run.md").read_text()
    unit = next(one["content"] for one in google()[1]["write_files"] if one["path"].endswith("whitelistmcp-core.service"))
    disk, inside = re.findall(r"--volume (/mnt/\S+?):(/[^:\s]+)", unit)[0]
    command = re.search(r"--volume (/mnt/[^:\s]+):([^:\s]+):ro .* audit verify --directory (\S+) --key ([^\s\"]+)", page)
    must(command, "the page verifies no journal on the core's disk, or by no key")
    mounted, place, asked, key = command.groups()
    must(mounted == disk, f"the page mounts {mounted}, the core {disk}")
    written = Path(env_file()["WHITELISTMCP_AUDIT__DIRECTORY"]).relative_to(inside)
    must(Path(asked) == Path(place) / written, f"the page looks in {asked}, and the chains are in {Path(place) / written}")
    must(re.search(rf"--volume (\S+):{re.escape(key)}:ro", page) and re.search(r"gcloud compute scp journal\.pub", page), f"nobody brings {key}")


def group(directory: Path, **more: str) -> Any:
    given = {name: value for name, value in (AZURE | secrets(Path(tempfile.mkdtemp(dir=directory))) | more).items() if value}
    script("azure", "render", directory, **given)
    must(not re.search(r"@[A-Z_]+@", (directory / "group.yaml").read_text()), "a value is not put in")
    return yaml(directory / "group.yaml")


# What a container group may say (Microsoft.ContainerInstance/containerGroups 2023-05-01), as far as it is said here.
GROUP = {
    "": {"apiVersion", "location", "name", "type", "identity", "properties"},
    "properties": {"osType", "restartPolicy", "sku", "imageRegistryCredentials", "ipAddress", "subnetIds", "containers", "volumes"},
    "container": {"image", "command", "ports", "resources", "environmentVariables", "livenessProbe", "volumeMounts"},
}


@check("Azure: one group, asked how it is, with its journal on a share, and the service takes its variables")
def instances() -> None:
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        made = group(Path(scratch))
        properties = made["properties"]
        [container] = properties["containers"]
        own = container["properties"]
        for name, block in (("", made), ("properties", properties), ("container", own)):
            must(set(block) <= GROUP[name], f"{name or 'the group'} has no {set(block) - GROUP[name]}")
        told = {one["name"]: one["value"] for one in own["environmentVariables"]}
        port = int(told["WHITELISTMCP_EDGE__LISTEN"].rpartition(":")[2])
        must([one["port"] for one in own["ports"]] == [one["port"] for one in properties["ipAddress"]["ports"]] == [port], "ports differ, and are not mapped here")
        probe = own["livenessProbe"]
        asked = probe["exec"]["command"], probe["periodSeconds"], probe["timeoutSeconds"], probe["failureThreshold"]
        must(asked == (["/usr/local/bin/whitelistmcp", "health"], 30, 10, 3), f"it is asked {asked}")
        mounts = {one["name"]: one["mountPath"] for one in own["volumeMounts"]}
        must(Path(mounts["journal"]) in Path(told["WHITELISTMCP_AUDIT__DIRECTORY"]).parents, "the journal is not on its share")
        [certs] = [one["secret"] for one in properties["volumes"] if one["name"] == "certs"]
        read = {value.removeprefix(mounts["certs"] + "/") for value in told.values() if value.startswith(mounts["certs"])}
        must(read == set(certs), f"read and mounted differ: {read ^ set(certs)}")
        etc, var = Path(scratch) / "etc", Path(scratch) / "var"
        etc.mkdir(), var.mkdir()
        for name, value in certs.items():
            (etc / name).write_bytes(subprocess.run(["base64", "-d"], input=value.encode(), capture_output=True, check=True).stdout)
        said = sound({name: put(value, {mounts["certs"]: etc, mounts["journal"]: var}) for name, value in told.items()})
        must("The configuration is sound." in said, said)
        must(properties["ipAddress"]["type"] == "Public" and not properties["subnetIds"], "the public variant")
        subnet = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s"
        properties = group(Path(scratch), SUBNET_ID=subnet, DNS_LABEL="")["properties"]
        must(properties["ipAddress"]["type"] == "Private" and properties["subnetIds"] == [{"id": subnet}], "the private variant")


@check("hadolint and checkov find nothing in the image for Container Instances that has no reason")
def image() -> None:
    run(LINT / "hadolint", DEPLOY / "azure/Dockerfile")
    judged_by_checkov(DEPLOY / "azure", "dockerfile", parses=3)


@check("no AWS key is anywhere in what is deployed outside AWS")
def keys() -> None:
    for path in [*(DEPLOY / "cloud-run").iterdir(), *(DEPLOY / "azure").iterdir()]:
        found = re.search(r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN)|credentials_file|CREDENTIALS_FILE|\bAKIA", path.read_text())
        if found:
            raise Wrong(f"{path.relative_to(CHECKOUT)} speaks of {found[0]}")


def two_on_one(preload: str) -> str:
    """Two processes on one journal, the second while the first runs; what `audit verify` says of it."""
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        journal = Path(scratch) / "journal"
        told = {
            "MCP_MODE": "remote", "WHITELISTMCP_EDGE__LISTEN": "127.0.0.1:0", "WHITELISTMCP_AUDIT__DIRECTORY": str(journal), "WHITELISTMCP_AUDIT__VOLUME": "persistent",
            "WHITELISTMCP_EDGE__PUBLIC_URL": GOOGLE["PUBLIC_URL"], "WHITELISTMCP_OIDC__COMPANY__ISSUER": GOOGLE["ISSUER"],
            "WHITELISTMCP_OIDC__COMPANY__AUDIENCE": GOOGLE["PUBLIC_URL"], "WHITELISTMCP_AWS__ACCOUNTS": ACCOUNTS, "WHITELISTMCP_LEASES__CLOSE": "false",
            "WHITELISTMCP_LEASES__DISCOVER": "false", "WHITELISTMCP_HEALTH__SELF_TEST": "off", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody",
        } | ({"LD_PRELOAD": preload} if preload else {})
        running: list[subprocess.Popen[bytes]] = []
        try:
            for number in (1, 2):
                running.append(subprocess.Popen([BINARY], env=told, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                for _ in range(200):
                    # The chains' names begin with the time of their start.
                    if len(list(journal.glob("journal-*-000001.jsonl*"))) >= number or running[-1].poll() is not None:
                        break
                    time.sleep(0.1)
                time.sleep(2)
        finally:
            for process in running:
                process.terminate()
                process.wait(60)
        done = subprocess.run([BINARY, "audit", "verify", "--directory", journal], capture_output=True, text=True, timeout=60)
        return f"{done.returncode}: {done.stdout}{done.stderr}"


@check("why the core is not on Cloud Run: two processes on one journal need locks that hold, and without them `audit verify` names what became of it")
def locks() -> None:
    with tempfile.TemporaryDirectory(prefix="clouds-") as scratch:
        # NFS without locks: each process is told that it has the lock.
        (Path(scratch) / "nolock.c").write_text("int flock(int descriptor, int operation) { (void)descriptor; (void)operation; return 0; }\n")
        run("cc", "-shared", "-fPIC", "-o", "nolock.so", "nolock.c", cwd=Path(scratch))
        must(two_on_one("").startswith("0: "), "two processes on one journal, with locks, and it is not whole")
        # Which of the two is faster decides what becomes of it: where the second has put the first's file away before that ends, the
        # first's last lines are lost with nobody to name it.
        for _ in range(5):
            without = two_on_one(f"{scratch}/nolock.so")
            if not without.startswith("0: "):
                break
        must(not without.startswith("0: ") and "says that the chain ended" in without, f"without locks: {without}")
