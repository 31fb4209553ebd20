"""Reads the functions that NVIDIA's cuda.h or nvml.h declares, all exported spellings included.

Shared by surface_diff.py and the surface test. The C preprocessor does the work, because a macro
makes the names of the per-thread-stream versions.
"""

import re
import subprocess

# Without these the headers hide the old versions behind the plain names.
_SHOW_ALL = ["-D__CUDA_API_VERSION_INTERNAL", "-DNVML_NO_UNVERSIONED_FUNC_DEFS"]


def preprocess(path, cxx="g++"):
    """The text of a header after the preprocessor, white space made single."""
    text = subprocess.run([cxx, "-E", "-P", *_SHOW_ALL, str(path)], check=True,
                          capture_output=True, text=True).stdout
    return re.sub(r"\s+", " ", text)


def functions(text):
    """{name: its parameters} of the driver functions that a preprocessed text declares."""
    found = {}
    for match in re.finditer(r"\b(?:CUresult|nvmlReturn_t|const char ?\*) ?"
                             r"((?:cu[A-Z]|nvml[A-Z])\w*) ?\(([^;{}]*?)\) ?;", text):
        parameters = [re.sub(r" ?\* ?", "* ", p).strip() for p in match[2].split(",")]
        found[match[1]] = ", ".join(parameters)
    return found


def enumerators(text):
    """{enum's name: [enumerators]} of the named enums of a preprocessed text."""
    found = {}
    for body, name in re.findall(r"typedef enum \w* ?\{([^}]*)\} ?(\w+) ?;", text):
        found[name] = re.findall(r"(?:^|,) ?([A-Za-z_]\w*)", body)
    return found


def structures(text):
    """{structure's name: its body} of the structures and unions of a preprocessed text."""
    found = {}
    for match in re.finditer(r"typedef (?:struct|union) ?\w* ?\{", text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        name = re.match(r" ?(\w+)", text[end:])
        if name:
            found[name[1]] = text[match.end():end - 1].strip()
    return found


def stem(symbol):
    """The name that all versions of a function share: cuMemcpyHtoD_v2_ptds -> cuMemcpyHtoD."""
    return re.sub(r"(_v\d+)?(_pts[z]|_ptds)?$", "", symbol)
