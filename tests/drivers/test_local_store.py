"""What the local core keeps of calls whose slots were needed: who gives way."""

from aios.drivers.core.local.slots import Left, Store


def left(tenant: str, first: int) -> Left:
    return Left(tenant, [first, *range(100)], bytearray(10))


def test_a_tenant_that_floods_the_store_displaces_its_own() -> None:
    store, small = Store(100), left("small", 1)
    store.add(small)
    flood = [left("great", number) for number in range(50)]
    for one in flood:
        store.add(one)
    assert set(store.all()) == {small, *flood[-9:]}


def test_of_one_tenants_what_was_used_longest_ago_gives_way() -> None:
    store = Store(30)
    first, second, third, fourth = (left("one", number) for number in range(4))
    for each in (first, second, third):
        store.add(each)
    store.use(first)
    store.add(fourth)
    assert set(store.all()) == {first, third, fourth}


def test_what_is_too_great_for_the_store_is_not_kept() -> None:
    store = Store(5)
    store.add(left("one", 1))
    assert not tuple(store.all())
