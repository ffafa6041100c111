"""Events as people read them: one line each, and the slots of the core lane."""

from rich.console import Console

from aios.abi.event import CallEnded, CallSettled, Dispatched
from aios.cli.events import about
from aios.cli.lanes import LiveLanes

GIVEN = Dispatched("1/1", "1", "clerk", "standard", "far", "free", seq=1, at_ns=0)
SETTLED = CallSettled("1/1", "1", "clerk", "far", 20, 0, 3, 500, 5570, seq=3, at_ns=0)


def ended(cost: int, heard_out: bool) -> CallEnded:
    outcome = "Cancelled" if heard_out else "ok"
    return CallEnded(
        "1/1", "1", "clerk", "llm.generate", "standard", outcome, 0, 0, core="far", cost=cost, heard_out=heard_out, seq=2,
        at_ns=10**9,
    )  # fmt: skip


def test_a_call_says_what_it_cost_or_that_this_comes_later() -> None:
    assert about(ended(1500, heard_out=False)).endswith(", far, $0.0000015")
    assert about(ended(0, heard_out=False)).endswith(", far")
    assert about(ended(0, heard_out=True)).endswith(", far, is heard out")
    assert about(SETTLED) == "clerk on far was heard out, 20 + 3 tokens, $0.0000005 of $0.00000557 reserved"


def taken(lanes: LiveLanes) -> int:
    """How many slots the panel shows as taken."""
    console = Console(width=100)
    with console.capture() as shown:
        console.print(lanes._picture())
    return shown.get().count("●")


def test_an_answer_that_is_heard_out_still_has_its_slot() -> None:
    lanes = LiveLanes(headless=True)
    lanes.show(GIVEN)
    lanes.show(ended(0, heard_out=True))
    assert taken(lanes) == 1
    lanes.show(SETTLED)
    assert taken(lanes) == 0
    lanes.show(GIVEN)
    lanes.show(ended(1500, heard_out=False))
    assert taken(lanes) == 0
