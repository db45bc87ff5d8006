"""Landlock: a Linux process gives up writing outside one folder, unprivileged and for good (kernel 5.13 and newer).

Called in a fork of the extractors' mother, so it uses system calls by number and allocates nothing of note. The numbers
are the same on every architecture: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_BIND_AND_CONNECT_TCP = 0b11


def landlock_version() -> int:
    """ABI version of this kernel; 0 where there is none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def write_only_below(folder: Path) -> bool:
    """From now on this process and its children write below `folder` and to /dev/null only, and open no TCP connection.

    Returns False, changing nothing, where the kernel has no Landlock. Needs no_new_privs.
    """
    version = landlock_version()
    if version < 1:
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    access = _WRITE_FILE | _MAKE_AND_REMOVE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    attributes = struct.pack("=Q", access) + (struct.pack("=Q", _BIND_AND_CONNECT_TCP) if version >= 4 else b"")
    ruleset = int(call(_CREATE_RULESET, attributes, len(attributes), 0))
    if ruleset < 0:
        return False
    try:
        of_a_file = _WRITE_FILE | (_TRUNCATE if version >= 3 else 0)
        for path, allowed in ((folder, access), (Path(os.devnull), of_a_file)):
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, place), 0) != 0:
                    return False
            finally:
                os.close(place)
        return int(call(_RESTRICT_SELF, ruleset, 0)) == 0
    finally:
        os.close(ruleset)
