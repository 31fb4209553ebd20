#!/usr/bin/env python3
"""Tests of the checks in tools/: each must accept what is right and notice each kind of wrong."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import check_layers  # noqa: E402
import cuda_header  # noqa: E402


class InFolder(unittest.TestCase):
    """A test with a scratch folder."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.root = pathlib.Path(scratch.name)

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run_tool(self, *command):
        return subprocess.run(command, capture_output=True, text=True, cwd=self.root, check=False)


class Layers(unittest.TestCase):
    def violations(self, file, include):
        """What the check says of one file with one #include on its second line."""
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            own = [f"src/{layer}/a.h" for layer in check_layers.MAY_INCLUDE if layer != "sim"]
            own.append("sim/own.h")
            for name, text in [*((name, "#pragma once\n") for name in own),
                               (file, f"// one\n#include {include}\n")]:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return list(check_layers.check(root))

    def test_downwards_is_allowed(self):
        for layer, below in check_layers.MAY_INCLUDE.items():
            folder = "sim" if layer == "sim" else f"src/{layer}"
            for target in below:
                self.assertEqual(self.violations(f"{folder}/b.cc", f'"{target}/a.h"'), [])

    def test_upwards_is_not(self):
        for layer, target in [("base", "abi"), ("abi", "sys"), ("policy", "sys"), ("policy", "job"),
                              ("job", "hook"), ("hook", "cuda"), ("cuda", "nvml"), ("cli", "hook"),
                              ("agent", "cuda"), ("host", "nvml")]:
            with self.subTest(layer=layer, target=target):
                found = self.violations(f"src/{layer}/b.cc", f'"{target}/a.h"')
                self.assertEqual(len(found), 1)
                self.assertTrue(found[0].startswith(f'src/{layer}/b.cc:2: "{target}/a.h": '))

    def test_the_simulator_shares_only_abi(self):
        self.assertEqual(self.violations("sim/b.cc", '"own.h"'), [])
        self.assertEqual(self.violations("sim/b.cc", "<unistd.h>"), [])
        self.assertEqual(len(self.violations("sim/b.cc", '"base/a.h"')), 1)

    def test_operating_system(self):
        for header in ["<unistd.h>", "<sys/mman.h>", "<linux/futex.h>", "<chrono>", "<ctime>"]:
            with self.subTest(header=header):
                self.assertEqual(self.violations("src/sys/b.cc", header), [])
                self.assertEqual(self.violations("src/hook/b.cc", header), [])
                self.assertEqual(len(self.violations("src/policy/b.cc", header)), 1)
                self.assertEqual(len(self.violations("src/cuda/b.cc", header)), 1)
        self.assertEqual(self.violations("src/policy/b.cc", "<atomic>"), [])
        self.assertEqual(self.violations("src/policy/b.cc", "<string.h>"), [])

    def test_paths_are_written_from_src(self):
        self.assertEqual(len(self.violations("src/job/b.cc", '"a.h"')), 1)
        self.assertEqual(len(self.violations("src/job/b.cc", '"../base/a.h"')), 1)
        self.assertEqual(len(self.violations("src/job/b.cc", '"job/absent.h"')), 1)

    def test_a_new_folder_needs_a_rule(self):
        self.assertEqual(len(self.violations("src/novel/b.cc", "<atomic>")), 1)


class Exports(InFolder):
    def check(self, source, *flags):
        """check_exports.sh on a library made from a C++ source -> its output, "" if it passed."""
        self.write("lib.cc", source)
        compiler = os.environ.get("CXX", "g++")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-fvisibility=hidden",
                        "-fno-exceptions", "-fno-rtti", "-nodefaultlibs", "lib.cc", "-o", "lib.so",
                        *flags], check=True, cwd=self.root)
        result = self.run_tool(TOOLS / "check_exports.sh", "lib.so")
        self.assertEqual(result.returncode, 1 if "lib.so: fit" not in result.stdout else 0)
        return "" if result.returncode == 0 else result.stdout

    HOOK = """#include <unistd.h>
        extern "C" __attribute__((visibility("default"))) int cuInit(unsigned) { return getpid(); }
    """

    def test_clean(self):
        self.assertEqual(self.check(self.HOOK, "-lc"), "")

    def test_needed(self):
        self.assertIn("NEEDED", self.check(self.HOOK, "-lc", "-Wl,--no-as-needed", "-lm"))
        self.assertIn("NEEDED", self.check('extern "C" void cuA() {}'))

    def test_export(self):
        source = self.HOOK + 'extern "C" __attribute__((visibility("default"))) void other() {}'
        self.assertIn("exports other", self.check(source, "-lc"))
        source = self.HOOK + 'extern "C" __attribute__((visibility("default"))) void cuda() {}'
        self.assertIn("exports cuda", self.check(source, "-lc"))

    def test_new_symbol_version(self):
        # gettid came with glibc 2.30.
        source = self.HOOK.replace("getpid()", "gettid()")
        self.assertRegex(self.check(source, "-lc"), r"needs GLIBC_2\.30: gettid")

    def test_work_at_start(self):
        words = ", ".join(f"&byte[{i}]" for i in range(200))
        source = self.HOOK + f"""static char byte[200];
            __attribute__((used)) static char* const table[] = {{{words}}};"""
        self.assertRegex(self.check(source, "-lc"), r"\d+ words are relocated at every exec")
        names = [f"cuName{i}" for i in range(20)]
        source = self.HOOK + "".join(
            f'extern "C" __attribute__((weak, visibility("default"))) int {name};' for name in names)
        source += ("__attribute__((used)) static int* const table[] = {" +
                   ", ".join(f"&{name}" for name in names) + "};")
        self.assertRegex(self.check(source, "-lc"), r"\d+ symbols are looked up at every exec")
        self.assertIn("-z now", self.check(self.HOOK, "-lc", "-Wl,-z,now"))

    def test_constructor_and_destructor(self):
        for kind in ("constructor", "destructor"):
            source = self.HOOK + f"__attribute__(({kind})) static void f() {{ getppid(); }}"
            self.assertIn("array has 2 entries", self.check(source, "-lc"))

    def test_global_object(self):
        source = self.HOOK + "int f(); struct S { int n = getppid(); } s;"
        self.assertIn(".init_array has 2 entries", self.check(source, "-lc"))

    def test_run_path(self):
        self.assertIn("RUNPATH", self.check(self.HOOK, "-lc", "-Wl,-rpath,/tmp"))

    def test_named_version(self):
        script = self.write("v.map", "V1 { global: cu*; local: *; };")
        self.assertIn("named symbol versions",
                      self.check(self.HOOK, "-lc", f"-Wl,--version-script={script}"))

    def test_executable_stack(self):
        self.assertIn("executable stack", self.check(self.HOOK, "-lc", "-Wl,-z,execstack"))


class SurfaceDiff(InFolder):
    OLD = """
        typedef enum E_enum { E_ONE = 1 } E;
        typedef struct S_st { int a; } S;
        CUresult cuKept(int a);
        CUresult cuGone(void);
        CUresult cuChanged(int a);
    """
    NEW = """
        #define CUDA_VERSION 14000
        #define __PTSZ(name) name ## _ptsz
        typedef enum E_enum { E_ONE = 1, E_TWO = 2 } E;
        typedef struct S_st { int a; int b; } S;
        CUresult cuKept(int a);
        CUresult cuChanged(long a);
        CUresult cuMemAllocThing(CUdeviceptr *p, size_t n);
        CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t n);
        CUresult __PTSZ(cuKept)(int a);
    """

    def test_reports_every_kind(self):
        old, new = self.write("old.h", self.OLD), self.write("new.h", self.NEW)
        out = self.run_tool(TOOLS / "surface_diff.py", old, new).stdout
        self.assertIn("cuMemAllocThing\t14000\t?\tmemory? (CUdeviceptr* p, size_t n)", out)
        self.assertIn("cuKept_ptsz\t14000\t?\tnew version of a known function; (int a)", out)
        self.assertIn("decided in data/surface already: 1\ncuMemAlloc_v2\thook\t", out)
        self.assertNotRegex(out, r"cuMemAlloc_v2\t14000")
        self.assertIn("cuGone(void)", out)
        self.assertIn("cuChanged\n  old (int a)\n  new (long a)", out)
        self.assertIn("E: E_TWO", out)
        self.assertIn("S\n  old { int a; }\n  new { int a; int b; }", out)

    def test_what_is_no_header(self):
        header, text = self.write("good.h", self.OLD), self.write("text.h", "no functions\n")
        broken = self.write("broken.h", "#include <nowhere.h>\n")
        for words, says in (
                ((header, self.root / "none.h"), "none.h.*No such file"),
                ((header, text), "text.h: it declares no function"),
                ((broken, header), "broken.h.*nowhere.h"),
                ((header, self.root), "Is a directory"),
                ((header, header, "--cxx", "nocompiler"), "nocompiler: No such file"),
                ((header,), "arguments are required: new")):
            done = self.run_tool(TOOLS / "surface_diff.py", *words)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr.splitlines()[-1], says)

    def test_stem(self):
        for name in ("cuMemcpyHtoD", "cuMemcpyHtoD_v2", "cuMemcpyHtoD_v2_ptds"):
            self.assertEqual(cuda_header.stem(name), "cuMemcpyHtoD")


class Format(InFolder):
    def test_notices_format_and_shell(self):
        subprocess.run(["git", "init", "-q"], check=True, cwd=self.root)
        self.write("a.cc", "int main() { return 0; }\n")
        self.write("a.sh", "#!/bin/sh\necho ok\n")
        result = self.run_tool(TOOLS / "check_format.sh", ".")
        if result.returncode == 77:
            self.skipTest(result.stdout)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.write("a.cc", "int main(){return 0;}\n")
        self.assertEqual(self.run_tool(TOOLS / "check_format.sh", ".").returncode, 1)
        self.write("a.cc", "int main() { return 0; }\n")
        self.write("a.sh", "#!/bin/sh\necho $1\n")
        self.assertEqual(self.run_tool(TOOLS / "check_format.sh", ".").returncode, 1)


if __name__ == "__main__":
    unittest.main()
