"""Tables of Markdown, and their places in a page: between `<!-- NAME -->` and `<!-- end -->`."""

import re


def table(head, lines):
    """Of cells."""
    lines = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def rewrite(page, texts):
    """The text of the page with each of `texts`, by name, in its place."""
    for name, text in texts.items():
        place = rf"(?s)(<!-- {name} -->\n).*?(<!-- end -->)"
        page, found = re.subn(place, lambda marks: f"{marks[1]}{text}\n{marks[2]}", page)
        assert found == 1, f"{found} places for the table {name}"
    return page
