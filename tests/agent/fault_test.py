#!/usr/bin/env python3
"""What must neither end an honest program nor blind the agent: numbers of processes that are used again,
root's processes in jobs, files that cannot be read, users who fill ledgers, journals and labels."""

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.request

import node
from node import OTHER, RUN, USER


class Listed(node.Node):
    """A driver that goes on listing the dead, whose memory a child holds."""

    site = "ON_VERDICT=kill\n"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.list = cls.folder / "listed"
        cls.list.write_text("")
        cls.environment = {"SOFTMIG_TEST_PROCESSES": str(cls.list)}
        cls.options = ("--nvml", str(node.BUILD / "tests" / "agent" / "libagent_listed.so"))
        cls.start_agent()

    def reused(self, job, *words, **options):
        """A process of the job after this one that has the number of a dead one of this."""
        self.job(job)
        self.job(job + 1, uid=OTHER)
        first, pid = self.start(job, "hold", 100)
        self.until(lambda: self.value("softmig_job_processes", slurmjobid=str(job)) == 1, 5, "it is seen")
        self.list.write_text(f"0 {pid} 3000\n")
        first.kill()
        first.wait()
        time.sleep(1.2)
        for _ in range(100):
            try:
                with open("/proc/sys/kernel/ns_last_pid", "w", encoding="ascii") as last:
                    last.write(str(pid - 1))
            except OSError:
                self.skipTest("the next process's number cannot be chosen here")
            second, _ = self.start(job + 1, *words, uid=OTHER, library=False, wait=False, **options)
            if second.pid == pid:
                return second
            second.kill()
            second.wait()
        self.skipTest("others take the numbers")

    def test_number_of_the_dead_used_again(self):
        innocent = self.reused(9101, "60", program="/bin/sleep")
        time.sleep(3)
        self.assertIsNone(innocent.poll(), self.said())
        self.assertNotIn("job 9102", self.said())
        innocent.kill()
        self.list.write_text("")

    def test_and_by_a_program_that_uses_the_gpu(self):
        guilty = self.reused(9103, "hold", 100)
        self.named("no_library", 9104, pid=guilty.pid)
        self.assertGone(guilty.pid)
        self.list.write_text("")


class RootInJobs(node.Node):
    site = "ON_VERDICT=cancel\n"

    def test_nobody_pays_for_root(self):
        self.job(9111)
        if not self.cgroups:
            self.skipTest("no cgroups here: root's processes are in no job")
        _, honest = self.start(9111, "hold", 100)
        self.start_agent()
        _, roots = self.start(9111, "hold", 100, uid=0, library=False)
        self.until(lambda: "root's, left alone" in self.said(), 5, "the reason")
        time.sleep(7)
        self.assertLives(honest)
        self.assertLives(roots)
        self.assertEqual(self.calls.read_text(), "")
        self.assertEqual(self.said().count("left alone"), 1)


class Files(node.Node):
    site = "ON_VERDICT=kill\n"

    def test_folder_of_the_jobs_goes_and_comes_back(self):
        self.job(9121, memory="4G")
        _, honest = self.start(9121, "hold", 100)
        self.start_agent()
        self.until(lambda: self.value("softmig_job_processes", slurmjobid="9121") == 1, 5, "it is seen")
        away = RUN.with_suffix(".away")
        RUN.rename(away)
        time.sleep(13)
        self.assertLives(honest)
        self.assertEqual(self.value("softmig_verdicts_total"), 0, self.said())
        self.assertIn("cannot be read", self.said())
        away.rename(RUN)
        self.until(lambda: "can be read again" in self.said(), 4, "and back")

    def test_old_refusals_kill_nobody(self):
        self.job(9122, memory="4G")
        _, honest = self.start(9122, "hold", 100)
        self.start(9122, "want", 5000)
        if self.agent is None:
            self.start_agent()
        self.until(lambda: self.value("softmig_job_refusals_total", slurmjobid="9122") == 1, 5, "it is seen")
        self.job(9122, memory="4G", extra="ACTIVE_OOM_KILLER=1\n", region=False)
        time.sleep(2.5)
        self.assertLives(honest)


class Slurmd(node.Node):
    def test_of_a_container_is_not_the_nodes(self):
        """Its cgroup namespace, recorded as the node's, would hide every job from the library."""
        if subprocess.run(["unshare", "-C", "true"], check=False).returncode != 0:
            self.skipTest("no cgroup namespaces here")
        slurmd = self.folder / "slurmd"
        shutil.copy("/bin/sleep", slurmd)
        process = subprocess.Popen(["unshare", "-C", str(slurmd), "60"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.until(lambda: open(f"/proc/{process.pid}/comm", encoding="ascii").read() == "slurmd\n", 5, "it")
        self.start_agent()
        own = os.stat("/proc/self/ns/cgroup").st_ino
        recorded = RUN / "cgroup_ns"
        self.assertIn(recorded.read_text() if recorded.exists() else "", ("", f"{own}\n"))


class Left(node.Node):
    site = "ON_VERDICT=kill\n"

    def test_config_that_an_epilog_left(self):
        """A job that has the whole GPU is no stranger for that; beside a job that lives it is one."""
        self.job(9124)
        if not self.cgroups:
            self.skipTest("no cgroups here: no process is in a job without a config")
        (self.cgroups / "job_9125").mkdir()
        _, whole = self.start(9125, "hold", 100, uid=OTHER)
        self.start_agent()
        self.until(lambda: self.value("softmig_gpu_processes") == 1, 5, "it is seen")
        time.sleep(3)
        self.assertLives(whole)
        self.assertNotIn("stranger", self.said())
        _, lives = self.start(9124, "hold", 100)
        self.named("stranger", 9125, seconds=4, pid=whole)
        self.assertGone(whole)
        self.assertLives(lives)


class Full(node.Node):
    def test_no_room_for_the_extra_page(self):
        self.job(9131)
        self.start(9131, "hold", 100)
        self.start_agent()
        self.until((RUN / "9131.region.extra").exists, 5, "the page")
        with open("/run/fill", "wb", buffering=0) as file:
            size = shutil.disk_usage("/run").free
            try:
                os.posix_fallocate(file.fileno(), 0, size)
                file.seek(size)
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
        self.until(lambda: "beyond their ledgers: No space" in self.said(), 5, "it is said")
        os.unlink("/run/fill")
        self.until(lambda: "are told again" in self.said(), 5, "and over")


class Large(node.Node):
    site = "ON_VERDICT=kill\n"

    def test_region_is_cut_to_its_size(self):
        """A user fills /run with what root made for him there."""
        self.job(9135)
        _, honest = self.start(9135, "hold", 100)
        region = RUN / "9135.region"
        size = region.stat().st_size
        self.start_agent()
        grow = f"cd / && dd if=/dev/zero of={region} bs=1M seek=60 count=60 conv=notrunc"
        subprocess.run(["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "sh", "-c", grow],
                       check=True, stderr=subprocess.DEVNULL)
        words = r"job 9135: its region was made \d+ MiB large by uid 5001"
        self.until(lambda: re.search(words, self.said()), 5, "it is said")
        self.until(lambda: region.stat().st_size == size, 5, "it is cut")
        time.sleep(2)
        self.assertLives(honest)
        self.assertGreater(self.value("softmig_job_memory_used_bytes", slurmjobid="9135"), 600 << 20)


class Crowds(node.Node):
    """Users who make much of everything."""

    site = "ON_VERDICT=kill\n"

    @staticmethod
    def fill(number, name_space):
        """All slots of a region belong to processes that never were."""
        count, slot = 32768, 64 + 64 * 16
        with open(RUN / f"{number}.region", "r+b") as region:
            size = os.fstat(region.fileno()).st_size
            region.seek(28)
            region.write(struct.pack("<I", count))
            for i in range(count):
                region.seek(size - (count - i) * slot)
                region.write(struct.pack("<QQ", (i + 5) << 40 | (i + 1), name_space))

    def test_full_regions(self):
        self.job(9141)
        self.job(9142, uid=OTHER)
        _, honest = self.start(9142, "hold", 100, uid=OTHER)
        self.start_agent()
        for name_space in (0, 0x12345):
            self.fill(9141, name_space)
            looks, worst = self.value("softmig_agent_looks_total"), 0
            for _ in range(16):
                time.sleep(0.5)
                worst = max(worst, node.resident_mib(self.agent.pid))
            self.assertGreater(self.value("softmig_agent_looks_total"), looks + 5)
            self.assertLess(worst, 40)
        self.assertLives(honest)
        self.assertEqual(self.value("softmig_job_verdict", slurmjobid="9142"), 0)

    def test_labels_are_text(self):
        self.job(9143)
        self.start(9143, "hold", 100, variables={b"SLURM_JOB_ACCOUNT": b'a\xffb"c\nd\xc2\x9b'})
        if self.agent is None:
            self.start_agent()
        if not self.cgroups:
            self.skipTest("accounts are found by cgroup")
        with_account = r'slurm_job_memory_usage_gpu{user="5001",account="a\\xffb\"c\\x0ad\\xc2\\x9b",slurmjobid="9143"'

        def page():
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5).read()

        self.until(lambda: with_account.encode() in page(), 8, "the account")
        page().decode()

    def test_one_process_after_another(self):
        self.job(9144)
        if self.agent is None:
            self.start_agent()
        kills = self.value("softmig_actions_total", action="kill")
        for _ in range(60):
            self.start(9144, "hold", 1, library=False, wait=False)
            time.sleep(0.03)
        self.until(lambda: self.value("softmig_actions_total", action="kill") >= kills + 50, 15, "kills")
        self.assertLessEqual(len(re.findall("job 9144: ", self.said())), 41)


class Connections(node.Node):
    def test_clients_that_say_nothing(self):
        """Anybody on the node can connect: Prometheus, which waits ten seconds, is answered all the same."""
        self.start_agent()
        silent = [socket.create_connection(("127.0.0.1", self.port), timeout=5) for _ in range(40)]
        begin = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            self.assertIn(b"softmig_agent_looks_total", page.read())
        print(f"(answered after {time.monotonic() - begin:.1f} s beside {len(silent)} silent clients)")
        for client in silent:
            client.close()

    def test_hangup_is_no_end(self):
        if self.agent is None:
            self.start_agent()
        self.agent.send_signal(signal.SIGHUP)
        looks = self.value("softmig_agent_looks_total")
        self.until(lambda: self.value("softmig_agent_looks_total") > looks, 10, "it goes on")


class Cancels(node.Node):
    site = "ON_VERDICT[stranger]=cancel\n"

    def test_one_for_all_and_again_if_it_failed(self):
        script = self.folder / "scancel"
        script.write_text(f'#!/bin/sh\necho scancel "$@" >>{self.calls}\nexit 1\n')
        self.job(9151, gpus=["GPU-00000000-0000-0000-0000-000000000001"])
        self.job(9152)
        self.start_agent()
        for _ in range(3):
            self.start(9151, "hold", 100, library=False, wait=False)
        self.until(lambda: "job 9151: scancel failed" in self.said(), 8, "it is said")
        time.sleep(1)
        self.assertEqual(self.calls.read_text().count("scancel 9151"), 1)


if __name__ == "__main__":
    node.main()
