#!/usr/bin/env python3
"""What asking for experts early is worth when a model does not fit RAM: decoding with --ram (engine/disk_tier.h)
beside the mapping alone, in a memory cgroup of so much, from a cold page cache, in turn, each first in every other round.
read_GBs: what the disk gave while decoding; disk_GBs: what it gives to large reads past the page cache, just before and just
after. Needs root.

  python3 bench/hybrid/disk.py MODEL --limit 5 --rounds 3 >> bench/results/disk-MACHINE.csv
"""

import argparse
import json
import mmap
import os
import pathlib
import subprocess
import time

GIB = 1 << 30


class Cgroup:
    """Memory, with the page cache of what its processes read, up to a limit; versions 1 and 2."""

    def __init__(self, limit):
        one = pathlib.Path("/sys/fs/cgroup/memory")
        self.path = (one if one.is_dir() else pathlib.Path("/sys/fs/cgroup")) / "moebius-disk-bench"
        self.path.mkdir(exist_ok=True)
        name = "memory.limit_in_bytes" if one.is_dir() else "memory.max"
        (self.path / name).write_text(str(limit))

    def join(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        self.path.rmdir()


def forget(files):
    """Drops the files from the page cache."""
    for file in files:
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def disk_gbs(file, total=1 << 30, piece=4 << 20):
    """The disk's own speed: large reads past the page cache."""
    fd = os.open(file, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, piece, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    buffer.madvise(mmap.MADV_HUGEPAGE)  # of small pages a disk may give half as much
    start, done = time.monotonic(), 0
    while done < total:
        count = os.preadv(fd, [buffer], done)
        if count <= 0:
            break
        done += count
    seconds = time.monotonic() - start
    os.close(fd)
    return done / seconds / 1e9


def decode(options, ram, cgroup):
    command = [options.moebius, "bench", "-m", options.model, "-p", "0", "-n", str(options.tokens), "--depth", "0",
               "--batch", "1", "--repeats", "1", "--json", "--load", "mapped", "--ram", f"{ram}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=cgroup.join).stdout
    row = json.loads(out[out.index("[\n"):])[0]
    return row["tok_s"], row["disk_bytes_per_token"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--moebius", default="build/moebius")
    parser.add_argument("--limit", type=float, required=True, help="GiB of memory")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = sorted(pathlib.Path(options.model).glob("*.safetensors"))
    limit = int(options.limit * GIB)
    cgroup = Cgroup(limit)
    print("limit_GiB,tokens,round,mode,decode_tok_s,read_MB_a_token,read_GBs,disk_GBs", flush=True)
    try:
        for i in range(options.rounds):
            modes = [("mapped", 1 << 50), ("prefetched", limit)]
            for mode, ram in modes if i % 2 == 0 else reversed(modes):
                forget(files)
                disk = disk_gbs(files[0])
                tok_s, read = decode(options, ram, cgroup)
                disk = (disk + disk_gbs(files[0])) / 2
                print(f"{options.limit:g},{options.tokens},{i + 1},{mode},{tok_s:.3f},{read / 1e6:.0f},{read * tok_s / 1e9:.2f},"
                      f"{disk:.2f}", flush=True)
    finally:
        cgroup.close()


if __name__ == "__main__":
    main()
