"""Strict YAML: values as written, places kept, bombs and foreign constructs refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.yamlio import MAX_BYTES, MAX_DEPTH, MAX_NODES, load, loads
from moesim.yamlio.nodes import Place, from_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("900e9", 900e9),
        ("1e9", 1e9),
        ("-.5", -0.5),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("2024-01-31", "2024-01-31"),
        ("64 GiB", "64 GiB"),
        ("1.2.3", "1.2.3"),
        ("-", None),
        ("+", "+"),
        (".", "."),
    ],
)
def test_words_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    data = loads(f"key: {text}\n" if text != "-" else "key: ~").data["key"]
    assert data == value
    assert type(data) is type(value)


@pytest.mark.parametrize("text", [".nan", "-.inf", ".Inf", "1e999", "9" * 400, "0x" + "f" * 20, str(2**63)])
def test_numbers_without_end_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a") as caught:
        loads(f"a: 1\nb: {text}")
    assert (caught.value.line, caught.value.column) == (2, 4)


def test_positions_of_keys_and_values_are_kept() -> None:
    document = loads("top:\n  - name: a\n    size: 5\n  - {name: b}\n")
    assert document.where(("top", 0, "size")) == (3, 11)
    assert document.where(("top", 0, "size"), key=True) == (3, 5)
    assert document.where(("top", 1, "name")) == (4, 12)
    assert document.where(("top", 1, "missing")) == (4, 5)
    assert document.where(("absent",)) == (1, 1)
    error = document.error(("top", 0, "size"), "too large", "try 4")
    assert str(error) == "<string>:3:11: too large (try 4)"


@pytest.mark.parametrize(
    ("text", "fragment", "line", "column"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' stands twice", 3, 1),
        ("a: !!python/object/apply:os.system ['x']", "tags such as '!!python", 1, 4),
        ("a: !!str 5", "tags such as '!!str'", 1, 4),
        ("a: !mine 5", "tags", 1, 4),
        ("a: &x [*x]", "refers to nothing", 1, 8),
        ("a: *gone", "refers to nothing", 1, 4),
        ("base: &b {k: 1}\nc:\n  <<: *b\n", "merge keys", 3, 3),
        ("a: 1\n---\nb: 2\n", "second one", 2, 1),
        ("? [1, 2]\n: 3\n", "single word", 1, 3),
        ("&k a: 1\n", "anchor", 1, 1),
        ("x: &k a\n*k : 2\n", "alias", 2, 1),
        ("a:\n\tb: 1\n", "spaces, not with tabs", 2, 1),
        ("a: [1, 2\n", "not valid YAML", 2, 1),
        ("a: b: c\n", "not valid YAML", 1, 5),
        ("a: 1\nb: \x07\n", "control characters", 2, 4),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_place(text: str, fragment: str, line: int, column: int) -> None:
    with pytest.raises(InputError) as caught:
        loads(text)
    assert fragment in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_aliases_share_values_up_to_the_limit() -> None:
    assert loads("a: &x {k: [1, 2]}\nb: *x\n").data == {"a": {"k": [1, 2]}, "b": {"k": [1, 2]}}
    levels = "abcdefgh"
    lines = ["z: &z [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for inner, outer in zip("z" + levels, levels, strict=False):
        lines.append(f"{outer}: &{outer} [{', '.join([f'*{inner}'] * 10)}]")
    with pytest.raises(InputError, match=str(MAX_NODES)):
        loads("\n".join(lines))


def test_depth_is_limited_also_through_aliases() -> None:
    with pytest.raises(InputError, match="nested deeper"):
        loads("[" * 50_000)
    chain = ["- &a0 [1]"] + [f"- &a{i} [*a{i - 1}]" for i in range(1, 5000)]
    with pytest.raises(InputError, match="nested deeper"):
        loads("\n".join(chain))
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert loads(deep).root.find((0,) * MAX_DEPTH).value == ()


@pytest.mark.parametrize(
    ("raw", "fragment"),
    [(b"a: \xff\xfe\n", "not text in UTF-8"), (b"x" * (MAX_BYTES + 1), "larger than")],
)
def test_files_that_are_not_text_or_too_large_are_refused(raw: bytes, fragment: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=fragment) as caught:
        load(path)
    assert caught.value.file == str(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.yaml", "a\0b"):
        with pytest.raises(InputError, match="cannot read the file"):
            load(path)


def test_a_byte_order_mark_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load(path).data == {"a": 1}
    assert loads("# nothing\n").data is None


def test_walk_visits_parents_before_children() -> None:
    paths = [path for path, _ in loads("a: {b: [1]}\nc: 2").root.walk()]
    assert paths == [(), ("a",), ("a", "b"), ("a", "b", 0), ("c",)]


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(_PLAIN)
def test_wrapping_and_unwrapping_gives_the_same_value(value: Any) -> None:
    node = from_plain(value, Place("here"))
    assert node.plain == value
    assert node.moved(Place("there")).plain == value


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text(alphabet="ab:-[]{}&*!|>'\"#%?,\n\t 01.e", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        nodes = [node for _, node in loads(text).root.walk()]
    except InputError as error:
        nodes = [loads("stub: 1").root]
        refused_in = error.file
    else:
        refused_in = "<string>"
    assert refused_in == "<string>"
    assert all(node.place.line and node.place.column for node in nodes)
