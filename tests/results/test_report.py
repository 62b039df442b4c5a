from __future__ import annotations

from html.parser import HTMLParser

import pytest

from moesim.results import Result
from moesim.results.report import report_html

VOID = {"meta", "br", "path", "use", "rect", "stop", "image"}


class Checker(HTMLParser):
    """Follows the nesting of elements and collects ids and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self._look(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def _look(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.loaded.append(value)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_a_report_of_a_comparison_is_well_formed_and_needs_nothing_else(make_comparison):
    page = report_html(make_comparison())
    checker = checked(page)
    assert len(checker.ids) == len(set(checker.ids))
    assert all(address.startswith(("#", "data:")) for address in checker.loaded)
    assert "script" not in checker.tags
    assert "waiting shrank by" in page
    assert page.count("<svg") == 4


def test_references_inside_pictures_have_their_target(make_result):
    checker = checked(report_html(make_result()))
    assert {a[1:] for a in checker.loaded if a.startswith("#")} <= set(checker.ids)


def test_a_report_says_what_ran_out_of_memory(make_result):
    page = report_html(make_result(capacity=60 * 2**30))
    assert "runs out of memory" in page
    assert "stage experts" in page


@pytest.mark.parametrize("bad", ["<script>alert(1)</script>", "a & b", '"quoted"', "$name ${x}"])
def test_names_from_a_scenario_are_only_text(make_tables, bad):
    result = Result.from_tables(make_tables(1.0), name=bad, policy=bad, scenario={"note": bad})
    checker = checked(report_html(result))
    assert "script" not in checker.tags


def test_the_same_run_gives_the_same_page(make_result):
    assert report_html(make_result()) == report_html(make_result())
