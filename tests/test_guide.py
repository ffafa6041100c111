"""The guide's programs do what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDES = sorted((Path(__file__).parents[1] / "docs" / "guide").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_pieces_of_a_guide_are_one_program_that_runs(guide: Path, tmp_path: Path) -> None:
    program = tmp_path / f"{guide.stem}.py"
    program.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)))
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
