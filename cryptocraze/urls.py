"""Every path of the site."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from cryptocraze.admin_login import login
from deals.api.paths import both_spellings
from monitoring.api import views as monitoring
from monitoring.api.metrics_view import Metrics
from monitoring.live_page import live_page

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/", permanent=False)),
    path("favicon.ico", RedirectView.as_view(url=static("monitoring/icon.svg"), permanent=True)),
    *both_spellings("livez", monitoring.livez, "livez"),
    *both_spellings("health", monitoring.health, "health"),
    *both_spellings("metrics", Metrics.as_view(), "metrics"),
    path("admin/login/", login),  # before the site's own, which has no throttle
    path("admin/workers/", admin.site.admin_view(live_page), name="live"),  # in place of a list of the app's models
    path("admin/", admin.site.urls),
    re_path(r"^api/schema/?$", SpectacularAPIView.as_view(), name="schema"),
    re_path(r"^api/docs/?$", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("api/admin/workers/", include("monitoring.api.urls")),
    # Last under api/: it answers every path that is left with a 404 in the API's shape.
    path("api/", include("deals.api.urls")),
]

handler400 = "deals.api.errors.bad_request"
handler500 = "deals.api.errors.server_error"
