"""How connections to PostgreSQL are made: one whose server is gone without a word must not be waited for."""

from __future__ import annotations

from typing import Any

from django.db import connection

from monitoring import probes

LIMITS = {
    "tcp_user_timeout": "10000", "keepalives_idle": "5", "keepalives_interval": "2", "keepalives_count": "3",
}  # fmt: skip


def said_of(link: Any) -> dict[str, str]:
    return {name: value for name, value in link.info.get_parameters().items() if name in LIMITS}


def test_a_server_that_is_gone_without_a_word_is_given_up_after_ten_seconds(db: None) -> None:
    connection.ensure_connection()
    assert said_of(connection.connection) == LIMITS


def test_healths_own_connections_give_it_up_too(transactional_db: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(probes, "_questions", {})
    probes.ask_database_too("link", lambda cursor: said_of(cursor.connection))
    facts = probes.ask_all().database
    assert facts is not None
    assert facts.extra["link"] == LIMITS
