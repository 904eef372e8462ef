"""`make demo` and `make run`: servers, migrations and every process of the Procfile, until Ctrl-C.

One process that owns it all and waits. It does no work of the system itself.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from cryptocraze import env, preflight
from cryptocraze.embedded import EmbeddedServers, write_private
from cryptocraze.env import SettingError
from cryptocraze.orphans import adopt_orphans, end_orphans
from cryptocraze.supervision import APP, SERVERS, Supervisor, procfile_commands

HOST = "127.0.0.1"
DEMO_ONLY = "traders"
LOOK_EVERY_S = 0.25  # how soon a dead program is noticed; see Supervisor.answers
WEB_TIMEOUT_S = 60.0


class Stopped(Exception):
    """Ctrl-C, SIGTERM or a closed terminal, seen between two steps."""


class Launcher:
    """Everything of one `make demo` or `make run`, in the order of its methods. Raises SettingError."""

    def __init__(self, mode: str, procfile: Path) -> None:
        self._demo = mode == "demo"
        self._procfile = procfile
        self._asked_to_stop = False
        self.web_port = env.number("WEB_PORT", env.DEFAULT_WEB_PORT, least=1, most=65535)
        self.flower_port = env.number("FLOWER_PORT", 5555, least=1, most=65535)
        self._static_only = env.flag("STATIC_ONLY", default=False)
        self._servers = EmbeddedServers(
            env.data_dir(),
            postgres=not os.environ.get("DATABASE_URL", "").strip(),
            valkey=not env.redis_url(),
            say=say,
        )
        self._supervisor: Supervisor | None = None

    def run(self) -> None:
        """Start everything, stay until someone asks for the end, stop everything."""
        adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            self._watch()
        except Stopped:
            pass
        finally:
            self._stop()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked_to_stop = True  # and nothing else: a second Ctrl-C must not break the cleaning up

    def _check_stop(self) -> None:
        if self._asked_to_stop:
            raise Stopped

    # --- start -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        began = time.monotonic()
        self._servers.lock()
        for name, port in (("WEB_PORT", self.web_port), ("FLOWER_PORT", self.flower_port)):
            check_port(name, port)
        self._prepare_environment()
        self._check_settings()
        say("preparing " + (" and ".join(self._servers.wanted) or "nothing: DATABASE_URL and REDIS_URL are set"))
        self._servers.prepare()
        self._check_stop()
        self._start_servers()
        say("bringing the tables up to date")
        self._manage("migrate", "--no-input", "--verbosity", "0")
        if self._demo:
            say("making the demo's operator and traders")
            self._manage("demo_setup")
        self._start_programs()
        self._wait_for_web()
        say(f"ready after {time.monotonic() - began:.1f} s")
        self._print_table()

    def _prepare_environment(self) -> None:
        """What the programs inherit; what the user has set stands."""
        defaults = {
            "PRICE_SOURCE": "simulated" if self._demo else "binance",
            "FLOWER_EVENTS": "true",
            "WORKER_SOFT_SHUTDOWN_S": "3",  # a worker always waits that long, and here a person waits for it
            "FLOWER_BASIC_AUTH": "admin:admin" if self._demo else self._flower_login(),
            **({"LOG_JSON": "false"} if self._demo else {}),
        }
        for name, value in defaults.items():
            if not os.environ.get(name, "").strip():
                os.environ[name] = value
        os.environ |= {
            "CRYPTOCRAZE_DATA_DIR": str(self._servers.data_dir),
            "WEB_PORT": str(self.web_port),
            "FLOWER_PORT": str(self.flower_port),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "DEMO": "true" if self._demo else "",
        }

    def _check_settings(self) -> None:
        """End with a line for each setting that is wrong, before anything is started."""
        embedded = self._servers.wanted
        command = [sys.executable, "-m", "cryptocraze.preflight", *embedded]
        environment = preflight.environment(embedded)
        done = subprocess.run(
            command, cwd=env.BASE_DIR, env=environment, capture_output=True, text=True, check=False,
            start_new_session=True,
        )  # fmt: skip
        self._check_stop()
        if done.returncode != 0:
            sys.exit(done.stderr.strip())

    def _flower_login(self) -> str:
        """The data folder's own Flower login, made once."""
        kept = self._servers.data_dir / "flower_login"
        if not kept.exists():
            write_private(kept, f"admin:{secrets.token_urlsafe(12)}")
        return kept.read_text().strip()

    def _start_servers(self) -> None:
        """Start supervisord and, under it, the embedded servers; tell everyone where they are."""
        self._supervisor = Supervisor(self._servers.run_dir, self._servers.commands, self._programs())
        self._supervisor.start(os.environ | {"TMPDIR": str(self._temporary_folder())}, self._servers.data_dir)
        if self._servers.wanted:
            say("starting " + " and ".join(self._servers.wanted))
        self._supervisor.start_group(SERVERS)
        supervisor = self._supervisor
        self._servers.wait(alive=lambda: supervisor.answers() and not self._asked_to_stop)
        self._check_stop()
        self._servers.publish()

    def _temporary_folder(self) -> Path:
        """Where the programs leave what they do not remove when they are killed; it goes with the run folder."""
        folder = self._servers.run_dir / "tmp"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _programs(self) -> dict[str, list[str]]:
        if self._static_only:
            say("STATIC_ONLY: only web runs; deals stay pending, nothing closes by itself")
            return procfile_commands(self._procfile, ["web"])
        commands = procfile_commands(self._procfile)
        if not self._demo:
            commands.pop(DEMO_ONLY, None)
        return commands

    def _start_programs(self) -> None:
        self._check_stop()
        say("starting " + ", ".join(self._programs()))
        assert self._supervisor is not None  # noqa: S101 _start_servers came first
        self._supervisor.start_group(APP)

    def _manage(self, *arguments: str) -> None:
        """Run one manage.py command to its end; its output is shown only when it fails."""
        self._check_stop()
        command = [sys.executable, str(env.BASE_DIR / "manage.py"), *arguments]
        with subprocess.Popen(
            command, cwd=env.BASE_DIR, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        ) as process:
            output, _ = process.communicate()
        self._check_stop()
        if process.returncode != 0:
            sys.stdout.write(output.decode(errors="replace"))
            raise SettingError(f"manage.py {arguments[0]} failed")

    def _wait_for_web(self) -> None:
        deadline = time.monotonic() + WEB_TIMEOUT_S
        while not _listens(self.web_port):
            self._check_stop()
            if time.monotonic() > deadline:
                say("web does not answer yet: see its lines above")
                return
            time.sleep(0.1)

    def _print_table(self) -> None:
        user, _, password = os.environ["FLOWER_BASIC_AUTH"].partition(":")
        web = f"http://{HOST}:{self.web_port}"
        login = "admin / admin" if self._demo else "yours: `manage.py createsuperuser`"
        rows = [("admin", f"{web}/admin/", login), ("API", f"{web}/api/docs", login)]
        if not self._static_only:
            rows.append(("Flower", f"http://{HOST}:{self.flower_port}/", f"{user} / {password}"))
            rows.append(("prices", f"from {os.environ['PRICE_SOURCE']}", ""))
        width = max(len(where) for _, where, _ in rows)
        rows.append(("data", str(self._servers.data_dir), ""))
        lines = [f"  {what:<8} {where:<{width}}  {login}".rstrip() for what, where, login in rows]
        print("\n".join(["", *lines, "", "  Ctrl-C stops everything.", ""]), flush=True)  # noqa: T201

    # --- stay, stop ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wait for the end; bring supervisord itself back should it die."""
        assert self._supervisor is not None  # noqa: S101 _start came first
        while True:
            self._check_stop()
            if not self._supervisor.alive:
                say("supervisord died: starting it again")
                self._start_servers()
                self._start_programs()
            self._supervisor.answers()
            time.sleep(LOOK_EVERY_S)

    def _stop(self) -> None:
        if self._supervisor is not None:
            say("stopping")
            self._supervisor.stop()
            end_orphans()
        self._servers.close()
        if self._supervisor is not None:
            say("stopped; nothing is left running")


def say(line: str) -> None:
    """One line of progress."""
    print(f"cryptocraze: {line}", flush=True)  # noqa: T201 it talks to a person


def check_port(name: str, port: int) -> None:
    """SettingError if something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingError(f"port {port} is not free ({error.strerror}): set another {name}") from None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m cryptocraze.launch", description=__doc__)
    parser.add_argument("mode", choices=["demo", "run"])
    parser.add_argument("--procfile", type=Path, default=env.BASE_DIR / "Procfile")
    arguments = parser.parse_args()
    Launcher(arguments.mode, arguments.procfile).run()


if __name__ == "__main__":
    main()
