#!/usr/bin/env python3
"""The manual pages of a build: mandoc has nothing to say, and every command, option, key, verdict and
promised file is in them. SOFTMIG_BUILD is the build folder."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["SOFTMIG_BUILD"])
PAGES = ("softmig.1", "softmig.conf.5", "libsoftmig.7")
AGENT = "softmigd.8"


def shown(page):
    """The page as it is read."""
    result = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=200", BUILD / "man" / page],
                            check=True, capture_output=True, text=True)
    return re.sub(r"\s+", " ", re.sub(".\b", "", result.stdout))


def said(*command):
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Manual(unittest.TestCase):
    """Every page."""

    def pages(self):
        """Those of this build."""
        return PAGES + ((AGENT,) if (BUILD / "softmigd").exists() else ())

    def test_mandoc_has_nothing_to_say(self):
        for page in self.pages():
            with self.subTest(page=page):
                result = subprocess.run(["mandoc", "-T", "lint", BUILD / "man" / page],
                                        capture_output=True, text=True, check=False)
                self.assertEqual((result.stdout + result.stderr, result.returncode), ("", 0))

    def test_no_markdown_is_left(self):
        for page in self.pages():
            with self.subTest(page=page):
                self.assertNotRegex(shown(page), r"\]\(|\*\*|```|\|---")

    def test_every_command_and_option_is_there(self):
        text = shown("softmig.1")
        overview = said(BUILD / "softmig", "--help")
        commands = re.findall(r"^  ([a-z][a-z-]+)", overview.split("Subcommands:")[1], re.M)
        self.assertGreater(len(commands), 10)
        for command in commands:
            self.assertIn(f"softmig {command}", text)
            for option in re.findall(r"^  (?:-\w,)?(--[\w-]+)", said(BUILD / "softmig", command, "--help"),
                                     re.M):
                if option != "--help":
                    self.assertIn(option, text, command)

    def test_every_key_is_there(self):
        text = shown("softmig.conf.5")
        rows = (SOURCE / "src/abi/config_keys.def").read_text(encoding="utf-8")
        keys = re.findall(r"^SM_CONFIG_KEY\((\w+),", rows, re.M)
        site = re.findall(r"^(\w+)\S*$", said(BUILD / "softmig", "config", "keys", "--site"), re.M)
        self.assertGreater(len(keys), 10)
        self.assertGreater(len(site), 5)
        for key in keys + site:
            self.assertIn(key, text)
        library = shown("libsoftmig.7")
        for key in re.findall(r"^SM_CONFIG_KEY\((\w+), \w+, \w+, kAnywhere", rows, re.M):
            self.assertIn(key, library)
        for row in re.findall(r"\{Situation::\w+, \w+::\w+,\s*\"([^\"]*?)\s*\"",
                              (SOURCE / "src/policy/failure.h").read_text(encoding="utf-8")):
            self.assertIn(row, text)

    def test_every_verdict_and_file_is_there(self):
        if AGENT in self.pages():
            verdicts = re.findall(r'^    \{"(\w+)",',
                                  (SOURCE / "src/policy/verdict.cc").read_text(encoding="utf-8"), re.M)
            self.assertEqual(len(verdicts), 6)
            for verdict in verdicts:
                self.assertIn(verdict, shown(AGENT))
        readme = (SOURCE / "README.md").read_text(encoding="utf-8")
        files = re.findall(r"^\| `(/[^`]*)`", readme.split("## Names and paths that are promised")[1],
                           re.M)
        self.assertGreater(len(files), 5)
        for file in files:
            self.assertIn(file, shown("libsoftmig.7"))


if __name__ == "__main__":
    if not shutil.which("mandoc"):
        print("skipped: mandoc is not there; apt-get install mandoc")
        sys.exit(77)
    unittest.main()
