#!/usr/bin/env python3
"""A driver that hangs, fails, goes and comes back; many processes, many GPUs; hostile regions; limits
that the driver enforces."""

import os
import time

import node
from node import RUN, USER


class Driver(node.Node):
    site = "ON_VERDICT=kill\n"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.job(9201)
        _, cls.pid = cls.start(9201, "hold", 500)
        cls.start_agent()

    def faults_are(self, text):
        fresh = self.faults.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o644)
        # The same second must look like another one.
        os.utime(fresh, ns=(time.time_ns(), time.time_ns()))
        fresh.rename(self.faults)

    def recovers(self):
        self.faults_are("")
        self.until(lambda: self.value("softmig_agent_driver_up") == 1, 15, "the driver is back")
        self.until(lambda: self.value("softmig_job_processes", slurmjobid="9201") == 1, 10, "the job too")
        self.assertLives(self.pid)
        self.assertEqual(self.value("softmig_actions_total", action="kill"), 0)

    def test_hangs(self):
        self.faults_are("nvmlDeviceGetMemoryInfo*:slow=6s")
        self.until(lambda: self.value("softmig_agent_driver_up") == 0, 10, "it hangs")
        looks = self.value("softmig_agent_looks_total")
        self.until(lambda: self.value("softmig_agent_looks_total") > looks, 5, "looks go on")
        self.recovers()
        self.assertIn("the driver does not answer", self.said())

    def test_fails(self):
        for call in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDevice*", "nvml*"):
            with self.subTest(call):
                self.faults_are(f"{call}:fail=15")
                self.until(lambda: self.value("softmig_agent_driver_up") == 0, 10, "it fails")
                self.recovers()

    def test_utilisation_and_memory_fail(self):
        self.faults_are("nvmlDeviceGetProcessUtilization:fail=3,nvmlDeviceGetMemoryInfo*:fail=999,"
                        "nvmlDeviceGetUtilizationRates:fail=3,nvmlDeviceGetGraphics*:fail=3")
        looks = self.value("softmig_agent_looks_total")
        self.until(lambda: self.value("softmig_agent_looks_total") > looks + 2, 8, "looks go on")
        self.assertEqual(self.value("softmig_agent_driver_up"), 1)
        self.recovers()

    def test_goes_and_comes_back(self):
        self.faults_are("nvml*:fail=9,nvml:absent")
        self.until(lambda: self.value("softmig_agent_driver_up") == 0, 10, "it is gone")
        time.sleep(2)
        self.recovers()

    def test_ends_while_the_driver_hangs(self):
        self.recovers()
        self.faults_are("nvmlDeviceGetMemoryInfo*:slow=20s")
        time.sleep(2)
        begin = time.monotonic()
        self.assertEqual(self.stop_agent(), 0)
        self.assertLess(time.monotonic() - begin, 5)
        self.faults_are("")
        self.start_agent()
        self.recovers()


class Many(node.Node):
    """Sixteen GPUs, 128 processes of eight jobs: the agent stays small."""

    sim = "16x80G:h100"
    site = "ON_VERDICT=kill\n"

    def test_sixteen_gpus_and_128_processes(self):
        for number in range(8):
            self.job(9301 + number, memory="40G", sm=50)
        for number in range(8):
            for i in range(16):
                self.start(9301 + number, "hold", 20, variables={"PROBE_DEVICE": str((number + i) % 16)})
        self.start_agent()
        self.until(lambda: self.value("softmig_gpu_processes") == 128, 15, "all are seen")
        self.assertEqual(self.value("softmig_job_processes"), 128)
        usage = self.value("slurm_job_memory_usage_gpu", slurmjobid="9301")
        self.assertAlmostEqual(usage / node.MIB, 16 * 538, delta=16 * 20)
        before, begin = node.cpu_seconds(self.agent.pid), time.monotonic()
        looks = self.value("softmig_agent_looks_total")
        time.sleep(6)
        spent = (node.cpu_seconds(self.agent.pid) - before) / (time.monotonic() - begin)
        self.assertGreater(self.value("softmig_agent_looks_total"), looks + 3)
        resident = node.resident_mib(self.agent.pid)
        print(f"({100 * spent:.2f} % of a core, {resident:.1f} MiB at 128 processes on 16 GPUs)")
        self.assertLess(resident, 30)
        self.assertLess(spent, 0.05)
        self.assertEqual(self.value("softmig_verdicts_total"), 0)
        self.assertEqual(len(self.probes()), 128)


class Hostile(node.Node):
    """Regions full of anything harm neither the agent nor the neighbour."""

    site = "ON_VERDICT=report\n"

    def test_noise(self):
        self.job(9401)
        self.job(9402)
        _, neighbour = self.start(9402, "hold", 300)
        _, pid = self.start(9401, "hold", 300)
        self.start_agent()
        for seed in range(40):
            region = RUN / "9401.region"
            region.unlink()
            node.subprocess.run([str(self.folder / "agent_probe"), "region", str(region), str(USER)],
                                check=True)
            node.subprocess.run([str(self.folder / "agent_probe"), "noise", str(region), str(seed)],
                                check=True, stdout=node.subprocess.DEVNULL)
            if seed % 4 == 0:
                looks = self.value("softmig_agent_looks_total")
                self.until(lambda: self.value("softmig_agent_looks_total") > looks, 8, "a look")
            self.assertIsNone(self.agent.poll())
        region.unlink()
        os.mkfifo(region)
        time.sleep(1.5)
        self.assertIsNone(self.agent.poll())
        region.unlink()
        region.symlink_to("/etc/shadow")
        time.sleep(1.5)
        self.assertIsNone(self.agent.poll())
        self.assertEqual(self.value("softmig_job_verdict", slurmjobid="9402"), 0)
        self.assertLives(neighbour)
        self.assertLives(pid)
        region.unlink()


class Containers(node.Node):
    """Slots of processes that died in another pid namespace are given back."""

    def test_reclaims(self):
        if node.subprocess.run(["unshare", "-pf", "true"], check=False).returncode != 0:
            self.skipTest("no pid namespaces here")
        self.job(9501)
        self.start(9501, "hold", 700, uid=0, prefix=[
            "unshare", "-pf", "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"])
        inside = self.probes()
        _, stays = self.start(9501, "hold", 100)
        self.start_agent()
        job = {"slurmjobid": "9501"}
        # (The simulated NVML shows the number that a process has in its own namespace.)
        self.until(lambda: self.value("softmig_job_memory_used_bytes", **job) > 1200 * node.MIB, 10,
                   "both are seen")
        self.assertEqual(self.value("softmig_verdicts_total"), 0)
        before = self.value("softmig_job_memory_used_bytes", **job)
        for pid in inside:
            os.kill(pid, 9)
        self.until(lambda: self.value("softmig_job_memory_used_bytes", **job) < before - 600 * node.MIB, 20,
                   "it is given back")
        self.assertEqual(self.value("softmig_actions_total", action="reclaim"), 1)
        self.assertLives(stays)


class Limits(node.Node):
    """A driver that enforces limits itself is told them."""

    options = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.told = cls.folder / "told"
        cls.mount = cls.folder / "cgroup"
        (cls.mount / "system.slice/slurmstepd.scope/job_9601").mkdir(parents=True)
        (cls.mount / "cgroup.controllers").write_text("memory\n")
        library = node.BUILD / "tests" / "agent" / "libagent_limits.so"
        cls.environment = {"SOFTMIG_TEST_LIMITS": str(cls.told)}
        cls.options = ("--nvml", str(library), "--cgroups", str(cls.mount))

    def test_told_once_and_again_when_it_changes(self):
        self.job(9601, memory="4G")
        self.start_agent()
        path = self.mount / "system.slice/slurmstepd.scope/job_9601"
        self.until(self.told.exists, 5, "it is told")
        time.sleep(2)
        self.assertEqual(self.told.read_text(), f"0 {path} 0 {4 << 30}\n")
        self.assertEqual(self.value("softmig_agent_info", memory_backend="driver"), 1)
        self.job(9601, memory="6G", region=False)
        self.until(lambda: f"0 {path} 0 {6 << 30}\n" in self.told.read_text(), 5, "and the change")


if __name__ == "__main__":
    node.main()
