"""Settings under PostgreSQL's names: what there is, what it may be, and when it may change.

One table row a setting: type, default, bounds, unit, context. An unknown name, a bad unit or a value out of range is
refused with the allowed range (PostgreSQL's `guc_tables.c`); `config_file` knows where values come from. Memory is held
in bytes and time in the unit of the name's table row; `show` prints them as PostgreSQL's SHOW does.

`Settings` is frozen: a reload makes new ones. Where our default or context differs from PostgreSQL's, the row says why.
`python -m supervisor.config` prints the table that docs/guide.md holds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum

from supervisor.errors import CONFIG_FILE_ERROR, StartupError

BLOCK_BYTES = 8192


class Unit(Enum):
    """What a bare number means."""

    NONE = ""
    BYTES = "B"
    BLOCKS = "8kB"
    MEGABYTES = "MB"
    MICROSECONDS = "us"
    MILLISECONDS = "ms"
    SECONDS = "s"


_MEMORY_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_TIME_US = {"us": 1, "ms": 1000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_NO_UNITS: Mapping[str, int] = {}
_STEP = {
    Unit.BYTES: 1,
    Unit.BLOCKS: BLOCK_BYTES,
    Unit.MEGABYTES: 1024**2,
    Unit.MICROSECONDS: 1,
    Unit.MILLISECONDS: 1000,
    Unit.SECONDS: 1_000_000,
}


class Context(Enum):
    """When a setting may change (the context of PostgreSQL's `pg_settings`; no session can set any of these)."""

    POSTMASTER = "postmaster"
    """At the start only."""
    SIGHUP = "sighup"
    """Also when the postmaster is told to read its configuration again."""


SIGHUP = Context.SIGHUP


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. Numbers are in `unit`; memory becomes bytes in `Settings`. A text has at most `maximum` bytes,
    unless that is 0."""

    name: str
    kind: type
    default: object
    unit: Unit = Unit.NONE
    minimum: float = 0
    maximum: float = 0
    choices: tuple[str, ...] = ()
    meaning: str = ""
    context: Context = Context.POSTMASTER


_INT_MAX = 2**31 - 1
LEVELS = ("debug2", "debug1", "info", "notice", "warning", "error", "log", "fatal", "panic")

TABLE: tuple[Row, ...] = (
    Row("max_connections", int, 100, Unit.NONE, 1, 10_000, meaning="client backends at once"),
    Row("max_worker_processes", int, 8, Unit.NONE, 0, 1000, meaning="background workers at once"),
    Row("port", int, 5432, Unit.NONE, 1, 65535, meaning="names the socket: .s.PGSQL.<port>"),
    Row("unix_socket_directories", str, "", meaning="where the socket lies; empty is the data directory"),
    Row("listen_backlog", int, 512, Unit.NONE, 1, 65535, meaning="connections that the kernel keeps waiting"),
    # PostgreSQL's default is 128MB: pages touched cost time at every reset, and workloads here are small.
    Row("shared_buffers", int, 2048, Unit.BLOCKS, 16, 131_072, meaning="the buffer pool"),
    Row("wal_buffers", int, 128, Unit.BLOCKS, 8, 8192, meaning="WAL not yet written"),
    Row("checkpoint_timeout", int, 300, Unit.SECONDS, 1, 86_400, meaning="time between checkpoints", context=SIGHUP),
    Row(
        "checkpoint_completion_target",
        float,
        0.9,
        Unit.NONE,
        0,
        1,
        meaning="share of the interval to spread writes over",
        context=SIGHUP,
    ),
    # PostgreSQL's defaults are 1GB and 80MB with 16MB segments.
    Row(
        "max_wal_size",
        int,
        64,
        Unit.MEGABYTES,
        2,
        _INT_MAX,
        meaning="WAL volume that asks for a checkpoint",
        context=SIGHUP,
    ),
    Row("min_wal_size", int, 32, Unit.MEGABYTES, 2, _INT_MAX, meaning="WAL kept for recycling", context=SIGHUP),
    # PostgreSQL lets a reload change these two. Here a process keeps what it began with: some would write images of
    # pages or sync files that others do not.
    Row("fsync", bool, True, meaning="flush to disk; off loses data at a power failure"),
    Row("full_page_writes", bool, True, meaning="log whole pages after a checkpoint"),
    # Also one for all processes: whoever writes a page must know whether others' hints may run ahead of the log.
    Row("synchronous_commit", bool, True, meaning="a commit waits for its flush; off may lose the last ones"),
    Row(
        "commit_delay",
        int,
        0,
        Unit.MICROSECONDS,
        0,
        100_000,
        meaning="a flush leader's wait for company",
        context=SIGHUP,
    ),
    Row("wal_writer_delay", int, 200, Unit.MILLISECONDS, 1, 10_000, meaning="the WAL writer's round", context=SIGHUP),
    Row(
        "bgwriter_delay",
        int,
        200,
        Unit.MILLISECONDS,
        10,
        10_000,
        meaning="the background writer's round",
        context=SIGHUP,
    ),
    Row(
        "bgwriter_lru_maxpages",
        int,
        100,
        Unit.NONE,
        0,
        1_073_741_823,
        meaning="pages a round writes at most",
        context=SIGHUP,
    ),
    Row(
        "deadlock_timeout",
        int,
        1000,
        Unit.MILLISECONDS,
        1,
        _INT_MAX,
        meaning="wait for a row before looking for a deadlock",
        context=SIGHUP,
    ),
    Row(
        "lock_timeout",
        int,
        0,
        Unit.MILLISECONDS,
        0,
        _INT_MAX,
        meaning="longest wait for a row; 0 is for ever",
        context=SIGHUP,
    ),
    Row("authentication_timeout", int, 60, Unit.SECONDS, 1, 600, meaning="time for the startup packet", context=SIGHUP),
    Row("restart_after_crash", bool, True, meaning="reinitialise after a child's crash", context=SIGHUP),
    Row(
        "track_activity_query_size",
        int,
        1024,
        Unit.BYTES,
        100,
        1_048_576,
        meaning="bytes kept of a statement",
    ),
    Row("shared_preload_libraries", tuple, (), meaning="modules that offer procedures to CALL, or background workers"),
    Row("log_min_messages", str, "warning", choices=LEVELS, meaning="least level in the server log", context=SIGHUP),
    # The kernel takes 249 bytes for the name of a memfd.
    Row("crashbed.run_name", str, "local", maximum=64, meaning="part of the shared memory's name"),
    Row("crashbed.journal", str, "", meaning="the event journal's file"),
    Row("crashbed.history_directory", str, "", meaning="where procedures write their history"),
    Row("crashbed.points_map", str, "", meaning="the run's map of armed points and coverage"),
    Row(
        "crashbed.lock_file_check_interval",
        int,
        60_000,
        Unit.MILLISECONDS,
        10,
        3_600_000,
        meaning="time between looks whether postmaster.pid is still there",
        context=SIGHUP,
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server life, checked; see `TABLE` for units and bounds."""

    max_connections: int = 100
    max_worker_processes: int = 8
    port: int = 5432
    unix_socket_directories: str = ""
    listen_backlog: int = 512
    shared_buffers: int = 2048 * BLOCK_BYTES
    wal_buffers: int = 128 * BLOCK_BYTES
    checkpoint_timeout: int = 300
    checkpoint_completion_target: float = 0.9
    max_wal_size: int = 64 * 1024**2
    min_wal_size: int = 32 * 1024**2
    fsync: bool = True
    full_page_writes: bool = True
    synchronous_commit: bool = True
    commit_delay: int = 0
    wal_writer_delay: int = 200
    bgwriter_delay: int = 200
    bgwriter_lru_maxpages: int = 100
    deadlock_timeout: int = 1000
    lock_timeout: int = 0
    authentication_timeout: int = 60
    restart_after_crash: bool = True
    track_activity_query_size: int = 1024
    shared_preload_libraries: tuple[str, ...] = ()
    log_min_messages: str = "warning"
    run_name: str = "local"
    journal: str = ""
    history_directory: str = ""
    points_map: str = ""
    lock_file_check_interval: int = 60_000

    @property
    def n_buffers(self) -> int:
        """Pages in the buffer pool."""
        return self.shared_buffers // BLOCK_BYTES

    def replace(self, **changes: object) -> Settings:
        """A copy with some attributes changed, unchecked: for tests and the harness."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @staticmethod
    def names() -> list[str]:
        """Every setting's name, as SHOW takes it."""
        return [row.name for row in TABLE]

    def show(self, name: str) -> str:
        """A setting as SHOW prints it; raises KeyError for an unknown name."""
        row = _ROWS[name.lower()]
        value = getattr(self, attribute(row.name))
        if row.kind is bool:
            return "on" if value else "off"
        if row.kind is tuple:
            return ", ".join(value)
        if row.kind is int and row.unit in (Unit.BYTES, Unit.BLOCKS, Unit.MEGABYTES):
            return _largest_unit(value, _MEMORY_BYTES)
        if row.kind is int and row.unit is not Unit.NONE:
            return _largest_unit(value * _STEP[row.unit], _TIME_US)
        return str(value)


_ROWS = {row.name: row for row in TABLE}


def attribute(name: str) -> str:
    """The name of a setting's attribute in `Settings`."""
    return name.removeprefix("crashbed.")


def _largest_unit(amount: int, units: Mapping[str, int]) -> str:
    if amount == 0:
        return "0"
    unit, size = max(((u, s) for u, s in units.items() if amount % s == 0), key=lambda item: item[1])
    return f"{amount // size}{unit}"


class SettingError(ValueError):
    """One value was refused; the message names the setting, the value and what is allowed, the hint what helps."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def parse_value(name: str, text: str) -> object:
    """The value of a setting as `Settings` holds it; raises SettingError."""
    row = _ROWS.get(name)
    if row is None:
        from difflib import get_close_matches  # for a mistake only: no child needs to inherit it

        near = get_close_matches(name, _ROWS, 1)
        hint = f'Did you mean "{near[0]}"?' if near else "All settings are listed by: python -m supervisor.config"
        raise SettingError(f'unrecognized configuration parameter "{name}"', hint=hint)
    if row.kind is bool:
        return _parse_bool(row, text)
    if row.kind is int or row.kind is float:
        return _parse_number(row, text)
    if row.kind is tuple:
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    if row.choices and text.lower() not in row.choices:
        raise SettingError(
            f'invalid value for parameter "{row.name}": "{text}"', hint=f"Available values: {', '.join(row.choices)}."
        )
    if row.maximum and len(text.encode(errors="surrogateescape")) > row.maximum:
        raise SettingError(f'value of parameter "{row.name}" is longer than {row.maximum:.0f} bytes: "{text}"')
    return text.lower() if row.choices else text


def _parse_bool(row: Row, text: str) -> bool:
    """Whole words and their unambiguous beginnings (`parse_bool`)."""
    word = text.lower()
    for value, spellings in ((True, ("true", "yes", "on", "1")), (False, ("false", "no", "off", "0"))):
        if word and word != "o" and any(spelling.startswith(word) for spelling in spellings):
            return value
    raise SettingError(f'parameter "{row.name}" requires a Boolean value, not "{text}"', hint="Write on or off.")


def _parse_number(row: Row, text: str) -> int | float:
    match = re.fullmatch(r"\s*([+-]?[0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", text)
    if match is None:
        raise SettingError(f'invalid value for parameter "{row.name}": "{text}"', hint=_expected(row))
    number = float(match[1])
    if row.kind is int and "." in match[1] and not match[2]:
        raise SettingError(
            f'invalid value for parameter "{row.name}": "{text}" (a whole number is needed)', hint=_expected(row)
        )
    if match[2]:
        number = _in_unit(row, number, match[2], text)
    if row.kind is int:
        number = round(number)
    if not row.minimum <= number <= row.maximum:
        unit = f" {row.unit.value}" if row.unit is not Unit.NONE else ""
        raise SettingError(
            f'{_plain(number)}{unit} is outside the valid range for parameter "{row.name}" '
            f"({_plain(row.minimum)}{unit} .. {_plain(row.maximum)}{unit})"
        )
    return number * _STEP[row.unit] if _units(row) is _MEMORY_BYTES else number


def _plain(number: float) -> str:
    """Without an exponent: 1073741823 and not 1.07374e+09."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _units(row: Row) -> Mapping[str, int]:
    if row.unit in (Unit.BYTES, Unit.BLOCKS, Unit.MEGABYTES):
        return _MEMORY_BYTES
    return _NO_UNITS if row.unit is Unit.NONE else _TIME_US


def _expected(row: Row) -> str:
    units = ", ".join(f'"{unit}"' for unit in _units(row))
    return f"Valid units for this parameter are {units}." if units else "This parameter is a number without a unit."


def _in_unit(row: Row, number: float, unit: str, text: str) -> float:
    units = _units(row)
    if unit not in units:
        raise SettingError(f'invalid value for parameter "{row.name}": "{text}"', hint=_expected(row))
    return number * units[unit] / _STEP[row.unit]


def refused(message: str, hint: str | None = None) -> StartupError:
    """The error of a setting that is wrong."""
    return StartupError(message, hint=hint, sqlstate=CONFIG_FILE_ERROR)


def make_settings(values: Mapping[str, object]) -> Settings:
    """Settings from checked values; checks what concerns several at once."""
    settings = Settings(**{attribute(name): value for name, value in values.items()})  # type: ignore[arg-type]
    if settings.min_wal_size > settings.max_wal_size:
        raise refused(
            f'"min_wal_size" ({settings.show("min_wal_size")}) must be at most "max_wal_size" '
            f"({settings.show('max_wal_size')})",
            hint="Raise max_wal_size or lower min_wal_size.",
        )
    return settings


def sample_file() -> str:
    """What `crashbed init` writes as `postgresql.conf`: every setting, commented out at its default."""
    defaults = Settings()
    lines = [
        "# Settings of this server, under PostgreSQL's names. Uncomment to change; to apply: crashbed reload -D DIR.",
        "",
    ]
    for row in TABLE:
        value = defaults.show(row.name)
        quoted = value if re.fullmatch(r"[\w.]+", value) else f"'{value}'"
        restart = " (change requires restart)" if row.context is Context.POSTMASTER else ""
        lines.append(f"#{row.name} = {quoted}".ljust(44) + f"# {row.meaning}{restart}")
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """All settings as a Markdown table: name, default, range or values, context, meaning."""
    defaults = Settings()
    lines = ["| setting | default | range | context | meaning |", "|---|---|---|---|---|"]
    for row in TABLE:
        value = defaults.show(row.name)
        shown = f"`{value}`" if value else ""
        lines.append(f"| `{row.name}` | {shown} | {_range(row)} | {row.context.value} | {row.meaning} |")
    return "\n".join(lines) + "\n"


def _range(row: Row) -> str:
    if row.choices:
        return ", ".join(row.choices)
    if row.kind is bool:
        return "on, off"
    if row.kind is tuple:
        return "names, separated by commas"
    if row.kind is str:
        return f"at most {row.maximum:.0f} bytes" if row.maximum else "text"
    ends = (row.minimum, row.maximum)
    units = _units(row)
    return " to ".join(_largest_unit(int(end * _STEP[row.unit]), units) if units else _plain(end) for end in ends)


_FIELDS = {field.name for field in fields(Settings)}
if {attribute(row.name) for row in TABLE} != _FIELDS:
    raise AssertionError("config.TABLE and config.Settings name different settings")


if __name__ == "__main__":
    sys.stdout.write(settings_table())
