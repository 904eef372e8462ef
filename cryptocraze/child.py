"""Runs a program in this process's place so that it ends when its parent does, even when that is killed with -9.

Run by its path (`python -I -S child.py SIGNAL USER PROGRAM ARGUMENTS…`), it imports nothing of the project. USER is
`uid:gid` to change to, or `-`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(user: str) -> None:
    """Change to `uid:gid` for good, with no other groups; `-` changes nothing."""
    if user == "-":
        return
    uid, gid = (int(part) for part in user.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def end_with_parent(ending: signal.Signals, parent: int) -> None:
    """Ask the kernel (Linux only) for this signal at the parent's death; ends at once if it is dead already."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(ending), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Change the user first: the kernel forgets the request on a change of user."""
    parent = os.getppid()
    ending, user, *command = sys.argv[1:]
    become(user)
    os.umask(0o077)
    end_with_parent(signal.Signals[ending], parent)
    os.execvp(command[0], command)  # noqa: S606 no shell is meant


if __name__ == "__main__":
    main()
