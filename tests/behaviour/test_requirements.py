"""Every requirement has a scenario, every scenario a requirement, every row of the table both."""

import importlib
from pathlib import Path

from requirements import PROVEN, REQUIREMENTS

from aios.abi.table import TABLE

for file in Path(__file__).parent.glob("test_*.py"):
    importlib.import_module(file.stem)


def test_every_requirement_has_a_scenario_and_the_reverse() -> None:
    assert {requirement.id for requirement in REQUIREMENTS} == PROVEN.keys()


def test_every_row_of_the_table_has_a_requirement_and_the_reverse() -> None:
    rows = [requirement.id.removeprefix("row ") for requirement in REQUIREMENTS if requirement.id.startswith("row ")]
    assert rows == [row.name for row in TABLE]


def test_requirements_are_sentences_with_a_source() -> None:
    assert len({requirement.id for requirement in REQUIREMENTS}) == len(REQUIREMENTS)
    for requirement in REQUIREMENTS:
        assert requirement.sentence.endswith(".") and requirement.sentence[0].isupper()
        assert requirement.source.startswith(("chapter ", "issue "))
