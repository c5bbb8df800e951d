"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import ROOT

# What is resident after blocks of 8 MB were freed, between which others of 1 MB stay, in MB.
PROGRAM = """
import ctypes, sys
from tasks.run.heap import return_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

if sys.argv[1] == "return":
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
libc.free.argtypes = [ctypes.c_void_p]

def block(size):
    found = libc.malloc(size)
    libc.memset(found, 1, size)
    return found

before = resident()
libc.free(block(16_000_000))  # the largest freed one
large = [(block(8_000_000), block(1_000_000))[0] for _ in range(8)]  # too large for a hole that is there already
for each in large:
    libc.free(each)
print(resident() - before)
"""


def grown(what: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, what], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    assert grown("keep") > 60
    assert grown("return") < 15
