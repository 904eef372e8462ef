"""Check the keys of ledger, events and notifications for a whole statement instead of row by row.

A foreign key is a query for each row and key: seven a closure, a quarter of PostgreSQL's time in a mass trigger. What is
promised and how: docs/decisions/0010-keys-are-checked-by-statement.md. What is there has been checked by the foreign keys.
"""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

# A subquery for each row, and never a sequential scan: the plan is kept for as long as the session, whatever the table
# grows to meanwhile.
CHECKED = """
CREATE FUNCTION require_keys() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    missing record;
BEGIN
    SELECT written.deal_id, written.account_id INTO missing
    FROM written
    WHERE written.account_id IS DISTINCT FROM CASE
        WHEN written.deal_id IS NULL THEN (SELECT id FROM accounts WHERE id = written.account_id)
        ELSE (SELECT account_id FROM deals WHERE id = written.deal_id)
    END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'foreign key: % speaks of deal % of account %, which is not there',
            TG_TABLE_NAME, missing.deal_id, missing.account_id
            USING ERRCODE = 'foreign_key_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION require_deal() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    missing bigint;
BEGIN
    SELECT written.deal_id INTO missing
    FROM written
    WHERE (SELECT id FROM deals WHERE id = written.deal_id) IS NULL
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'foreign key: % speaks of deal %, which is not there', TG_TABLE_NAME, missing
            USING ERRCODE = 'foreign_key_violation', TABLE = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION refuse_loss() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'foreign key: % of % % refused, others speak of it', TG_OP, TG_TABLE_NAME, OLD.id
        USING ERRCODE = 'foreign_key_violation', TABLE = TG_TABLE_NAME;
END $$;
CREATE TRIGGER ledger_keys AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION require_keys();
CREATE TRIGGER deal_events_keys AFTER INSERT ON deal_events
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION require_deal();
CREATE TRIGGER notifications_keys AFTER INSERT ON notifications
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION require_keys();
CREATE TRIGGER notifications_keys_kept AFTER UPDATE ON notifications
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION require_keys();
CREATE TRIGGER deals_stay BEFORE DELETE ON deals FOR EACH ROW EXECUTE FUNCTION refuse_loss();
CREATE TRIGGER deals_keep_their_keys BEFORE UPDATE OF id, account_id ON deals
    FOR EACH ROW WHEN (OLD.id <> NEW.id OR OLD.account_id <> NEW.account_id) EXECUTE FUNCTION refuse_loss();
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION refuse_loss();
CREATE TRIGGER accounts_keep_their_keys BEFORE UPDATE OF id ON accounts
    FOR EACH ROW WHEN (OLD.id <> NEW.id) EXECUTE FUNCTION refuse_loss();
"""
NO_LONGER = """
DROP TRIGGER accounts_keep_their_keys ON accounts;
DROP TRIGGER accounts_stay ON accounts;
DROP TRIGGER deals_keep_their_keys ON deals;
DROP TRIGGER deals_stay ON deals;
DROP TRIGGER notifications_keys_kept ON notifications;
DROP TRIGGER notifications_keys ON notifications;
DROP TRIGGER deal_events_keys ON deal_events;
DROP TRIGGER ledger_keys ON ledger_entries;
DROP FUNCTION refuse_loss();
DROP FUNCTION require_deal();
DROP FUNCTION require_keys();
"""


def _unchecked(model: str, name: str, to: str, related_name: str, **options: Any) -> migrations.AlterField:
    key: Any = models.ForeignKey(
        db_constraint=False,
        db_index=False,
        on_delete=django.db.models.deletion.PROTECT,
        related_name=related_name,
        to=to,
        **options,
    )
    return migrations.AlterField(model, name, key)


class Migration(migrations.Migration):
    dependencies = [("deals", "0008_client_id_indexed_where_given")]

    operations = [
        migrations.RunSQL(CHECKED, NO_LONGER),
        _unchecked("ledgerentry", "account", "deals.account", "ledger"),
        _unchecked("ledgerentry", "deal", "deals.deal", "ledger", null=True),
        _unchecked("dealevent", "deal", "deals.deal", "events"),
        _unchecked("notification", "account", "deals.account", "notifications"),
        _unchecked("notification", "deal", "deals.deal", "notifications"),
    ]
