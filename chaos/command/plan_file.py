"""A command's plan from a TOML file: the tables it has, and where in it an error is.

Owns the file's layout and the words of its errors (file, line, what is wrong, what is allowed); what makes sense is
`chaos.command.plan`'s to say. Paths in the file are relative to it.

    target = "command"
    kills = 20
    faults = ["sigkill-random", "sigkill-several"]

    [command]
    start = ["gunicorn", "--workers", "3", "--bind", "127.0.0.1:{port}", "app:app"]

    [roles]
    worker = "gunicorn"

    [ready]
    http = "http://127.0.0.1:{port}/"

    [expect]
    policy = "restart-one"
"""

from __future__ import annotations

import re
import tomllib
import typing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgspec

from chaos.command.plan import CommandFault, CommandPlan, Expectation, Ready
from chaos.errors import PlanError
from chaos.toml_lines import place_of

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"(?P<kind>unknown|required) field `(?P<name>[^`]+)`")


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    start: tuple[str, ...]
    directory: str = "."
    environment: dict[str, str] = {}
    stop_signal: str = "SIGTERM"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    target: Literal["command"]
    command: _Command
    roles: dict[str, str]
    ready: Ready
    expect: Expectation
    about: str = ""
    seed: int | None = None
    kills: int | None = None
    duration_s: float | None = None
    faults: tuple[CommandFault, ...] = (CommandFault.SIGKILL_RANDOM,)
    victims: tuple[str, ...] = ()
    pause_s: float = 0.5
    epoch_cycles: int = 50


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a file says: the plan for a seed, and when its campaign is over (None where the file does not say)."""

    path: Path
    file: _File
    text: str

    @property
    def seed(self) -> int | None:
        """The seed that the file fixes."""
        return self.file.seed

    @property
    def kills(self) -> int | None:
        """Cycles to run."""
        return self.file.kills

    @property
    def duration_s(self) -> float | None:
        """How long to run."""
        return self.file.duration_s

    def plan(self, seed: int) -> CommandPlan:
        """The plan. Raises PlanError."""
        file = self.file
        try:
            return CommandPlan(
                seed=seed,
                file=str(self.path.resolve()),
                start=file.command.start,
                directory=str((self.path.parent / file.command.directory).resolve()),
                environment=file.command.environment,
                stop_signal=file.command.stop_signal,
                roles=file.roles,
                ready=file.ready,
                expect=file.expect,
                faults=file.faults,
                victims=file.victims,
                pause_s=file.pause_s,
                epoch_cycles=file.epoch_cycles,
            )
        except PlanError as error:
            raise _located(self.path, self.text, str(error), _first_word(str(error))) from error


def read_plan_file(path: Path) -> PlanFile:
    """Read a plan file. Raises PlanError that says where in it the error is and what is allowed there."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} cannot be read: {error}") from error
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path} is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise _explained(path, text, str(error)) from error
    return PlanFile(path, file, text)


def _explained(path: Path, text: str, message: str) -> PlanError:
    """msgspec's error with its line, the key's name instead of a JSON path, and what may stand there."""
    match = _AT.match(message)
    assert match is not None
    what, key = match["what"], re.sub(r"\[[^\]]*\]", "", match["path"] or "").removesuffix(".")
    field = _FIELD.search(what)
    if field is None:
        if what.startswith(key):
            # A rule of the plan's own names its key itself.
            return _located(path, text, what, _first_word(what))
        return _located(path, text, f"{key}: {what}", key, _allowed(key))
    name = ".".join(filter(None, (key, field["name"])))
    if field["kind"] == "required":
        return _located(path, text, f"{name} is missing", key)
    return _located(path, text, f"there is no {name}", name, _allowed(key))


def _allowed(key: str) -> tuple[str, ...]:
    """What may stand at a key: a table's keys, an enumeration's values; empty when there is no list."""
    here: Any = _File
    for part in filter(None, key.split(".")):
        hints = typing.get_type_hints(here) if isinstance(here, type) and issubclass(here, msgspec.Struct) else {}
        here = hints.get(part)
    for kind in (here, *typing.get_args(here)):
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return tuple(kind)
    if typing.get_origin(here) is Literal:
        return typing.get_args(here)
    if isinstance(here, type) and issubclass(here, msgspec.Struct):
        return here.__struct_fields__
    return ()


def _located(path: Path, text: str, what: str, key: str, allowed: tuple[str, ...] = ()) -> PlanError:
    return PlanError(f"{place_of(path, text, key)}: {what}" + (f"; there are {', '.join(allowed)}" if allowed else ""))


def _first_word(message: str) -> str:
    """The key that a plan's own error begins with."""
    key = re.match(r"[\w.-]+", message)
    word = key[0] if key is not None else ""
    return f"command.{word}" if word in _Command.__struct_fields__ else word
