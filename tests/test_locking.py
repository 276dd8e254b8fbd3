"""Locks between processes: what stands in the way of one is named."""

import pytest

import clzoo.locking
from clzoo.errors import ClzooError
from clzoo.locking import held


def test_a_folder_in_which_no_lock_can_be_made_is_named(tmp_path):
    lock = tmp_path / "store" / ".lock"
    lock.mkdir(parents=True)  # root may write into any folder, but into no folder as into a file
    with pytest.raises(ClzooError, match=r"store cannot be written: .*\. Make it writable"), held(lock, "refused"):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def without(*_, **__):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(clzoo.locking.FileLock, "acquire", without)
    with pytest.raises(ClzooError, match=r"the file system of .* has no locks"), held(tmp_path / ".lock", "refused"):
        pass
