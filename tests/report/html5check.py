"""Whether HTML is well formed: every element is closed, and in the order in which they were opened."""

from html.parser import HTMLParser

VOID = {"meta", "img"}
SVG_EMPTY = {"line", "circle", "polyline", "rect", "image"}


class _Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        assert tag not in SVG_EMPTY, f"<{tag}> is not closed, and would take what follows for its content"
        assert len({name for name, _ in attributes}) == len(attributes), attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)
        assert tag in VOID | SVG_EMPTY, tag

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def check(page: str) -> set[str]:
    """The names of the elements of a page, which must be well formed."""
    checker = _Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open, checker.open
    return checker.seen
