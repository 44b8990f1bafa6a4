from django.urls import path

from transactions import views

urlpatterns = [
    path("transactions", views.transactions, name="transactions"),
    path("transactions/<uuid:pk>", views.transaction, name="transaction"),
    path("accounts/<uuid:pk>/statement", views.statement, name="statement"),
    path("accounts/<uuid:pk>/statement.csv", views.statement_csv, name="statement-csv"),
]
