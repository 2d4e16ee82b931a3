"""Atomic writing: complete under the final name, or not there."""

from __future__ import annotations

import hashlib
import os

import pytest

from sparse_aasist.errors import SparseAasistError
from sparse_aasist.files import atomic_path, digest, write_text


def test_replaces_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.json"]


def test_temporary_keeps_the_suffix_and_the_file_gets_usual_permissions(tmp_path):
    with atomic_path(tmp_path / "picture.png") as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "picture.png").stat().st_mode & 0o777 == 0o666 & ~mask


def test_error_names_the_final_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/x.txt"):
        write_text(tmp_path / "file" / "x.txt", "text")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "file.bin"
    full = pytest.raises(OSError, match=rf"cannot write {path}: No space left on device")
    with full, atomic_path(path) as partial, open("/dev/full", "wb", buffering=0) as device:
        partial.write_bytes(b"half")
        device.write(b"the rest")
    assert list(tmp_path.iterdir()) == []


def test_digest_is_that_of_all_bytes_and_a_missing_file_is_named(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 9000)
    assert digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(SparseAasistError, match="absent: cannot be read"):
        digest(tmp_path / "absent")
