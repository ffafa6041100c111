"""Makes the locks anew: one file per step of set-up, with hashes and without addresses, checked for every Python and system that
we promise.

`python3 tools/lock.py` keeps today's pins where the demands allow it, `--upgrade` moves them. A release younger than a week is
not taken: most poisoned uploads are found within days. uv resolves for all systems at once, which pip cannot; it is used here
only, because it does not read pip's configuration and so fails behind a mirror that pip was told of.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = ("x86_64-manylinux_2_31", "aarch64-manylinux_2_31", "aarch64-apple-darwin")
# What each lock resolves. A later one takes the pins of those before it, because all steps fill one environment.
LOCKED = {
    "installer": ("--no-deps", "--group", "installer"),
    "core": ("pyproject.toml",),
    "engine": ("--no-deps", "--group", "engine"),
    "model": ("--no-deps", "--group", "model"),
    "embedder": ("--no-deps", "--group", "embedder"),
    "demo": ("--group", "demo", "-c", "locks/core.txt"),
    "dev": ("--group", "dev", "-c", "locks/core.txt", "-c", "locks/demo.txt"),
    "lock": ("--group", "lock"),
}
WHEELS_ONLY = ("--only-binary", ":all:")  # never a compiler, never a build backend without a hash
START_UP = re.compile(r"(^[^/]+\.pth|(^|/)(site|user)customize(\.[^/]+|/__init__\.py))$")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        venv = Path(scratch, "venv")
        run(sys.executable, "-m", "venv", venv)
        pip, uv = venv / "bin/pip", venv / "bin/uv"
        run(pip, "install", "-q", "--require-hashes", *WHEELS_ONLY, "-r", LOCKS / "lock.txt")
        for name, demands in LOCKED.items():
            lock = resolve(uv, name, demands)
            check_systems(uv, lock, Path(scratch, "target"))
            weight = weigh(pip, lock, Path(scratch, name))
            lock.write_text(f"# {weight}\n" + lock.read_text())
            print(f"{lock.relative_to(ROOT)}: {weight}")
        for client in sorted((LOCKS / "clients").glob("*.in")):
            lock_client(uv, client)


def run(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-2000:]}")


def resolve(uv: Path, name: str, demands: tuple[str, ...]) -> Path:
    """One lock for all systems, differences as markers in it."""
    lock = LOCKS / f"{name}.txt"
    upgrade = ["--upgrade"] if "--upgrade" in sys.argv else []
    shape = ["--universal", "--python-version", PYTHONS[0], "--generate-hashes", "--no-header", "--no-annotate"]
    run(uv, "pip", "compile", "-q", *demands, *upgrade, *shape, *WHEELS_ONLY, "--exclude-newer", "7 days", "-o", lock)
    if "://" in lock.read_text():
        sys.exit(f"{lock.name} holds an address")
    return lock


def lock_client(uv: Path, demands: Path) -> None:
    """A client's own lock. Its own packages may be younger than a week: their versions are named, and they run in tests alone."""
    own = re.findall(r"^[a-z0-9-]+", demands.read_text(), re.M)
    today = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    young = [option for package in own for option in ("--exclude-newer-package", f"{package}={today}")]
    lock = resolve(uv, f"clients/{demands.stem}", (str(demands.relative_to(ROOT)), *young))
    print(lock.relative_to(ROOT))


def check_systems(uv: Path, lock: Path, target: Path) -> None:
    """A wheel for each Python on each system, or the lock is not taken."""
    for python in PYTHONS:
        for system in SYSTEMS:
            run(uv, "pip", "install", "-q", "--dry-run", "--no-deps", "--require-hashes", *WHEELS_ONLY, "-r", lock,
                "--python-version", python, "--python-platform", system, "--target", target)  # fmt: skip


def weigh(pip: Path, lock: Path, where: Path) -> str:
    """Downloads once: for the bytes that set-up's progress counts against, and for a look at what Python would run by itself."""
    run(pip, "download", "-q", "--no-deps", "--require-hashes", *WHEELS_ONLY, "-d", where, "-r", lock)
    wheels = sorted(where.glob("*.whl"))
    for wheel in wheels:
        for file in filter(START_UP.search, zipfile.ZipFile(wheel).namelist()):
            sys.exit(f"{wheel.name} carries `{file}`, which Python runs at every start: look at it before you lock it")
    return f"{sum(wheel.stat().st_size for wheel in wheels)} bytes in {len(wheels)} files, as weighed on {sys.platform}"


if __name__ == "__main__":
    main()
