"""The manifest of a routing trace: what the arrays beside it mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moesim.errors import InputError
from moesim.routing.format import FORMAT, MANIFEST, VERSION

MAX_EXPERTS: Final = 32767  # ids are at most int16
_MAX_BYTES: Final = 4 << 20

Count = Annotated[int, Field(ge=0, lt=1 << 53, strict=True)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.npy$", max_length=100)]
Column = Literal["ids", "weights", "sequence", "phase", "task", "counts", "physical_to_logical"]


class FileEntry(BaseModel):
    """One array file: its name, type, shape, size and checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: FileName
    dtype: Literal["uint8", "int16", "uint16", "float16", "int32", "int64"]
    shape: Annotated[tuple[Count, ...], Field(max_length=3)]
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """Everything about a trace that is not an array.

    Attributes:
        kind: ``tokens`` (expert ids per token) or ``counts`` (copies per expert and step).
        model: name of the model that was recorded.
        experts: logical experts per layer.
        top_k: experts per token.
        layers: transformer layer index of each recorded MoE layer.
        tokens: recorded tokens; for counts, the copies of the busiest layer divided by ``top_k``.
        steps: recorded steps of a counts-only trace.
        ids_kind: whether ids name logical experts or physical ones (replicas).
        tasks: names that the task column refers to.
        provenance: where the data came from, free text.
        licence: licence of the data, if known.
        weight_scale: gate weight of one unit of an integer weight column.
        files: array files by column.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["moesim-routing-trace"] = FORMAT
    version: Annotated[int, Field(strict=True)] = VERSION
    kind: Literal["tokens", "counts"]
    model: Annotated[str, Field(max_length=500)]
    experts: Annotated[int, Field(ge=1, le=MAX_EXPERTS, strict=True)]
    top_k: Annotated[int, Field(ge=1, le=MAX_EXPERTS, strict=True)]
    layers: Annotated[tuple[Count, ...], Field(min_length=1, max_length=100_000)]
    tokens: Count
    steps: Count | None = None
    ids_kind: Literal["logical", "physical"] = "logical"
    tasks: Annotated[tuple[str, ...], Field(max_length=MAX_EXPERTS)] = ()
    provenance: str = ""
    licence: str | None = None
    weight_scale: Annotated[float, Field(gt=0, strict=True)] | None = None
    files: dict[Column, FileEntry]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        """Check what single fields cannot."""
        if self.top_k > self.experts:
            message = f"top_k is {self.top_k} but there are only {self.experts} experts"
            raise ValueError(message)
        if any(b <= a for a, b in zip(self.layers, self.layers[1:], strict=False)):
            message = "layers must be transformer layer indices in rising order, each once"
            raise ValueError(message)
        if len(set(self.tasks)) != len(self.tasks):
            message = "a task is named twice"
            raise ValueError(message)
        names = [entry.file for entry in self.files.values()]
        if len(set(names)) != len(names):
            message = "two columns name the same file"
            raise ValueError(message)
        main: Column = "ids" if self.kind == "tokens" else "counts"
        if main not in self.files:
            message = f"a trace of kind '{self.kind}' needs the column '{main}'"
            raise ValueError(message)
        if (self.ids_kind == "physical") != ("physical_to_logical" in self.files):
            message = "a physical_to_logical column belongs to physical ids, and only to them"
            raise ValueError(message)
        if self.kind == "counts" and self.steps is None:
            message = "a trace of kind 'counts' needs its number of steps"
            raise ValueError(message)
        return self


def read_manifest(directory: Path) -> Manifest:
    """Read and check ``manifest.json`` of a trace directory.

    Raises:
        InputError: no such trace, another format or version, or fields that are missing or wrong.
    """
    path = directory / MANIFEST
    name = str(path)
    if not directory.is_dir():
        message = f"there is no routing trace at '{directory}'"
        raise InputError(message, hint="a trace is a directory; other formats: moesim trace import")
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            message = f"a manifest has at most {_MAX_BYTES} bytes, this one has {size}"
            raise InputError(message, name)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"this directory is not a routing trace: {MANIFEST} cannot be read"
        raise InputError(message, str(directory)) from error
    except UnicodeDecodeError as error:
        message = "the manifest is not UTF-8 text"
        raise InputError(message, name) from error
    return parse_manifest(text, name)


def parse_manifest(text: str, name: str) -> Manifest:
    """Parse the text of a manifest; ``name`` is what errors call the file."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"the manifest is not valid JSON: {error.msg}"
        raise InputError(message, name, error.lineno, error.colno) from error
    except (RecursionError, ValueError) as error:
        message = "the manifest is nested too deeply or holds an impossible number"
        raise InputError(message, name) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        message = f"this is not the manifest of a routing trace: 'format' must be '{FORMAT}'"
        raise InputError(message, name)
    if data.get("version") != VERSION:
        message = f"this trace has format version {data.get('version')!r}, this moesim reads {VERSION}"
        raise InputError(message, name, hint="use the moesim that wrote it")
    return build_manifest(data, name)


def build_manifest(data: Mapping[str, Any], name: str) -> Manifest:
    """Validate the fields of a manifest; ``name`` is what errors call the file.

    Raises:
        InputError: naming the first wrong field and how many more there are.
    """
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        place = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        more = f" (and {len(others)} more)" if others else ""
        message = f"the manifest is wrong: {place + ': ' if place else ''}{text}{more}"
        raise InputError(message, name) from error


def check_fields(fields: Mapping[str, Any], name: str) -> Manifest:
    """Check everything but the files, before there are any; ``name`` is what errors call the trace.

    Raises:
        InputError: naming the first wrong field.
    """
    probe = {"dtype": "uint8", "shape": (0,), "bytes": 0, "sha256": "0" * 64}
    wanted = ["counts" if fields.get("kind") == "counts" else "ids"]
    if fields.get("ids_kind") == "physical":
        wanted.append("physical_to_logical")
    files = {column: {**probe, "file": f"{column}.npy"} for column in wanted}
    return build_manifest({**fields, "tokens": 0, "steps": 0, "files": files}, name)
