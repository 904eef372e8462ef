"""The ASGI application: `uvicorn cryptocraze.asgi:application`, the only process with a pool of connections."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
os.environ.setdefault("DATABASE_POOL", "true")  # its threads come and go, and a connection of each would stay open

from django.core.asgi import get_asgi_application

application = get_asgi_application()

from monitoring import web_sign  # noqa: E402 - it needs Django set up

web_sign.start()
