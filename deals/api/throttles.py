"""Who may ask how often. The rates are settings (THROTTLE_…); the cache that counts goes on counting without Redis."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle, UserRateThrottle

if TYPE_CHECKING:  # the framework reads this module while it defines APIView
    from rest_framework.views import APIView


class WriteThrottle(UserRateThrottle):
    """Requests of a user that change something; they count among all of the user's requests as well."""

    scope = "write"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None, which means no limit, for reading."""
        return None if request.method in SAFE_METHODS else super().get_cache_key(request, view)


class LoginAddressThrottle(SimpleRateThrottle):
    """Log-ins from one address, whoever is tried."""

    scope = "login"

    def get_cache_key(self, request: Request, _view: APIView) -> str | None:
        """By address; behind proxies set NUM_PROXIES, or a client could make addresses up."""
        return self.cache_format % {"scope": self.scope, "ident": self.get_ident(request)}


class LoginNameThrottle(SimpleRateThrottle):
    """Log-ins of one user name, wherever they come from."""

    scope = "login_name"

    def get_cache_key(self, request: Request, _view: APIView) -> str | None:
        """By user name, hashed because it may hold anything; None when the body has none."""
        name = request.data.get("username")  # type: ignore[union-attr]  # the parser reads objects only
        if not isinstance(name, str):
            return None
        digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()
        return self.cache_format % {"scope": self.scope, "ident": digest}
