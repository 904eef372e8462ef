"""All settings. What an operator may change comes from the environment; README lists every variable."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import dj_database_url
from csp import constants as csp
from django.urls import reverse_lazy

from cryptocraze import broker, env
from cryptocraze.logging import logging_config

BASE_DIR = env.BASE_DIR
ADDRESSES = env.addresses()

DEBUG = env.flag("DEBUG", default=False)
SECRET_KEY = env.secret_key()
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", "127.0.0.1 localhost [::1]")
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS", "")

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "rest_framework.authtoken",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "cryptocraze",
    "deals",
    "workers",
    "monitoring",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "cryptocraze.csp.ContentSecurityPolicy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "cryptocraze.urls"
ASGI_APPLICATION = "cryptocraze.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- PostgreSQL: the only source of truth ---------------------------------------------------------------------

DATABASES: dict[str, Any] = {"default": dict(dj_database_url.parse(ADDRESSES.database_url))}
DATABASES["default"] |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
DATABASES["default"].setdefault("OPTIONS", {})
DATABASES["default"]["OPTIONS"] |= {
    "application_name": f"cryptocraze-{env.text('PROCESS_NAME', 'manage')}",
    "connect_timeout": 3,
    "prepare_threshold": 5,  # only deals/prepared.py prepares statements; None would forbid it
    # A server that is gone without a word (a machine that died, a network that drops everything) is noticed after 10 s.
    # Without these a process would wait for its answer for a quarter of an hour or more. Sockets of UNIX need none.
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # A lock is never waited for without limit; a killed client frees its locks within half a second.
    "options": " ".join(
        f"-c {name}={value}"
        for name, value in {
            "statement_timeout": "15s",
            "lock_timeout": "5s",
            "idle_in_transaction_session_timeout": "20s",
            "client_connection_check_interval": "500ms",
            "plan_cache_mode": "force_generic_plan",  # for deals/prepared.py
        }.items()
    ),
}
if env.flag("DATABASE_POOL", default=False):
    DATABASES["default"]["CONN_MAX_AGE"] = 0
    DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 2, "max_size": 20, "timeout": 5}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Redis or Valkey: prices, trigger book, queue; everything in it can be rebuilt -----------------------------

REDIS_URL = ADDRESSES.redis_url
KEY_PREFIX = env.text("KEY_PREFIX", "")
REDIS_TIMEOUT_S = 1.0

# --- The domain ------------------------------------------------------------------------------------------------

SYMBOLS = [
    symbol.upper()
    for symbol in env.words(
        "SYMBOLS",
        "BTCUSDT ETHUSDT BNBUSDT SOLUSDT XRPUSDT ADAUSDT DOGEUSDT AVAXUSDT DOTUSDT LINKUSDT LTCUSDT TRXUSDT "
        "UNIUSDT ATOMUSDT NEARUSDT",
    )
]
PRICE_SOURCE = env.choice("PRICE_SOURCE", "binance", ("binance", "redis", "ccxt", "tape", "simulated"))
BINANCE_WS_URL = env.text("BINANCE_WS_URL", "wss://stream.binance.com:9443")
BINANCE_STREAM = env.choice("BINANCE_STREAM", "trade", ("trade", "aggTrade"))
CCXT_EXCHANGE = env.text("CCXT_EXCHANGE", "binance")
TAPE_FILE = env.tape_file(SYMBOLS if PRICE_SOURCE == "tape" else None)
TAPE_SPEED = str(env.number("TAPE_SPEED", 1, least=1, most=10_000))
SIMULATED_SEED = env.number("SIMULATED_SEED", 1, least=0, most=2**31)
SIMULATED_TICKS_PER_S = env.number("SIMULATED_TICKS_PER_S", 5, least=1, most=10_000)
COMMISSION_RATE = Decimal("0.0005")
INITIAL_BALANCE = Decimal(10_000)
PRICE_STALE_AFTER_S = env.number("PRICE_STALE_AFTER_S", 10, least=1, most=3600)
MAX_MONITORING_H = env.number("MAX_MONITORING_H", 24, least=1, most=24)
STATIC_ONLY = env.flag("STATIC_ONLY", default=False)

# --- What is kept only for a while -----------------------------------------------------------------------------

# The database itself refuses to let go of an audit row younger than 30 days.
AUDIT_KEEP_DAYS = env.number("AUDIT_KEEP_DAYS", 365, least=30, most=36_500)
OPERATIONS_KEEP = env.number("OPERATIONS_KEEP", 500, least=50, most=1_000_000)

# --- Celery ----------------------------------------------------------------------------------------------------

CELERY_BROKER_URL = env.broker_url(REDIS_URL)
QUEUE_TYPE = env.queue_type(CELERY_BROKER_URL)
CELERY_TASK_QUEUES = broker.queues(QUEUE_TYPE)
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_CREATE_MISSING_QUEUES = False
CELERY_TASK_ROUTES = {
    "workers.close_deals": {"queue": "closures"},
    "workers.sweep": {"queue": "sweep"},
}
CELERY_BROKER_TRANSPORT_OPTIONS = broker.transport_options(CELERY_BROKER_URL, KEY_PREFIX) | env.broker_sentinel_options(
    REDIS_URL
)
CELERY_BROKER_HEARTBEAT = 10  # RabbitMQ: a connection that is half open is noticed within twice that
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_CONSUMER = "workers.consumer:Consumer"
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 5
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_RETRY_ON_WORKER_LOST = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SOFT_TIME_LIMIT = 15
CELERY_TASK_TIME_LIMIT = 20
CELERY_WORKER_CONCURRENCY = env.number("WORKER_CONCURRENCY", 5, least=1, most=64)
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# An idle worker waits for all of it, so that waiting retries are put back.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = float(env.number("WORKER_SOFT_SHUTDOWN_S", 5, least=1, most=60))
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = True
CELERY_WORKER_POOL_RESTARTS = True
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_WORKER_SEND_TASK_EVENTS = env.flag("FLOWER_EVENTS", default=False)
CELERY_TASK_SEND_SENT_EVENT = CELERY_WORKER_SEND_TASK_EVENTS
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_BEAT_ENABLE_REMOTE_CONTROL = True
CELERY_TIMEZONE = "UTC"

# --- REST ------------------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "rest_framework.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["djangorestframework_camel_case.render.CamelCaseJSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["deals.api.parsers.ExactJSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_THROTTLE_CLASSES": [
        "rest_framework.throttling.AnonRateThrottle",
        "rest_framework.throttling.UserRateThrottle",
        "deals.api.throttles.WriteThrottle",
    ],
    "DEFAULT_THROTTLE_RATES": {
        "anon": env.rate("THROTTLE_ANON", "60/min"),
        "user": env.rate("THROTTLE_USER", "600/min"),
        "write": env.rate("THROTTLE_WRITE", "120/min"),
        "login": env.rate("THROTTLE_LOGIN", "10/min"),
        "login_name": env.rate("THROTTLE_LOGIN_NAME", "20/min"),
        "metrics": env.rate("THROTTLE_METRICS", "120/min"),
    },
    # How many proxies stand before the web process and write X-Forwarded-For; 0: the header is not believed.
    "NUM_PROXIES": env.number("NUM_PROXIES", 0, least=0, most=10),
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "deals.api.errors.exception_handler",
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "CryptoCraze automatic TP/SL",
    "VERSION": "0.1.0",
    "DESCRIPTION": "Deals of the trading simulator that close themselves at Take Profit and Stop Loss. Money is USDT, "
    "prices are USDT a unit; both are plain decimal text. Times are ISO 8601 in UTC. Every error has one shape.",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": False,
    "ENUM_NAME_OVERRIDES": {
        "CloseReason": "deals.models.CloseReason",
        "DeadLetterState": "workers.models.DeadLetter.State",
        "DealStatus": "deals.models.Status",
        "Direction": "deals.models.Direction",
        "LedgerKind": "deals.models.LedgerEntry.Kind",
        "Monitoring": "deals.models.Monitoring",
        "NotificationKind": "deals.models.Notification.Kind",
        "OperationKind": "workers.models.Operation.Kind",
        "OperationState": "workers.models.Operation.State",
        "SystemState": "deals.models.SystemState.State",
    },
    "PREPROCESSING_HOOKS": ["deals.api.schema.without_second_spelling"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields",
    ],
}

# What Prometheus may send instead of the token of someone on the staff: it is good while PostgreSQL is away, too.
METRICS_TOKEN = env.token("METRICS_TOKEN")

# --- Web -------------------------------------------------------------------------------------------------------

CACHES = {
    "default": {
        "BACKEND": "cryptocraze.cache.SturdyRedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": f"{KEY_PREFIX}cache",
        "OPTIONS": {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S},
    },
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_AGE = int(timedelta(days=7).total_seconds())
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
# Plain HTTP is answered with a redirect, cookies travel by HTTPS only, browsers are told to remember it.
HTTPS_ONLY = env.flag("HTTPS_ONLY", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_REDIRECT_EXEMPT = ["^livez/?$", "^health/?$", "^metrics/?$"]  # probes ask the process itself, without the proxy
SECURE_HSTS_SECONDS = env.number("HSTS_S", 3600, least=0, most=63_072_000) if HTTPS_ONLY else 0
if REST_FRAMEWORK["NUM_PROXIES"]:  # else a client could write the header
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Nothing comes from elsewhere, no script stands in a page; cryptocraze/csp.py says what the admin site needs besides.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [csp.SELF],
        "img-src": [csp.SELF, "data:"],
        "object-src": [csp.NONE],
        "base-uri": [csp.NONE],
        "form-action": [csp.SELF],
        "frame-ancestors": [csp.NONE],
    }
}
SILENCED_SYSTEM_CHECKS = [
    # cryptocraze.W001, W002 and W004 say the same and name the variables.
    *("security.W004", "security.W008", "security.W009", "security.W012", "security.W016", "security.W018"),
    # Whether all sub-domains speak HTTPS is not for this system to say.
    *("security.W005", "security.W021"),
    *env.words("SILENCED_CHECKS", ""),
]


def _page(title: str, icon: str, model: str) -> dict[str, Any]:
    """A line of the admin site's navigation, for those who may look at the model."""
    app, name = model.split(".")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{name}"),
    }


UNFOLD = {
    "SITE_TITLE": "CryptoCraze TP/SL",
    "SITE_HEADER": "CryptoCraze TP/SL",
    "SITE_SYMBOL": "candlestick_chart",
    "SIDEBAR": {
        "navigation": [
            {
                "items": [{"title": "Live", "icon": "monitor_heart", "link": reverse_lazy("live")}],
            },
            {
                "title": "Trading",
                "items": [
                    _page("Deals", "candlestick_chart", "deals.deal"),
                    _page("Accounts", "account_balance_wallet", "deals.account"),
                    _page("Ledger", "receipt_long", "deals.ledgerentry"),
                    _page("Notifications", "notifications", "deals.notification"),
                ],
            },
            {
                "title": "Closing",
                "items": [
                    _page("Dead letters", "report", "workers.deadletter"),
                    _page("Job history", "task_alt", "workers.joblog"),
                    _page("System state", "power_settings_new", "deals.systemstate"),
                    _page("Operations", "build_circle", "workers.operation"),
                    _page("Audit log", "policy", "workers.auditentry"),
                    _page("Sweep positions", "radar", "workers.sweepposition"),
                    _page("Schedule", "schedule", "django_celery_beat.periodictask"),
                    _page("Intervals", "timer", "django_celery_beat.intervalschedule"),
                ],
            },
            {
                "title": "People",
                "items": [_page("Users", "person", "auth.user"), _page("Groups", "group", "auth.group")],
            },
        ],
    },
}

# Only for the project's own tests: where this process is to be killed; see deals/crash_points.py.
TESTING = env.flag("TESTING", default=False)
CRASH_AT = env.text("CRASH_AT", "")
if CRASH_AT and not TESTING:
    raise env.SettingError("CRASH_AT kills this process on purpose: it is for tests (TESTING=true) only")

LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))
LOGGING = logging_config(LOG_LEVEL, json=env.flag("LOG_JSON", default=not DEBUG))
LOGGING_CONFIG = "cryptocraze.logging.configure"
