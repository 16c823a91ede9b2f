"""If these fail, a file that says anything ends a program in a traceback, a hang or a spent memory."""

import pytest

from bench.faults.readers import READERS, fuzz_readers


@pytest.mark.slow
def test_readers_take_what_is_right_and_name_what_is_not(tmp_path):
    found = fuzz_readers(tmp_path, count=120, seed=1)
    assert found["wrong"] == [], "\n\n".join(map(str, found["wrong"]))
    assert set(found["inputs"]) == set(READERS) and sum(found["inputs"].values()) > 110
