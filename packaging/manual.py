#!/usr/bin/env python3
"""Manual pages, made of what is written elsewhere, so that every fact stands once: of what the commands
say with --help, of the tables of keys that `softmig config keys` prints, of the failure table in
src/policy/failure.h, and of sections of the documents.

manual.py PAGE VERSION OUTPUT --softmig PATH [--softmigd PATH] [--gzip OUTPUT.gz]

PAGE is softmig.1, softmigd.8, softmig.conf.5 or libsoftmig.7. The date is SOURCE_DATE_EPOCH, or today.
Uses nothing but Python.
"""
import argparse
import gzip
import os
import pathlib
import re
import subprocess
import textwrap
import time

SOURCE = pathlib.Path(__file__).resolve().parents[1]
NOW = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
ABOUT = {
    "softmig.1": "slices of NVIDIA GPUs in software",
    "softmigd.8": "node agent of SoftMig: measures what jobs use of the GPUs",
    "softmig.conf.5": "what a site decides about slices of GPUs, and configs of jobs",
    "libsoftmig.7": "library that keeps a process to its slice of a GPU",
}


# roff -----------------------------------------------------------------------------------------------


def escaped(text):
    """Text as it stands, but for what roff would take for its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha")
    text = text.replace("~", "\\(ti").replace("`", "\\(ga").replace("'", "\\(aq")
    return re.sub(r"^\.", r"\\&.", text)


def styled(text):
    """One paragraph of Markdown: `code` and **strong** in bold, links as their text."""
    text = re.sub(r" \(\[[^\]]*\]\([^)]*\)\)", "", text)  # no more than a pointer
    text = re.sub(r"!?\[((?:[^\]`]|`[^`]*`)*)\]\([^)]*\)", r"\1", text)
    done = []
    for piece in re.split(r"(`[^`]+`|\*\*.+?\*\*)", text):
        if piece.startswith("`"):
            done.append(f"\\fB{escaped(piece[1:-1])}\\fR")
        elif piece.startswith("**"):
            done.append(f"\\fB{escaped(piece[2:-2].replace('`', ''))}\\fR")
        else:
            done.append(escaped(re.sub(r"\*([^*\s][^*]*)\*", r"\1", piece)))
    return "".join(done)


def filled(text):
    """Lines of at most 78 columns. No line begins as a request would."""
    lines = textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False) or [""]
    return "".join(("\\&" if line.startswith((".", "\\(aq")) else "") + line + "\n"
                   for line in lines)


def paragraph(text):
    """A paragraph of Markdown."""
    return filled(styled(re.sub(r"\s+", " ", text).strip()))


def listing(lines):
    """What stands in a fenced block."""
    return ".PP\n.RS 4\n.nf\n" + "".join(escaped(line) + "\n" for line in lines) + ".fi\n.RE\n"


def terms(rows):
    """(term, meaning) in roff already."""
    return "".join(f".TP\n{term}\n{meaning}" for term, meaning in rows)


def table(rows):
    """A table of Markdown as a list: the first column is the term, the others what it means."""
    head, rows = rows[0], rows[2:]
    done = []
    for row in rows:
        term, rest = row[0], row[1:]
        meaning = []
        for name, cell in zip(head[1:], rest):
            if cell:
                meaning.append(f"{name}: {cell}" if name and len(rest) > 1 else cell)
        done.append((filled(styled(term)).rstrip("\n"), paragraph("; ".join(meaning))))
    return terms(done)


def markdown(text):
    """A section of a document in roff; headings within it become subsections."""
    out, lines, plain = [], text.split("\n"), []

    def flush():
        if plain:
            out.append(".PP\n" + paragraph(" ".join(plain)))
            plain.clear()

    while lines:
        line = lines.pop(0)
        if line.startswith("```"):
            flush()
            block = []
            while lines and not lines[0].startswith("```"):
                block.append(lines.pop(0))
            lines.pop(0)
            out.append(listing(block))
        elif line.startswith("|"):
            flush()
            rows = [line]
            while lines and lines[0].startswith("|"):
                rows.append(lines.pop(0))
            out.append(table([[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
                              for row in rows]))
        elif re.match(r"(- |\d+\. )", line):
            flush()
            item = [line.split(" ", 1)[1]]
            while lines and lines[0].startswith("  "):
                item.append(lines.pop(0).strip())
            out.append(".IP \\(bu 2\n" + paragraph(" ".join(item)))
        elif re.match(r"#+ ", line):
            flush()
            out.append(f".SS {escaped(line.lstrip('# '))}\n")
        elif line.strip() and not line.startswith("!["):
            plain.append(line.strip())
        else:
            flush()
    flush()
    return re.sub(r"(\.S[SH] [^\n]*\n)\.PP\n", r"\1", "".join(out))


def section(document, heading):
    """What stands under a heading of a document, without it. No heading: what stands before the
    first but the title."""
    text = (SOURCE / document).read_text(encoding="utf-8")
    if heading is None:
        return text.split("\n## ")[0].split("\n", 1)[1]
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.M | re.S)
    if match is None:
        raise SystemExit(f"manual.py: {document} has no section {heading}")
    return match[2]


# What the commands say ------------------------------------------------------------------------------


def said(command, *words):
    """What a command prints."""
    return subprocess.run([command, *words], check=True, capture_output=True, text=True,
                          env={**os.environ, "NO_COLOR": "1"}).stdout


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


def plain_terms(rows):
    """Rows of a help text."""
    return terms((f"\\fB{escaped(term)}\\fR", filled(escaped(meaning))) for term, meaning in rows)


def help_text(text, kind):
    """One command's help; `kind` is the request for its heading."""
    out = []
    for heading, block in blocks_of(text):
        if heading == "Subcommands":
            continue
        if heading:
            out.append(plain_terms(row for row in block if row[0] != "-h,--help"))
            continue
        about, _, usage = block.partition("Usage: ")
        if usage:
            usage = re.sub(r"^\S*/", "", usage.strip())
            out.append(f".PP\n{filled(f'{chr(92)}fB{escaped(usage)}{chr(92)}fR')}")
        if about:
            lines = about.strip("\n").split("\n")
            code = [line for line in lines if line.startswith("  ")]
            before = lines[:lines.index(code[0])] if code else lines
            after = lines[lines.index(code[-1]) + 1:] if code else []
            out.append(".PP\n" + filled(escaped(" ".join(before))))
            if code:
                out.append(listing(line.strip() for line in code))
            if after:
                out.append(".PP\n" + filled(escaped(" ".join(after))))
    return kind + re.sub(r"^\.PP\n", "", "".join(out))


def subcommands(text):
    """Names of the subcommands of a help text."""
    return [row[0].split(",")[0] for heading, rows in blocks_of(text) if heading == "Subcommands"
            for row in rows]


def keys(text):
    """(key, meaning, value, more) of what `softmig config keys` prints."""
    for match in re.finditer(r"^(\S+)\n    (.*)\n    value: (.*?); default: (.*)$", text, re.M):
        yield match.groups()


def key_terms(rows):
    """The keys as a list."""
    done = []
    for name, meaning, value, default in rows:
        default, _, more = default.partition("; ")
        text = f"{meaning[0].upper()}{meaning[1:]}. Value: {value}. Without it: {default}."
        if more:
            text += f" {more[0].upper()}{more[1:]}."
        done.append((f"\\fB{escaped(name)}\\fR", filled(escaped(text))))
    return terms(done)


def failures():
    """Rows of src/policy/failure.h."""
    text = (SOURCE / "src/policy/failure.h").read_text(encoding="utf-8")
    literal = r'"(?:[^"\\]|\\.)*"'
    rows = re.findall(rf"\{{Situation::\w+, Outcome::\w+,\s*((?:{literal}\s*)+),\s*((?:{literal}\s*)+)\}}",
                      text)
    if len(rows) != text.count("{Situation::"):
        raise SystemExit("manual.py: src/policy/failure.h is not read in full")
    return terms((filled(escaped(plain[0])).rstrip("\n"), filled(escaped(plain[1])))
                 for plain in (["".join(re.findall(r'"((?:[^"\\]|\\.)*)"', cell)) for cell in row]
                               for row in rows))


# The pages ------------------------------------------------------------------------------------------


def softmig(programs):
    """softmig(1)."""
    overview = said(programs.softmig, "--help")
    about = re.sub(r"\s+", " ", overview.split("Usage:")[0]).strip()
    text = (".SH SYNOPSIS\n\\fBsoftmig\\fR \\fIcommand\\fR [option ...]\n"
            f".SH DESCRIPTION\n{filled(escaped(about))}.SH COMMANDS\n")
    for name in subcommands(overview):
        shown = said(programs.softmig, name, "--help")
        text += help_text(shown, f".SS {escaped(name)}\n")
        for inner in subcommands(shown):
            text += help_text(said(programs.softmig, name, inner, "--help"),
                              f".SS {escaped(name)} {escaped(inner)}\n")
    errors = section("docs/cli.md", "The command line").split("\n\n")[-2:]
    text += ".SH \"EXIT STATUS\"\n" + markdown("\n\n".join(errors)).removeprefix(".PP\n")
    return text, ("softmig.conf(5)", "libsoftmig(7)", "softmigd(8)")


def softmigd(programs):
    """softmigd(8)."""
    shown = said(programs.softmigd, "--help")
    options = "".join(plain_terms(row for row in rows if row[0] != "-h,--help")
                      for heading, rows in blocks_of(shown) if heading == "Options")
    text = (".SH SYNOPSIS\n\\fBsoftmigd\\fR [option ...]\n.SH DESCRIPTION\n" +
            markdown(section("docs/agent.md", None)).removeprefix(".PP\n") +
            f".SH OPTIONS\n{options}")
    for title, heading in (("RUNNING IT", "Running it"), ("VERDICTS", "Verdicts"),
                           ("ANSWERS", "What follows"), ("ACTIVE_OOM_KILLER", "ACTIVE_OOM_KILLER"),
                           ("OTHER WORK", "What else it does"),
                           ("BUGS", "What it does not see")):
        text += f".SH \"{title}\"\n" + markdown(section("docs/agent.md", heading)).removeprefix(".PP\n")
    files = [row for row in promised_files() if "jobid" in row[0] or "softmig.conf" in row[0]]
    text += ".SH FILES\n" + terms([("\\fB/etc/softmig/softmig.conf\\fR",
                                    filled("What the site decides: \\fBsoftmig.conf\\fR(5)."))] + files)
    return text, ("softmig(1)", "softmig.conf(5)", "libsoftmig(7)")


def softmig_conf(programs):
    """softmig.conf(5)."""
    example = (SOURCE / "docs/configuration.md").read_text(encoding="utf-8").split("```\n")[1]
    text = (".SH SYNOPSIS\n.nf\n/etc/softmig/softmig.conf\n/var/run/softmig/{jobid}.conf\n.fi\n"
            ".SH DESCRIPTION\n" + filled(
                "Two kinds of files have one form. \\fB/etc/softmig/softmig.conf\\fR is what a site "
                "decides; it is the same on controller, login nodes and compute nodes. "
                "\\fB/var/run/softmig/{jobid}.conf\\fR has the limits of one job on one node; the "
                "prolog writes it. \\fBsoftmig config check\\fR \\fIfile\\fR explains what is wrong "
                "with either.") +
            ".PP\n" + paragraph(section("docs/configuration.md", "Keys").strip().split("\n\n")[0]) +
            ".SH \"KEYS OF A SITE\"\n" + paragraph(
                section("docs/slurm.md", "softmig.conf").strip().split("\n\n")[-1]) +
            key_terms(keys(said(programs.softmig, "config", "keys", "--site"))) +
            ".PP\n" + paragraph("`ACTIVE_OOM_KILLER`, `SOFTMIG_LOG_LEVEL` and `SOFTMIG_CONTEXT_COST` may "
                                "stand there too, and go into the config of every job with a slice.") +
            ".SH \"KEYS OF A JOB\"\n" + key_terms(keys(said(programs.softmig, "config", "keys"))) +
            markdown(section("docs/configuration.md", "Keys").split("|\n\n")[-1]))
    for title, heading in (("SIZES", "Sizes"), ("OWNER AND MODE", "What a config must be")):
        text += (f".SH \"{title}\"\n" +
                 markdown(section("docs/configuration.md", heading)).removeprefix(".PP\n"))
    text += ".SH \"WHEN SOMETHING IS WRONG\"\n" + failures()
    text += ".SH EXAMPLES\n" + listing(example.rstrip("\n").split("\n")).removeprefix(".PP\n")
    return text, ("softmig(1)", "libsoftmig(7)", "softmigd(8)")


def promised_files():
    """The rows of README's table of names that are paths."""
    rows = re.findall(r"^\| (`[/$].*?) \| (.*) \|$",
                      section("README.md", "Names and paths that are promised"), re.M)
    return [(filled(styled(name)).rstrip("\n"), paragraph(meaning)) for name, meaning in rows]


def libsoftmig(programs):
    """libsoftmig(7)."""
    steps = re.sub(r"```.*?```\n", "", section("README.md", "How it works"), flags=re.S)
    steps = steps.strip().rsplit("\n\n", 1)[0]
    variables = [row for row in keys(said(programs.softmig, "config", "keys"))
                 if "files only" not in row[3]]
    others = [
        ("SOFTMIG_REGION", "The file in which processes of one slice count, outside of jobs; "
                           "\\fBsoftmig run\\fR sets it."),
        ("SLURM_TMPDIR", "Where region and log are made if root made no region or the log folder "
                         "cannot be written."),
        ("SLURM_JOB_ID", "The job, where the cgroup names none, and only for jobs of this user."),
        ("CUDA_VISIBLE_DEVICES", "The order of devices for keys that end in _n, if the config does "
                                 "not name the GPUs."),
        ("LD_PRELOAD", "Loads the library into one program, for tests: "
                       "\\fBLD_PRELOAD=/path/to/libsoftmig.so\\fR."),
    ]
    text = (".SH SYNOPSIS\n.nf\n/etc/ld.so.preload: /var/lib/shared/libsoftmig.so\n.fi\n"
            ".SH DESCRIPTION\n" +
            markdown(section("README.md", None)).split(".PP\n")[1] + markdown(steps) +
            ".SH ENVIRONMENT\n" + filled(
                "Where root's config has limits for this job, variables set none. Programs with more "
                "rights than their caller (setuid, setgid, file capabilities) listen to no variable.") +
            key_terms(variables) +
            terms((f"\\fB{escaped(name)}\\fR", filled(meaning)) for name, meaning in others) +
            ".SH FILES\n" + terms(promised_files()) +
            ".SH LOGS\n" + markdown(section("docs/configuration.md", "Logs")).removeprefix(".PP\n") +
            ".SH \"WHEN SOMETHING IS WRONG\"\n" + failures())
    return text, ("softmig(1)", "softmig.conf(5)", "softmigd(8)", "ld.so(8)")


def page(name, version, programs):
    """The whole page."""
    title, number = name.rsplit(".", 1)
    make = {"softmig.1": softmig, "softmigd.8": softmigd, "softmig.conf.5": softmig_conf,
            "libsoftmig.7": libsoftmig}[name]
    text, others = make(programs)
    day = time.strftime("%Y-%m-%d", time.gmtime(NOW))
    also = ",\n".join(re.sub(r"^(.*)\((.)\)$", r".BR \1 (\2)", other) for other in others)
    return (f'.TH {title.upper()} {number} {day} "softmig {version}" "SoftMig"\n'
            f".SH NAME\n{title} \\- {ABOUT[name]}\n{text}.SH \"SEE ALSO\"\n{also}\n")


def main():
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("page", choices=sorted(ABOUT))
    parser.add_argument("version")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--softmig", required=True)
    parser.add_argument("--softmigd")
    parser.add_argument("--gzip", type=pathlib.Path)
    options = parser.parse_args()
    text = page(options.page, options.version, options).encode()
    options.output.write_bytes(text)
    if options.gzip:
        with open(options.gzip, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as zipped:
            zipped.write(text)


if __name__ == "__main__":
    main()
