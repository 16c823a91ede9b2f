"""If it fails, docs/explore.html is not as the code would write it: read_page says how to write it again.

tests/memory/test_pieces.py compares its bytes."""

from alexnet2gpu.figures.explore import read_page, write_page
from bench.results import REPOSITORY

PAGE = REPOSITORY / "docs" / "explore.html"


def test_the_page_that_is_kept_is_of_this_code(tmp_path):
    write_page(read_page(PAGE), tmp_path / "explore.html")
    assert (tmp_path / "explore.html").read_text() == PAGE.read_text()
