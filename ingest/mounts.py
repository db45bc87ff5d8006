"""A /tmp of its own for one extraction: the document's folder is mounted over it, in a mount namespace of the child.

LibreOffice makes a socket in /tmp or /var/tmp whatever it is told, and Landlock rightly refuses that. Mounting is no
longer allowed once Landlock is in force, so this comes before it; it takes half a millisecond. The numbers are the same
on every architecture: https://man7.org/linux/man-pages/man2/mount.2.html
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND = 1 << 12
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18

OWN_TMP = Path("/tmp")  # noqa: S108 - inside the namespace it is the document's folder
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_IN_BASE64 = b"0M8R4KGxGuE"


def may_need_converter(data: bytes) -> bool:
    """Whether the bytes are an old Office file or a mail with one attached; a guess that costs nothing when wrong."""
    return data.startswith(_OLE) or _OLE_IN_BASE64 in data


def code_below(folder: Path) -> bool:
    """Whether modules that are still to be imported lie below a folder: the interpreter's, or a checkout of ours."""
    roots = (sys.prefix, sys.base_prefix, *(path for path in sys.path if path), str(Path(__file__).parents[1]))
    return any(folder in Path(root).resolve().parents for root in roots)


def mount_over_tmp(folder: Path) -> bool:
    """From now on /tmp is `folder` for this process and its children.

    Returns False, changing nothing that others see, where the kernel gives no mount namespace, and where our own code
    lies in /tmp: what is imported later would be gone, also for formats that need no converter.
    """
    if sys.platform != "linux" or code_below(OWN_TMP):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 and libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
        return False
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        return False
    return bool(libc.mount(bytes(folder), bytes(OWN_TMP), None, ctypes.c_ulong(_MS_BIND), None) == 0)
