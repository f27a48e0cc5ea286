#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a small OCI image archive from a static busybox: no registry, network or root needed.

    mkimage.py --busybox PROGRAM --out ARCHIVE [--tag NAME]

"ctr image import" takes the archive. The same busybox gives the same bytes. The image has one
layer: busybox with all its applets, the folders of a small system, and the users root, nobody
and tester (uid 1000, also in the groups wheel and audio). Only the standard library is used.
"""
import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
                  "tester:x:1000:1000:tester:/home/tester:/bin/sh\n"
                  "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nwheel:x:10:root,tester\naudio:x:29:tester\n"
                 "tester:x:1000:\nnogroup:x:65534:\n",
}
FOLDERS = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "home/tester": 0o755, "mnt": 0o755,
    "proc": 0o555, "root": 0o700, "run": 0o755, "sbin": 0o755, "sys": 0o555, "tmp": 0o1777,
    "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755,
}
OCI = "application/vnd.oci.image."


def put(archive, name, mode, data=None, link=None):
    """Adds a folder, a symbolic link or a file, with nothing in it that changes from run to run."""
    entry = tarfile.TarInfo(name)
    entry.mode = mode
    if link is not None:
        entry.type, entry.linkname = tarfile.SYMTYPE, link
    elif data is None:
        entry.type = tarfile.DIRTYPE
    else:
        entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data) if data is not None else None)


def layer(busybox):
    """The root file system as an uncompressed archive."""
    with open(busybox, "rb") as program:
        binary = program.read()
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, mode in FOLDERS.items():
            put(archive, name, mode)
        put(archive, "bin/busybox", 0o755, binary)
        for applet in sorted(set(applets.split()) - {"busybox"}):
            put(archive, "bin/" + applet, 0o777, link="busybox")
        for name, text in FILES.items():
            put(archive, name, 0o644, text.encode())
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(kind, data, **more):
    return {"mediaType": OCI + kind, "digest": digest(data), "size": len(data), **more}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busybox", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tag", default="docker.io/library/busybox:latest")
    options = parser.parse_args()

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    tree = layer(options.busybox)
    packed = gzip.compress(tree, 6, mtime=0)
    config = json.dumps({
        "created": "1970-01-01T00:00:00Z", "architecture": machine, "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                   "Cmd": ["sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest(tree)]},
    }).encode()
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
        "config": describe("config.v1+json", config),
        "layers": [describe("layer.v1.tar+gzip", packed)],
    }).encode()
    index = json.dumps({
        "schemaVersion": 2, "mediaType": OCI + "index.v1+json",
        "manifests": [describe(
            "manifest.v1+json", manifest, platform={"architecture": machine, "os": "linux"},
            annotations={"io.containerd.image.name": options.tag,
                         "org.opencontainers.image.ref.name": options.tag.rpartition(":")[2]})],
    }).encode()

    temporary = f"{options.out}.{os.getpid()}"
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
        put(archive, "oci-layout", 0o644, b'{"imageLayoutVersion":"1.0.0"}')
        put(archive, "blobs", 0o755)
        put(archive, "blobs/sha256", 0o755)
        for blob in (config, manifest, packed):
            put(archive, "blobs/sha256/" + digest(blob)[7:], 0o644, blob)
        put(archive, "index.json", 0o644, index)
    os.replace(temporary, options.out)


if __name__ == "__main__":
    main()
