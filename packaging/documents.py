#!/usr/bin/env python3
"""The documents of the packages that are made from other sources.

documents.py manual COMMAND VERSION OUTPUT      a manual page, from what the command says with --help
documents.py changelog PACKAGE VERSION MAINTAINER CHANGELOG.md OUTPUT   Debian's form of it

Both are gzipped. The date is SOURCE_DATE_EPOCH, or today.
"""
import email.utils
import gzip
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import time

NOW = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def write(output, text):
    with open(output, "wb") as file:
        with gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
            zipped.write(text.encode())


def escaped(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)


def help_of(command, *words):
    result = subprocess.run([command, *words, "--help"], check=True, capture_output=True, text=True)
    return result.stdout


def blocks_of(text):
    """The paragraphs of a help text; those with a heading are lists of (term, meaning)."""
    for block in re.split(r"\n\n+", text.strip("\n")):
        heading, _, rest = block.partition("\n")
        if not re.fullmatch(r"[A-Z][\w ]*:", heading):
            yield None, block
            continue
        rows = []
        for line in rest.split("\n"):
            row = re.match(r"  (\S.*?)(?:\s{2,}(.*))?$", line)
            if row:
                rows.append([row[1], row[2] or ""])
            elif rows:
                rows[-1][1] = f"{rows[-1][1]} {line.strip()}".strip()
        yield heading[:-1], rows


def rows_text(rows):
    return "".join(f".TP\n.B {escaped(term)}\n{escaped(meaning)}\n" for term, meaning in rows)


def command_text(text):
    lines = []
    for heading, block in blocks_of(text):
        if heading:
            lines.append(rows_text(block))
            continue
        about, _, usage = block.partition("Usage: ")
        if about:
            lines.append(re.sub(r"(?<=\.\n)(?=.)", ".br\n", "".join(
                f"{escaped(line)}\n" for line in about.strip("\n").split("\n"))))
        if usage:
            lines.append(f".PP\n.B {escaped(usage)}\n")
    return ".PP\n".join(lines)


def manual(command, version, output):
    name = pathlib.Path(command).name
    section = pathlib.Path(output).name.split(".")[1]
    overview = help_of(command)
    about = re.sub(r"\s+", " ", overview.split("Usage:")[0]).strip()
    commands = [row for heading, rows in blocks_of(overview) if heading == "Subcommands"
                for row in rows]
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    text = (f'.TH {name.upper()} {section} "{day}" "softmig {version}"\n'
            f".SH NAME\n{name} \\- slices of NVIDIA GPUs in software\n"
            f".SH SYNOPSIS\n.B {name}\n.I {'command' if commands else ''} [option ...]\n"
            f".SH DESCRIPTION\n{escaped(about)}\n")
    if not commands:
        text += ".SH OPTIONS\n" + "".join(rows_text(rows) for heading, rows in blocks_of(overview)
                                         if heading == "Options")
    for names, _ in commands:
        text += f".SH {names.upper()}\n{command_text(help_of(command, names.split(',')[0]))}"
    write(output, text)


def changelog(package, version, maintainer, source, output):
    text = pathlib.Path(source).read_text(encoding="utf-8")
    entries = []
    for number, rest in re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        lines = [f"{package} ({version if not entries else number}) unstable; urgency=medium", ""]
        for item in re.findall(r"^- (.*?)(?=^- |^$|\Z)", rest, re.M | re.S):
            words = re.sub(r"\s+", " ", item).strip()
            lines += textwrap.wrap(words, 78, initial_indent="  * ", subsequent_indent="    ")
        date = email.utils.formatdate(NOW).replace("-0000", "+0000")
        entries.append("\n".join(lines + ["", f" -- {maintainer}  {date}", ""]))
    write(output, "\n".join(entries))


if __name__ == "__main__":
    {"manual": manual, "changelog": changelog}[sys.argv[1]](*sys.argv[2:])
