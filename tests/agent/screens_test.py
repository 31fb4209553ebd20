#!/usr/bin/env python3
"""Makes the pictures of docs/images: the dashboard from what a real Prometheus scraped of a simulated node
with the jobs of four users, and softmig status and top at a terminal. They stay in build/screens. Fails if
those of docs/images show another dashboard, or other words."""

import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import xml.etree.ElementTree

import node
from node import BUILD, SOURCE

sys.path.insert(0, str(SOURCE / "tools"))
import png  # noqa: E402

OUT = BUILD / "screens"
ZOOM = {"dashboard": 1.15, "status": 1.25, "top": 1.25, "top-wide": 1.25}
MOST = 170_000
SECONDS = 15


def still(words):
    """A terminal's text without what moves: figures and bars."""
    rest = re.sub(r"\[[| ]*", "[", re.sub(r"[\d.]+", "#", words))
    return "\n".join(" ".join(line.split()) for line in rest.replace("|", "").splitlines())


class Pictures:
    """What makes and judges them."""

    maxDiff = None

    def picture(self, name, same=lambda words: words):
        """The PNG of an SVG in OUT: neither empty nor large, colours all over it, and what the one of the
        documents has."""
        source, made = OUT / f"{name}.svg", OUT / f"{name}.png"
        subprocess.run(["rsvg-convert", "--zoom", str(ZOOM[name]), "--output", made, source], check=True)
        words = xml.etree.ElementTree.parse(source).findtext("{*}desc")
        png.write(made, png.read(made), words)
        pixels = png.read(made)
        lines = [set(line) for line in pixels]
        said = re.search(r'<svg [^>]*width="(\d+)" height="(\d+)"', source.read_text())
        for have, wanted in zip((len(pixels[0]), len(pixels)), map(int, said.groups())):
            self.assertAlmostEqual(have, wanted * ZOOM[name], delta=1)
        self.assertGreater(len(set().union(*lines)), 40, name)
        # Letters and curves, not the frames alone.
        self.assertGreater(sum(len(line) > 4 for line in lines), len(lines) / 3, name)
        self.assertLess(made.stat().st_size, MOST, name)
        print(f"({made}: {len(pixels[0])}x{len(pixels)}, {made.stat().st_size} bytes)")
        old = SOURCE / "docs" / "images" / made.name
        self.assertEqual(same(png.about(old)), same(words),
                         f"{old} is old: look at {made} and put it there")


class Terminals(Pictures, node.Node):

    def test_terminals(self):
        made = subprocess.run([SOURCE / "tools" / "screens.sh", BUILD], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60)
        if "namespaces" in made.stdout:
            self.skipTest(made.stdout)
        self.assertEqual(made.returncode, 0, made.stdout)
        for name in ("status", "top", "top-wide"):
            words = (OUT / f"{name}.svg").read_text()
            for word in ("70211", "alice", "bob", "carol", "NVIDIA L40S"):
                self.assertIn(word, words, name)
            with self.subTest(name):
                self.picture(name, still)


class Dashboard(Pictures, node.Node):
    sim = "2x48G:l40s"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        users = cls.folder / "passwd"
        users.write_text(pathlib.Path("/etc/passwd").read_text() + "".join(
            f"{name}:x:{5001 + i}:{5001 + i}::/:/bin/sh\n"
            for i, name in enumerate(("alice", "bob", "carol", "dave"))))
        subprocess.run(["mount", "--bind", users, "/etc/passwd"], check=True)

    def test_dashboard(self):
        self.start_agent()
        prometheus, begin = self.prometheus()
        self.load(begin)
        tool = SOURCE / "tools" / "dashboard_picture.py"
        subprocess.run([sys.executable, tool, "--prometheus", prometheus, "--begin", str(begin), "--end",
                        str(begin + SECONDS), SOURCE / "data" / "dashboard.json", OUT / "dashboard.svg"],
                       check=True)
        words = (OUT / "dashboard.svg").read_text()
        self.assertFalse("No data" in words)
        wanted = ("Memory held by the driver", "70211 alice GPU 0", "peak 70214 bob GPU 0", "24 GiB",
                  "no_library 70218 dave GPU 1", "over_memory 70218 dave GPU 1", "all of gpu07:9799 GPU 1",
                  "Age of the last look", "over_memory gpu07:9799", "reclaim gpu07:9799")
        self.assertEqual([word for word in wanted if f">{word}<" not in words], [])
        self.picture("dashboard")

    def prometheus(self):
        """Starts one that scrapes the agent; its address, and since when it has figures."""
        address = self.start_prometheus("{instance: 'gpu07:9799'}")

        def scraped():
            try:
                page = urllib.request.urlopen(f"{address}/api/v1/query?query=softmig_agent_info", timeout=5)
                return b"gpu07" in page.read()
            except OSError:
                return False

        self.until(scraped, 20, "a scrape")
        return address, time.time()

    def load(self, begin):
        """What four users do in these seconds."""
        gpus = self.uuids()
        jobs = {70211: (5001, 0), 70214: (5002, 0), 70215: (5003, 0), 70218: (5004, 1)}

        def program(number, *words, **more):
            user, gpu = jobs[number]
            return self.start(number, *words, uid=user, variables={"PROBE_DEVICE": str(gpu)}, **more)

        def job(number, memory, sm):
            user, gpu = jobs[number]
            self.job(number, memory=memory, sm=sm, uid=user, gpus=[gpus[gpu]])

        def at(second):
            time.sleep(max(0, begin + second - time.time()))

        # Alice's kernels follow each other without a pause and wait at the gate; she is near her limit of
        # memory. Bob's need less than his share, until a second program of his begins.
        job(70211, "12G", 25)
        program(70211, "busy", 2000)
        job(70214, "24G", 50)
        program(70214, "busy", 3000, 5000)
        at(1)
        program(70211, "hold", 10000)
        job(70215, "12G", 25)
        program(70215, "hold", 5000)
        job(70218, "12G", 25)
        program(70218, "hold", 5000)
        at(3)
        program(70214, "hold", 6000)
        program(70215, "busy", 1000, 9000)
        at(5)
        program(70214, "hold", 8500, 6)
        program(70218, "busy", 2000, 9000)
        second, _ = program(70214, "busy", 4000, 1000)
        # Carol asks for more than is left of her limit and is refused.
        asking, _ = program(70215, "want", 9000)
        at(7)
        asking.kill()
        # One of Dave's programs got rid of the library and takes him above his limit.
        raw, _ = program(70218, "hold", 7500, library=False)
        self.named("no_library", 70218)
        self.named("over_memory", 70218)
        at(11)
        second.kill()
        at(13)
        raw.kill()
        at(SECONDS + 0.5)


if __name__ == "__main__":
    for needed in ("prometheus", "rsvg-convert"):
        if not shutil.which(needed):
            print(f"skipped: {needed} is not there")
            sys.exit(77)
    OUT.mkdir(exist_ok=True)
    node.main()
