#!/usr/bin/env python3
"""Reads what `receiver.py` wrote: spans, metric names and log records.

    spans.py FILE                       everything, as JSON
    spans.py FILE --tree [TRACE_ID]     one trace as an indented tree with durations; without an id, the latest

As a library: `read(path)`, `tree(spans, trace_id)`. Times are nanoseconds since the epoch. The dump is meant for eyes:
it does not escape, so a value that imitates the dump's own lines is misread. Assert on names and ids, not on prose.
"""

import argparse
import json
import re
import sys
from pathlib import Path

# A heading opens a section; what follows is read as belonging to it.
HEADING = re.compile(r"(ResourceSpans|ResourceMetrics|ResourceLog|Scope\w+|Span|SpanEvent|SpanLink|Metric|LogRecord) #\d+$")
FIELD = re.compile(r"\s*(Trace ID|Parent ID|Span ID|ID|Name|Kind|Status code|Status message|Start time|End time|SeverityText|Body)\s*: ?(.*)$")
ATTRIBUTE = re.compile(r"     -> (.+?): (Str|Int|Double|Bool|Bytes|Slice|Map|Empty)\((.*)$", re.DOTALL)
METRIC_NAME = re.compile(r"     -> Name: (.*)$")
EVENT_NAME = re.compile(r"     -> Name: (.*)$")
STYLING = re.compile(r"\x1b\[[0-9;]*m")  # The agent's own log lines share the file.

KEYS = {
    "Trace ID": "trace_id",
    "Parent ID": "parent_id",
    "Span ID": "span_id",
    "ID": "span_id",
    "Name": "name",
    "Kind": "kind",
    "Status code": "status",
    "Status message": "message",
    "Start time": "start",
    "End time": "end",
    "SeverityText": "severity",
    "Body": "body",
}
CONVERT = {"Int": int, "Double": float, "Bool": lambda text: text == "true"}


def read(path: Path | str) -> dict:
    """{"spans": […], "metrics": [names…], "logs": […]}; each span and log record carries its `service`."""
    spans: list[dict] = []
    metrics: list[str] = []
    logs: list[dict] = []
    section, resource, record, attributes = "", {}, {}, {}
    lines = STYLING.sub("", Path(path).read_text(errors="replace")).split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if heading := HEADING.match(line):
            section = heading[1]
            if section.startswith("Resource"):
                resource, attributes = {}, {}
            elif section in ("Span", "LogRecord"):
                attributes = {}
                record = {"resource": resource, "attributes": attributes}
                if section == "Span":
                    record["events"] = []
                (spans if section == "Span" else logs).append(record)
        elif line == "Resource attributes:":
            attributes = resource
        elif section == "SpanEvent" and (name := EVENT_NAME.match(line)):
            record["events"].append(name[1])
        elif section == "Metric" and (name := METRIC_NAME.match(line)):
            metrics.append(name[1])
        elif ATTRIBUTE.match(line):
            while not line.endswith(")") and at < len(lines):  # A value of several lines.
                line += "\n" + lines[at]
                at += 1
            # Attributes of events, links and data points are passed over: they would mix with the span's.
            if section in ("Span", "LogRecord") or section.startswith("Resource"):
                key, kind, value = ATTRIBUTE.match(line).groups()
                attributes[key] = CONVERT.get(kind, str)(value[:-1])
        elif section in ("Span", "LogRecord") and (field := FIELD.match(line)):
            record[KEYS[field[1]]] = field[2].strip()
    spans = [span for span in spans if "end" in span]  # The last one may still be on its way to the file.
    return {"spans": [_span(span) for span in spans], "metrics": sorted(set(metrics)), "logs": [_log(log) for log in logs]}


def _span(raw: dict) -> dict:
    return {
        "trace_id": raw["trace_id"],
        "span_id": raw["span_id"],
        "parent_id": raw["parent_id"] or None,
        "name": raw["name"],
        "kind": raw["kind"].removeprefix("SPAN_KIND_").lower(),
        "service": raw["resource"].get("service.name"),
        "start": int(raw["start"]),
        "end": int(raw["end"]),
        "status": raw.get("status", "").removeprefix("STATUS_CODE_").lower() or "unset",
        "message": raw.get("message", ""),
        "attributes": raw["attributes"],
        "events": raw["events"],
    }


def _log(raw: dict) -> dict:
    body = re.fullmatch(r"Str\((.*)\)", raw.get("body", ""), re.DOTALL)
    return {
        "trace_id": raw.get("trace_id") or None,
        "span_id": raw.get("span_id") or None,
        "service": raw["resource"].get("service.name"),
        "severity": raw.get("severity", ""),
        "body": body[1] if body else raw.get("body", ""),
        "attributes": raw["attributes"],
    }


def tree(spans: list[dict], trace_id: str | None = None) -> str:
    """One trace, a line a span, each under its parent. A span whose parent was not received stands at the margin."""
    if trace_id is None:
        if not spans:
            return ""
        trace_id = max(spans, key=lambda span: span["start"])["trace_id"]
    members = sorted((span for span in spans if span["trace_id"] == trace_id), key=lambda span: span["start"])
    known = {span["span_id"] for span in members}
    children: dict[str | None, list[dict]] = {}
    for span in members:
        parent = span["parent_id"] if span["parent_id"] in known else None
        children.setdefault(parent, []).append(span)

    def lines(parent: str | None, depth: int):
        for span in children.get(parent, []):
            name = f"{'  ' * depth}{span['name']}"
            failed = f"  error: {span['message']}" if span["status"] == "error" else ""
            milliseconds = (span["end"] - span["start"]) / 1e6
            yield f"{name:<64} {milliseconds:9.2f} ms  {span['service']} ({span['kind']}){failed}"
            yield from lines(span["span_id"], depth + 1)

    return "\n".join([f"trace {trace_id}", *lines(None, 0)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Read what the OpenTelemetry receiver wrote.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--tree", nargs="?", const="", metavar="TRACE_ID")
    asked = parser.parse_args()
    received = read(asked.file)
    if asked.tree is None:
        print(json.dumps(received, indent=2))
        return 0
    print(tree(received["spans"], asked.tree or None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
