"""Read foreign files without trusting them: size limits, no pickles, errors that name the place."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.format import AnyArray, open_array, read_header

MAX_TEXT_BYTES: Final = 256 << 20
MAX_ARRAY_BYTES: Final = 8 << 30

_PICKLES: Final = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")


def check_file(path: Path, limit: int | None = None) -> int:
    """Return the size of a file that may be read.

    Raises:
        InputError: missing, a pickle, or larger than ``limit`` bytes.
    """
    if path.suffix.lower() in _PICKLES:
        message = f"'{path.suffix}' files can run code when they are loaded, so they are refused"
        raise InputError(
            message,
            str(path),
            hint="convert it where you trust it: "
            "data = torch.load(file, weights_only=True); "
            "numpy.savez('counts.npz', logical_count=data['logical_count'])",
        )
    if not path.is_file():
        message = "there is no such file"
        raise InputError(message, str(path))
    size = path.stat().st_size
    if limit is not None and size > limit:
        message = f"this file has {size} bytes, at most {limit} are read"
        raise InputError(message, str(path), hint="split it, or convert it to .npz")
    return size


def read_text(path: Path) -> str:
    """Read UTF-8 text of at most 256 MiB."""
    check_file(path, MAX_TEXT_BYTES)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        message = f"this is not UTF-8 text (byte {error.start})"
        raise InputError(message, str(path)) from error
    except OSError as error:
        message = f"cannot read this file: {error.strerror or error}"
        raise InputError(message, str(path)) from error


def parse_json(text: str, name: str, line: int | None = None) -> Any:
    """Parse JSON; ``line`` is where the text starts when it is one line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"this is not valid JSON: {error.msg}"
        raise InputError(message, name, line or error.lineno, error.colno) from error
    except (RecursionError, ValueError) as error:
        message = "this JSON is nested too deeply or holds an impossible number"
        raise InputError(message, name, line) from error


def read_npz(path: Path) -> dict[str, AnyArray]:
    """Read the arrays of an .npz file after checking their headers against the sizes of its members.

    Raises:
        InputError: damaged, not .npz, pickled objects, or more than 8 GiB unpacked.
    """
    check_file(path, MAX_ARRAY_BYTES)
    name = str(path)
    arrays: dict[str, AnyArray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > MAX_ARRAY_BYTES:
                message = f"this file unpacks to {unpacked} bytes, at most {MAX_ARRAY_BYTES} are read"
                raise InputError(message, name)
            for member in members:
                label = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    shape, dtype = read_header(file, f"{name}[{label}]")
                    data = file.read()
                items = int(np.prod(shape, dtype=object))
                if len(data) != items * dtype.itemsize:
                    message = (
                        f"the array '{label}' is damaged: {len(data)} bytes for shape {shape} of {dtype}"
                    )
                    raise InputError(message, name)
                arrays[label] = np.frombuffer(data, dtype).reshape(shape)
    except InputError:
        raise
    except Exception as error:
        # What a damaged archive raises depends on its compression method (zlib.error, OSError, ...).
        message = "this is not a readable .npz file"
        raise InputError(message, name, hint="damaged, truncated, encrypted or of another format") from error
    return arrays


def read_any(path: Path) -> Any:
    """Read .json (anything), .npz (arrays by name) or .npy (one array), by suffix.

    Raises:
        InputError: another suffix, or a file that cannot be read.
    """
    check_file(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return parse_json(read_text(path), str(path))
    if suffix == ".npz":
        return read_npz(path)
    if suffix == ".npy":
        return open_array(path)
    message = f"'{suffix or path.name}' is not a file type that is read here"
    raise InputError(message, str(path), hint="use .json, .npz or .npy")


def whole_numbers(value: Any, ndim: tuple[int, ...], what: str, name: str) -> npt.NDArray[np.integer[Any]]:
    """Turn nested lists or an array into whole numbers with one of the given numbers of axes.

    Raises:
        InputError: ragged lists (naming the row), fractions, NaN, or another number of axes.
    """
    if not isinstance(value, np.ndarray):
        place = _ragged(value, "")
        if place is not None:
            message = f"'{what}'{place} has another length than its neighbours, or is no list"
            raise InputError(message, name)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        message = f"'{what}' is not a table of numbers"
        raise InputError(message, name) from error
    if array.dtype.kind == "f" and bool(np.all(np.isfinite(array))) and bool(np.all(array == np.rint(array))):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        message = f"'{what}' must hold whole numbers, it holds {array.dtype}"
        raise InputError(message, name)
    if array.ndim not in ndim:
        axes = " or ".join(str(number) for number in ndim)
        message = f"'{what}' must have {axes} axes, its shape is {array.shape}"
        raise InputError(message, name)
    return array


def _ragged(value: Any, place: str) -> str | None:
    """Find the first list whose length differs from its first sibling's; its index path, or None."""
    if not isinstance(value, list) or not value:
        return None
    first = value[0]
    for index, item in enumerate(value):
        here = f"{place}[{index}]"
        if isinstance(item, list) != isinstance(first, list):
            return here
        if isinstance(item, list):
            if len(item) != len(first):
                return here
            if item and isinstance(item[0], list):
                found = _ragged(item, here)
                if found is not None:
                    return found
    return None
