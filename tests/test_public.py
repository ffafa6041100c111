"""The public names: sorted, all there, from the contract and the SDK alone, and quickly imported."""

import subprocess
import sys

import pytest

import aios

IMPORT_S = 0.06


def test_the_public_names_are_sorted_and_each_exists() -> None:
    assert aios.__all__ == sorted(aios.__all__, key=lambda name: name)
    for name in aios.__all__:
        value = getattr(aios, name)
        assert value.__module__.startswith(("aios.abi.", "aios.sdk.")), name
    assert set(aios.__all__) < set(dir(aios))


def test_every_error_of_the_contract_is_public() -> None:
    from_tree = {"AiosError"}
    waiting: list[type[BaseException]] = [aios.AiosError]
    while waiting:
        below = [error for error in waiting.pop().__subclasses__() if error.__module__ == "aios.abi.errors"]
        from_tree |= {error.__name__ for error in below}
        waiting += below
    assert from_tree <= set(aios.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute `nothing`"):
        aios.nothing  # noqa: B018  # the access is the test


def test_importing_aios_is_quick_and_loads_only_what_is_used() -> None:
    """The time is the process's own, of the best of three runs: a busy machine is no defect."""
    code = """
import sys, time
begun = time.process_time()
import aios
print(time.process_time() - begun, sorted(name for name in sys.modules if name.startswith(("aios.", "asyncio", "msgspec"))))
aios.Client
print(sorted(name for name in sys.modules if name in ("asyncio", "aiohttp", "uvloop")))
"""
    runs = [subprocess.check_output([sys.executable, "-c", code], text=True).splitlines() for _ in range(3)]
    assert min(float(run[0].split()[0]) for run in runs) < IMPORT_S
    assert all(run[0].endswith(" []") and run[1] == "[]" for run in runs), runs
