#!/usr/bin/env python3
"""Links between the documents lead somewhere: to a file of the repository, and to a heading of it."""

import os
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import markdown  # noqa: E402

SOURCE = pathlib.Path(__file__).resolve().parents[2]
OUTSIDE = ("http://", "https://", "mailto:")
# Documents that a reader must be able to come to from README.md.
PUBLIC = ("docs/", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md")


def fault_of(path, target):
    """What is wrong with a link of the document at path, or None."""
    name, _, fragment = target.partition("#")
    aim = pathlib.Path(os.path.normpath(path.parent / name)) if name else path
    if not aim.is_relative_to(SOURCE):
        return "leads out of the repository"
    if not aim.exists():
        return "there is no such file"
    if fragment and aim.suffix == ".md":
        if fragment not in markdown.anchors(aim.read_text(encoding="utf-8")):
            return "there is no such heading"
    return None


class Links(unittest.TestCase):
    """Every document."""

    def test_links_lead_somewhere(self):
        count = 0
        for path in markdown.documents(SOURCE):
            for line, target in markdown.links(path.read_text(encoding="utf-8")):
                if target.startswith(OUTSIDE):
                    continue
                count += 1
                with self.subTest(place=f"{path.relative_to(SOURCE)}:{line}", target=target):
                    self.assertIsNone(fault_of(path, target))
        self.assertGreater(count, 50)

    def test_all_documents_are_reached(self):
        seen, open_ends = set(), [SOURCE / "README.md"]
        while open_ends:
            path = open_ends.pop()
            if path in seen or path.suffix != ".md" or not path.exists():
                continue
            seen.add(path)
            for _, target in markdown.links(path.read_text(encoding="utf-8")):
                if not target.startswith(OUTSIDE):
                    name = target.partition("#")[0]
                    open_ends.append(pathlib.Path(os.path.normpath(path.parent / name)))
        lost = [str(path.relative_to(SOURCE)) for path in markdown.documents(SOURCE)
                if str(path.relative_to(SOURCE)).startswith(PUBLIC) and path not in seen]
        self.assertEqual(lost, [], "no links lead there from README.md")

    def test_bad_links_are_seen(self):
        readme = SOURCE / "README.md"
        self.assertIsNone(fault_of(readme, "docs/security.md#threat-model"))
        self.assertIsNotNone(fault_of(readme, "docs/nothing.md"))
        self.assertIsNotNone(fault_of(readme, "docs/security.md#nothing"))
        self.assertIsNotNone(fault_of(readme, "../elsewhere.md"))
        self.assertEqual(markdown.links("see [a](b.md) `[c](d.md)`\n```\n[e](f.md)\n```\n[g](h.md#i)"),
                         [(1, "b.md"), (5, "h.md#i")])
        self.assertEqual(markdown.anchors("# A `b_c`, d\n## A\n## A\n```\n# no\n```"),
                         {"a-b_c-d", "a", "a-1"})


if __name__ == "__main__":
    unittest.main()
