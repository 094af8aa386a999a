"""Where settings come from: `postgresql.conf` and `-c` options, at the start and at a reload (`guc-file.l`).

Owns the syntax of both, their order (an option wins), and what a reload may change. At the start anything wrong is
refused. At a reload the server runs already: a file with an error in it changes nothing, a setting that needs a
restart keeps its value, and both are said in PostgreSQL's words (`ProcessConfigFile`, `set_config_option`).

Every process reads the file for itself when SIGHUP comes; the postmaster alone says aloud what it found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from supervisor.config import TABLE, Context, SettingError, Settings, attribute, make_settings, parse_value, refused
from supervisor.errors import StartupError
from supervisor.log import Level, ServerLog

NAME = "postgresql.conf"

_LINE = re.compile(r"\s*(?P<name>[A-Za-z_][\w.]*)\s*(?:=|\s)\s*(?P<value>'(?:[^']|'')*'|[^\s#'=][^\s#']*)\s*(?:#.*)?")


class Finding(NamedTuple):
    """One thing to say about a reload, and what to do about it."""

    message: str
    hint: str | None = None


class Reload(NamedTuple):
    """What a reload makes of the settings."""

    settings: Settings
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The file of one data directory and the options that the postmaster was started with."""

    path: Path
    options: tuple[str, ...] = ()

    def read(self) -> Settings:
        """The settings to start with; raises StartupError. Without a file all have their defaults."""
        return make_settings(parse_file(self._text(), str(self.path)) | parse_options(self.options))

    def reload(self, current: Settings, log: ServerLog, level: Level) -> Settings:
        """The settings to go on with after a SIGHUP; what there is to say is logged at `level`, and the log's own
        level follows."""
        try:
            values, errors = scan_file(self._text(), str(self.path))
        except StartupError as error:
            values, errors = {}, [error]
        found = reloaded(current, str(self.path), values | parse_options(self.options), errors)
        for message, hint in found.findings:
            log.log(level, message, hint=hint)
        log.set_minimum(found.settings.log_min_messages)
        return found.settings

    def _text(self) -> str:
        try:
            return self.path.read_text(errors="surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StartupError(
                f'could not read "{self.path}": {error.strerror}',
                hint="It must be a file that the server's user can read; without one, all settings have their defaults.",
                exit_code=2,
            ) from error


def reloaded(current: Settings, path: str, values: Mapping[str, object], errors: Sequence[StartupError]) -> Reload:
    """What becomes of the current settings when file and options say `values` and these lines were wrong. Pure."""
    try:
        wanted = make_settings(values)
    except StartupError as error:
        errors = [*errors, error]
    if errors:
        findings = [Finding(error.message, error.hint) for error in errors]
        return Reload(current, (*findings, _conclusion(path, "no changes were applied")))
    changed = [row for row in TABLE if getattr(wanted, attribute(row.name)) != getattr(current, attribute(row.name))]
    fixed = [row for row in changed if row.context is Context.POSTMASTER]
    settings = wanted.replace(**{attribute(row.name): getattr(current, attribute(row.name)) for row in fixed})
    findings = []
    for row in changed:
        if row in fixed:
            findings.append(Finding(f'parameter "{row.name}" cannot be changed without restarting the server'))
        elif row.name in values:
            findings.append(Finding(f'parameter "{row.name}" changed to "{settings.show(row.name)}"'))
        else:
            findings.append(
                Finding(f'parameter "{row.name}" removed from configuration file, reset to default'),
            )
    if fixed:
        findings.append(_conclusion(path, "unaffected changes were applied"))
    return Reload(settings, tuple(findings))


def _conclusion(path: str, consequence: str) -> Finding:
    return Finding(f'configuration file "{path}" contains errors; {consequence}')


def scan_file(text: str, path: str) -> tuple[dict[str, object], list[StartupError]]:
    """The settings of a `postgresql.conf`, later lines winning, and what is wrong with which lines."""
    found: dict[str, object] = {}
    errors: list[StartupError] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            errors.append(
                refused(
                    f'syntax error in file "{path}" line {number}: {line.strip()}',
                    hint="Write name = value, with quotes around a value that has spaces or is empty.",
                )
            )
            continue
        value = match["value"]
        if value.startswith("'"):
            value = value[1:-1].replace("''", "'")
        try:
            found[match["name"].lower()] = parse_value(match["name"].lower(), value)
        except SettingError as error:
            errors.append(refused(f'{error} in file "{path}" line {number}', hint=error.hint))
    return found, errors


def parse_file(text: str, path: str) -> dict[str, object]:
    """The settings of a `postgresql.conf`; raises StartupError with the file and the first line that is wrong."""
    found, errors = scan_file(text, path)
    if errors:
        raise errors[0]
    return found


def parse_options(options: Sequence[str]) -> dict[str, object]:
    """The settings of `-c name=value` options; raises StartupError."""
    found: dict[str, object] = {}
    for option in options:
        name, equals, value = option.partition("=")
        name = name.strip().lower().replace("-", "_")
        if not equals:
            raise refused(f"-c {option} requires a value", hint="Write -c name=value.")
        try:
            found[name] = parse_value(name, value.strip())
        except SettingError as error:
            raise refused(f"{error} in option -c {option}", hint=error.hint) from error
    return found
