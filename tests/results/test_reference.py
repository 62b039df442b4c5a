from __future__ import annotations

from pathlib import Path

from moesim.results.columns import (
    CAUSE_MEANING,
    POLICY_KEYS,
    RANKING_KEYS,
    STANDING_KEYS,
    SUMMARY_KEYS,
    TABLES,
)
from moesim.results.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results.md"


def test_every_column_has_a_meaning_and_its_unit_where_its_name_has_one():
    for table in TABLES.values():
        for column in table.columns:
            assert column.meaning
            if column.name.endswith("_s") and not column.name.endswith("per_s"):
                assert column.unit == "s", column.name
            if column.name.endswith("bytes"):
                assert column.unit == "B", column.name


def test_the_page_is_what_the_dictionary_says():
    fresh = reference()
    remedy = "write moesim.results.reference.reference() to docs/results.md"
    assert PAGE.read_text(encoding="utf-8") == fresh, remedy


def test_the_page_has_every_table_column_cause_and_key():
    text = PAGE.read_text(encoding="utf-8")
    names = {c.name for t in TABLES.values() for c in t.columns} | {
        *CAUSE_MEANING,
        *SUMMARY_KEYS,
        *POLICY_KEYS,
        *RANKING_KEYS,
        *STANDING_KEYS,
    }
    assert [name for name in names if f"`{name}`" not in text] == []
