"""Field types of scenarios: quantities with units, bounded counts, names and paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StringConstraints,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from moesim.units import parse

MAX_DEVICES: Final = 65_536
MAX_LAYERS: Final = 1_000
MAX_STEPS: Final = 1_000_000
MAX_TOKENS: Final = 10_000_000
MAX_BYTES: Final = 2**60


class Section(BaseModel):
    """Base of every part of a scenario: frozen, unknown keys refused, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class OpenSection(Section):
    """A part whose other keys are checked by the package that they are for."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    @property
    def others(self) -> dict[str, Any]:
        """The keys that the scenario itself does not know, with their values."""
        return dict(self.__pydantic_extra__ or {})


@dataclass(frozen=True)
class Whole:
    """Annotation of a whole number that may be written with a unit and is kept in SI units.

    Attributes:
        low: smallest value.
        high: largest value.
        example: how people write one.
        unit: unit as ``moesim.units.parse`` knows it; empty for counts.
    """

    low: int
    high: int
    example: str = "32k"
    unit: str = ""

    def read(self, value: Any) -> int:
        """Return the number.

        Raises:
            PydanticCustomError: not a quantity of this unit, a fraction, or out of bounds.
        """
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise self._error(value)
        try:
            number = value if isinstance(value, int) else parse(value, self.unit)
        except ValueError as error:
            raise self._error(value) from error
        if not self.low <= number <= self.high or number != int(number):
            raise self._error(value)
        return int(number)

    def _error(self, value: Any) -> PydanticCustomError:
        what = "whole bytes" if self.unit == "B" else "a whole number"
        shown = repr(value) if isinstance(value, (str, int, float, type(None))) else type(value).__name__
        message = f"must be {what} from {self.low} to {self.high}, such as {self.example!r}"
        text = {"expected": message, "got": shown if len(shown) <= 60 else f"{shown[:57]}..."}
        return PydanticCustomError("whole", "{expected}; got {got}", text)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Validate with ``read``."""
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(int)
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe both ways of writing it."""
        number = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return {"anyOf": [number, {"type": "string", "pattern": "^[0-9.]", "examples": [self.example]}]}


Devices = Annotated[int, Whole(1, MAX_DEVICES, "16")]
Layers = Annotated[int, Whole(1, MAX_LAYERS, "6")]
Steps = Annotated[int, Whole(1, MAX_STEPS, "10")]
Slots = Annotated[int, Whole(1, 1_000_000, "16")]
SpanSteps = Annotated[int, Whole(0, 1_000, "1")]
Tokens = Annotated[int, Whole(0, MAX_TOKENS, "16k")]
Context = Annotated[int, Whole(1, MAX_TOKENS, "4k")]
Bytes = Annotated[int, Whole(0, MAX_BYTES, "2 GiB", unit="B")]
Seed = Annotated[int, Whole(0, 2**63 - 1, "0")]

Flag = StrictBool
"""``true`` or ``false`` and nothing else."""

Share = Annotated[float, Field(ge=0, le=1, strict=True)]
"""A part of a whole."""


def _one_line(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise PydanticCustomError("one_line", "must be one line of text")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]
"""A name of something, one line."""

Prose = Annotated[str, StringConstraints(max_length=20_000)]
"""Free text."""

FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1_000), AfterValidator(_one_line)]
"""A path, relative to the file that names it."""
