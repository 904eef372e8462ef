"""Closures are marked as told on their settlement. What is there stays as it is: it belongs to no settlement in this sense,
and neither does what old code goes on writing. An old sweeper beside new workers repeats messages: restart it with them.
"""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("deals", "0006_vacuum_deals_early"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="notification",
            name="notifications_unpublished",
        ),
        migrations.AddField(
            model_name="notification",
            name="settlement",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="deals.settlement",
            ),
        ),
        migrations.AddField(
            model_name="settlement",
            name="first_notification_id",
            field=models.BigIntegerField(help_text="NULL: its notifications speak for themselves.", null=True),
        ),
        migrations.AddField(
            model_name="settlement",
            name="last_notification_id",
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name="settlement",
            name="told_at",
            field=models.DateTimeField(help_text="When its notifications were published.", null=True),
        ),
        migrations.AlterField(
            model_name="notification",
            name="published_at",
            field=models.DateTimeField(help_text="NULL for what a settlement wrote: see its `told_at`.", null=True),
        ),
        migrations.AddIndex(
            model_name="notification",
            index=models.Index(
                condition=models.Q(("published_at", None), ("settlement", None)),
                fields=["id"],
                name="notifications_unpublished",
            ),
        ),
        migrations.AddIndex(
            model_name="settlement",
            index=models.Index(
                condition=models.Q(("first_notification_id__isnull", False), ("told_at", None)),
                fields=["id"],
                name="settlements_untold",
            ),
        ),
    ]
