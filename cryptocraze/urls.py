"""Every path of the site."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from monitoring.api import views as monitoring

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/", permanent=False)),
    path("livez", monitoring.livez),
    path("health", monitoring.health),
    path("admin/", admin.site.urls),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("api/", include("deals.api.urls")),
]
