"""What the suite found, looked at once more: which scenarios ran, which checks of them passed, and whether it was our fixtures that
they passed on."""

import json
from pathlib import Path

# How many scenarios each revision requires of a server, so that none is lost with a new release of the suite.
REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}
TOOLS = """
test_simple_text test_image_content test_audio_content test_embedded_resource test_multiple_content_types test_error_handling
test_tool_with_progress test_tool_with_logging test_logging_tool test_custom_header test_sampling test_elicitation
test_elicitation_sep1034_defaults test_elicitation_sep1330_enums test_input_required_result_elicitation
test_input_required_result_sampling test_input_required_result_list_roots test_input_required_result_request_state
test_input_required_result_multiple_inputs test_input_required_result_multi_round test_input_required_result_tampered_state
test_input_required_result_capabilities test_missing_capability test_streaming_elicitation test_trigger_tool_change
test_trigger_prompt_change touch_watched_resource
""".split()
RESOURCES = ["test://static-text", "test://static-binary", "test://watched-resource"]
PROMPTS = [
    "test_simple_prompt", "test_prompt_with_arguments", "test_prompt_with_embedded_resource", "test_prompt_with_image",
    "test_input_required_result_prompt",
]  # fmt: skip
# What a scenario must have found, by scenario, check and the path in the check's details. Some would be content with anything.
FOUND = [
    ("tools-list", "tools-list", ["tools"], TOOLS),
    ("resources-list", "resources-list", ["resources"], RESOURCES),
    ("prompts-list", "prompts-list", ["prompts"], PROMPTS),
    ("tools-call-simple-text", "tools-call-simple-text", ["result", "content", 0, "text"], "This is a simple text response for testing."),
    ("tools-call-error", "tools-call-error", ["result", "content", 0, "text"], "Refused: This tool intentionally returns an error for testing"),
    ("tools-call-image", "tools-call-image", ["mimeType"], "image/png"),
    ("tools-call-mixed-content", "tools-call-mixed-content", ["contentTypes"], ["text", "image", "resource"]),
    ("tools-call-embedded-resource", "tools-call-embedded-resource", ["resourceUri"], "test://embedded-resource"),
    ("tools-call-with-progress", "tools-call-with-progress", ["progressCount"], 3),
    ("resources-read-text", "resources-read-text", ["uri"], "test://static-text"),
    ("resources-read-binary", "resources-read-binary", ["mimeType"], "image/png"),
    ("resources-templates-read", "resources-templates-read", ["uri"], "test://template/123/data"),
    ("prompts-get-simple", "prompts-get-simple", ["messageCount"], 1),
    ("prompts-get-with-args", "prompts-get-with-args", ["messages", 0, "content", "text"], "Prompt with arguments: arg1='testValue1', arg2='testValue2'"),
    ("prompts-get-embedded-resource", "prompts-get-embedded-resource", ["messages", 0, "content", "resource", "uri"], "test://example-resource"),
    ("prompts-get-with-image", "prompts-get-with-image", ["messageCount"], 2),
    ("completion-complete", "completion-complete", ["result", "completion", "values"], ["test", "testing"]),
]  # fmt: skip


class Verdict:
    def __init__(self) -> None:
        self.passed = self.failed = 0
        self.wrong: list[str] = []

    def count(self, wrong: list[str]) -> None:
        self.passed, self.failed = self.passed + (not wrong), self.failed + bool(wrong)
        self.wrong += wrong

    def required(self, revision: str, names: list[str], results: Path, code: int, said: str) -> None:
        """A revision's requirements, `names`: no check of them may fail, warn, or be left out, unless `expected.yml` says so."""
        every = scenarios(results)
        found = {name: every[name] for name in names if name in every}
        print(f"{revision}: {len(found)} scenarios are required: {words(found)}")
        self.count([] if code == 0 else [f"{revision}: the suite ends with {code}:\n{said[-1500:]}"])
        self.count([] if len(found) == len(names) == REQUIRED[revision] else [f"{revision}: {len(found)} scenarios ran, not {REQUIRED[revision]}"])
        for scenario, checks in found.items():
            wrong = [check for check in checks if check["status"] not in ("SUCCESS", "INFO")]
            if not any(check["status"] == "SUCCESS" for check in checks):
                self.count([f"{revision}: {scenario} checks nothing"])
            self.count([f"{revision}: {scenario}: {sentence(check)}" for check in wrong])
        for scenario, check_id, path, wanted in FOUND:
            if scenario not in found:
                self.count([f"{revision}: {scenario} did not run"])
                continue
            details = next((check.get("details") for check in found[scenario] if check["id"] == check_id), None)
            value = at(details, path)
            self.count([] if value == wanted else [f"{revision}: {scenario} passes on {value!r}, not on {wanted!r}"])

    def earlier(self, revision: str, results: Path, said: str) -> None:
        """An earlier revision: of all that the suite has for it, nothing fails or warns."""
        found = scenarios(results)
        print(f"{revision}: {len(found)} scenarios: {words(found)}")
        self.count([] if found else [f"{revision}: no scenario ran: {said[-500:]}"])
        for scenario, checks in found.items():
            self.count([f"{revision}: {scenario}: {sentence(check)}" for check in checks if check["status"] in ("FAILURE", "WARNING")])

    def besides(self, scenario: str, results: Path, said: str) -> None:
        """A scenario that no revision requires."""
        found = scenarios(results).get(scenario)
        if found is None:
            self.count([f"{scenario} did not run: {said[-500:]}"])
            return
        print(f"{scenario}, not required: {words({scenario: found})}")
        self.count([f"{scenario}: {sentence(check)}" for check in found if check["status"] in ("FAILURE", "WARNING") and (scenario, check["id"]) not in EXPECTED])

    def probe(self, name: str, wrong: str | None) -> None:
        """An exchange of our own."""
        print(f"{name}: {'failed' if wrong else 'passed'}")
        self.count([f"{name}: {wrong}"] if wrong else [])

    def told(self, seconds: float) -> int:
        for reason in self.wrong:
            print(f"\n{reason}")
        print(f"\nin {seconds:.0f} s\n\n{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0


# Checks of scenarios that are not required, which cannot pass, and why. For required ones there is `expected.yml`.
EXPECTED = {
    ("json-schema-2020-12", "json-schema-2020-12-tool-found"): "schemas are made from protos, which have no $anchor, allOf, anyOf or if; the suite's own server cannot pass it either",
}


def words(found: dict[str, list[dict]]) -> str:
    """How many checks ended how."""
    every = [check["status"] for checks in found.values() for check in checks]
    return ", ".join(f"{every.count(status)} {word}" for status, word in STATUSES.items() if every.count(status))


STATUSES = {"SUCCESS": "passed", "FAILURE": "failed", "WARNING": "warned", "SKIPPED": "skipped", "INFO": "said something"}


def scenarios(results: Path) -> dict[str, list[dict]]:
    """The checks of each scenario, from the files that the suite writes: `server-SCENARIO-TIME/checks.json`."""
    found = {}
    for file in sorted(results.glob("server-*/checks.json")):
        name = file.parent.name.removeprefix("server-")
        # A time ends the name: 2026-11-29T17-38-17-123Z.
        found[name[: -len("-2026-11-29T17-38-17-123Z")]] = json.loads(file.read_text())
    return found


def sentence(check: dict) -> str:
    details = json.dumps(check.get("details"))[:400] if check.get("details") else ""
    return f"{check['status']} {check['id']}: {check.get('errorMessage') or check.get('description')} {details}"


def at(value, path: list):
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
