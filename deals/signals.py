"""The signals that leave this application. Both are hints; the rows are the record."""

from django.dispatch import Signal

deal_changed = Signal()
"""Sent after commit with `ids: list[int]`: deals whose triggers, version or monitoring state are new; and with `rows`:
their `deals.queries.WatchRow` as just committed, or None where it is to be read.

A hint, never the record that work is due: that record is the deal's row (`monitoring`, `watch_version`).
"""

settled = Signal()
"""Sent after the commit of a settlement that closed deals, with `report`: see deals.settlement.Report.

For counting and telling only. Receivers may take no part in whether the deals are closed: their errors are logged.
"""
