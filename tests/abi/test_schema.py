"""What is printed from the table: complete, and true."""

import json

import pytest

from aios.abi.errors import ERRORS
from aios.abi.schema import reference, schemas
from aios.abi.table import TABLE, Row
from aios.abi.waits import WAITS


def references(node: object) -> set[str]:
    """All components that a schema refers to."""
    if isinstance(node, dict):
        own = {node["$ref"]} if "$ref" in node else set()
        return own.union(*map(references, node.values()))
    if isinstance(node, list):
        return set().union(*map(references, node))
    return set()


def test_every_call_has_the_schemas_of_its_request_and_reply() -> None:
    printed = schemas()
    assert list(printed["calls"]) == [row.name for row in TABLE]
    components = {f"#/components/{name}" for name in printed["components"]}
    assert references(printed) <= components


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_a_schema_names_every_field(row: Row) -> None:
    printed = schemas()
    name = printed["calls"][row.name]["request"]["$ref"].rpartition("/")[2]
    assert printed["components"][name]["properties"].keys() == set(row.request.__struct_fields__)
    assert printed["components"][name]["additionalProperties"] is False


def test_schemas_are_json() -> None:
    assert json.loads(json.dumps(schemas()))["abi"] >= 1


def test_the_reference_names_every_call_error_and_wait() -> None:
    pages = reference()
    assert pages.keys() == {"calls", "errors", "waits"}
    for row in TABLE:
        assert f"## {row.name}\n" in pages["calls"]
        for field in row.request.__struct_fields__:
            assert f"| `{field}` |" in pages["calls"]
    assert all(f"`{name}`" in pages["errors"] for name in ERRORS)
    assert all(f"`{code}`" in pages["waits"] for code in WAITS)
    assert not any("aios.abi.llm" in page or "typing." in page for page in pages.values())
