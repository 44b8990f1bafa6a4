"""The dashboard at the root, the JSON API below ``/api/``."""

from django.urls import include, path

from transactions.dashboard import dashboard

urlpatterns = [
    path("", dashboard, name="dashboard"),
    path("api/", include("accounts.urls")),
    path("api/", include("transactions.urls")),
]
