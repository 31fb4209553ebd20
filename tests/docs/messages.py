#!/usr/bin/env python3
"""What the library, the command, the agent and the scripts say when something is wrong, from their
sources.

    messages.py [SOURCE]      prints them all: place, tab, text; what is filled in is "..."

A text is the literals of one argument of one call, joined where the source joins them. Texts of two
branches are two texts.
"""

import pathlib
import re
import sys
from typing import NamedTuple

LITERAL = r'"(?:[^"\\\n]|\\.)*"'
GAP = "..."
# What is filled in: {} of fmt, %s of printf (base/format.h), and of Lua.
FIELD = re.compile(r"\{\d*(?::[^{}]*)?\}|%-?(?:\.\*)?[0-9.]*(?:ll|l|z)?[dusxc]\b|%\.\*s")
# The call, and which of its arguments is the text (None: all). A call is known by how it begins.
CALLS = (
    (r"\blog\((?:job::)?LogLevel::k(?:Error|Warning),", 1),
    (r"\bsay\(Weight::k(?:Error|Warning),", 1),
    (r"\bFailure\(", 0),
    (r"(?<![\w:])report\((?!const )", 0),
    (r"(?<![\w:])(?:error|warn|problem)\((?!const )", None),
    (r"\bbase::format\((?:error|text),", 1),
    (r"\berror\.add\(|\.add\((?=\"[^\"]* )", 0),
    (r"\bkill_one\(\{", 1),
    (r"\{Level::k(?:Bad|Warning),", 1),
    (r"\bfmt::print\(\s*stderr,", 1),
    (r"\b(?:trouble|missing|error|fault) = ", None),
    (r"(?<=\*)(?:error|why|problem|reason) = ", None),
    (r"\bkLastWords\[\] = ", None),
)
# Files in which what is returned is what is wrong.
RETURNING = ("src/agent/enforcer.cc", "src/cli/cuda_driver.cc", "src/cli/trial.cc", "src/host/nvml.cc",
             "src/job/trusted_file.cc")
# Lines of a script that go to standard error or to the user.
SCRIPT = re.compile(r'(?:\becho|\bfail|\bfault|\blog_user|\blog_error)[ (]+("(?:[^"\\]|\\.)*")')


def without_comments(text):
    """The source with comments and includes taken out and every line in its place."""
    text = re.sub(LITERAL + r"|//[^\n]*", lambda m: m[0] if m[0][0] == '"' else "", text)
    return re.sub(r"#(?:include|error)[^\n]*", "", text)


def end_of(text, start):
    """Where the brackets that are open at start, or the statement, end; and the commas between."""
    depth, commas, place = 0, [], start
    while place < len(text):
        char = text[place]
        if char == '"':
            literal = re.compile(LITERAL).match(text, place)
            place = literal.end() if literal else place + 1
            continue
        if char == "'":
            place += 4 if text[place + 1] == "\\" else 3
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth < 0:
                break
        elif char == ";" and depth <= 0:
            break
        elif char == "," and depth == 0:
            commas.append(place)
        place += 1
    return place, commas


def pieces(argument):
    """The texts of one argument: its alternatives, each with gaps where something is filled in."""
    # What is joined by + or stands side by side is one text; ? : and commas part texts.
    joined, text = [], None
    position = 0
    for match in re.finditer(LITERAL, argument):
        between = argument[position:match.start()]
        literal = match[0][1:-1].replace('\\"', '"').replace("\\n", " ").replace("\\t", " ")
        if text is None or re.search(r"[?:,;]|return|=", re.sub(r"::", "", between)):
            if text is not None:
                joined.append(text)
            text = literal
        else:
            text += ("" if between.strip() == "" else GAP) + literal
        position = match.end()
    if text is not None:
        joined.append(text)
    return [re.sub(r"\s+", " ", FIELD.sub(GAP, piece)).strip() for piece in joined]


def is_text(piece):
    """Whether this is for people: at least two words of which one is long."""
    words = re.findall(r"[A-Za-z]{2,}", piece.replace(GAP, " "))
    return " " in piece and len(words) >= 2 and max(map(len, words)) >= 4


class Message(NamedTuple):
    """One text and where it stands."""
    place: str
    text: str


def of_cpp(path, name):
    """Messages of one C++ file."""
    text = without_comments(path.read_text(encoding="utf-8"))
    found = set()
    for call, which in CALLS:
        for match in re.finditer(call, text):
            # Behind the first argument, where the call is known by it.
            opened = text.find("(", match.start(), match.end()) + 1
            if text[match.start()] == "{":
                opened = match.start() + 1
            start = opened or match.end()
            end, commas = end_of(text, start)
            if which is None:
                bounds = [(start, end)]
            else:
                edges = [start, *[comma + 1 for comma in commas], end + 1]
                bounds = list(zip(edges, edges[1:]))[which:which + 1]
            for begin, finish in bounds:
                found.update((text.count("\n", 0, begin) + 1, piece)
                             for piece in pieces(text[begin:finish]))
    if name in RETURNING:
        for match in re.finditer(r"\breturn ", text):
            end, _ = end_of(text, match.end())
            found.update((text.count("\n", 0, match.start()) + 1, piece)
                         for piece in pieces(text[match.end():end]))
    return [Message(f"{name}:{line}", piece) for line, piece in sorted(found) if is_text(piece)]


def of_script(path, name):
    """Messages of a shell or Lua script."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        for match in SCRIPT.finditer(line):
            piece = re.sub(r"\$\{?\w+(?:[^}]*\})?", GAP, match[1][1:-1])
            piece = re.sub(r"\s+", " ", FIELD.sub(GAP, piece)).strip()
            if is_text(piece):
                found.append(Message(f"{name}:{number}", piece))
    return found


def of_table(path, name, pattern):
    """Texts of rows of a table."""
    text = path.read_text(encoding="utf-8")
    return [Message(f"{name}:{text.count(chr(10), 0, match.start()) + 1}",
                    re.sub(r'"\s*"', "", match[1])) for match in re.finditer(pattern, text)]


def of_rules(path, name):
    """What the Lua rules answer: their literals that are sentences."""
    text = re.sub(LITERAL + r"|--[^\n]*", lambda m: m[0] if m[0][0] == '"' else "",
                  path.read_text(encoding="utf-8"))
    found = []
    for match in re.finditer(LITERAL, text):
        piece = match[0][1:-1].strip()
        if is_text(piece) and "%" not in piece:
            found.append(Message(f"{name}:{text.count(chr(10), 0, match.start()) + 1}", piece))
    return found


def all_messages(source):
    """Every message, in the order of the files."""
    source = pathlib.Path(source)
    found = []
    for path in sorted((source / "src").rglob("*")):
        if path.suffix in (".cc", ".h"):
            found += of_cpp(path, str(path.relative_to(source)))
    for folder in ("slurm", "scripts"):
        for path in sorted((source / folder).glob("*.sh")):
            if path.is_symlink():
                continue
            found += of_script(path, str(path.relative_to(source)))
    found += of_rules(source / "slurm/softmig_rules.lua", "slurm/softmig_rules.lua")
    found += of_table(source / "src/policy/verdict.cc", "src/policy/verdict.cc",
                      r'\{"\w+", [^"]*?,\s*"((?:[^"]|"\s*")+)"\}')
    return found


if __name__ == "__main__":
    ROOT = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    for message in all_messages(ROOT):
        print(message.place, message.text, sep="\t")
