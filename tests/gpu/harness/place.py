"""Where the tests run: the build, the card or the simulated one, the user, the slices."""

import json
import os
import pwd
import shutil
import subprocess
import tempfile

MIB = 1 << 20
GIB = 1 << 30
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "TZ")


class Place:
    """One node on which slices can be made. Every worker has its own."""

    sessions = []  # of all places: what a run that is told to end takes with it

    def __init__(self, options, number):
        self.build = os.path.abspath(options.build)
        self.sim = options.sim
        self.sim_version = options.sim_version
        self.preload = None if options.no_preload else os.path.join(self.build, "libsoftmig.so")
        self.user = pwd.getpwnam(options.user).pw_uid if options.user else None
        self.context_cost = options.context_cost
        self.root = tempfile.mkdtemp(prefix=f"softmig-gpu-{number}-")
        os.chmod(self.root, 0o755)
        self.count = 0
        self.measured_context_cost = None
        self.known_uuids = {}

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def real(self):
        return self.sim is None

    def program(self, name):
        return os.path.join(self.build, "tests", "gpu", name)

    def path(self, name):
        """Of a program as a case names it: absolute, "@..." in the build folder, or a test's."""
        if os.path.isabs(name):
            return name
        return os.path.join(self.build, name[1:]) if name[0] == "@" else self.program(name)

    def bare_environment(self, sim=None):
        """Variables of a process that is in no slice and has nothing preloaded."""
        env = {k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ}
        sim = sim or self.sim
        if sim is None:
            for name in ("LD_LIBRARY_PATH", "CUDA_HOME", "VIRTUAL_ENV", "PYTHONPATH"):
                if name in os.environ:
                    env[name] = os.environ[name]
            return env
        env["LD_LIBRARY_PATH"] = os.path.join(self.build, "sim", self.sim_version)
        env.update(self.sim_environment(sim))
        return env

    def sim_environment(self, sim):
        """The simulated node `sim` ("1x80G") of this place: its state is a file of our own."""
        state = os.path.join(self.root, f"node-{sim.replace(',', '-')}")
        return {"SOFTMIG_SIM": sim, "SOFTMIG_SIM_STATE": state}

    def new_slice(self, limit, sim=None, variables=None):
        """A fresh slice of `limit` bytes (None: no limit set); returns its variables."""
        self.count += 1
        folder = os.path.join(self.root, f"slice-{self.count}")
        os.mkdir(folder, 0o700)
        if self.user is not None:
            os.chown(folder, self.user, -1)
        env = self.bare_environment(sim)
        if self.preload:
            env["LD_PRELOAD"] = self.preload
        if limit is not None:
            env["CUDA_DEVICE_MEMORY_LIMIT"] = str(limit) if limit % MIB else f"{limit // MIB}M"
        env["SOFTMIG_REGION"] = os.path.join(folder, "region")
        env["SOFTMIG_LOG_FILE"] = os.path.join(folder, "log")
        env["TMPDIR"] = folder
        if self.user is not None:
            env["HOME"] = folder
        if self.context_cost:
            env["SOFTMIG_CONTEXT_COST"] = str(self.context_cost)
        env.update(variables or {})
        return env

    def start(self, arguments, env, outside=False, **popen):
        """Starts a program in a session of its own, as the test's user unless `outside`."""
        if self.user is not None and not outside:
            popen.update(user=self.user, group=self.user, extra_groups=[])
        process = subprocess.Popen(
            arguments, env=env, start_new_session=True, cwd="/", stdin=subprocess.DEVNULL, **popen
        )
        self.sessions.append(process.pid)
        return process

    def measure_context(self):
        """What one context takes from a slice, as the slice shows it; None without a slice."""
        limit = 4 * GIB
        env = self.new_slice(limit, variables={"TEST_LIMIT": str(limit)})
        run = self.start(
            [self.program("views"), "totals"],
            env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        line = json.loads(run.communicate(timeout=60)[0] or "{}")
        if line.get("ok"):
            self.measured_context_cost = int(line["context_bytes"])

    def uuids(self, sim):
        """The UUIDs of a node's GPUs in the order of NVML."""
        if sim not in self.known_uuids:
            run = self.start(
                [self.program("views"), "_uuids"],
                self.bare_environment(sim),
                outside=True,
                stdout=subprocess.PIPE,
            )
            lines = [json.loads(line) for line in run.communicate(timeout=60)[0].splitlines()]
            self.known_uuids[sim] = [line["uuid"] for line in lines if line["what"] == "device"]
        return self.known_uuids[sim]
