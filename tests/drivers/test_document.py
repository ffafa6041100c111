"""A document is the old one or the new one, and its owner's alone."""

import errno
import os
from pathlib import Path

import pytest

from aios.abi.errors import Unavailable
from aios.drivers.store.document import FileDocument


def test_what_was_saved_is_loaded_and_before_that_there_is_nothing(tmp_path: Path) -> None:
    document = FileDocument(tmp_path / "a.json")
    assert document.load() is None
    document.save(b"one")
    document.save(b"two")
    assert document.load() == b"two" and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_saved_document_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileDocument(tmp_path / "a.json").save(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


def test_a_document_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document = FileDocument(path)
    document.save(b"x")
    path.chmod(0o640)
    with pytest.raises(Unavailable, match=f"chmod 600 {path}"):
        document.load()
    path.chmod(0o600)
    assert document.load() == b"x"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    FileDocument(tmp_path / "real").save(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Unavailable, match="cannot be read"):
        FileDocument(tmp_path / "link").load()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_said_in_a_sentence_and_the_old_content_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = FileDocument(tmp_path / "a.json")
    document.save(b"old")
    real_open = os.open

    def open_full(path: Path, flags: int, *rest: int) -> int:
        """Where a new file is made, a device that is always full."""
        if flags & os.O_CREAT:
            real_open_fd = real_open(path, flags, *rest)
            os.close(real_open_fd)
            return real_open("/dev/full", os.O_WRONLY)
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_full)
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)
    with pytest.raises(Unavailable, match="no space is left"):
        document.save(b"new")
    monkeypatch.undo()
    assert document.load() == b"old" and [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_crash_in_the_middle_leaves_the_old_one_and_does_not_hinder_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = FileDocument(tmp_path / "a.json")
    document.save(b"old")

    def crash(old: Path, new: Path) -> None:
        raise OSError(errno.EIO, "the power went away")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(Unavailable):
            document.save(b"new")
    (tmp_path / "a.json.part").write_bytes(b"half")
    assert document.load() == b"old"
    document.save(b"new")
    assert document.load() == b"new"
