"""YAML -> dataclasses, strictly: whatever does not fit is a Problem that names its key.

A field's type may be int, float, bool, str, None, Literal, a union of these, tuple, list[T],
dict[str, T], Any or a dataclass. A dataclass with a table `kinds` stands for its subclasses: the key
`type` says which one.
"""

import difflib
import functools
import json
import math
import re
import reprlib
import sys
import types
import typing
from collections import Counter
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, Literal

import yaml

MOST_VALUES = 2**17  # of a parsed tree, those that aliases repeat counted each time
LARGEST_INT = 2**63 - 1


class Problem(ValueError):
    """What is wrong with the value at `key`, a path such as train.batch or model.stages.0.conv1.out."""

    def __init__(self, key: str, message: str, wanted: str = ""):
        super().__init__(f"{key}: {message}" if key else message)
        self.key, self.wanted = key, wanted


def bounded(default=MISSING, least: float = -math.inf, most: float = math.inf):
    """A dataclass field whose numbers must lie in [least, most]; without `default` the key must be given."""
    return field(default=default, metadata={"least": least, "most": most})


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: 1e-5 is a number (YAML 1.2), a key given twice an error (not the last)."""

    def construct_mapping(self, node, deep=False):
        merge = "tag:yaml.org,2002:merge"
        keys = Counter(self.construct_object(k, deep=True) for k, _ in node.value if k.tag != merge)
        for key, times in keys.items():
            if times > 1:
                twice = f"key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, twice, node.start_mark)
        return super().construct_mapping(node, deep)


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")  # with an exponent
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parse_yaml(source: str) -> Any:
    """Raises: Problem in one line."""
    try:
        tree = yaml.load(source, _Loader)
    except Exception as error:  # constructors raise whatever they like: `!!bool 3` a KeyError
        raise Problem("", f"not readable as YAML: {str(error)[:500]}") from None
    _check_size(tree)
    return tree


def _check_size(tree):
    """Raises: Problem, if aliases make more of a tree than any file could hold."""
    unseen, count = [tree], 0
    while unseen:
        value = unseen.pop()
        if isinstance(value, dict | list | tuple):
            entries = value.values() if isinstance(value, dict) else value
            count += len(entries)
            if count > MOST_VALUES:
                raise Problem("", f"aliases make more than {MOST_VALUES:,} values of it")
            unseen += entries


def put_override(tree: dict, override: str) -> str:
    """Carry out "key.path=value", the value in YAML, as put_value; returns the key path. Raises: Problem."""
    key, equals, value = override.partition("=")
    if not equals or not all(key.split(".")):
        raise Problem("", f"{override!r} is not of the form key.path=value, as in train.epochs=3")
    put_value(tree, key, parse_yaml(value))
    return key


def put_value(tree: dict, key: str, value: Any) -> None:
    """Put `value` at a key path of a parsed tree, making sections that are not there yet. Raises: Problem if
    the path leads into something that is no section."""
    names, below = key.split("."), tree
    for depth, name in enumerate(names, start=1):
        section = below
        if isinstance(section, dict):
            below = section.setdefault(name, {})
        elif isinstance(section, list) and name.isdecimal() and int(name) < len(section):
            name = int(name)
            below = section[name]
        else:
            raise Problem(key, f"there is nothing at {'.'.join(names[:depth])}")
    section[name] = value


def build_section(kind: Any, value: Any, key: str = "", bounds=None) -> Any:
    """Turn a parsed section, or a single value, into an instance of the type `kind`. Raises: Problem."""
    if kind is Any:
        return value
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        wanted = []
        for part in parts:
            try:
                return build_section(part, value, key, bounds)
            except Problem as problem:
                wanted.append(problem.wanted)
        _expect(False, value, " or ".join(wanted), key)
    if origin is Literal:
        name = str(value) if type(value) is int else value  # 2012 is a name here, YAML's number
        _expect(isinstance(name, str) and name in parts, value, f"one of {', '.join(parts)}", key)
        return name
    if origin in (tuple, list):
        _expect(isinstance(value, list | tuple), value, "a list", key)
        inner = parts[:1] * len(value) if origin is list or parts[-1] is ... else parts
        _expect(len(value) == len(inner), value, f"a list of {len(inner)}", key)
        return origin(build_section(t, v, f"{key}.{i}", bounds) for i, (t, v) in enumerate(zip(inner, value)))
    if origin is dict:
        named = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        _expect(named, value, "a section of named entries", key)
        return {name: build_section(parts[1], entry, f"{key}.{name}") for name, entry in value.items()}
    if is_dataclass(kind):
        return _build_dataclass(kind, value, key)
    return _build_plain(kind, value, key, bounds or {})


def plain_tree(value: Any) -> Any:
    """Dataclasses, tuples and dicts as the parsed YAML that `build_section` reads."""
    if is_dataclass(value):
        names = {kind: name for name, kind in getattr(value, "kinds", {}).items()}
        chosen = {"type": names[type(value)]} if names else {}
        return {**chosen, **{f.name: plain_tree(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, dict):
        return {name: plain_tree(entry) for name, entry in value.items()}
    return [plain_tree(entry) for entry in value] if isinstance(value, tuple) else value


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Parsed YAML -> {key path: value}."""
    if not isinstance(tree, list | dict) or not tree:
        return {path: tree}
    found = {}
    for key, value in enumerate(tree) if isinstance(tree, list) else tree.items():
        found |= flat(value, f"{path}.{key}" if path else str(key))
    return found


def _build_dataclass(kind, value, key):
    kinds = getattr(kind, "kinds", None)
    if kinds and isinstance(value, str):
        value = {"type": value}  # `relu1: relu`
    _expect(isinstance(value, dict), value, "a section with keys", key)
    if kinds:
        value = dict(value)
        name = value.pop("type", None)
        _expect(isinstance(name, str) and name in kinds, name, f"one of {', '.join(kinds)}", f"{key}.type")
        kind = kinds[name]

    known, hints = {f.name: f for f in fields(kind)}, _hints(kind)
    path = f"{key}." if key else ""
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            all_known = f"known here: {', '.join(known) or 'no keys'}"
            hint = f"did you mean {path}{close[0]}?" if close else all_known
            raise Problem(f"{path}{name}", f"unknown key; {hint}")
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise Problem(f"{path}{name}", "is missing")
    return kind(**{n: build_section(hints[n], v, f"{path}{n}", known[n].metadata) for n, v in value.items()})


_hints = functools.cache(typing.get_type_hints)


def _build_plain(kind, value, key, bounds):
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    largest = sys.float_info.max if kind is float else LARGEST_INT
    right = number if kind is float else type(value) is kind
    _expect(right and (not number or abs(value) <= largest), value, names[kind], key)
    if number:
        least, most = bounds.get("least", -math.inf), bounds.get("most", math.inf)
        limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        _expect(least <= value <= most, value, f"{names[kind]}, {limits}", key)
    return float(value) if kind is float else value


def _expect(fits, value, wanted, key):
    if not fits:
        nested = isinstance(value, list | dict)  # by aliases, many times over: do not print it all
        try:
            shown = reprlib.repr(value) if nested else json.dumps(value, default=str)
        except ValueError:  # Python prints no more than 4,300 digits
            shown = "that many digits"
        shown = shown if len(shown) < 60 else shown[:60] + "..."
        raise Problem(key, f"should be {wanted}, not {shown}", wanted)
