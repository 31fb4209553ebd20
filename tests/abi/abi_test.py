#!/usr/bin/env python3
"""Compares our own declarations of the CUDA driver and NVML with the real headers.

Every function's signature, every structure's size and the offset, size and type of its fields,
every enumerator, constant and type name of src/abi/cuda.h and src/abi/nvml.h is printed by a small
program that is compiled twice: with our header and with the real one of each CUDA version. The two
outputs must be equal. A name that a version does not have yet is passed over; a name that no
version has is an error.

    abi_test.py --source DIR --headers DIR [--cxx g++] [--self-test]

Exit status: 0 equal, 1 a difference, 77 no real header can be had (ctest reports it as skipped).
--self-test breaks copies of our headers in several ways and fails unless each is noticed.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

SKIPPED = 77

# Ours -> the expression that says the same with the real header. Those two are casts to a pointer
# there, which is no constant in C++.
RENAMED = {
    "CU_STREAM_LEGACY_VALUE": "reinterpret_cast<unsigned long>(CU_STREAM_LEGACY)",
    "CU_STREAM_PER_THREAD_VALUE": "reinterpret_cast<unsigned long>(CU_STREAM_PER_THREAD)",
}

# What makes the real headers show the old versions under their own names.
DEFINES = {"cuda": ["-D__CUDA_API_VERSION_INTERNAL"], "nvml": ["-DNVML_NO_UNVERSIONED_FUNC_DEFS"]}

# Structures that got another tag, which shows in the signatures: older tag -> ours.
RETAGGED = {
    "CUDA_MEM_ALLOC_NODE_PARAMS_st": "CUDA_MEM_ALLOC_NODE_PARAMS_v1_st",
    "nvmlProcessInfo_st": "nvmlProcessInfo_v2_st",
}

# Facts that differ in older versions and may, as long as the newest version agrees -> why.
GREW = {
    "field CUmemPoolProps_st.reserved": "newer fields took their room from it",
    "type CUDA_CHILD_GRAPH_NODE_PARAMS": "only used inside the union of CUgraphNodeParams",
    "type CUDA_CHILD_GRAPH_NODE_PARAMS_st": "the same",
    "field CUgraphNodeParams_st.graph": "the same",
    "type CUdevSmResource": "only used inside the union of CUdevResource",
    "type CUdevSmResource_st": "the same",
    "field CUdevResource_st.sm": "the same",
}

# Exported by libcuda, but declared in cudaProfiler.h, cudaGL.h and cudaVDPAU.h.
NOT_IN_HEADER = {"function " + name for name in (
    "cuProfilerStart", "cuProfilerStop", "cuGLCtxCreate", "cuGLCtxCreate_v2", "cuVDPAUCtxCreate",
    "cuVDPAUCtxCreate_v2")}

PROBE_HEAD = """
#include <cstddef>
#include <cstdio>
#include <type_traits>
#include <typeinfo>

template <class T>
void field(const char* name, const T& value, const void* base, bool named) {
  std::printf("field %s %td %zu %s\\n", name,
              reinterpret_cast<const char*>(&value) - static_cast<const char*>(base),
              sizeof(value), named ? typeid(T).name() : "group");
}
template <class T>
void type(const char* name) {
  std::printf("type %s %zu %zu %s\\n", name, sizeof(T), alignof(T), typeid(T).name());
}
void number(const char* name, long long value) { std::printf("number %s %lld\\n", name, value); }
void function(const char* name, const std::type_info& info) {
  std::printf("function %s %s\\n", name, info.name());
}
"""


class Declarations:
    """The names that one of our headers declares."""

    def __init__(self):
        self.functions = []
        self.types = []  # aliases and structure names
        self.fields = {}  # structure or union -> [(path, has a named type)]
        self.numbers = []  # enumerators and constants

    def names(self):
        """All entities as (kind, name), in the order of the header."""
        yield from (("function", n) for n in self.functions)
        yield from (("type", n) for n in self.types)
        yield from (("number", n) for n in self.numbers)
        for owner, fields in self.fields.items():
            yield from (("field", f"{owner}.{path}") for path, _ in fields)


def parse(text):
    """Reads one of our headers. It relies on their plain, formatted style."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"^#[^\n]*", "", text, flags=re.M)
    found = Declarations()
    found.functions = re.findall(
        r"^(?:CUresult|nvmlReturn_t|const char\*) ((?:cu|nvml)\w+)\(", text, flags=re.M)
    declarations = text[text.index('extern "C" {'):]
    assert len(found.functions) == declarations.count(";"), "a declaration that parse() misses"
    found.numbers = re.findall(r"^constexpr [\w:* ]+?(\w+)\s*=", text, flags=re.M)
    for body in re.findall(r"\benum\b[^{};]*\{([^}]*)\}", text):
        found.numbers += re.findall(r"(\w+)\s*=", body)
    found.types = re.findall(r"^using (\w+) =", text, flags=re.M)
    found.types += re.findall(r"^\} (\w+);", text, flags=re.M)
    found.types += re.findall(r"^(?:struct|union) (\w+) \{", text, flags=re.M)
    for match in re.finditer(r"^(typedef struct|struct (\w+)|union (\w+)) \{\n(.*?)^\}( \w+)?;",
                             text, flags=re.M | re.S):
        owner = match[2] or match[3] or match[5].strip()
        found.fields[owner] = list(parse_fields(match[4].splitlines()))
    return found


def parse_fields(lines):
    """Yields (path, has a named type) of each member; members of groups as outer.inner."""
    groups = []  # the member lists of the groups that are still open, outermost first
    for line in (line.strip() for line in lines):
        if re.fullmatch(r"(struct|union) \{", line):
            groups.append([])
            continue
        closed = re.fullmatch(r"\}(?: (\w+))?;", line)
        if closed:
            inner, name = groups.pop(), closed[1]
            members = [(f"{name}.{path}", named) for path, named in inner] if name else inner
            members += [(name, False)] if name else []
        else:
            declared = re.fullmatch(r".*?(\w+)(?:\[.*\])?;", line)
            members = [(declared[1], True)] if declared else []
        if groups:
            groups[-1] += members
        else:
            yield from members


def probe(header, include, ours, has):
    """The program's text. `has(name)` says whether the header that is included knows a name."""
    lines = [f'#include "{include}"' if ours else f"#include <{include}>", PROBE_HEAD]
    for owner, fields in header.fields.items():
        if not has(owner):
            continue
        identifier = f"members_{owner}"
        lines.append(f"template <class T> void {identifier}(const T& t) {{")
        for path, named in fields:
            # A member that an older version lacks is passed over.
            lines.append(f'  if constexpr (requires {{ t.{path}; }}) '
                         f'field("{owner}.{path}", t.{path}, &t, {str(named).lower()});')
        lines.append("}")
    lines.append("int main() {")
    for kind, name in header.names():
        if kind == "field":
            continue
        expression = name if ours else RENAMED.get(name, name)
        if not has(re.findall(r"\w+", expression)[-1] if expression != name else name):
            continue
        if kind == "function":
            lines.append(f'  function("{name}", typeid(&{name}));')
        elif kind == "type":
            lines.append(f'  type<{name}>("{name}");')
        else:
            lines.append(f'  number("{name}", static_cast<long long>({expression}));')
    for owner in header.fields:
        if has(owner):
            lines.append(f"  static const {owner} object_{owner}{{}};")
            lines.append(f"  members_{owner}(object_{owner});")
    lines.append("}")
    return "\n".join(lines) + "\n"


def run_probe(text, flags, cxx, scratch):
    """Compiles and runs the program -> {"kind name": rest of the line}."""
    source, binary = scratch / "probe.cc", scratch / "probe"
    source.write_text(text)
    # -O0 and no warnings: the real headers mark old functions as deprecated.
    compile_only = [cxx, "-std=c++20", "-w", "-O0", *flags, "-c", source]
    subprocess.run([*compile_only, "-o", scratch / "probe.o"], check=True)
    # typeid of an address needs no definition; whatever the compiler still refers to stays open.
    subprocess.run([cxx, scratch / "probe.o", "-o", binary], check=True)
    output = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    result = {}
    for line in output.splitlines():
        kind, name, *rest = line.split(" ", 2)
        result[f"{kind} {name}"] = rest[0]
    return result


def differences(ours, real, version, newest):
    """Lines that say where a version's header and ours disagree."""
    for key, value in real.items():
        for old, new in RETAGGED.items():
            value = value.replace(f"{len(old)}{old}", f"{len(new)}{new}")
        if ours[key] != value and (newest or key not in GREW):
            yield f"{key}: ours {ours[key]}, CUDA {version} {value}"


def known_words(real_file, flags, cxx):
    """The identifiers that a real header declares or defines as macros."""
    text = subprocess.run([cxx, "-E", "-P", *flags, real_file], check=True, capture_output=True,
                          text=True).stdout
    macros = re.findall(r"^#define (\w+)", real_file.read_text(), flags=re.M)
    return set(re.findall(r"\w+", text)) | set(macros)


def compare(name, header_file, versions, cxx):
    """Compares one of our headers with all versions -> list of problems."""
    header = parse(header_file.read_text())
    problems, seen = [], set()
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        try:
            ours = run_probe(probe(header, header_file, True, lambda _: True), [], cxx, scratch)
        except subprocess.CalledProcessError:
            return [f"{name}.h: ours does not compile"]
        for version, real_file in versions:
            flags = [*DEFINES[name], f"-I{real_file.parent}"]
            words = known_words(real_file, flags, cxx)
            real = run_probe(probe(header, f"{name}.h", False, words.__contains__), flags, cxx,
                             scratch)
            newest = version == versions[-1][0]
            problems += differences(ours, real, version, newest)
            seen |= real.keys()
            print(f"{name}.h of CUDA {version}: {len(real)} of {len(ours)} facts compared")
    problems += [f"{key}: in no version of the real {name}.h" for key in ours
                 if key not in seen | NOT_IN_HEADER]
    return problems


def real_headers(folder, name):
    """[(version, path)] of the real headers in the cache folder."""
    found = [(path.parent.name.split("-")[1], path) for path in folder.glob(f"{name}-*/{name}.h")]
    return sorted(found, key=lambda item: [int(part) for part in item[0].split(".")])


# One way each to get a declaration wrong: (header, from, to).
MUTATIONS = [
    ("cuda", "CUresult cuMemAlloc_v2(CUdeviceptr* out, std::size_t bytes);",
     "CUresult cuMemAlloc_v2(CUdeviceptr* out, unsigned int bytes);"),
    ("cuda", "CUresult cuMemAlloc(CUdeviceptr_v1* out,", "CUresult cuMemAlloc(CUdeviceptr* out,"),
    ("cuda", "CUresult cuMemRelease(",
     "CUresult cuMemReleas(CUdeviceptr);\nCUresult cuMemRelease("),
    ("cuda", "CUDA_ERROR_OUT_OF_MEMORY = 2,", "CUDA_ERROR_OUT_OF_MEMORY = 3,"),
    ("cuda", "CUDA_ARRAY3D_DEFERRED_MAPPING = 0x80", "CUDA_ARRAY3D_DEFERRED_MAPPING = 0x40"),
    ("cuda", "  std::size_t maxSize;", "  unsigned int maxSize;"),
    ("cuda", "unsigned char _internal_padding[92];", "unsigned char _internal_padding[88];"),
    ("cuda", "using CUevent = struct CUevent_st*;", "using CUevent = struct CUstream_st*;"),
    ("nvml", "unsigned int* count, unsigned long long since);",
     "unsigned int* count, unsigned int since);"),
    ("nvml", "sizeof(nvmlMemory_v2_t) | 2U << 24", "sizeof(nvmlMemory_v2_t) | 1U << 24"),
]


def self_test(source, headers, cxx):
    """Applies each mutation alone and checks that compare() reports it -> problems."""
    missed = []
    for name, good, bad in MUTATIONS:
        text = (source / "src/abi" / f"{name}.h").read_text()
        if text.count(good) != 1:
            missed.append(f"mutation no longer fits: {good}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / f"{name}.h"
            broken.write_text(text.replace(good, bad))
            problems = compare(name, broken, real_headers(headers, name)[-1:], cxx)
        print(f"{bad.splitlines()[0]}\n  -> {problems[0] if problems else 'not noticed'}")
        if not problems:
            missed.append(f"not noticed: {bad}")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--headers", type=pathlib.Path, required=True)
    parser.add_argument("--cxx", default="g++")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    args.source = args.source.resolve()

    fetch = pathlib.Path(__file__).with_name("fetch_headers.sh")
    complete = subprocess.run([fetch, args.headers], check=False).returncode == 0
    if not all(real_headers(args.headers, name) for name in DEFINES):
        print(f"skipped: no real headers in {args.headers}, and none can be fetched")
        return SKIPPED
    if not complete:
        print("some versions could not be fetched; comparing with those that are there")

    if args.self_test:
        problems = self_test(args.source, args.headers, args.cxx)
    else:
        problems = []
        for name in DEFINES:
            problems += compare(name, args.source / "src/abi" / f"{name}.h",
                                real_headers(args.headers, name), args.cxx)
    for problem in problems:
        print("FAIL", problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
