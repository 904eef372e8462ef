"""The processes of a running system, found in /proc: who descends from its launcher, and what each of them is."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

SERVERS = ("postgres", "valkey-server")


class Member(NamedTuple):
    """One process. `name` is its line of the Procfile, or the server program; `parent` its parent's id."""

    pid: int
    parent: int
    name: str


def family(launcher: int) -> list[Member]:
    """Every process of the system but zombies, the launcher and its helpers."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    ours = {launcher}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    members = [Member(pid, parents[pid], _name(pid)) for pid in sorted(ours - {launcher})]
    return [member for member in members if member.name]


def heads(members: list[Member], name: str) -> list[int]:
    """The processes of this name whose parent is not of this name: what a supervisor started."""
    of_name = {member.pid for member in members if member.name == name}
    return [member.pid for member in members if member.name == name and member.parent not in of_name]


def children(members: list[Member], name: str) -> list[int]:
    """The processes of this name whose parent is of this name too."""
    return sorted({member.pid for member in members if member.name == name} - set(heads(members, name)))


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        program = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0].rpartition("/")[2]
        for server in SERVERS:
            if program.startswith(server):
                return server
        if "python" in program or "celery" in program:
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
            return next((text[13:] for text in variables if text.startswith("PROCESS_NAME=")), "")
    return ""
