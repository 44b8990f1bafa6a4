"""Statements as files."""

from django.core.cache import cache
from django.core.files.storage import default_storage

from tests.cases import InlineCase
from tests.ledgers import fill_ledger
from transactions.exports import export_statement


class ExportTests(InlineCase):
    """Files go to the media storage, and are rewritten only after a change."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada)
        fill_ledger(self.account, 1_000)
        self.addCleanup(cache.clear)

    def export(self) -> str:
        name = export_statement(self.account)
        self.addCleanup(default_storage.delete, name)
        return name

    def test_writes_the_statement(self) -> None:
        with default_storage.open(self.export()) as file:
            self.assertEqual(len(file.read().splitlines()), 1_001)

    def test_unchanged_account_keeps_its_file(self) -> None:
        self.assertEqual(self.export(), self.export())

    def test_changed_account_gets_another(self) -> None:
        before = self.export()
        self.carry_out("top_up", self.ada, amount=1, target=self.account)
        self.account.refresh_from_db()
        self.assertNotEqual(self.export(), before)

    def test_file_that_went_missing_is_written_again(self) -> None:
        default_storage.delete(self.export())
        self.assertTrue(default_storage.exists(self.export()))

    def test_view_sends_the_file(self) -> None:
        self.addCleanup(default_storage.delete, f"statements/{self.account.pk}.csv")
        ada = self.sign_in(self.ada)
        reply = ada.get(f"/api/accounts/{self.account.pk}/statement.csv")
        self.assertEqual(reply.status, 200)
        self.assertEqual(len(reply.body.splitlines()), 1_001)
