"""Directories that are written whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from moesim.errors import InputError

MANIFEST: Final = "run.json"
FORMAT: Final = "moesim-run"
FORMAT_VERSION: Final = 1


def files_below(directory: Path) -> list[str]:
    """Return all files below a directory as sorted relative paths with forward slashes."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a run directory.

    Raises:
        InputError: there is none, it is damaged, or it is of a newer format.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"not a run directory: {'no ' + MANIFEST if not path.exists() else error}"
        raise InputError(message, str(directory), hint="give a directory that --out wrote") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        message = f"not a run directory: {MANIFEST} is not ours"
        raise InputError(message, str(directory))
    if manifest.get("format_version") != FORMAT_VERSION:
        message = f"the run has format {manifest.get('format_version')}, this moesim reads {FORMAT_VERSION}"
        raise InputError(message, str(directory))
    return manifest


def check_target(target: Path) -> None:
    """Check that a run may be written to a path: new, empty, or an earlier run with nothing else in it.

    Raises:
        InputError: writing there would destroy something that is not ours.
    """
    if not target.exists():
        return
    if not target.is_dir():
        message = "a run is written to a directory, and this is a file"
        raise InputError(message, str(target))
    found = files_below(target)
    if not found and not any(target.iterdir()):
        return
    try:
        ours = set(read_manifest(target).get("files", ()))
    except InputError:
        message = "the directory is not empty and not an earlier run"
        raise InputError(message, str(target), hint="choose a new directory") from None
    foreign = [name for name in found if name not in ours]
    if foreign:
        message = f"the directory holds a file that is not part of the earlier run: {foreign[0]}"
        raise InputError(message, str(target), hint="move it away or choose a new directory")


@contextmanager
def replacing(directory: str | Path) -> Iterator[Path]:
    """Give a temporary directory beside the target, which takes the target's place at the end.

    When the block raises, the target stays as it was and nothing is left behind.

    Raises:
        InputError: the target may not be replaced, or the file system refuses.
    """
    target = Path(directory).expanduser().resolve()
    check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _refused(target, error) from error
    try:
        content = work / "new"
        content.mkdir()
        yield content
        check_target(target)
        if target.exists():
            target.rename(work / "old")
        content.rename(target)
    except OSError as error:
        if (work / "old").exists() and not target.exists():
            (work / "old").rename(target)
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refused(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot write the run: {error.strerror or error}", str(target))
