"""What the tests of the documents need of Markdown: headings, links and fenced blocks."""

import pathlib
import re
import subprocess
from typing import NamedTuple


class Block(NamedTuple):
    """A fenced block: the number of its first line, its language, and its lines."""
    line: int
    language: str
    text: str


def documents(source):
    """Every Markdown file of the repository that git knows or would take, else all below it."""
    source = pathlib.Path(source)
    listed = subprocess.run(["git", "-c", f"safe.directory={source}", "-C", source, "ls-files",
                             "--cached", "--others", "--exclude-standard", "*.md"],
                            capture_output=True, text=True, check=False)
    names = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else [
        str(path.relative_to(source)) for path in source.rglob("*.md")
        if "build" not in str(path.relative_to(source)).split("/")[0]]
    return sorted(source / name for name in set(names) if (source / name).exists())


def blocks(text):
    """The fenced blocks of a document; those in a list lose their indent."""
    found, fence, language, start, lines = [], None, "", 0, []
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r"^( *)(```+)\s*(\w*)", line)
        if fence is None and match:
            fence, language, start, lines = match, match[3], number + 1, []
        elif fence is not None and line.strip() == fence[2]:
            found.append(Block(start, language, "\n".join(lines)))
            fence = None
        elif fence is not None:
            lines.append(line.removeprefix(fence[1]))
    return found


def prose(text):
    """The document without its fenced blocks and code spans; lines stay where they are."""
    lines, fence = [], None
    for line in text.split("\n"):
        match = re.match(r"^ *(```+)", line)
        if match and fence is None:
            fence = match[1]
        elif match and line.strip() == fence:
            fence = None
            line = ""
        lines.append("" if fence else re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", line))
    return "\n".join(lines)


def anchor(heading):
    """The anchor that GitHub makes of a heading."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(text):
    """All anchors of a document; a heading that comes again has a number."""
    found, fence = {}, None
    for line in text.split("\n"):
        match = re.match(r"^ *(```+)", line)
        if match:
            fence = None if fence else match[1]
            continue
        head = re.match(r"^#{1,6} +(.*?) *#*$", line)
        if fence or not head:
            continue
        name = anchor(head[1])
        found[name] = found.get(name, -1) + 1
    return {name if count == 0 else f"{name}-{count}"
            for name, most in found.items() for count in range(most + 1)}


def links(text):
    """(line, target) of every link and picture."""
    plain = prose(text)
    return [(plain.count("\n", 0, match.start()) + 1, match[1])
            for match in re.finditer(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", plain)]
