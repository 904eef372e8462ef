from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0007_price_drivers"),
    ]

    operations = [
        migrations.AddField(
            model_name="sweepposition",
            name="received_at",
            field=models.DateTimeField(help_text="When that price was received.", null=True),
        ),
        migrations.AddField(
            model_name="sweepposition",
            name="unseen_from",
            field=models.DateTimeField(help_text="The last span that no sweep has seen: from here", null=True),
        ),
        migrations.AddField(
            model_name="sweepposition",
            name="unseen_until",
            field=models.DateTimeField(help_text="to here. NULL: there is none.", null=True),
        ),
    ]
