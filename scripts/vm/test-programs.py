# SPDX-License-Identifier: Apache-2.0
"""Copies the test programs that cargo names on stdin (--message-format json) into a folder.

Usage: cargo test --no-run --message-format json | test-programs.py FOLDER

A package's unit tests are named after the package, a file of tests after package and file:
"stdio", "stdio-fifo"; those of the package "integration" after the file alone: "mock", "e2e".
"""

import json
import os
import shutil
import sys


def name_of(message):
    target = message["target"]
    package = os.path.basename(os.path.dirname(message["manifest_path"]))
    if package == "integration" and "test" in target["kind"]:
        return target["name"]
    if "test" in target["kind"]:
        return package + "-" + target["name"]
    # The package at the top is named after its program.
    return package if "lib" in target["kind"] else target["name"]


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            shutil.copy(message["executable"], os.path.join(sys.argv[1], name_of(message)))


if __name__ == "__main__":
    main()
