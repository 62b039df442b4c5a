"""Where the measured tables are: the data of the published package ``aiconfigurator-core``.

Only the package's Parquet files are read, never its code. They lie under
``systems/data/<system>/<operator>/<software>/<version>/<table>.parquet``.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moesim.errors import InputError, unknown_name
from moesim.hardware.catalogue import catalogue_entry

if TYPE_CHECKING:
    import pandas as pd

PACKAGE: Final = "aiconfigurator_core"
INSTALL: Final = "pip install 'moesim[measured]'"

SYSTEMS: Final = {
    "a100_sxm": "A100-SXM-80GB",
    "a100_pcie": "A100-PCIe-80GB",
    "h100_sxm": "H100-SXM",
    "h100_pcie": "H100-PCIe",
    "h200_sxm": "H200-SXM",
    "b200_sxm": "B200-SXM",
    "b300_sxm": "B300-SXM",
    "gb200": "GB200",
    "gb300": "GB300",
    "l40s": "L40S",
    "l4": "L4",
    "rtx_pro_6000_server": "RTX-PRO-6000",
}
"""Folder of the package -> catalogue name. Systems that the catalogue lacks (A30, Intel B60) are left out."""


def installed() -> bool:
    """Tell whether the tables can be read."""
    return find_spec(PACKAGE) is not None and find_spec("pyarrow") is not None


@cache
def data_root() -> Path:
    """Return the folder with one folder per system.

    Raises:
        InputError: the package with the tables, or the reader of its format, is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        message = "the measured tables are not installed (package aiconfigurator-core)"
        raise InputError(message, hint=INSTALL)
    if find_spec("pyarrow") is None:
        message = "reading the measured tables needs pyarrow"
        raise InputError(message, hint=INSTALL)
    root = Path(next(iter(spec.submodule_search_locations))) / "systems" / "data"
    if not root.is_dir():
        message = f"the installed aiconfigurator-core has no folder {root.name} of measured tables"
        raise InputError(message, hint=INSTALL)
    return root


@cache
def measured_devices() -> tuple[str, ...]:
    """Return the catalogue names of the devices with tables; some have an empty folder."""
    root = data_root()
    return tuple(name for system, name in SYSTEMS.items() if any((root / system).rglob("*.parquet")))


def check_device(name: str) -> str:
    """Return the catalogue name of a device that has measurements.

    Raises:
        InputError: no such device, or none of its timings were published.
    """
    canonical = catalogue_entry(name).device.name
    if canonical not in measured_devices():
        message = f"there are no measured tables of device '{canonical}'"
        raise InputError(message, hint=f"measured: {', '.join(measured_devices())}")
    return canonical


def _system(device: str) -> str:
    for system, name in SYSTEMS.items():
        if name == device:
            return system
    raise unknown_name("measured device", device, SYSTEMS.values())


def _version_key(text: str) -> tuple[tuple[int, ...], str]:
    """Order versions by their numbers, a pre-release before its release."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", text.split("rc")[0]))
    tail = text.partition("rc")[2]
    return (*numbers, int(tail) if tail.isdigit() else 10**6), text


def find_tables(device: str, operator: str, table: str, software: str | None = None) -> dict[str, Path]:
    """Return the newest file of a table per software.

    Args:
        device: catalogue name.
        operator: folder of the operator, for example ``moe``, ``gemm``, ``comm``.
        table: file name without ``.parquet``.
        software: only this one, for example ``vllm``.

    Returns:
        Software -> file; empty if the device has no such table.
    """
    folder = data_root() / _system(device) / operator
    found: dict[str, Path] = {}
    for path in folder.glob(f"{software or '*'}/*/{table}.parquet"):
        name = path.parents[1].name
        if name not in found or _version_key(path.parent.name) > _version_key(found[name].parent.name):
            found[name] = path
    return dict(sorted(found.items()))


def versions(device: str, operator: str, table: str, software: str) -> dict[str, Path]:
    """Return every version of a table, oldest first."""
    folder = data_root() / _system(device) / operator / software
    paths = {path.parent.name: path for path in folder.glob(f"*/{table}.parquet")}
    return {version: paths[version] for version in sorted(paths, key=_version_key)}


def read_table(path: Path, columns: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Read one file.

    Raises:
        InputError: it cannot be read or lacks a column.
    """
    import pandas as pd

    try:
        return pd.read_parquet(path, columns=list(columns) if columns else None)
    except (OSError, ValueError, KeyError) as error:
        message = f"cannot read the measured table {source_name(path)}: {error}"
        raise InputError(message, hint=f"reinstall it: {INSTALL} --force-reinstall") from error


def source_name(path: Path) -> str:
    """Return a table's place inside the package without the system, for the ``source`` column."""
    return "/".join(path.with_suffix("").parts[-4:])
