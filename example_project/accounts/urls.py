from django.urls import path

from accounts import views

urlpatterns = [
    path("tokens", views.tokens, name="tokens"),
    path("accounts", views.accounts, name="accounts"),
    path("accounts/<uuid:pk>", views.account, name="account"),
]
