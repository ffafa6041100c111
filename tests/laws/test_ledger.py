"""Laws of the ledger: what is spent and reserved stays within every limit, whatever comes in which order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from aios.abi.account import WINDOWS
from aios.kernel.amounts import NOTHING, Amount, Bound
from aios.kernel.ledger.accounts import Account
from aios.kernel.ledger.ledger import Ledger, Reservation, Short
from aios.kernel.ledger.windows import DAY_NS, HOUR_NS

MOST = 2**62
amounts = st.integers(0, 1000) | st.integers(0, MOST)
bounds = st.builds(
    lambda fixed, per_token, least, more: Bound(fixed, per_token, least + more, least),
    *(st.builds(Amount, amounts, amounts, st.just(1)), st.integers(0, 100), st.integers(1, 50), st.integers(0, 1000)),
)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ns = 1_700_000_000 * 10**9

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


class Ledgers(RuleBasedStateMachine):
    """A tree of accounts, calls that reserve and settle, an operator who changes limits, a clock that jumps."""

    ledger_type: type[Ledger] = Ledger
    reservations: Bundle[Reservation] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Hand()
        self.ledger = self.ledger_type(self.clock)
        top = Account("top")
        tenants = [Account(f"tenant {at}", top) for at in range(2)]
        self.accounts = [top, *tenants, *(Account(f"agent {at}", tenants[at % 2]) for at in range(4))]
        self.overbilled = False

    @rule(at=st.integers(0, 6), window=st.sampled_from(WINDOWS), unit=st.integers(0, 2), wanted=st.none() | amounts)
    def limit(self, at: int, window: str, unit: int, wanted: int | None) -> None:
        self.accounts[at].limit(window, unit, wanted)  # type: ignore[arg-type]  # one of them

    @rule(target=reservations, at=st.integers(3, 6), bound=bounds)
    def reserve(self, at: int, bound: Bound) -> object:
        path = self.accounts[at].path
        got = self.ledger.reserve(path, bound)
        if isinstance(got, Short):
            self.refused(got, path, bound)
            return multiple()
        assert bound.least <= got.tokens <= bound.most and got.amount == bound.of(got.tokens)
        return got

    def refused(self, short: Short, path: tuple[Account, ...], bound: Bound) -> None:
        """It is refused for a reason that holds."""
        limit = short.limit
        if limit is None:
            assert short.because == "overbilled" and short.account.overbilled
            return
        needed = bound.of(bound.least)[limit.unit]
        spent, reserved = short.account.spent_in(limit.window, limit.unit), short.account.reserved[limit.unit]
        assert spent + reserved + needed > limit.amount or limit.wanted < limit.amount
        assert (short.because == "limit") <= (needed > limit.wanted)
        assert (short.because == "spent") <= (spent + needed > limit.wanted >= needed)
        if short.because == "reserved":  # then it would have its turn if all was given back
            for account in path:
                for each in account.limits:
                    assert account.spent_in(each.window, each.unit) + bound.of(bound.least)[each.unit] <= each.wanted

    @rule(reservation=consumes(reservations), share=st.floats(0, 1), again=st.booleans())
    def settle(self, reservation: Reservation, share: float, again: bool) -> None:
        actual = Amount(*(int(each * share) if each < 2**50 else each for each in reservation.amount))
        assert self.ledger.settle(reservation, actual) == 0
        if again:
            assert self.ledger.settle(reservation, actual) == 0

    @rule(reservation=consumes(reservations))
    def lose(self, reservation: Reservation) -> None:
        """Nobody knows what it came to."""
        spent = [account.spent[0] for account in reservation.accounts]
        self.ledger.settle(reservation, None)
        now = [account.spent[0] for account in reservation.accounts]
        assert now == [each + reservation.amount.money for each in spent]

    @rule(reservation=consumes(reservations))
    def release(self, reservation: Reservation) -> None:
        spent = [list(account.spent) for account in reservation.accounts]
        self.ledger.release(reservation)
        assert spent == [account.spent for account in reservation.accounts]

    @rule(reservation=consumes(reservations), more=st.integers(1, 10**9))
    def overbill(self, reservation: Reservation, more: int) -> None:
        actual = reservation.amount._replace(money=reservation.amount.money + more)
        assert self.ledger.settle(reservation, actual) == more
        assert all(account.overbilled >= more for account in reservation.accounts)
        for account in reservation.accounts:
            account.overbilled = 0

    @rule(by=st.sampled_from([1, HOUR_NS, DAY_NS, 31 * DAY_NS, -DAY_NS, -40 * DAY_NS, 400 * DAY_NS, 10**25, -(10**25)]))
    def jump(self, by: int) -> None:
        self.clock.ns += by

    @invariant()
    def holds(self) -> None:
        for account in self.accounts:
            assert min(account.reserved) >= 0
            for limit in account.limits:
                assert account.free(limit) >= 0
                assert limit.amount >= limit.wanted

    @invariant()
    def adds_up(self) -> None:
        for account in self.accounts:
            below = [each for each in self.accounts if each.parent is account]
            if below:
                assert account.reserved == [sum(parts) for parts in zip(*(each.reserved for each in below), strict=True)]
                lifetimes = [each.spent for each in below]
                assert account.spent == [sum(parts) for parts in zip(*lifetimes, strict=True)]

    def teardown(self) -> None:
        assert NOTHING == Amount(0, 0, 0)


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
