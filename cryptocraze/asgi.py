"""The ASGI application: `uvicorn cryptocraze.asgi:application`, the only process with a pool of connections."""

import os
import warnings
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cryptocraze.settings")
os.environ.setdefault("DATABASE_POOL", "true")  # its threads come and go, and a connection of each would stay open

# WhiteNoise reads files synchronously: small ones, once a browser. Django says so at the first one.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")

from django.core.asgi import get_asgi_application  # noqa: E402 - it is to be said before

django = get_asgi_application()

from monitoring import web_sign  # noqa: E402 - it needs Django set up


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Django answers; it knows no lifespan, in which the process gives its sign of life."""
    if scope["type"] == "lifespan":
        await web_sign.lifespan(receive, send)
    else:
        await django(scope, receive, send)
