"""Array files of a routing trace: plain .npy, written in streams, opened as memory maps, never unpickled.

Layout of the .npy container: the published NumPy format description (NEP 1), version 1.0.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

FORMAT: Final = "moesim-routing-trace"
VERSION: Final = 1
MANIFEST: Final = "manifest.json"

PREFILL: Final = 0
DECODE: Final = 1
PHASES: Final = ("prefill", "decode")

# A header of fixed length can be rewritten in place once the number of rows is known.
_HEADER_BYTES: Final = 128
_MAGIC: Final = b"\x93NUMPY\x01\x00"
_HASH_BLOCK: Final = 1 << 20

AnyArray = npt.NDArray[Any]


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the .npy header (version 1.0, C order, 128 bytes) of an array."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = _HEADER_BYTES - len(_MAGIC) - 2
    padded = text.ljust(room - 1).encode("ascii") + b"\n"
    return _MAGIC + len(padded).to_bytes(2, "little") + padded


class ColumnFile:
    """One .npy file that grows along its first axis.

    Args:
        path: file to create.
        dtype: item type.
        item: shape of one row.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, item: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.item = item
        self.rows = 0
        self._file = path.open("wb")
        self._file.write(npy_header(self.dtype, (0, *item)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what has been written."""
        return (self.rows, *self.item)

    def append(self, rows: AnyArray) -> None:
        """Write rows, [n, *item], already of the right type."""
        np.ascontiguousarray(rows, dtype=self.dtype).tofile(self._file)
        self.rows += len(rows)

    def close(self) -> None:
        """Write the final header and make the data durable."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._file.write(npy_header(self.dtype, self.shape))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close without finishing; the file is about to be removed."""
        self._file.close()


def sha256(path: Path) -> str:
    """Hash a file in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read a .npy header and leave the file at the first byte of data.

    Returns:
        Shape and item type of the array.

    Raises:
        InputError: not a .npy file, Fortran order, or items that are not plain numbers.
    """
    try:
        version = np.lib.format.read_magic(file)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = reader(file)
    except Exception as error:
        # The header is a Python literal; what a damaged one raises is not limited to ValueError.
        message = "this is not a readable .npy file"
        raise InputError(message, name, hint="damaged, truncated or of another format") from error
    if dtype.hasobject or dtype.kind not in "iufb" or dtype.names is not None:
        message = f"arrays must hold plain numbers, this one holds {dtype}"
        raise InputError(message, name, hint="pickled objects are never loaded")
    if fortran and len(shape) > 1:
        message = "arrays must be in C order, this one is in Fortran order"
        raise InputError(message, name, hint="save it again with numpy.ascontiguousarray")
    if any(length < 0 for length in shape):
        message = f"an array cannot have the shape {shape}"
        raise InputError(message, name)
    return tuple(int(length) for length in shape), dtype


def open_array(path: Path) -> AnyArray:
    """Map a .npy file read-only, after checking its header against its size.

    Raises:
        InputError: missing, not a .npy file, truncated, or longer than its header says.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            shape, dtype = read_header(file, name)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        message = f"cannot read this file: {error.strerror or error}"
        raise InputError(message, name) from error
    items = 1
    for length in shape:
        items *= length
    expected = offset + items * dtype.itemsize
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        message = f"this file is {state}: {size} bytes instead of {expected}"
        raise InputError(message, name, hint=f"shape {shape} of {dtype}")
    if items == 0:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def release(array: AnyArray) -> None:
    """Give back the pages of a mapped file that were read; they are read again when needed.

    Without it a stream over a large file looks as if it had all of it in memory.
    """
    root: Any = array
    while isinstance(root, np.ndarray):
        root = root.base
    if isinstance(root, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        root.madvise(mmap.MADV_DONTNEED)


def row_blocks(rows: int, block: int) -> Iterator[slice]:
    """Cut ``rows`` into slices of at most ``block`` rows."""
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))
