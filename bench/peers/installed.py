"""Peers that are not Python packages of ours: installed beside their code by the registries' own clients, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from bench.errors import Unavailable
from cryptocraze.embedded import with_parent

HERE: Final = Path(__file__).parent
BULLMQ: Final = HERE / "bullmq"
NAUTILUS: Final = HERE / "nautilus"
VENV: Final = HERE / ".venv"
INSTALL_S: Final = 300


def node() -> str:
    """The program `node`, with the baseline's packages installed. Raises Unavailable."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise Unavailable("node and npm are not installed")
    if not (BULLMQ / "node_modules").is_dir():
        options = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        _run([npm, "install", *options], BULLMQ)
    return program


def nautilus_python() -> str:
    """A Python that has nautilus_trader. Raises Unavailable."""
    python = VENV / "bin" / "python"
    if not python.exists():
        # Beside our own packages it could change their versions.
        _run([sys.executable, "-m", "venv", str(VENV)], HERE)
    if subprocess.run([python, "-c", "import nautilus_trader"], capture_output=True, check=False).returncode:
        options = ("--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes")
        _run([str(python), "-m", "pip", "install", *options, "-r", str(NAUTILUS / "requirements.txt")], HERE)
    return str(python)


def output_of(command: list[str], folder: Path, timeout_s: float, env: dict[str, str] | None = None) -> str:
    """The last line that a program prints. Raises Unavailable when it fails or takes too long.

    In a session of its own, so that Ctrl-C is ours alone to handle; it is ended with us.
    """
    with subprocess.Popen(
        with_parent("SIGKILL", command),
        cwd=folder,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"it did not end within {timeout_s:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        reason = (complained.strip() or said.strip() or "no reason given").splitlines()
        raise Unavailable(f"it ended with {process.returncode}: {reason[0][:200]}")
    return said.strip().splitlines()[-1]


def _run(command: list[str], folder: Path) -> None:
    try:
        output_of(command, folder, INSTALL_S)
    except IndexError:
        return  # it had nothing to say
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}") from error
