"""The simulator's REST API: every view answers for the user who asks, and for nobody else.

A view reads the quote before it calls a service: no row is locked while Redis is asked.
"""

from __future__ import annotations

from typing import Any, cast

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.middleware.csrf import get_token
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.generics import ListAPIView
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deals import quotes, services
from deals.api import serializers as wire
from deals.api.filters import DealFilter, require_known_parameters
from deals.api.pagination import NewestFirst
from deals.api.schema import READING, WRITING, refusals
from deals.api.throttles import LoginAddressThrottle, LoginNameThrottle
from deals.errors import Conflict, NotFound
from deals.models import Account, Deal, LedgerEntry, Notification, Status


def user_id_of(request: Request) -> int:
    """Who asks; the permission has made sure that it is someone."""
    return cast("User", request.user).pk


def account_of(request: Request) -> Account:
    """The account of the user who asks, funded on first use."""
    user_id = user_id_of(request)
    return Account.objects.filter(user_id=user_id).first() or services.create_account(user_id)


def checked(serializer: wire.RequestSerializer) -> dict[str, Any]:
    """The request's fields. Raises ValidationError."""
    serializer.is_valid(raise_exception=True)
    return cast("dict[str, Any]", serializer.validated_data)


class OwnList(ListAPIView[Any]):
    """A user's own rows, newest first, in pages."""

    pagination_class = NewestFirst

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Only the user's own rows, then the filters."""
        return super().filter_queryset(queryset.filter(account=account_of(self.request)))

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Raises ValidationError `unknown_parameter`."""
        filters: type[DealFilter] | None = getattr(self, "filterset_class", None)
        require_known_parameters(request, filters.get_fields() if filters else ())
        return super().list(request, *args, **kwargs)


# --- deals -----------------------------------------------------------------------------------------------------


class DealList(OwnList):
    """The user's deals."""

    serializer_class = wire.DealSerializer
    filterset_class = DealFilter
    queryset = Deal.objects.all()

    @extend_schema(summary="List deals", responses={200: wire.DealSerializer(many=True), **refusals(400, *READING)})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The user's deals, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        summary="Open a deal",
        request=wire.OpenDealSerializer,
        examples=[wire.OPENING],
        responses={
            201: OpenApiResponse(wire.DealSerializer, description="The deal was opened."),
            200: OpenApiResponse(
                wire.DealSerializer,
                description="The `clientId` was used before with the same symbol, direction, amount and multiplier: "
                "the deal opened then, as it is now. Nothing was changed.",
            ),
            **refusals(409, *WRITING),
        },
    )
    def post(self, request: Request) -> Response:
        """Open a deal at the current price and lock its amount.

        Decimals may be text or JSON numbers; both are read digit by digit, without sign and exponent.
        Unknown fields are refused.
        """
        terms = checked(wire.OpenDealSerializer(data=request.data))
        account = account_of(request)
        deal = _opened_earlier(account, terms)
        created = False
        if deal is None:
            quote = quotes.board().quote(terms["symbol"])
            now = timezone.now()
            deal = services.open_deal(user_id=account.user_id, quote=quote, now=now, **terms)
            created = deal.opened_at == now  # else another request with this client id was faster
            deal.refresh_from_db()  # it may be armed by now
        location = {"Location": reverse("deal", kwargs={"id": deal.pk})}
        return Response(wire.DealSerializer(deal).data, status=201 if created else 200, headers=location)


def _opened_earlier(account: Account, terms: dict[str, Any]) -> Deal | None:
    """A repeated request finds its deal, whatever the price is now. Raises Conflict `client_id_reused`."""
    fixed = {name: terms[name] for name in ("client_id", "symbol", "direction", "amount", "multiplier")}
    return services.opened_earlier(user_id=account.user_id, **fixed)


class DealDetail(APIView):
    """One of the user's deals."""

    @extend_schema(summary="Read a deal", responses={200: wire.DealSerializer, **refusals(404, *READING)})
    def get(self, request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """One of the user's deals."""
        return Response(wire.DealSerializer(_own_deal(request, id)).data)

    @extend_schema(
        summary="Change a deal's levels",
        request=wire.AmendLevelsSerializer,
        examples=[wire.AMENDMENT],
        responses={200: wire.DealSerializer, **refusals(404, 409, *WRITING)},
    )
    def patch(self, request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """Change Take Profit, Stop Loss or both of an open deal: null takes a level away, an absent one stays.

        Levels are checked against the current price, as on opening.
        """
        levels = checked(wire.AmendLevelsSerializer(data=request.data))
        deal = _own_open_deal(request, id)
        quote = quotes.board().quote(deal.symbol)
        deal = services.amend_levels(user_id=user_id_of(request), deal_id=id, quote=quote, **levels)
        deal.refresh_from_db()  # it may be armed by now
        return Response(wire.DealSerializer(deal).data)


class DealClose(APIView):
    """The end of one of the user's deals."""

    @extend_schema(
        summary="Close a deal",
        request=wire.NothingSerializer,
        responses={200: wire.DealSerializer, **refusals(404, 409, *WRITING)},
    )
    def post(self, request: Request, id: int) -> Response:  # noqa: A002 - the name in the path
        """Close an open deal at the current price. The body may be left out."""
        checked(wire.NothingSerializer(data=request.data))
        quote = quotes.board().quote(_own_open_deal(request, id).symbol)
        deal = services.close_deal(user_id=user_id_of(request), deal_id=id, quote=quote)
        return Response(wire.DealSerializer(deal).data)


def _own_deal(request: Request, deal_id: int) -> Deal:
    deal = Deal.objects.filter(pk=deal_id, account__user_id=user_id_of(request)).first()
    if deal is None:
        raise NotFound
    return deal


def _own_open_deal(request: Request, deal_id: int) -> Deal:
    """So that a closed deal is told from a missing price; the service checks again, under its lock."""
    deal = _own_deal(request, deal_id)
    if deal.status != Status.OPEN:
        raise Conflict("deal_closed", "The deal is closed already.")
    return deal


# --- account ---------------------------------------------------------------------------------------------------


class AccountDetail(APIView):
    """The user's account."""

    @extend_schema(summary="Read the account", responses={200: wire.AccountSerializer, **refusals(*READING)})
    def get(self, request: Request) -> Response:
        """Balance, margin and statistics of the user, who gets a funded account on first use."""
        return Response(wire.AccountSerializer(account_of(request)).data)


class LedgerList(OwnList):
    """The postings to the user's balance."""

    serializer_class = wire.LedgerEntrySerializer
    queryset = LedgerEntry.objects.all()

    @extend_schema(
        summary="List postings", responses={200: wire.LedgerEntrySerializer(many=True), **refusals(400, *READING)}
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Every change of the user's free balance, newest first."""
        return super().get(request, *args, **kwargs)


class NotificationList(OwnList):
    """What the user was told."""

    serializer_class = wire.NotificationSerializer
    queryset = Notification.objects.select_related("deal")

    @extend_schema(
        summary="List notifications",
        responses={200: wire.NotificationSerializer(many=True), **refusals(400, *READING)},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What the user was told, newest first."""
        return super().get(request, *args, **kwargs)


# --- prices ----------------------------------------------------------------------------------------------------


class PriceList(APIView):
    """The current prices."""

    @extend_schema(summary="List prices", responses={200: wire.PricesSerializer, **refusals(*READING)})
    def get(self, _request: Request) -> Response:
        """The last price of every symbol."""
        known = {quote.symbol: quote for quote in quotes.board().quotes()}
        now = timezone.now()
        rows = []
        for symbol in settings.SYMBOLS:
            quote = known.get(symbol)
            fresh = quote is not None and (now - quote.at).total_seconds() < settings.PRICE_STALE_AFTER_S
            price, at = (None, None) if quote is None else (quote.price, quote.at)
            rows.append({"symbol": symbol, "price": price, "at": at, "is_fresh": fresh})
        return Response(wire.PricesSerializer({"results": rows}).data)


# --- logging in ------------------------------------------------------------------------------------------------


def _checked_user(request: Request) -> User:
    """The user whose name and password the body holds. Raises AuthenticationFailed `invalid_credentials`."""
    given = checked(wire.LoginSerializer(data=request.data))
    user = authenticate(request._request, **given)  # noqa: SLF001 - Django's function takes Django's request
    if user is None:
        raise exceptions.AuthenticationFailed("User name or password is wrong.", "invalid_credentials")
    return user


class TokenLogin(APIView):
    """Logging in with a token."""

    authentication_classes = ()  # an old token sent along must not stand in the way of a new one
    permission_classes = (AllowAny,)
    throttle_classes = (LoginAddressThrottle, LoginNameThrottle)

    @extend_schema(
        summary="Get a token",
        auth=[],
        request=wire.LoginSerializer,
        responses={200: wire.TokenSerializer, **refusals(400, 401, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Exchange user name and password for the user's token."""
        token, _created = Token.objects.get_or_create(user=_checked_user(request))
        return Response({"token": token.key})

    def get_authenticate_header(self, _request: Request) -> str:
        """Makes a wrong password a 401."""
        return "Token"


class SessionLogin(APIView):
    """Logging in with a cookie. Only JSON is read, which no foreign page can send: logging in needs no CSRF token."""

    throttle_classes = (LoginAddressThrottle, LoginNameThrottle)

    def get_authenticators(self) -> list[BaseAuthentication]:
        """None for logging in."""
        return [] if self._logs_in else super().get_authenticators()

    def get_permissions(self) -> list[Any]:
        """Anyone may log in."""
        return [AllowAny()] if self._logs_in else [*super().get_permissions()]

    @property
    def _logs_in(self) -> bool:
        return self.request is None or self.request.method == "POST"

    @extend_schema(
        summary="Log in",
        auth=[],
        request=wire.LoginSerializer,
        responses={200: wire.SessionSerializer, **refusals(400, 401, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Begin a session: the answer sets its cookie."""
        login(request._request, _checked_user(request))  # noqa: SLF001 - Django's function takes Django's request
        return Response({"csrf_token": get_token(request._request)})  # noqa: SLF001 - the same

    @extend_schema(summary="Log out", request=None, responses={204: None, **refusals(401, 403, 429, 503)})
    def delete(self, request: Request) -> Response:
        """End the session."""
        logout(request._request)  # noqa: SLF001 - Django's function takes Django's request
        return Response(status=204)

    def get_authenticate_header(self, _request: Request) -> str:
        """Makes a wrong password a 401."""
        return "Token"


@extend_schema(exclude=True)
class Nothing(APIView):
    """Every other path of the API: 404 in the shape of all errors."""

    permission_classes = (AllowAny,)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - the framework's names
        """Raises NotFound before anything else is asked."""
        raise exceptions.NotFound("There is no such path.")
