"""YAML -> dataclasses, strictly: whatever does not fit is a Problem that names its key.

A field's type may be int, float, bool, str, None, Literal, a union of these, tuple, dict[str, T]
or a dataclass. A dataclass with a table `kinds` stands for its subclasses: the key `type` says
which one.
"""

import difflib
import json
import math
import re
import reprlib
import types
import typing
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, Literal

import yaml


class Problem(ValueError):
    """What is wrong with the value at `key`, a path such as train.batch or
    model.stages.0.conv1.out."""

    def __init__(self, key: str, message: str, wanted: str = ""):
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.wanted = wanted


def bounded(default=..., least: float = -math.inf, most: float = math.inf):
    """A dataclass field whose numbers must lie in [least, most]; without `default` the key must be
    given."""
    given = {} if default is ... else {"default": default}
    return field(metadata={"least": least, "most": most}, **given)


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-5 is a number (YAML 1.2), and a key given twice is an error, not
    silently the last."""

    def construct_mapping(self, node, deep=False):
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(k, deep=True) for k, _ in node.value if k.tag != merge]
        seen = set()
        for key in keys:
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is there twice", node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read(source: str) -> Any:
    """Parse YAML. Raises: Problem in one line."""
    try:
        return yaml.load(source, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise Problem("", f"not readable as YAML: {error}") from None


def assign(tree: dict, assignment: str) -> str:
    """Carry out "key.path=value", with a value in YAML, as `put` does; returns the key path.

    Raises: Problem if it has no such form, or leads into something that is no section.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not all(key.split(".")):
        raise Problem("", f"{assignment!r} is not of the form key.path=value, as in train.epochs=3")
    put(tree, key, value=read(value))
    return key


def put(tree: dict, key: str, value: Any) -> None:
    """Put `value` at a key path of a parsed tree, making sections that are not there yet.

    Raises: Problem if the path leads into something that is no section.
    """
    *sections, last = key.split(".")
    place = tree
    for depth, section in enumerate(sections):
        if isinstance(place, dict):
            place = place.setdefault(section, {})
        elif isinstance(place, list) and section.isdigit() and int(section) < len(place):
            place = place[int(section)]
        else:
            raise Problem(key, f"there is nothing at {'.'.join(sections[: depth + 1])}")
    if isinstance(place, dict):
        place[last] = value
    elif isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    else:
        raise Problem(key, f"there is nothing at {key}")


def build(kind: Any, value: Any, key: str = "", bounds: typing.Mapping = types.MappingProxyType({})) -> Any:
    """Turn a parsed `value` into an instance of the type `kind`. Raises: Problem."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _build_union(parts, value, key, bounds)
    if origin is Literal:
        name = str(value) if type(value) is int else value  # 2012 is a name here, YAML's number
        _expect(isinstance(name, str) and name in parts, value, f"one of {', '.join(parts)}", key)
        return name
    if origin is tuple:
        _expect(isinstance(value, list | tuple), value, "a list", key)
        inner = [parts[0]] * len(value) if parts[-1] is ... else parts
        _expect(len(value) == len(inner), value, f"a list of {len(inner)}", key)
        return tuple(build(t, v, f"{key}.{i}", bounds) for i, (t, v) in enumerate(zip(inner, value)))
    if origin is dict:
        _expect(
            isinstance(value, dict) and all(isinstance(k, str) for k in value),
            value,
            "a section of named entries",
            key,
        )
        return {name: build(parts[1], entry, f"{key}.{name}") for name, entry in value.items()}
    if is_dataclass(kind):
        return _build_dataclass(kind, value, key)
    return _build_plain(kind, value, key, bounds)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and dicts as the YAML that `build` reads."""
    if is_dataclass(value):
        names = {kind: name for name, kind in getattr(value, "kinds", {}).items()}
        chosen = {"type": names[type(value)]} if names else {}
        return {**chosen, **{f.name: plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value


def _build_union(parts, value, key, bounds):
    if value is None and types.NoneType in parts:
        return None
    wanted = []
    for part in parts:
        if part is not types.NoneType:
            try:
                return build(part, value, key, bounds)
            except Problem as problem:
                wanted.append(problem.wanted)
    return _expect(False, value, " or ".join(wanted), key)


def _build_dataclass(kind, value, key):
    if isinstance(value, str) and hasattr(kind, "kinds"):
        value = {"type": value}
    _expect(isinstance(value, dict), value, "a section with keys", key)
    value = dict(value)
    if hasattr(kind, "kinds"):
        name = value.pop("type", None)
        _expect(
            isinstance(name, str) and name in kind.kinds,
            name,
            f"one of {', '.join(kind.kinds)}",
            f"{key}.type",
        )
        kind = kind.kinds[name]
    known, hints = {f.name: f for f in fields(kind)}, typing.get_type_hints(kind)
    path = key + "." if key else ""
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known) or 'no keys'}"
            raise Problem(f"{path}{name}", f"unknown key; {hint}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise Problem(f"{path}{name}", "is missing")
    return kind(
        **{name: build(hints[name], v, f"{path}{name}", known[name].metadata) for name, v in value.items()}
    )


def _build_plain(kind, value, key, bounds):
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = number and math.isfinite(value) if kind is float else type(value) is kind
    _expect(fits, value, names[kind], key)
    if number:
        least, most = bounds.get("least", -math.inf), bounds.get("most", math.inf)
        limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        _expect(least <= value <= most, value, f"{names[kind]}, {limits}", key)
    return kind(value)


def _expect(fits, value, wanted, key):
    if not fits:
        nested = isinstance(value, list | dict)  # by aliases, many times over: do not print it all
        shown = reprlib.repr(value) if nested else json.dumps(value, default=str)
        shown = shown if len(shown) < 60 else shown[:60] + "..."
        raise Problem(key, f"should be {wanted}, not {shown}", wanted)
    return value
