"""Statements of long ledgers."""

from tests.cases import InlineCase
from tests.ledgers import fill_ledger
from transactions.exports import HEADER, as_csv
from transactions.models import State
from transactions.reports import daily_volumes, discrepancies, statement

ROWS = 1_500


class StatementTests(InlineCase):
    """Balances summed up by the database are those in the ledger."""

    def setUp(self) -> None:
        super().setUp()
        self.ada = self.make_user("ada")
        self.account = self.make_account(self.ada)
        self.total = fill_ledger(self.account, ROWS)

    def test_sums_up_every_line(self) -> None:
        found = statement(self.account)
        self.assertEqual(len(found.lines), ROWS)
        self.assertEqual(found.closing, self.total)
        written = list(self.account.entries.values_list("balance_after", flat=True))
        self.assertEqual([line.balance for line in found.lines], written)

    def test_totals_by_kind(self) -> None:
        self.carry_out("withdrawal", self.ada, amount=500, source=self.account)
        totals = statement(self.account).totals
        self.assertEqual(totals, {"top_up": self.total, "withdrawal": -500})

    def test_csv_has_major_units(self) -> None:
        rows = as_csv(statement(self.account)).splitlines()
        self.assertEqual(rows[0], ",".join(HEADER))
        self.assertEqual(len(rows), ROWS + 1)
        self.assertTrue(rows[1].endswith(",top_up,credit,0.01,0.01"))


class VolumeTests(InlineCase):
    """Volumes over all accounts of a currency."""

    def test_count_completed_transactions_of_the_currency(self) -> None:
        ada = self.make_user("ada")
        euros, yen = self.make_account(ada), self.make_account(ada, "JPY")
        total = fill_ledger(euros, ROWS)
        fill_ledger(yen, ROWS)
        euros.freeze()
        failed = self.carry_out("withdrawal", ada, amount=1, source=euros)
        self.assertEqual(failed.state, State.FAILED)
        volumes = daily_volumes(euros.currency)
        self.assertEqual({volume.kind for volume in volumes}, {"top_up"})
        self.assertEqual(sum(volume.count for volume in volumes), ROWS)
        self.assertEqual(sum(volume.amount for volume in volumes), total)

    def test_books_that_do_not_balance_are_found(self) -> None:
        ada = self.make_user("ada")
        good, bad = self.make_account(ada), self.make_account(ada)
        fill_ledger(good, ROWS)
        fill_ledger(bad, ROWS)
        self.assert_books_balance()
        bad.balance += 1
        bad.save()
        self.assertEqual(discrepancies(), [bad])
