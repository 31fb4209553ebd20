#!/usr/bin/env python3
"""What Prometheus gets: the figures of a job, promtool's opinion, a real Prometheus that scrapes, and a
dashboard whose every query has an answer."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import node
from node import MIB, SOURCE


class Metrics(node.Node):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.job(9801, memory="12288M", sm=50)
        cls.job(9802, memory="24G", gpus=cls.uuids())
        cls.start(9801, "hold", 3000, variables={"SLURM_JOB_ACCOUNT": "def-test"})
        cls.start(9801, "busy", 500, 500)
        # Something for every row: a refusal, and a verdict.
        cls.start(9801, "want", 20000)
        cls.start(9802, "hold", 200, library=False)
        cls.start_agent()
        cls.until(lambda: cls.value("softmig_job_verdict") >= 1, 6, "the verdict")
        cls.until(lambda: cls.value("slurm_job_utilization_gpu", slurmjobid="9801") > 10, 8, "busy")

    def test_figures_of_the_job(self):
        job = {"slurmjobid": "9801", "gpu": "0", "gpu_type": "NVIDIA L40S", "user": "5001"}
        self.assertEqual(self.value("slurm_job_memory_total_gpu", **job), 12288 * MIB)
        self.assertEqual(self.value("softmig_job_memory_limit_bytes", **job), 12288 * MIB)
        self.assertAlmostEqual(self.value("slurm_job_memory_usage_gpu", **job) / MIB, 3000 + 3 * 518,
                               delta=60)
        self.assertEqual(self.value("softmig_job_compute_limit_ratio", **job), 0.5)
        self.assertEqual(self.value("softmig_job_processes", **job), 3)
        self.assertGreaterEqual(self.value("softmig_job_refusals_total", **job), 1)
        self.assertGreater(self.value("softmig_job_gpu_seconds_total", **job), 0)
        self.assertLess(self.value("slurm_job_utilization_gpu", **job), 80)
        self.assertEqual(self.value("softmig_job_verdict", slurmjobid="9801"), 0, self.said())
        if self.cgroups:
            self.until(lambda: self.value("slurm_job_memory_usage_gpu", account="def-test") > 0, 8,
                       "the account")

    def test_promtool(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not there")
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5).read()
        check = subprocess.run(["promtool", "check", "metrics"], input=page, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, check=False)
        self.assertEqual((check.returncode, check.stdout), (0, b""))

    def test_alerts_of_the_documents(self):
        if not shutil.which("promtool"):
            self.skipTest("promtool is not there")
        words = (SOURCE / "docs" / "operations.md").read_text()
        rules = self.folder / "rules.yml"
        rules.write_text(next(block for block in re.findall(r"```yaml\n(.*?)```", words, re.S)
                              if block.startswith("groups:")))
        check = subprocess.run(["promtool", "check", "rules", rules], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(check.returncode, 0, check.stdout)
        known = {name for name, _ in self.metrics()}
        asked = set(re.findall(r"(?:softmig|slurm_job)_\w+", rules.read_text()))
        self.assertGreater(len(asked), 3)
        self.assertEqual(asked - known, set())

    def test_a_real_prometheus(self):
        if not shutil.which("prometheus"):
            self.skipTest("prometheus is not there")
        server = self.start_prometheus()

        def ask(query):
            address = f"{server}/api/v1/query?" + urllib.parse.urlencode({"query": query})
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    return json.load(answer)["data"]["result"]
            except OSError:
                return []

        self.until(lambda: ask('up{job="softmigd"} == 1'), 20, "a scrape")
        # A rate needs two samples.
        self.until(lambda: ask("rate(softmig_agent_looks_total[15s]) > 0"), 20, "a rate")
        board = json.loads((SOURCE / "data" / "dashboard.json").read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                query = target["expr"].replace("$__rate_interval", "15s")
                query = re.sub(r'=~"\$\w+"', '=~".*"', query)
                with self.subTest(panel["title"], query=query):
                    self.assertTrue(ask(query), query)

    def test_listens_on_localhost_alone(self):
        sockets = subprocess.run(["ss", "-ltnH"], stdout=subprocess.PIPE, text=True, check=False).stdout
        own = [line.split()[3] for line in sockets.splitlines() if f":{self.port} " in line]
        self.assertEqual(own, [f"127.0.0.1:{self.port}"])

    def test_a_user_who_connects_and_says_nothing_hides_nothing(self):
        for _ in range(16):
            silent = socket.create_connection(("127.0.0.1", self.port))
            self.addCleanup(silent.close)
        begin = time.monotonic()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30).read()
        # A Prometheus waits for 10 s.
        self.assertLess(time.monotonic() - begin, 6)


class TakenPort(node.Node):
    def test_is_had_once_it_is_free(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", self.port))
            other.listen()
            self.start_agent(first_look=False)
            self.until(lambda: "no metrics on" in self.said(), 10, "the first try")
            time.sleep(4)
            self.assertEqual(self.said().count("no metrics on"), 1, self.said())
        self.until(lambda: self.value("softmig_agent_looks_total") >= 1, 5, "the page")
        self.assertEqual(self.said().count("no metrics on"), 1, self.said())
        self.assertEqual(self.said().count(f"metrics on 127.0.0.1:{self.port}\n"), 1, self.said())


if __name__ == "__main__":
    node.main()
