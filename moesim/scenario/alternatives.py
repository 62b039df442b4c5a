"""Values that can be written in several ways: how each way is told from the others.

Each way has a tag in angle brackets. Pydantic puts the tag into the locations of its errors, where the
brackets keep it apart from keys, so that it can be left out when a location is looked up in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Discriminator, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

SHORT: Final = "<name>"
REFERENCE: Final = "<reference>"
CONFIG: Final = "<config>"
INLINE: Final = "<inline>"
TRACE: Final = "<trace>"
GENERATOR: Final = "<generator>"
ONE: Final = "<one>"
MANY: Final = "<list>"
FULL: Final = "<mapping>"


@dataclass(frozen=True)
class FromName:
    """Annotation of a section that is written as a plain word, which stands for one of its keys.

    Attributes:
        key: the key that the word is the value of.
    """

    key: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Turn the word into a mapping of one key, then validate that."""
        return core_schema.no_info_before_validator_function(lambda word: {self.key: word}, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the word."""
        return {"type": "string", "minLength": 1}


def is_tag(part: object) -> bool:
    """Whether a part of an error's location is a tag."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


def one_of(shape: Callable[[Any], str | None], expected: str) -> Discriminator:
    """Choose between alternatives by a function from the written value to a tag.

    Args:
        shape: returns None for what fits no alternative.
        expected: completes the error message of such a value: "must be ...".
    """
    return Discriminator(shape, custom_error_type="shape", custom_error_message=expected)


def name_or_mapping(value: Any) -> str | None:
    """Tell a name from a mapping."""
    if isinstance(value, str):
        return SHORT
    return FULL if isinstance(value, Mapping) else None


def one_or_many(value: Any) -> str | None:
    """Tell one value from a list of values."""
    return MANY if isinstance(value, (list, tuple)) else ONE


def catalogue_or_inline(config_key: str | None, inline: Iterable[str]) -> Callable[[Any], str | None]:
    """Tell a catalogue name from a reference with options, a path and something written out.

    Args:
        config_key: key that names a file with the description, if there can be one.
        inline: keys that only something written out has.
    """
    written_out = frozenset(inline)

    def shape(value: Any) -> str | None:
        if isinstance(value, str):
            return SHORT
        if not isinstance(value, Mapping):
            return None
        if config_key is not None and config_key in value:
            return CONFIG
        return INLINE if written_out & value.keys() else REFERENCE

    return shape


def trace_or_generator(value: Any) -> str | None:
    """Tell recorded from generated routing; neither or both fits nothing."""
    if not isinstance(value, Mapping) or ("trace" in value) == ("generator" in value):
        return None
    return TRACE if "trace" in value else GENERATOR
