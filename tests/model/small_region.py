#!/usr/bin/env python3
"""The layout of the shared region for the model check: that of src/abi/region.h, with small tables.

  small_region.py src/abi/region.h OUTPUT

Fails if the layout no longer names the constants that are made small here, so that the model cannot
drift from the code unseen.
"""

import re
import sys

SMALL = {
    "kMaxDevices": 1,
    "kMaxSlots": 4,
    "kMaxObjects": 1,
    "kMaxHolders": 3,
    "kBusyWords": 1,
}


def main():
    with open(sys.argv[1], encoding="utf-8") as source:
        text = source.read()
    for name, value in SMALL.items():
        text, found = re.subn(
            rf"(inline constexpr uint32_t {name} = )\d+;", rf"\g<1>{value};", text
        )
        if found != 1:
            sys.exit(f"{sys.argv[1]}: {found} definitions of {name}, expected one")
    # The sizes that these say are those of the large tables.
    text = re.sub(r"static_assert\((?:sizeof|offsetof)\([^;]*;\n", "", text)
    with open(sys.argv[2], "w", encoding="utf-8") as output:
        output.write(text)


if __name__ == "__main__":
    main()
