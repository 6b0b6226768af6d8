"""Turn what pydantic finds wrong with a user's YAML or flags into one plain sentence."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from .errors import UsageError, nearest

Model = TypeVar("Model", bound=BaseModel)

_PLAIN = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be a text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a set of 'key: value' lines",
    "model_type": "must be a set of 'key: value' lines",
    "model_attributes_type": "must be a set of 'key: value' lines",
    "none_required": "must be empty",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


def merged(before: Any, changes: Any) -> Any:
    """``changes`` over ``before``, key by key where both are mappings; else ``changes`` alone."""
    if not (isinstance(before, Mapping) and isinstance(changes, Mapping)):
        return changes
    mixed = {key: merged(before.get(key), new) for key, new in changes.items()}
    return {**before, **mixed}


def validated(model_class: type[Model], data: Any, where: str) -> Model:
    """Build ``model_class`` from data that a user wrote.

    Args:
        model_class: the pydantic class.
        data: usually a dict read from YAML.
        where: what the data is, the beginning of the sentence ("protocol eval/minicanvas.yaml").

    Raises:
        UsageError: one sentence a fault (at most three), with the nearest key for an unknown one.
    """
    try:
        return model_class.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if any(_is_branch(fault["loc"]) for fault in faults):
            faults = _one_branch(faults)
        shown = " ".join(_sentence(model_class, fault) for fault in faults[:3])
        more = f" ({len(faults) - 3} more faults.)" if len(faults) > 3 else ""
        raise UsageError(f"{where}: {shown}{more}") from error


def _sentence(model_class: type[BaseModel], fault: Mapping[str, Any]) -> str:
    path = [part for part in fault["loc"] if not _is_tag(part)]
    key = ".".join(str(part) for part in path)
    kind, context, seen = fault["type"], fault.get("ctx", {}), fault.get("input")
    if kind == "extra_forbidden":
        owner = _class_at(model_class, path[:-1])
        known = sorted(owner.model_fields) if owner else []
        guess = nearest(str(path[-1]), known)
        meant = f" Did you mean {guess!r}?" if guess else ""
        listed = f" Known: {', '.join(known)}." if known else ""
        return f"unknown key {key!r}.{meant}{listed}"
    if kind == "missing":
        return f"{key!r} is missing."
    if kind in ("value_error", "assertion_error"):
        reason = str(context.get("error", fault["msg"])).rstrip(".")
        return f"{key!r}: {reason}." if key else f"{reason}."
    if kind in ("literal_error", "enum"):
        rule = f"must be one of {context['expected']}"
        guess = nearest(str(seen), re.findall(r"'([^']*)'", context["expected"]))
        rule += f" (did you mean {guess!r}?)" if guess and guess != seen else ""
    else:
        rule = _PLAIN.get(kind) or fault["msg"].replace("Input should", "must").replace(
            "Value should", "must"
        )
    rule = rule[0].lower() + rule[1:]
    return f"{key!r} {rule}, not {_short(seen)}." if key else f"it {rule}, not {_short(seen)}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_tag(part: Any) -> bool:
    """Names of union branches that pydantic puts into a location are not keys of the user."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool"))


def _is_branch(loc: tuple[Any, ...]) -> bool:
    return any(_is_tag(part) for part in loc)


def _one_branch(faults: list[Any]) -> list[Any]:
    """Of a union's faults keep the one that says most: a wrong value before a wrong type."""
    seen: dict[str, Any] = {}
    for fault in faults:
        key = ".".join(str(part) for part in fault["loc"] if not _is_tag(part))
        kept = seen.get(key)
        if kept is None or (kept["type"] in _PLAIN and fault["type"] not in _PLAIN):
            seen[key] = fault
    return list(seen.values())


def _class_at(model_class: type[BaseModel], path: list[Any]) -> type[BaseModel] | None:
    """The pydantic class that owns the keys below ``path``, if there is one."""
    found = _members(annotation_at(model_class, path))
    return next((c for c in found if isinstance(c, type) and issubclass(c, BaseModel)), None)


def annotation_at(model_class: type[BaseModel], path: list[Any]) -> Any:
    """The annotation of the value below ``path``, None if the schema does not say."""
    current: Any = model_class
    for part in path:
        current = _step(current, part)
    return current


def _step(annotation: Any, part: Any) -> Any:
    """The annotation of ``value[part]`` or ``value.part`` when ``value`` is annotated."""
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            if part in member.model_fields:
                return member.model_fields[part].annotation
        elif str(part).isdigit() and typing.get_origin(member) in (list, tuple):
            return typing.get_args(member)[0]
        elif isinstance(part, str) and typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    """``A | None`` -> (A, None); ``A`` -> (A,); ``Annotated`` is looked through."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


class YamlLoader(yaml.SafeLoader):
    """YAML as its version 1.2 has it: ``no``, ``off``, ``yes`` and ``on`` are texts, not booleans.

    A field that wants a boolean takes them all the same.
    """


YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load_yaml(text: str) -> Any:
    """Parse YAML; raises ``yaml.YAMLError``."""
    return yaml.load(text, Loader=YamlLoader)


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse YAML that must be a set of ``key: value`` lines.

    Raises:
        UsageError: if it is not YAML (with the line), or not a mapping.
    """
    try:
        data = load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UsageError(f"{where} is not valid YAML: {problem}{line}.") from error
    if not isinstance(data, dict):
        seen = "empty" if data is None else _short(data)
        raise UsageError(f"{where} must be a set of 'key: value' lines, not {seen}.")
    return data


def read_yaml_file(path: Path | str, where: str) -> dict[str, Any]:
    """``read_yaml`` of a file.

    Raises:
        UsageError: also if the file cannot be read or is not text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UsageError(f"{where} cannot be read: {reason}.") from error
    return read_yaml(text, where)
