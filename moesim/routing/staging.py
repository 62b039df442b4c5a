"""A trace under construction: filled under a temporary name, renamed when it is complete."""

from __future__ import annotations

import operator
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.format import MANIFEST, ColumnFile, sha256
from moesim.routing.manifest import Column, FileEntry, Manifest, build_manifest, check_fields


class StagedDirectory:
    """A directory that is filled under a temporary name and renamed when it is complete."""

    def __init__(self, path: str | Path, overwrite: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            message = f"'{self.path}' exists already"
            raise InputError(message, hint="choose another name or allow overwriting")
        if self.path.exists() and not (self.path / MANIFEST).is_file() and not _is_empty(self.path):
            message = f"'{self.path}' exists and is not a routing trace, so it is not overwritten"
            raise InputError(message, hint="choose another name")
        self.work = self.path.parent / f".{self.path.name}.{secrets.token_hex(4)}.partial"
        try:
            self.work.mkdir(parents=True)
        except OSError as error:
            message = f"cannot write a trace at '{self.path}': {error.strerror or error}"
            raise InputError(message) from error
        self._columns: dict[Column, ColumnFile] = {}

    def column(self, name: Column, dtype: npt.DTypeLike, item: tuple[int, ...]) -> ColumnFile:
        """Open (on first use) the file of a column."""
        if name not in self._columns:
            self._columns[name] = ColumnFile(self.work / f"{name}.npy", dtype, item)
        return self._columns[name]

    def finish(self, fields: Mapping[str, Any]) -> Manifest:
        """Close the columns, write the manifest and give the directory its name."""
        files: dict[Column, FileEntry] = {}
        for name, column in self._columns.items():
            column.close()
            files[name] = FileEntry(
                file=column.path.name,
                dtype=column.dtype.name,
                shape=column.shape,
                bytes=column.path.stat().st_size,
                sha256=sha256(column.path),
            )
        manifest = build_manifest({**fields, "files": files}, str(self.path))
        text = manifest.model_dump_json(indent=1, exclude_none=True) + "\n"
        (self.work / MANIFEST).write_text(text, encoding="utf-8")
        if self.path.exists():
            old = self.work.with_suffix(".old")
            self.path.rename(old)
            self.work.rename(self.path)
            shutil.rmtree(old)
        else:
            self.work.rename(self.path)
        return manifest

    def abandon(self) -> None:
        """Remove everything that was written."""
        for column in self._columns.values():
            column.abandon()
        shutil.rmtree(self.work, ignore_errors=True)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and next(path.iterdir(), None) is None


def layer_indices(layers: Sequence[int]) -> tuple[int, ...]:
    """Return layer indices as plain ints.

    Raises:
        InputError: not a sequence of whole numbers.
    """
    try:
        return tuple(operator.index(layer) for layer in layers)
    except TypeError as error:
        message = f"layers must be whole numbers, got {str(layers)[:60]}"
        raise InputError(message) from error


class Writer(ABC):
    """Context management that token and counts writers share."""

    def __init__(self, path: str | Path, fields: dict[str, Any], overwrite: bool) -> None:
        # Wrong numbers are found now, not after hours of recording.
        check_fields(fields, str(path))
        self._fields = fields
        self._directory = StagedDirectory(path, overwrite)
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the trace, or remove it when the block failed."""
        if not self._open:
            return
        if kind is not None:
            self.abandon()
            return
        try:
            self.close()
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Remove everything that was written."""
        self._open = False
        self._directory.abandon()

    @abstractmethod
    def close(self) -> Manifest:
        """Complete the trace and give it its name."""

    def _check_open(self) -> None:
        if not self._open:
            message = f"the trace '{self._directory.path}' is closed already"
            raise InputError(message)
