"""The commands that the documents show: found, told apart, and what is said of those that need it."""

import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import markdown  # noqa: E402

LANGUAGES = ("sh", "bash", "shell", "console")
PROMPT, MORE = "$ ", "> "


class Command(NamedTuple):
    """A command as it is typed, and the output that the document shows (None: it shows none)."""
    line: int
    text: str
    output: list


class Block(NamedTuple):
    """A fenced block of commands."""
    document: str
    line: int
    commands: list


def is_whole(text):
    """Whether bash sees a command that has its end."""
    result = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return result.returncode == 0 and not text.endswith("\\\n") and "here-document" not in result.stderr


def typed(block):
    """The commands of a block without prompts."""
    found, start, text = [], 0, ""
    for number, line in enumerate(block.text.split("\n"), block.line):
        if not text and (not line.strip() or line.lstrip().startswith("#")):
            continue
        start = start or number
        text += line + "\n"
        if is_whole(text):
            found.append(Command(start, text.rstrip("\n"), None))
            start, text = 0, ""
    if text:
        found.append(Command(start, text.rstrip("\n"), None))
    return found


def shown(block):
    """The commands of a block with prompts, and their output."""
    found = []
    for number, line in enumerate(block.text.split("\n"), block.line):
        if line.startswith(PROMPT):
            found.append(Command(number, line[len(PROMPT):], []))
        elif found and line.startswith(MORE) and not found[-1].output:
            last = found.pop()
            found.append(last._replace(text=f"{last.text}\n{line[len(MORE):]}"))
        elif found:
            found[-1].output.append(line)
    return found


def blocks(source):
    """Every block of commands in README.md and docs."""
    found = []
    for path in [source / "README.md", *sorted((source / "docs").glob("*.md"))]:
        for block in markdown.blocks(path.read_text(encoding="utf-8")):
            if block.language in LANGUAGES:
                read = shown if block.language == "console" else typed
                found.append(Block(str(path.relative_to(source)), block.line, read(block)))
    return found


def is_shown(expected, real):
    """Whether real output is the one that a document shows. Blanks count as one; "..." stands for
    anything within a line, and alone for any lines at the end."""
    def squeezed(lines):
        lines = [re.sub(r"\s+", " ", line).strip() for line in lines]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    expected, real = squeezed(expected), squeezed(real)
    if expected and expected[-1] == "...":
        expected.pop()
        real = real[:len(expected)]
    return len(expected) == len(real) and all(
        re.fullmatch(re.escape(line).replace(r"\.\.\.", ".*"), other)
        for line, other in zip(expected, real))
