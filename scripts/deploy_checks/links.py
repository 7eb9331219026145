"""Links in every document of the checkout: to files, to headings, and to nothing else that could be gone without a word."""

import re
from collections.abc import Iterator

from .judge import CHECKOUT, Wrong, check, must
from .scripts import tracked

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)\)")
REFERENCE = re.compile(r"^\[[^\]]+\]: (\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def prose(document: str) -> str:
    """A document without its fenced blocks, in which brackets mean something else. Lines stay where they are."""
    text = (CHECKOUT / document).read_text()
    return FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)


def anchors(document: str) -> set[str]:
    """What headings are called in links, as GitHub makes it of their words."""
    known: set[str] = set()
    counts: dict[str, int] = {}
    for heading in HEADING.findall(prose(document)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        times = counts[slug] = counts.get(slug, -1) + 1
        known.add(f"{slug}-{times}" if times else slug)
    known |= set(re.findall(r'<a (?:id|name)="([^"]+)"', prose(document)))
    return known


def links(document: str) -> Iterator[tuple[int, str]]:
    """Each link of a document that is no URL, and its line."""
    text = re.sub(r"`[^`\n]*`", lambda found: " " * len(found[0]) if "](" not in found[0] else found[0], prose(document))
    for pattern in (LINK, REFERENCE):
        for found in pattern.finditer(text):
            target = found[1].strip("<>")
            if not re.match(r"[a-z][a-z0-9+.-]*:", target):
                yield text.count("\n", 0, found.start()) + 1, target


@check("links between documents lead to files and headings that are there")
def lead() -> None:
    wrong, count = [], 0
    known: dict[str, set[str]] = {}
    for document in tracked("*.md"):
        for line, target in links(document):
            count += 1
            path, _, anchor = target.partition("#")
            file = (CHECKOUT / document).parent / path if path else CHECKOUT / document
            if path.startswith("/") or not file.resolve().is_relative_to(CHECKOUT):
                wrong.append(f"{document}:{line}: {target} leads out of the checkout")
            elif not file.exists():
                wrong.append(f"{document}:{line}: {target}: there is no such file")
            elif anchor:
                name = str(file.resolve().relative_to(CHECKOUT))
                if not name.endswith(".md"):
                    wrong.append(f"{document}:{line}: {target}: only documents have headings")
                elif anchor not in known.setdefault(name, anchors(name)):
                    wrong.append(f"{document}:{line}: {target}: no heading is called so; there are {', '.join(sorted(known[name]))}")
    must(count > 50, "hardly any links were found, so nothing was looked at")
    if wrong:
        raise Wrong("\n".join(wrong))


@check("every page in docs can be reached from docs/README.md")
def reached() -> None:
    pages = set(tracked("docs/*.md", "docs/**/*.md"))
    seen, waiting = set(), ["docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for _, target in links(page):
            file = ((CHECKOUT / page).parent / target.partition("#")[0]).resolve()
            if file.is_dir() and file.is_relative_to(CHECKOUT / "docs"):
                seen |= {str(part.relative_to(CHECKOUT)) for part in file.glob("*.md")}
            elif file.suffix == ".md" and file.is_file() and file.is_relative_to(CHECKOUT):
                waiting.append(str(file.relative_to(CHECKOUT)))
    must(not pages - seen, f"nothing leads to: {', '.join(sorted(pages - seen))}")
