"""Files of expert loads: JSON, CSV or NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moesim.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_COUNT: Final = 2**40
"""Largest count: sums over any table that fits stay exact."""

_HINT: Final = "expected numbers as .json, .csv or .npy"
_SHAPES: Final = "[experts], [layers, experts] or [layers, devices, experts]"


def read_counts(file: str, devices: int) -> npt.NDArray[np.int64]:
    """Read counts of any accepted shape.

    Args:
        file: a ``.npy`` or ``.csv`` file; everything else is JSON.
        devices: number of devices, to check the sources against.

    Returns:
        Counts, int64 [layers, sources, experts] with 1 source or one per device.

    Raises:
        InputError: the file cannot be read, or is not a table of whole numbers of such a shape.
    """
    import numpy as np

    path = Path(file)
    if not path.is_file():
        message = "this is a directory, not a file of counts" if path.is_dir() else "there is no such file"
        raise InputError(message, file)
    if path.stat().st_size > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES >> 20} MiB"
        raise InputError(message, file)
    try:
        raw = _parse(path)
    except InputError as error:
        raise InputError(error.message, file, error.line, error.column, _HINT) from error
    except (OSError, MemoryError) as error:
        message = f"cannot read the file: {getattr(error, 'strerror', None) or 'not enough memory'}"
        raise InputError(message, file) from error
    if raw.dtype.kind not in "iuf" or raw.size == 0 or raw.ndim not in (1, 2, 3):
        message = f"counts must be numbers of shape {_SHAPES}"
        kind = "numbers" if raw.dtype.kind in "iuf" else "something that is not all numbers"
        raise InputError(message, file, hint=f"got {kind} of shape {list(raw.shape)}")
    if (
        not np.isfinite(raw).all()
        or (raw < 0).any()
        or (raw != np.floor(raw)).any()
        or (raw > MAX_COUNT).any()
    ):
        message = "counts must be whole numbers from 0 to 2^40"
        raise InputError(message, file)
    counts = raw.astype(np.int64)
    if counts.ndim == 3 and counts.shape[1] not in (1, devices):
        message = f"there are {counts.shape[1]} source devices, and --devices says {devices}"
        raise InputError(message, file)
    return counts if counts.ndim == 3 else np.atleast_2d(counts)[:, np.newaxis, :]


def _parse(path: Path) -> npt.NDArray[Any]:
    """Read the numbers of a file.

    Raises:
        InputError: not that format; placed by line and column where there is a line.
    """
    import numpy as np

    if path.suffix.lower() == ".npy":
        try:
            # Mapped, so that a header that promises more than the file holds costs nothing.
            return np.asarray(np.load(path, allow_pickle=False, mmap_mode="r"))
        except (ValueError, EOFError, TypeError) as error:
            message = "not a .npy file of numbers"
            raise InputError(message) from error
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _csv(text) if path.suffix.lower() == ".csv" else json.loads(text)
        return np.asarray(rows)
    except UnicodeDecodeError:
        message = "not text in UTF-8"
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg}"
        raise InputError(message, str(path), error.lineno, error.colno) from error
    except RecursionError:
        message = "nested too deeply for a table"
    except ValueError:
        message = "the rows differ in length"
    raise InputError(message)


def _csv(text: str) -> list[list[float]]:
    """Read rows of numbers.

    Raises:
        InputError: at the first cell that is not a number.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row, column = [], 1
        for cell in line.split(","):
            try:
                row.append(float(cell))
            except ValueError:
                message = f"'{cell.strip()[:40]}' is not a number"
                raise InputError(message, "csv", number, column) from None
            column += len(cell) + 1
        rows.append(row)
    return rows
