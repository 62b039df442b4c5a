"""Text that every machine with Python already has, in three domains, split into training and held-out.

``code`` is the source of the standard library, ``prose`` the docstrings and comments written in it and
``manual`` the language reference topics behind ``help()``. A file is held out by a hash of its name,
so the same files are held out everywhere and a file's prose is never trained on while its code is held out.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moesim.errors import InputError

HELD_OUT_BYTES: Final = 38
"""A document is held out when the first byte of its name's SHA-256 is below this (38 of 256: 15 %)."""

_SKIPPED: Final = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",  # generated code tables, not written text
        "ensurepip",
        "idle_test",
        "lib-dynload",
        "pydoc_data",  # it is the manual domain
        "site-packages",
        "test",
        "tests",
    }
)
_SHORTEST_PROSE: Final = 40


@dataclass(frozen=True)
class Corpus:
    """Named documents by domain.

    Attributes:
        domains: domain -> document name -> text. The order of the domains numbers the trace's tasks.
        name: short name of the corpus, for the name of the model that is trained on it.
        origin: where the text comes from, for the trace's provenance.
    """

    domains: Mapping[str, Mapping[str, str]]
    name: str
    origin: str

    def __post_init__(self) -> None:
        """Refuse a corpus in which a domain has no training or no held-out text."""
        for domain in self.domains:
            for held_out in (False, True):
                if not any(self.documents(domain, held_out=held_out)):
                    part = "held-out" if held_out else "training"
                    message = f"domain '{domain}' of the corpus has no {part} document"
                    raise InputError(message, hint="give more documents; 15 % are held out by name")

    def documents(self, domain: str, *, held_out: bool) -> Iterator[str]:
        """Yield the texts of one side of the split, in the order of their names."""
        for name, text in sorted(self.domains[domain].items()):
            if is_held_out(name) == held_out:
                yield text

    @property
    def sha256(self) -> str:
        """Digest of every name and text, to tell whether two machines hold the same corpus."""
        digest = hashlib.sha256()
        for domain, documents in sorted(self.domains.items()):
            for name, text in sorted(documents.items()):
                for part in (domain, name, text):
                    data = part.encode("utf-8", "surrogatepass")
                    digest.update(len(data).to_bytes(8, "little"))
                    digest.update(data)
        return digest.hexdigest()


def is_held_out(name: str) -> bool:
    """Whether a document is kept from training; depends on its name only."""
    return hashlib.sha256(name.encode()).digest()[0] < HELD_OUT_BYTES


def standard_library() -> Corpus:
    """Collect the three domains from the running Python.

    Raises:
        InputError: the standard library was installed without its sources.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    code: dict[str, str] = {}
    prose: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED.intersection(relative.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        name = relative.as_posix()
        code[name] = text
        written = "\n\n".join(prose_of(text))
        if len(written) >= _SHORTEST_PROSE:
            prose[name] = written
    if not code:
        message = f"this Python has no standard library sources in '{root}'"
        raise InputError(message, hint="use a Python that was installed with its .py files")
    from pydoc_data.topics import topics

    return Corpus(
        {"code": code, "prose": prose, "manual": dict(topics)},
        name="pystdlib",
        origin="sources, docstrings and comments, and help() topics of the Python standard library",
    )


def prose_of(source: str) -> Iterator[str]:
    """Yield the docstrings of a module and then its comment blocks, cleaned of indentation and hashes.

    A source that does not parse yields nothing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST_PROSE:
                yield text
    yield from _comment_blocks(source)


def _comment_blocks(source: str) -> Iterator[str]:
    """Join the comments of consecutive lines without code; yield the blocks long enough to be sentences."""
    block: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or not token.line.lstrip().startswith("#"):
            continue
        if token.start[0] != last + 1 and block:
            yield from _long_enough(block)
            block = []
        block.append(token.string.lstrip("#").strip())
        last = token.start[0]
    yield from _long_enough(block)


def _long_enough(block: list[str]) -> Iterator[str]:
    text = "\n".join(block).strip()
    if len(text) >= _SHORTEST_PROSE:
        yield text
