# SPDX-License-Identifier: Apache-2.0
"""Copies what cargo has built, as it says on stdin (--message-format json), into a folder.

Usage: cargo test --no-run --message-format json | test-programs.py FOLDER

Test programs go into FOLDER/programs. Others, which tests may execute by their paths, go to
those paths below FOLDER/root.

A package's unit tests are named after the package, a file of tests after package and file:
"stdio", "stdio-fifo"; those of the package "integration" after the file alone: "mock", "e2e".
"""

import json
import os
import shutil
import sys


def package_of(message):
    """From "…/NAME#VERSION" or "…#NAME@VERSION"."""
    path, _, rest = message["package_id"].rpartition("#")
    return rest.partition("@")[0] if "@" in rest else path.rpartition("/")[2]


def name_of(message):
    target, package = message["target"], package_of(message)
    if package == "integration" and "test" in target["kind"]:
        return target["name"]
    if "test" in target["kind"]:
        return package + "-" + target["name"]
    return package if "lib" in target["kind"] else target["name"]


def main():
    for line in sys.stdin:
        message = json.loads(line)
        built = message.get("executable")
        if not built:
            continue
        if message["profile"]["test"]:
            place = os.path.join("programs", name_of(message))
        else:
            place = os.path.join("root", built.lstrip("/"))
        place = os.path.join(sys.argv[1], place)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        shutil.copy(built, place)


if __name__ == "__main__":
    main()
