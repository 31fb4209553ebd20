#!/usr/bin/env python3
"""The doors through which a program comes to a driver function, each with and without the library.

    doors_test.py --library LIB --bin DIR --source DIR [--driver DIR --version 13.0]

--driver is a folder with a libcuda.so.1; with --version it is a full driver of that CUDA version
and all of its symbols are tried, without it the small one of tests/preload/fake.
"""

import functools
import pathlib
import re
import unittest

import harness
from harness import Options

CUDA, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
NOT_MEASURED = (10020, 11050)
HOOKED, PASSED = "cuMemAlloc_v2", "cuInit"


@functools.cache
def ours():
    """Names that the library stands before -> place."""
    return {name: f"libsoftmig.so+{address:x}"
            for address, names in harness.symbols(Options.library).items() for name in names}


@functools.cache
def drivers(library):
    """Place -> names, of one of the driver's libraries."""
    path = pathlib.Path(Options.driver) / library
    return {f"{library}+{address:x}": names for address, names in harness.symbols(path).items()}


def full_driver():
    """Whether --driver has all symbols of its version."""
    return Options.version is not None


def table(output, columns):
    """Lines -> {the first columns: the rest}."""
    rows = (line.split(" ") for line in output.splitlines())
    return {tuple(row[:columns]): " ".join(row[columns:]) for row in rows}


class DoorCase(harness.Case):
    """A test that needs a driver."""

    def setUp(self):
        super().setUp()
        if not (pathlib.Path(Options.driver) / CUDA).exists():
            self.skipTest(f"no {CUDA} in {Options.driver}")
        self.names = Options.bin / "generated" / "names.txt"
        self.bases = Options.bin / "generated" / "bases.txt"

    def list_of(self, *names):
        """A file with these names."""
        path = self.folder / "names"
        path.write_text("".join(f"{name}\n" for name in names))
        return path

    def where(self, mode, *arguments, program="where", **variables):
        """{(way, name): place} in one mode."""
        env = self.environment(mode, **variables)
        return table(self.output_of(program, *arguments, env=env), 2)


class LookUps(DoorCase):
    """dlsym and dlvsym of every symbol of the driver, and links."""

    def libraries(self):
        """The driver's libraries that are there."""
        return [name for name in (CUDA, NVML) if (pathlib.Path(Options.driver) / name).exists()]

    def ways(self, *common):
        """Those ways, and the ones that name a library for each that is there."""
        return [*common, *(f"{way}:{library}" for library in self.libraries()
                           for way in ("handle", "version"))]

    def check(self, program, *arguments):
        """Passive as without the library; active ours where, and only where, there is a hook."""
        bare = self.where("bare", *arguments, program=program)
        passive = self.where("passive", *arguments, program=program)
        active = self.where("active", *arguments, program=program)
        self.assertTrue(any(place.startswith(CUDA) for place in bare.values()))
        self.assert_same(passive, bare)
        expected = {key: ours()[key[1]] if place != "-" and key[1] in ours() else place
                    for key, place in bare.items()}
        self.assert_same(active, expected)

    def test_launches_are_the_drivers_own_without_a_limit_of_gpu_time(self):
        compute = {name for path in pathlib.Path(Options.source).glob("src/cuda/*.cc")
                   for name in re.findall(r"SM_COMPUTE_HOOK\((\w+)", path.read_text())}
        self.assertIn("cuLaunchKernel", compute)
        bare = self.where("bare", self.names, *self.ways())
        active = self.where("active", self.names, *self.ways(), CUDA_DEVICE_SM_LIMIT="100")
        expected = {key: ours()[key[1]] if place != "-" and key[1] in ours() and
                    key[1] not in compute else place for key, place in bare.items()}
        self.assert_same(active, expected)

    def test_every_symbol_by_handle(self):
        self.check("where", self.names, *self.ways())

    def test_every_symbol_of_a_global_driver(self):
        opened = [word for library in self.libraries() for word in ("--global", library)]
        self.check("where", *opened, self.names,
                   *self.ways("default", "next", "self", "version_default", "version_next"))

    def test_every_symbol_of_a_linked_driver(self):
        self.check("where_linked", self.names,
                   *self.ways("default", "next", "self", "version_default", "version_next"))

    def test_links_come_to_the_library(self):
        bare, passive, active = (self.where(mode, self.names, "link", program="where_linked")
                                 for mode in ("bare", "passive", "active"))
        self.assertEqual(passive, active)
        for (way, name), place in active.items():
            self.assertEqual(place, ours().get(name, bare[way, name]))

    def test_names_that_are_not_the_drivers(self):
        names = self.list_of("curl_easy_init", "cupsGetDests", "curs_set", "cuserid", "cu",
                             "cuMemAlloc_v2_count", "nvlist_add", "malloc", "no_such_symbol", "")
        stranger = Options.bin / "stranger.so"
        places = [self.where(mode, "--global", CUDA, "--global", stranger, names,
                             "default", "next", "self", f"handle:{stranger}", f"handle:{CUDA}")
                  for mode in ("bare", "passive", "active")]
        self.assertIn("stranger.so", places[0]["default", "curl_easy_init"])
        self.assertEqual(places[1], places[0])
        self.assertEqual(places[2], places[0])

    def test_a_driver_function_of_another_library(self):
        stranger = Options.bin / "stranger.so"
        for opened in ([], ["--open", CUDA]):
            places = [self.where(mode, *opened, self.list_of(HOOKED), f"handle:{stranger}")
                      for mode in ("bare", "passive", "active")]
            self.assertIn("stranger.so", places[0][f"handle:{stranger}", HOOKED])
            self.assertEqual(places[1], places[0])
            self.assertEqual(places[2], places[0])

    def test_a_local_driver_is_found_everywhere(self):
        # Known difference: without the library nothing is found in a driver that was opened
        # RTLD_LOCAL. With it, the caller may be a plugin whose own scope has the driver.
        arguments = ("--open", CUDA, self.list_of(HOOKED, PASSED), "default", "next")
        bare, passive, active = (self.where(mode, *arguments)
                                 for mode in ("bare", "passive", "active"))
        self.assertEqual(set(bare.values()), {"-"})
        for way in ("default", "next"):
            self.assertEqual(drivers(CUDA)[passive[way, HOOKED]], [HOOKED])
            self.assertEqual(active[way, HOOKED], ours()[HOOKED])
            self.assertEqual((passive[way, PASSED], active[way, PASSED]), ("-", "-"))

    def test_nothing_without_a_driver(self):
        for mode in ("passive", "active"):
            places = self.where(mode, self.names, "default", "next", "self", driver="")
            self.assertEqual(set(places.values()), {"-"})


class Neighbours(DoorCase):
    """Other preloaded libraries before and after ours."""

    def preload(self, *names):
        """Those libraries, ours being named "ours"."""
        return [Options.library if name == "ours" else Options.bin / f"{name}.so"
                for name in names]

    def check(self, preload, expected, *ways):
        """Where each way leads: "ours", "driver" (the driver's own) or a library's file."""
        arguments = ("--global", CUDA, self.list_of(HOOKED, PASSED), *ways)
        for mode, of_mode in expected.items():
            places = self.where(mode, *arguments, preload=self.preload(*preload))
            for way in ways:
                place = places[way, HOOKED]
                told = "ours" if place == ours()[HOOKED] else place.split("+")[0]
                told = "driver" if place in drivers(CUDA) else told
                self.assertEqual(told, of_mode, (mode, preload, way))
                self.assertIn(places[way, PASSED], drivers(CUDA))

    def test_look_ups_of_neighbours(self):
        modes = {"bare": "driver", "passive": "driver", "active": "ours"}
        self.check(("before", "ours", "after"), modes,
                   "before_next", "before_default", "after_next", "after_default",
                   "default", "next")

    def test_an_interposer_before_ours(self):
        self.check(("interposer", "ours"), dict.fromkeys(("bare", "passive", "active"),
                                                         "interposer.so"), "default", "self")
        self.check(("interposer", "ours"), {"bare": "driver", "passive": "driver",
                                            "active": "ours"}, "interposer_next")

    def test_an_interposer_after_ours(self):
        self.check(("ours", "interposer"), dict.fromkeys(("bare", "passive", "active"),
                                                         "interposer.so"), "default", "self")
        self.check(("ours", "interposer"), {"bare": "driver", "passive": "driver",
                                            "active": "ours"}, "interposer_next")


class Versions(DoorCase):
    """cuGetProcAddress."""

    def setUp(self):
        super().setUp()
        if not full_driver():
            self.skipTest("needs a full driver")

    def hooked(self, answer):
        """The driver's answer "result status place" with our hook, where there is one."""
        code, status, place = answer.split(" ")
        for name in drivers(CUDA).get(place, []):
            place = ours().get(name, place)
        return f"{code} {status} {place}"

    def test_every_version_and_flag(self):
        names = self.folder / "names"
        spelt_out = "cuMemAlloc_v2\ncuMemAllocAsync_ptsz\nno_such_symbol\nnvmlInit\n"
        names.write_text(self.bases.read_text() + spelt_out)
        arguments = (names, *harness.CUDA_VERSIONS)
        bare, passive, active = (table(output, 4) for output in self.outputs("proc", *arguments))
        self.assertGreater(len(bare), 1000)
        self.assert_same(passive, bare)
        expected = {question: self.hooked(answer) for question, answer in bare.items()}
        self.assertGreater(sum("libsoftmig" in answer for answer in expected.values()), 200)
        self.assert_same(active, expected)

    def test_table_agrees_with_the_driver(self):
        major, minor = map(int, Options.version.split("."))
        versions = [v for v in harness.CUDA_VERSIONS if v <= major * 1000 + minor * 10]
        done = self.run_program("agree", "driver", CUDA, self.bases, *versions,
                                env=self.environment("bare"))
        self.assertEqual(done.returncode, 0, done.stdout[-3000:])

    def test_table_agrees_with_a_measured_driver(self):
        measured = Options.source / "tests/preload/doors/measured_580.txt"
        versions = [v for v in harness.CUDA_VERSIONS if v not in NOT_MEASURED]
        done = self.run_program("agree", "measured", measured, *versions,
                                env=self.environment("bare"))
        self.assertEqual(done.returncode, 0, done.stdout[-3000:])

    def test_a_driver_without_newer_symbols(self):
        # A program that was linked with a newer driver finds our hook and, behind it, nothing.
        places = self.where("active", self.names, "link", f"handle:{CUDA}", program="where_linked")
        missing = [name for name in ours() if name.startswith("cu")
                   and places[f"handle:{CUDA}", name] == "-"]
        for name in missing:
            self.assertEqual(places["link", name], ours()[name])
        self.assertEqual(len(missing) > 0, Options.version != "13.0", missing)


class Errors(DoorCase):
    """dlerror, probes, closed and reopened drivers, doors that stay open."""

    def test_dlerror_without_a_driver(self):
        bare, passive, active = self.outputs("errors", "none", driver="")
        self.assertEqual(passive, bare)
        self.assertEqual(active, bare)

    def test_dlerror_with_a_driver(self):
        bare, passive, active = self.outputs("errors", CUDA)
        self.assertEqual(passive, bare)
        self.assertEqual(active, bare)

    def test_weak_probes_without_a_driver(self):
        bare, passive, active = self.outputs("weak", driver="")
        self.assertEqual(set(line.split()[1] for line in bare.splitlines()), {"absent"})
        self.assertEqual(passive, active)
        results = dict(line.split() for line in active.splitlines())
        self.assertEqual(results.pop("cuInit"), "absent")
        self.assertEqual(results.pop("nvmlDeviceGetMemoryInfo"), "12")  # LIBRARY_NOT_FOUND
        self.assertEqual(set(results.values()), {"100"})  # CUDA_ERROR_NO_DEVICE

    def test_reopened_driver(self):
        self.outputs("reopen", CUDA)

    def test_doors_that_stay_open(self):
        plugin = Options.bin / "plugin.so"
        own, hook = CUDA, "libsoftmig.so"
        expected = {"handle": hook, "walk": own, "plain": hook, "plain_linked": hook,
                    "dlmopen_handle": own, "dlmopen_plugin": own, "dlmopen_plugin_linked": "-",
                    "deepbind": own, "deepbind_linked": hook}
        env = self.environment("active")
        output = (self.output_of("escapes", CUDA, plugin, env=env) +
                  self.output_of("deepbind", CUDA, plugin, env=env))
        places = {way[0]: place.split("+")[0] for way, place in table(output, 1).items()}
        self.assertEqual(places, expected)


if __name__ == "__main__":
    harness.parse_options(__doc__.splitlines()[0], "--driver", "--version")
    harness.main()
