"""A plan file of `crashbed run`: the options of a run, said in TOML instead of on the command line.

Owns which keys there are (`KEYS`, one row each), what TOML value each takes, and the words of errors: file, line, what
is wrong, what is allowed, all errors of a file at once. A key is an option, so its value is checked by the option's own
type and callback, and the file means what the same command line means. What the command line says wins.

    about = "Ten minutes of the rare faults."
    workloads = ["bank", "append"]
    faults = ["sigstop-survivor", "sigkill-postmaster"]
    duration = "10m"

A file with `target = "command"` is of another layout, which `chaos.command.plan_file` reads.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Final

import click

from chaos.errors import PlanError
from chaos.plans import find_plan
from chaos.targets.choice import TargetKind
from chaos.toml_lines import line_of, place_of

ABOUT: Final = "about"
TARGET: Final = "target"
_WORD: Final = re.compile(r"\w+(?:-\w+)*")


class Shape(Enum):
    """What a key takes in TOML; how the option takes the same is `_SHAPES`'."""

    TEXT = "a text"
    PATH = "a path, relative to the file"
    NUMBER = "a whole number"
    TIME = "a text, or a number of seconds"
    NAMES = "a list of names"
    LIST = "a list of texts"
    FLAG = "true or false"
    TABLE = "a table of texts, numbers, true and false"


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name, the parameter of `crashbed run` that it stands for, its shape, and an example."""

    name: str
    parameter: str
    shape: Shape
    example: str


KEYS: Final[Mapping[str, Key]] = {
    key.name: key
    for key in (
        Key(TARGET, "target_kind", Shape.TEXT, '"postgres"'),
        Key("pg-bindir", "pg_bindir", Shape.PATH, '"/usr/lib/postgresql/18/bin"'),
        Key("pg-set", "pg_settings", Shape.TABLE, '{ fsync = "off" }'),
        Key("workloads", "workloads", Shape.NAMES, '["bank", "append"]'),
        Key("backends", "backends", Shape.NUMBER, "8"),
        Key("kills", "kills", Shape.NUMBER, "20"),
        Key("duration", "duration", Shape.TIME, '"10m"'),
        Key("faults", "faults", Shape.NAMES, '["sigkill-several", "sigquit"]'),
        Key("points", "points", Shape.LIST, '["backend/COMMIT_AFTER_FLUSH:30"]'),
        Key("no-points", "no_points", Shape.FLAG, "true"),
        Key("synchronous-commit", "synchronous_commit", Shape.TEXT, '"off"'),
        Key("epoch", "epoch_cycles", Shape.NUMBER, "50"),
        Key("seed", "seed", Shape.NUMBER, "7"),
        Key("defect", "defect", Shape.TEXT, '"oldest-first"'),
        Key("require", "require", Shape.TEXT, '"supervision"'),
        Key("stop-on-finding", "stop_on_finding", Shape.FLAG, "true"),
        Key("keep", "keep", Shape.FLAG, "true"),
    )
}
"""By name. `out` and `resume` are of one run, not of a plan."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a file says: by parameter, the values that stand in for options; of a command's plan, its target alone."""

    path: Path
    text: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_of_command(self) -> bool:
        """Whether `chaos.command.plan_file` has to read it."""
        return bool(self.options.get("target_kind") == TargetKind.COMMAND)

    def located(self, error: PlanError, parameters: Sequence[str]) -> PlanError:
        """An error of the plan as a whole, with the line of the key that it speaks of, if one of the parameters is."""
        said = str(error)
        words = {word: key for key in KEYS.values() for word in (key.name, key.name.removesuffix("s"), key.parameter)}
        for word in _WORD.findall(said):
            if word in words and words[word].parameter in parameters:
                return PlanError(f"{place_of(self.path, self.text, words[word].name)}: {said}")
        return PlanError(f"{self.path}: {said}")


def read_run_plan(written: str, context: click.Context) -> RunPlan:
    """Read the file of a path or a shipped plan's name, each value checked by its option of the context's command.

    Raises PlanError with a line for each error of the file.
    """
    path = find_plan(written)
    try:
        text = path.read_text()
        said = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is no TOML: {error}") from error
    if said.get(TARGET) == TargetKind.COMMAND:
        return RunPlan(path, text, str(said.get(ABOUT, "")), {"target_kind": str(TargetKind.COMMAND)})
    options: dict[str, Any] = {}
    wrong: list[tuple[str, str]] = []
    for name, value in said.items():
        try:
            if name == ABOUT:
                if not isinstance(value, str):
                    raise ValueError('about: takes a sentence, as in about = "What this plan is for."')
                continue
            if name not in KEYS:
                raise ValueError(_unknown(name))
            options[KEYS[name].parameter] = _checked(KEYS[name], value, path, context)
        except ValueError as error:
            wrong.append((name, str(error)))
    if wrong:
        wrong.sort(key=lambda error: line_of(text, error[0]))
        raise PlanError("\n".join(f"{place_of(path, text, name)}: {what}" for name, what in wrong))
    return RunPlan(path, text, said.get(ABOUT, ""), options)


def _checked(key: Key, value: Any, path: Path, context: click.Context) -> Any:
    """The value as the option takes it. Raises ValueError when it is of another shape, or the option refuses it."""
    try:
        given = _SHAPES[key.shape](value, path)
    except ValueError as error:
        detail = f" ({error})" if str(error) else ""
        raise ValueError(f"{key.name}: takes {key.shape.value}, as in {key.name} = {key.example}{detail}") from None
    parameter = next(known for known in context.command.params if known.name == key.parameter)
    try:
        parameter.process_value(context, given)
    except click.BadParameter as error:
        raise ValueError(f"{key.name}: {error.message}") from error
    return given


def _unknown(name: str) -> str:
    near = get_close_matches(name, [*KEYS, ABOUT], n=1, cutoff=0.5)
    meant = f", did you mean {near[0]}?" if near else ";"
    return f"there is no key {name}{meant} There are {', '.join((ABOUT, *KEYS))}"


def _text(value: Any, path: Path) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _path(value: Any, path: Path) -> str:
    return str(path.parent / _text(value, path))


def _number(value: Any, path: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value


def _time(value: Any, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _list(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError
    return tuple(value)


def _names(value: Any, path: Path) -> str:
    return ",".join(_list(value, path))


def _flag(value: Any, path: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _table(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, dict):
        raise ValueError
    settings = []
    for name, setting in value.items():
        if not isinstance(setting, str | int | float):
            raise ValueError(f"not what {name} has")
        written = {True: "on", False: "off"}[setting] if isinstance(setting, bool) else setting
        settings.append(f"{name}={written}")
    return tuple(settings)


_SHAPES: Final[Mapping[Shape, Callable[[Any, Path], Any]]] = {
    Shape.TEXT: _text,
    Shape.PATH: _path,
    Shape.NUMBER: _number,
    Shape.TIME: _time,
    Shape.NAMES: _names,
    Shape.LIST: _list,
    Shape.FLAG: _flag,
    Shape.TABLE: _table,
}
"""From a TOML value to what click takes for the option; ValueError when it is none of the shape."""
