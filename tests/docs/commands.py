"""The commands that the documents show: found, told apart, and what is said of those that need it."""

import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import markdown  # noqa: E402
import rules  # noqa: E402

LANGUAGES = ("sh", "bash", "shell", "console")
PROMPT, MORE = "$ ", "> "
# What a code span in running text begins with if it is a command and has more than one word.
PROGRAMS = frozenset(
    ": apptainer apt bench build cat cmake cp ctest dmesg dpkg echo enroot grep journalctl make man "
    "module mount nvidia-smi podman ps python rm sbatch scancel scontrol sed sinfo slurmd softmig "
    "softmigd squeue srun stat strings sudo systemctl tee tests tools ulimit unshare".split())
# Columns of tables whose spans are what programs say and not what is typed.
SAID = ("message", "symptom", "reason")


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
    for path in documents(source):
        for block in markdown.blocks(path.read_text(encoding="utf-8")):
            if block.language in LANGUAGES:
                read = shown if block.language == "console" else typed
                found.append(Block(str(path.relative_to(source)), block.line, read(block)))
    return found


def documents(source):
    """README.md and docs."""
    return [source / "README.md", *sorted((source / "docs").glob("*.md"))]


def paragraphs(text):
    """(line, text) of what is no fenced block: paragraphs, and rows of tables without what is said."""
    found, fence, heading = [], None, None
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r"^ *(```+)", line)
        if match:
            fence = None if fence else match[1]
            found.append((number, ""))
            continue
        if fence:
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("|"):
            heading = heading or cells
            if heading[0] in SAID:
                cells = cells[1:]
            found.append((number, " | ".join(cells)))
            continue
        heading = None
        if not found or not found[-1][1] or not line.strip() or re.match(r" *([-*]|\d+\.) |#", line):
            found.append((number, line))
        else:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}")
    return found


def mentioned(source):
    """[(document, Command)] of the commands that stand in the text of README.md and docs, each once
    for a document."""
    found = {}
    for path in documents(source):
        document = str(path.relative_to(source))
        for start, text in paragraphs(path.read_text(encoding="utf-8")):
            for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
                words = match[1].split()
                if len(words) > 1 and re.split(r"/", words[0])[0] in PROGRAMS:
                    line = start + text.count("\n", 0, match.start())
                    typed_text = re.sub(r"\s*\n\s*", " ", match[1])
                    found.setdefault((document, typed_text), Command(line, typed_text, None))
    return [(document, command) for (document, _), command in found.items()]


def named(text):
    """(Command, rule) for a name: of a command of ours, a target of make, or tests. Else None."""
    if re.fullmatch(r"softmig( [a-z][a-z-]*)+", text):
        alias = text.replace("softmig update", "softmig install")
        return Command(0, f"{text} --help", None), rules.Rule("", "", prints=f"^Usage: {alias} ")
    if re.fullmatch(r"make [\w-]+( [A-Z_]+=\w+)*", text):
        return Command(0, text.replace("make", "make -n"), None), None
    if text.startswith("ctest "):
        words = text.replace("ctest ", "").replace("--test-dir build", "")
        return (Command(0, f"ctest --test-dir build -N {words}", None),
                rules.Rule("", "", prints="Total Tests: [1-9]"))
    return None


def examples(help_text):
    """The commands that a help text, and so the manual page, shows."""
    return [Command(number, match[1], None)
            for number, line in enumerate(help_text.split("\n"), 1)
            if (match := re.match(r"  (softmigd? [^\s].*)$", line))]


def unknown_options(text, source):
    """Options of a script of the repository that its help does not know."""
    words = text.split("#")[0].split()
    shown = subprocess.run([source / words[0], "--help"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"--?[\w-]+", shown.stdout + shown.stderr))
    return [word for word in words[1:] if word.startswith("-") and word.split("=")[0] not in known]


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
