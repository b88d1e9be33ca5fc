"""Files are whole or absent."""

import numpy as np
import pytest

from transferjax.files import replacing, write_text


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "new" / "file.txt", "old")

    def fail():
        with replacing(path) as partial:
            partial.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_writers_that_look_at_the_suffix_find_it(tmp_path):
    with replacing(tmp_path / "a.npz") as partial:
        np.savez(partial, x=np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x"], np.arange(3))
    assert (tmp_path / "a.npz").stat().st_mode & 0o777 == 0o644
