#!/usr/bin/env python3
"""Every message of the sources has an entry in docs/troubleshooting.md, or stands in
self_explaining.txt; every entry there is still said by something.

An entry is what stands in backquotes in the first column of a table whose first column is headed
"message" or "symptom". "..." in it stands for anything.
"""

import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import messages  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parents[1]
GUIDE = SOURCE / "docs/troubleshooting.md"
EXPLAINED = HERE / "self_explaining.txt"
LEAST_LETTERS = 8

# Entries that other programs say.
FOREIGN = (
    "cannot open shared object file", "version `GLIBC_...' not found",
    "object '...libsoftmig.so' from /etc/ld.so.preload cannot be preloaded: ignored",
    "wrong ELF class: ELFCLASS32", "CUDA_ERROR_OUT_OF_MEMORY", "Bus error",
    "cudaErrorSoftwareValidityNotEstablished", "Prolog error", "was requeued",
    "closed: ...", "Invalid generic resource (gres) specification", "... lines left out",
)


def matches(entry, text):
    """Whether the parts of the entry stand in the text, in order."""
    parts = [part.strip() for part in entry.split(messages.GAP) if part.strip()]
    if sum(map(len, parts)) < LEAST_LETTERS:
        return False
    place = 0
    for part in parts:
        found = text.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


def code_spans(cell):
    """What stands in backquotes, single or double."""
    return [span[1].strip() for span in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", cell)]


def entries(text):
    """(head of the first column, entry) of every table of the guide."""
    found, head, before = [], None, ""
    for line in text.split("\n"):
        if not line.startswith("|"):
            head = None
        elif re.fullmatch(r"\|[-| ]+\|", line):
            head = before.split("|")[1].strip()
        elif head in ("message", "symptom"):
            cell = re.split(r"(?<!\\)\|", line)[1]
            found += [(head, span.replace("\\|", "|")) for span in code_spans(cell)]
        before = line
    return found


def explained():
    """The lines of self_explaining.txt; a line with # gives the reason for those below it."""
    lines = EXPLAINED.read_text(encoding="utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#")]


class Messages(unittest.TestCase):
    """Both directions."""

    @classmethod
    def setUpClass(cls):
        cls.said = messages.all_messages(SOURCE)
        cls.entries = entries(GUIDE.read_text(encoding="utf-8"))

    def test_the_sources_are_read(self):
        texts = [message.text for message in self.said]
        self.assertGreater(len(texts), 200)
        for part in ("is newer than", "cannot be used: limits hold within this process only",
                     "nothing to limit", "the Slurm controller knows no job",
                     "holds ... MiB of ... and is in no ledger", "no metrics on", "no such key",
                     "there is no softmig in", "does not belong to root", "cut into"):
            self.assertTrue(any(part in text for text in texts), part)

    def test_every_message_has_an_entry(self):
        listed = set(explained())
        lost = [f"{message.place}: {message.text}" for message in self.said
                if message.text not in listed and
                not any(matches(entry, message.text) for _, entry in self.entries)]
        self.assertEqual(lost, [], "\nneither in docs/troubleshooting.md nor, as they stand, in "
                                   "tests/docs/self_explaining.txt")

    def test_every_entry_is_said(self):
        for head, entry in self.entries:
            if head != "message" or any(part in entry for part in FOREIGN):
                continue
            with self.subTest(entry=entry):
                self.assertTrue(any(matches(entry, message.text) for message in self.said),
                                "nothing says this any more")

    def test_no_explanation_without_a_message(self):
        texts = {message.text for message in self.said}
        lines = explained()
        self.assertEqual([line for line in lines if line not in texts], [], "nothing says these")
        self.assertEqual(len(lines), len(set(lines)), "a line is there twice")

    def test_a_message_that_nobody_knows_is_seen(self):
        for text in ("the frobnicator is jammed", "softmig: the dog ate ... of it"):
            self.assertFalse(any(matches(entry, text) for _, entry in self.entries), text)


if __name__ == "__main__":
    unittest.main()
