"""From a file to a checked scenario."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from moesim.errors import InputError
from moesim.scenario.extend import complete
from moesim.scenario.overrides import override
from moesim.scenario.problems import invalid
from moesim.scenario.scenario import Scenario
from moesim.scenario.schema import ScenarioSpec
from moesim.yamlio import Document, Node, Place, load, loads


def load_scenario(path: str | Path, overrides: Iterable[str] = (), seed: int | None = None) -> Scenario:
    """Read a scenario file.

    Args:
        path: the YAML file.
        overrides: ``dotted.key=value`` each, laid over the file.
        seed: replaces the scenario's seed.

    Raises:
        InputError: the file or an override cannot be used; says where and what would be right.
    """
    place = Path(path)
    return _checked(load(path), place.parent, place.stem, overrides, seed, start=place)


def loads_scenario(
    text: str,
    base_dir: str | Path = ".",
    overrides: Iterable[str] = (),
    seed: int | None = None,
    file: str = "<string>",
) -> Scenario:
    """Read a scenario from text.

    Args:
        text: the YAML text.
        base_dir: directory from which its paths count.
        overrides: ``dotted.key=value`` each, laid over the text.
        seed: replaces the scenario's seed.
        file: what errors call the text.

    Raises:
        InputError: the text or an override cannot be used; says where and what would be right.
    """
    return _checked(loads(text, file), Path(base_dir), "scenario", overrides, seed)


def _checked(
    document: Document,
    folder: Path,
    name: str,
    overrides: Iterable[str],
    seed: int | None,
    start: Path | None = None,
) -> Scenario:
    seen = () if start is None else (start.resolve(),)
    whole = override(complete(document, folder, seen), overrides, folder)
    root = whole.root
    if not isinstance(root.value, dict):
        raise root.place.error("a scenario must be a mapping of keys such as 'model' and 'cluster'")
    fields = dict(root.value)
    fields.pop("extends", None)
    if "name" not in fields:
        fields["name"] = Node(name, root.place)
    if seed is not None:
        option = Place("--seed")
        fields["seed"] = Node(seed, option, option)
    whole = Document(Node(fields, root.place))
    try:
        spec = ScenarioSpec.model_validate(whole.data)
    except ValidationError as error:
        raise invalid(error, whole) from error
    _check_names(spec, whole)
    return Scenario(spec, whole, folder)


def _check_names(spec: ScenarioSpec, document: Document) -> None:
    """Refuse two policies of one name, which results could not tell apart.

    Raises:
        InputError: at the second one.
    """
    seen: dict[str, int] = {}
    for index, policy in enumerate(spec.policies):
        if policy.name in seen:
            message = f"two policies are named '{policy.name}'"
            error: InputError = document.error(("policies", index, "name"), message, "give each its own name")
            raise error
        seen[policy.name] = index
