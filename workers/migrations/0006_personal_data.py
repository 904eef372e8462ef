"""Who is kept as a number beside the name, and two doors in the audit log's protection: erasing and retention."""

from django.db import migrations, models

# Rows that were written by users of the site; commands and Python callers have other sources.
NUMBERS = """
UPDATE audit_entries SET user_id = auth_user.id FROM auth_user
WHERE auth_user.username = audit_entries.who AND audit_entries.source NOT IN ('cli', 'in-process');
UPDATE operations SET user_id = auth_user.id FROM auth_user
WHERE auth_user.username = operations.requested_by AND operations.source NOT IN ('cli', 'in-process');
"""
# A row may be blanked, in no other field than these three, by a transaction that says that it erases a person's data;
# and it may go after 30 days, in a transaction that says that it trims. Everything else is refused as before.
PROTECT = """
DROP TRIGGER audit_entries_append_only ON audit_entries;
{numbers}
CREATE FUNCTION protect_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('cryptocraze.trims_audit', true) = 'yes'
       AND OLD.at < now() - interval '30 days' THEN
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND current_setting('cryptocraze.erases_user', true) = 'yes'
       AND (NEW.id, NEW.at, NEW.user_id, NEW.action, NEW.target, NEW.outcome)
           IS NOT DISTINCT FROM (OLD.id, OLD.at, OLD.user_id, OLD.action, OLD.target, OLD.outcome)
       AND NEW.who IN (OLD.who, 'user ' || OLD.user_id)
       AND NEW.source IN (OLD.source, 'erased') AND NEW.reason IN (OLD.reason, 'erased') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION protect_audit();
""".replace("{numbers}", NUMBERS)
AS_BEFORE = """
DROP TRIGGER audit_entries_append_only ON audit_entries;
DROP FUNCTION protect_audit();
CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0005_groups"),
        ("auth", "0012_alter_user_first_name_max_length"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="user_id",
            field=models.BigIntegerField(help_text="The user's number, kept when the name is erased.", null=True),
        ),
        migrations.AddField(
            model_name="operation",
            name="user_id",
            field=models.BigIntegerField(help_text="The user's number, kept when the name is erased.", null=True),
        ),
        migrations.RunSQL(PROTECT, AS_BEFORE),
    ]
