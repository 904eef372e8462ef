"""Ledger and history refuse UPDATE and DELETE; the one row of the system state exists from the start."""

from typing import Any

from django.db import migrations
from django.utils import timezone

APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER deal_events_append_only BEFORE UPDATE OR DELETE ON deal_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""
NO_LONGER = """
DROP TRIGGER deal_events_append_only ON deal_events;
DROP TRIGGER ledger_append_only ON ledger_entries;
DROP FUNCTION refuse_change();
"""


def create_state(apps: Any, _schema_editor: object) -> None:
    apps.get_model("deals", "SystemState").objects.get_or_create(
        id=1, defaults={"state": "running", "changed_at": timezone.now(), "reason": "first start"}
    )


class Migration(migrations.Migration):
    dependencies = [("deals", "0001_initial")]

    operations = [
        migrations.RunSQL(APPEND_ONLY, NO_LONGER),
        migrations.RunPython(create_state, migrations.RunPython.noop),
    ]
