"""Runs the Procfile's programs and the embedded servers under supervisord: what dies is started again.

Owns supervisord and its configuration; knows nothing of what the programs do.
"""

from __future__ import annotations

import configparser
import contextlib
import io
import os
import secrets
import shlex
import subprocess
import sys
import threading
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

from honcho.environ import parse_procfile
from supervisor.xmlrpc import SupervisorTransport

from cryptocraze.embedded import POSTGRES, with_parent, write_private
from cryptocraze.env import BASE_DIR, SettingError

SERVERS, APP = "servers", "app"  # the two groups: stopped in the other order than started
STOP_WAIT_S = 15


def procfile_commands(path: Path, names: list[str] | None = None) -> dict[str, list[str]]:
    """The Procfile's programs by name, each a shell line run from the project's folder; all of them without `names`."""
    lines = dict(parse_procfile(path.read_text()).processes)
    wanted = list(lines) if names is None else names
    if missing := [name for name in wanted if name not in lines]:
        raise SettingError(f"{path} has no line for {', '.join(missing)}")
    return {name: with_parent("SIGTERM", ["/bin/sh", "-c", lines[name]]) for name in wanted}


class Supervisor:
    """supervisord with two groups of programs. Programs and supervisord end with this process, even by kill -9."""

    def __init__(self, run_dir: Path, servers: dict[str, list[str]], app: dict[str, list[str]]) -> None:
        self._run_dir = run_dir
        self._groups = {name: programs for name, programs in ((SERVERS, servers), (APP, app)) if programs}
        self._password = secrets.token_urlsafe(16)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, env: dict[str, str], log_dir: Path) -> None:
        """Start supervisord, with no program yet. The servers' own logs go to `log_dir`, all others to our output."""
        self._write()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._run_dir / "supervisord.conf")]
        # Its errors go to a file: should we be killed, the pipe breaks, and it must live on to stop the programs.
        complaints = self._run_dir / "supervisord.err"
        with complaints.open("wb") as stderr:
            self._process = subprocess.Popen(
                with_parent("SIGTERM", command),
                env=env,
                cwd=log_dir,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # a Ctrl-C is ours alone: the servers must stop last
            )
        threading.Thread(target=_pass_on, args=[self._process.stdout], daemon=True).start()
        deadline = time.monotonic() + 15
        while not self.answers():
            if time.monotonic() > deadline or not self.alive:
                raise SettingError(f"supervisord did not start: {complaints.read_text().strip()}")
            time.sleep(0.05)

    def start_group(self, name: str) -> None:
        """Start the programs of SERVERS or APP and return at once."""
        if name in self._groups:
            self._rpc.startProcessGroup(name, False)  # noqa: FBT003 XML-RPC knows no keywords

    @property
    def alive(self) -> bool:
        """Whether supervisord itself runs."""
        return self._process is not None and self._process.poll() is None

    def answers(self) -> bool:
        """Ask supervisord for its state. It looks after dead programs once a second, and whenever it is asked."""
        with contextlib.suppress(OSError, xmlrpc.client.Error):
            return bool(self._rpc.getState()["statename"] == "RUNNING")
        return False

    def stop(self) -> None:
        """End the programs, then the servers, then supervisord; those that do not listen by kill -9."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(2 * STOP_WAIT_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def _rpc(self) -> Any:
        transport = SupervisorTransport("launch", self._password, f"unix://{self._run_dir / 'supervisor.sock'}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport).supervisor

    def _write(self) -> None:
        config = configparser.RawConfigParser()
        config.read_dict(self._sections())
        for name, programs in self._groups.items():
            config[f"group:{name}"] = {"programs": ",".join(programs), "priority": str(1 if name == SERVERS else 2)}
            for program, command in programs.items():
                config[f"program:{program}"] = self._program(program, command, own_log=name == SERVERS)
        text = io.StringIO()
        config.write(text)
        write_private(self._run_dir / "supervisord.conf", text.getvalue())

    def _sections(self) -> dict[str, dict[str, str]]:
        login = {"username": "launch", "password": self._password}
        return {
            "supervisord": {
                "nodaemon": "true",
                "logfile": "/dev/null",
                "logfile_maxbytes": "0",
                "loglevel": "warn",
                "pidfile": str(self._run_dir / "supervisord.pid"),
                "childlogdir": str(self._run_dir),
                **({"user": "root"} if os.geteuid() == 0 else {}),  # said on purpose, or it warns at every start
            },
            "unix_http_server": {"file": str(self._run_dir / "supervisor.sock"), "chmod": "0700", **login},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface",
            },
        }

    def _program(self, name: str, command: list[str], *, own_log: bool) -> dict[str, str]:
        # The configuration's syntax gives meaning to %, ; and quotes: a script of our own in a folder with a plain name
        # keeps any path out of it.
        script = self._run_dir / f"{name}.sh"
        write_private(script, f"cd {shlex.quote(str(BASE_DIR))} && exec {shlex.join(command)}\n")
        return {
            "command": f"/bin/sh {script}",
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "0",  # with 0 no number of deaths makes supervisord give up
            "startretries": "1000000",
            "stopsignal": "INT" if name == POSTGRES else "TERM",
            "stopwaitsecs": str(STOP_WAIT_S),
            "stopasgroup": "false",  # a signal to the group would end a worker's pool in the middle of a task
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": f"{name}.log" if own_log else "/dev/fd/1",
            "stdout_logfile_maxbytes": "1MB" if own_log else "0",
            "stdout_logfile_backups": "1",
        }


def _pass_on(source: Any) -> None:
    """Copy supervisord's output line by line to ours, and go on reading when ours is closed: nothing must block."""
    for line in source:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
