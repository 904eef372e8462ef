"""Procfile, docker-compose.yml, Dockerfile, Makefile and .env.example agree with each other and keep their promises."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse_procfile
from servers import PROJECT

COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROCFILE: dict[str, str] = dict(parse_procfile((PROJECT / "Procfile").read_text()).processes)
REQUIREMENTS = [f"requirements{part}.txt" for part in ("", "-dev", "-ccxt", "-bench")]
REQUIREMENTS.append("bench/peers/nautilus/requirements.txt")
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_compose_runs_every_program_of_the_procfile_but_the_demos_traders() -> None:
    assert set(OURS) - {"migrate"} == set(PROCFILE) - {"traders"}


@pytest.mark.parametrize("name", sorted(set(PROCFILE) - {"traders", "web", "flower"}))
def test_compose_and_procfile_start_the_same_program(name: str) -> None:
    line = shlex.split(PROCFILE[name])
    inside = [part for part in SERVICES[name]["command"] if part not in {"--pidfile", ""}]
    assert line == ["exec", "env", f"PROCESS_NAME={name}", *inside]


@pytest.mark.parametrize("name", sorted(PROCFILE))
def test_every_program_replaces_its_shell_and_says_its_name(name: str) -> None:
    assert re.search(rf"(^|; )exec env PROCESS_NAME={name} python ", PROCFILE[name])


def test_what_listens_listens_on_this_machine_only() -> None:
    assert "--host 127.0.0.1" in PROCFILE["web"]
    assert "--address=127.0.0.1" in PROCFILE["flower"]
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_flower_never_runs_without_a_login_and_is_read_only() -> None:
    assert "${FLOWER_BASIC_AUTH:?" in PROCFILE["flower"]
    assert "--read_only=True" in PROCFILE["flower"]
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH:?")
    assert "--read_only=True" in SERVICES["flower"]["command"]


def test_no_secret_has_a_default() -> None:
    text = (PROJECT / "docker-compose.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "SECRET_KEY", "FLOWER_BASIC_AUTH"):
        used = re.findall(rf"\$\{{{name}([^}}]*)\}}", text)
        assert used
        assert all(rest.startswith(":?") for rest in used)


def test_every_variable_of_compose_is_offered_in_the_example_or_has_a_default() -> None:
    text = (PROJECT / "docker-compose.yml").read_text()
    offered = set(re.findall(r"^([A-Z_]+)=", (PROJECT / ".env.example").read_text(), re.MULTILINE))
    required = set(re.findall(r"\$\{([A-Z_]+):\?", text))
    assert required <= offered
    assert offered <= set(re.findall(r"\$\{([A-Z_]+)", text))


def test_every_service_is_restarted_and_what_can_be_asked_has_a_health_check() -> None:
    assert {name for name, service in SERVICES.items() if service["restart"] != "unless-stopped"} == {"migrate"}
    assert {name for name in SERVICES if "healthcheck" in SERVICES[name]} >= {
        *("postgres", "valkey", "web", "worker", "sweeper", "flower")
    }


def test_our_services_wait_for_migrations_and_data_is_kept_in_volumes() -> None:
    for name in set(OURS) - {"migrate"}:
        assert SERVICES[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    mounted = {volume.split(":")[0] for name in ("postgres", "valkey") for volume in SERVICES[name]["volumes"]}
    assert mounted == set(COMPOSE["volumes"])
    assert "track_commit_timestamp=on" in SERVICES["postgres"]["command"]


def test_the_image_runs_as_an_ordinary_user_on_hash_checked_packages() -> None:
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    assert "USER cryptocraze" in lines
    assert any("--require-hashes -r requirements.txt" in line for line in lines)
    ignored = (PROJECT / ".dockerignore").read_text().split()
    assert {".env", ".data", ".venv", ".git"} <= set(ignored)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned_with_hashes_and_name_no_download_address(name: str) -> None:
    text = (PROJECT / name).read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert pins
    assert all(re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9, -]+\])?==\S+", line) and line.endswith("\\") for line in pins)
    assert "://" not in text


def test_the_node_peer_is_pinned_to_exact_versions_without_a_file_of_addresses() -> None:
    folder = PROJECT / "bench" / "peers" / "bullmq"
    needs = json.loads((folder / "package.json").read_text())["dependencies"]
    assert set(needs) == {"bullmq", "ioredis", "pg"}
    assert all(re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version) for version in needs.values())
    assert not (folder / "package-lock.json").exists()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    names = {re.split(r"[^a-z0-9\[\],-]", need.lower())[0] for need in project["project"]["dependencies"]}
    text = (PROJECT / "requirements.txt").read_text().replace(", ", ",")
    pinned = set(re.findall(r"^([a-z0-9-]+(?:\[[a-z0-9,]+\])?)==", text, re.MULTILINE))
    assert names <= pinned  # with their extras: an older pip looks past a pin without them


def test_make_help_lists_every_target_that_a_person_types() -> None:
    done = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE))
    assert listed >= {"help", "demo", "run", "test", "test-unit", "test-integration", "test-load", "check", "format"}


@pytest.mark.parametrize("name", ["worker", "web", "flower"])
def test_the_systemd_unit_runs_the_line_of_the_procfile(tmp_path: Path, name: str) -> None:
    """Its ExecStart in a shell, with a `python` that only says what it was asked for."""
    [command] = re.findall(r"^ExecStart=(.+)$", (PROJECT / "docs" / "cryptocraze@.service").read_text(), re.MULTILINE)
    (tmp_path / "python").write_text('#!/bin/sh\necho "$PROCESS_NAME" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    said = subprocess.run(
        shlex.split(command.replace("$$", "$").replace("%i", name)),
        cwd=PROJECT,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "FLOWER_BASIC_AUTH": "u:p",
            "WEB_PORT": "8123",
            "FLOWER_PORT": "5123",
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = PROCFILE[name].partition("exec env PROCESS_NAME=")[2].replace("python ", "", 1)
    for variable, value in {
        "WEB_PORT:-8000": "8123",
        "FLOWER_PORT:-5555": "5123",
        "FLOWER_EVENTS:-false": "false",
    }.items():
        wanted = wanted.replace(f'"${{{variable}}}"', value)
    assert said == shlex.split(wanted)
