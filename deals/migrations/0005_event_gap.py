from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("deals", "0004_account_erased_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="dealevent",
            name="gap_ms",
            field=models.PositiveBigIntegerField(
                null=True,
                help_text="After an outage: how long the symbol had had no price before this one; NULL: no outage.",
            ),
        ),
    ]
