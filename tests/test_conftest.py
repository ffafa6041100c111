"""Tests fail when they should: what `conftest.py` adds to pytest, tried on small suites of its own."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()
HEAD = "import asyncio, os, pytest, time\nfrom hypothesis import given, settings, strategies as st\n"
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:anyio", "-W", "error", "--strict-markers", "-o", "markers=real")


def outcome(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(HEAD + test)
    return pytester.runpytest_inprocess(*OPTIONS)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("async def test_it():\n assert await asyncio.sleep(1, 2) == 3", "assert 2 == 3"),
        ("async def test_it():\n await asyncio.Event().wait()", "everything waits and no timer is set"),
        ("async def test_it():\n x = asyncio.create_task(asyncio.sleep(9))", "still running at the end of the test"),
        ("@pytest.mark.real\nasync def test_it():\n x = asyncio.create_task(asyncio.sleep(9))", "still running at the end"),
        ("async def fail(): raise LookupError\nasync def test_it():\n asyncio.create_task(fail())\n await asyncio.sleep(1)",
         "LookupError"),
        ("@given(st.integers())\nasync def test_it(number):\n assert await asyncio.sleep(1, number) < 100", "number=100"),
        ("async def test_it():\n asyncio.sleep(1)", "never awaited"),
    ],
    ids=["asserts", "waits for ever", "leaves a task", "leaves a task in real time", "loses an exception", "law", "not awaited"],
)  # fmt: skip
def test_an_async_test_that_goes_wrong_fails(pytester: pytest.Pytester, wrong: str, said: str) -> None:
    result = outcome(pytester, wrong)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{said}*"])


def test_an_async_test_gets_its_fixtures_and_its_examples(pytester: pytest.Pytester) -> None:
    result = outcome(
        pytester,
        """
@pytest.fixture
def seven():
    return 7

@pytest.mark.parametrize("more", [1, 2])
async def test_arguments(seven, more):
    assert await asyncio.sleep(3600, seven + more) > 7

@given(st.integers())
@settings(max_examples=20)
async def test_law(number):
    assert await asyncio.sleep(3600, number) == number
""",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(("ci", "code"), [("true", pytest.ExitCode.TESTS_FAILED), (None, pytest.ExitCode.OK)])
def test_a_skip_fails_the_run_on_the_ci_machine_only(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str | None, code: int
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if ci:
        monkeypatch.setenv("CI", ci)
    result = outcome(pytester, "def test_it():\n pytest.skip('no browser')\ndef test_other(): pass")
    result.assert_outcomes(skipped=1, passed=1)
    assert result.ret == code
