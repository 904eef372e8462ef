"""The one signal that leaves this application."""

from django.dispatch import Signal

deal_changed = Signal()
"""Sent after commit with `ids: list[int]`: deals whose triggers, version or monitoring state are new; and with
`closed: Sequence[Closure]` where they were closed by hand.

A hint, never the record that work is due: that record is the deal's row (`monitoring`, `watch_version`).
"""
