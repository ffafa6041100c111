"""Laws of grants: a table decides as a naive reading of its grants does, and no child has more than its parent."""

from hypothesis import given
from hypothesis import strategies as st

from aios.abi.manifest import Grant
from aios.kernel.access.grants import GrantTable

verbs = st.sampled_from(["use", "read", "own"])
resources = st.text("ab/", max_size=4).map(lambda text: "/" + text)
grants = st.builds(Grant, verbs, st.one_of(resources, resources.map(lambda text: text + "*")))
sets = st.lists(grants, max_size=6)


def naive(grant: Grant, verb: str, resource: str) -> bool:
    """What a grant says, read aloud."""
    if grant.verb != verb:
        return False
    if grant.resource.endswith("*"):
        return resource.startswith(grant.resource[:-1])
    return resource == grant.resource


@given(sets, verbs, resources)
def test_a_table_allows_what_one_of_its_grants_allows(mine: list[Grant], verb: str, resource: str) -> None:
    assert GrantTable(mine).allows(verb, resource) == any(naive(grant, verb, resource) for grant in mine)


@given(sets, st.lists(st.tuples(verbs, st.lists(resources, min_size=1, max_size=2)), max_size=6))
def test_what_was_asked_before_changes_no_answer(mine: list[Grant], questions: list[tuple[str, list[str]]]) -> None:
    table = GrantTable(mine)
    for verb, asked in [question for question in questions for _ in range(2)]:
        allowed = tuple(each for each in asked if any(naive(grant, verb, each) for grant in mine))
        assert table.allowed(verb, tuple(asked)) == allowed


@given(sets, grants, verbs, resources)
def test_who_covers_a_grant_is_allowed_all_that_it_allows(parent: list[Grant], child: Grant, verb: str, resource: str) -> None:
    if GrantTable(parent).covers(child) and GrantTable([child]).allows(verb, resource):
        assert GrantTable(parent).allows(verb, resource)


@given(sets, sets)
def test_covering_is_having_everything_below(parent: list[Grant], child: list[Grant]) -> None:
    """For each grant that is not covered there is a resource that the child would reach and its parent does not."""
    table = GrantTable(parent)
    for grant in child:
        stem = grant.resource.rstrip("*")
        probe = stem + ("~" if grant.resource.endswith("*") else "")  # a name that no parent names exactly
        assert table.covers(grant) == table.allows(grant.verb, probe)


@given(sets, grants, verbs, resources)
def test_one_more_grant_never_takes_anything_away(mine: list[Grant], more: Grant, verb: str, resource: str) -> None:
    assert GrantTable([*mine, more]).allows(verb, resource) >= GrantTable(mine).allows(verb, resource)
    assert GrantTable([*mine, more]).covers(more)


@given(sets, sets, sets)
def test_covering_goes_down_the_generations(first: list[Grant], second: list[Grant], third: list[Grant]) -> None:
    def covers(parent: list[Grant], child: list[Grant]) -> bool:
        return all(GrantTable(parent).covers(grant) for grant in child)

    if covers(first, second) and covers(second, third):
        assert covers(first, third)


@given(verbs, resources)
def test_nothing_granted_is_nothing_allowed(verb: str, resource: str) -> None:
    assert not GrantTable([]).allows(verb, resource)
    assert not GrantTable([]).covers(Grant(verb, resource))


@given(sets)
def test_the_order_of_grants_does_not_matter(mine: list[Grant]) -> None:
    probes = [(verb, resource + end) for verb in ("use", "read", "own") for resource in ("/", "/a", "/a/b") for end in ("", "b")]
    assert [GrantTable(mine).allows(*p) for p in probes] == [GrantTable(mine[::-1]).allows(*p) for p in probes]


@given(st.text(max_size=30))
def test_a_grant_is_read_as_it_is_written_or_refused(text: str) -> None:
    try:
        grant = Grant.parse(text)
    except ValueError:
        return
    assert str(grant) == text and text.isprintable() and "*" not in text[:-1]


def test_what_one_verb_was_allowed_last_another_is_not() -> None:
    table = GrantTable([Grant("read", "/plans")])
    assert table.allowed("read", ("/plans",)) == ("/plans",)
    assert table.allowed("own", ("/plans",)) == ()
