"""Write the reference pages, `docs/reference/`, from the code; with `--check` only say which of them are stale."""

from __future__ import annotations

import sys
from pathlib import Path

from aios.abi.schema import reference
from aios.cli.reference import pages

FOLDER = Path(__file__).parent.parent / "docs" / "reference"


def main() -> int:
    """Exit code 1 if `--check` finds a page that is missing or stale."""
    wanted = {FOLDER / f"{name}.md": text.rstrip() + "\n" for name, text in (pages() | reference()).items()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    if sys.argv[1:] == ["--check"]:
        for path in stale:
            print(f"docs/reference/{path.name} is stale: run `python tools/reference.py`", file=sys.stderr)
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(wanted[path])
        print(f"wrote docs/reference/{path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
