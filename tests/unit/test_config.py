"""Settings: what is accepted, what is refused, and in which words.

A setting that is misread is worse than one that is refused: `max_wal_size = 1GB` taken for 1 byte, a unit ignored, a
later line that does not win, `=` taken for a value. A refusal that does not say where the wrong line is sends its reader
through the whole file. And `SHOW` must print what a client that knows PostgreSQL expects.

At a reload the server runs: half of a wrong file must not be in force, and what needs a restart must neither change nor
seem to have.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import (
    TABLE,
    Context,
    Row,
    SettingError,
    Settings,
    make_settings,
    parse_value,
    sample_file,
    settings_table,
)
from supervisor.config_file import ConfigFile, Reload, parse_file, parse_options, reloaded, scan_file
from supervisor.errors import CONFIG_FILE_ERROR, StartupError
from supervisor.log import Level
from tests.support.engine_rig import LinesLog

MIB = 1024**2


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("shared_buffers", "2048", 16 * MIB),  # a bare number is in the setting's own unit: blocks
        ("shared_buffers", "16MB", 16 * MIB),
        ("shared_buffers", "1024 kB", MIB),
        ("shared_buffers", "1.5MB", 3 * MIB // 2),
        ("max_wal_size", "64", 64 * MIB),
        ("max_wal_size", "1GB", 1024 * MIB),
        ("checkpoint_timeout", "300", 300),
        ("checkpoint_timeout", "5min", 300),
        ("checkpoint_timeout", "1500ms", 2),
        ("wal_writer_delay", "0.5s", 500),
        ("commit_delay", "10ms", 10_000),
        ("track_activity_query_size", "2kB", 2048),
        ("checkpoint_completion_target", "0.5", 0.5),
        ("fsync", "off", False),
        ("fsync", "TRUE", True),
        ("fsync", "f", False),
        ("fsync", "1", True),
        ("log_min_messages", "DEBUG1", "debug1"),
        ("shared_preload_libraries", "workloads.bank, other", ("workloads.bank", "other")),
        ("shared_preload_libraries", "", ()),
        ("unix_socket_directories", "/tmp", "/tmp"),
    ],
)
def test_a_value_is_read_in_its_unit(name: str, text: str, value: object) -> None:
    assert parse_value(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("max_conections", "10", 'unrecognized configuration parameter "max_conections"', "max_connections"),
        ("work_mem", "4MB", 'unrecognized configuration parameter "work_mem"', "python -m supervisor.config"),
        ("port", "0", '0 is outside the valid range for parameter "port" (1 .. 65535)', None),
        ("port", "99999999999999999999", "is outside the valid range", None),
        ("shared_buffers", "1kB", '0 8kB is outside the valid range for parameter "shared_buffers"', None),
        ("lock_timeout", "-1", "(0 ms .. 2147483647 ms)", None),
        ("checkpoint_completion_target", "1.5", "1.5 is outside the valid range", None),
        ("port", "54 32", 'invalid value for parameter "port": "54 32"', "without a unit"),
        ("port", "5kB", 'invalid value for parameter "port": "5kB"', "without a unit"),
        ("port", "1.5", "a whole number is needed", "without a unit"),
        ("port", "", 'invalid value for parameter "port": ""', "without a unit"),
        ("port", "٣", 'invalid value for parameter "port"', "without a unit"),
        (
            "shared_buffers",
            "16mb",
            'invalid value for parameter "shared_buffers": "16mb"',
            '"B", "kB", "MB", "GB", "TB"',
        ),
        ("shared_buffers", "5min", 'invalid value for parameter "shared_buffers": "5min"', '"kB"'),
        ("checkpoint_timeout", "5m", 'invalid value for parameter "checkpoint_timeout": "5m"', '"min"'),
        ("fsync", "o", 'parameter "fsync" requires a Boolean value', "on or off"),
        ("fsync", "", 'parameter "fsync" requires a Boolean value', "on or off"),
        ("log_min_messages", "loud", 'invalid value for parameter "log_min_messages": "loud"', "debug2, debug1"),
        ("crashbed.run_name", "x" * 65, "longer than 64 bytes", None),
    ],
)
def test_a_refusal_says_what_is_allowed(name: str, text: str, message: str, hint: str | None) -> None:
    with pytest.raises(SettingError) as caught:
        parse_value(name, text)
    assert message in str(caught.value)
    assert hint is None or hint in (caught.value.hint or "")


def bounded(row: Row) -> bool:
    return row.kind in (int, float)


@pytest.mark.parametrize("row", [row for row in TABLE if bounded(row)], ids=lambda row: row.name)
def test_the_bounds_belong_to_the_range(row: Row) -> None:
    unit = row.unit.value if row.unit.value != "8kB" else ""
    for inside in (row.minimum, row.maximum):
        parse_value(row.name, f"{inside:.0f}{unit}" if inside == int(inside) else str(inside))
    for outside in (row.minimum - 1, row.maximum + 1):
        with pytest.raises(SettingError, match="outside the valid range"):
            parse_value(row.name, f"{outside:.0f}{unit}")


def test_every_default_lies_in_its_own_range_and_shows_as_a_value_that_is_read_back() -> None:
    defaults = Settings()
    for row in TABLE:
        attribute = row.name.removeprefix("crashbed.")
        assert parse_value(row.name, defaults.show(row.name)) == getattr(defaults, attribute), row.name


@given(st.sampled_from([row for row in TABLE if row.kind is int]), st.data())
def test_what_show_prints_is_read_as_the_same_value(row: Row, data: st.DataObject) -> None:
    number = data.draw(st.integers(int(row.minimum), int(row.maximum)))
    value = parse_value(row.name, str(number))
    attribute = row.name.removeprefix("crashbed.")
    shown = Settings().replace(**{attribute: value}).show(row.name)
    assert parse_value(row.name, shown) == value


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("shared_buffers", "16MB"),
        ("checkpoint_timeout", "5min"),
        ("wal_writer_delay", "200ms"),
        ("lock_timeout", "0"),
        ("fsync", "on"),
        ("max_connections", "100"),
        ("checkpoint_completion_target", "0.9"),
        ("shared_preload_libraries", ""),
        ("CRASHBED.RUN_NAME", "local"),
    ],
)
def test_show_prints_as_postgresql_does(name: str, shown: str) -> None:
    assert Settings().show(name) == shown


def test_a_file_is_read_as_postgresql_reads_it() -> None:
    text = """
        # a comment
        port = 5433            # and another
        max_connections 20
        Fsync=off
        crashbed.run_name = 'it''s # not a comment'
        unix_socket_directories = /tmp
        port = 5434
        crashbed.journal = ''
    """
    assert parse_file(text, "postgresql.conf") == {
        "port": 5434,  # the later line wins
        "max_connections": 20,
        "fsync": False,
        "crashbed.run_name": "it's # not a comment",
        "unix_socket_directories": "/tmp",
        "crashbed.journal": "",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_conections = 5", 'unrecognized configuration parameter "max_conections"'),
        ("port = 0", "outside the valid range"),
        ("checkpoint_timeout = 5m", 'invalid value for parameter "checkpoint_timeout"'),
        ("port =", "syntax error"),
        ("unix_socket_directories =", "syntax error"),  # not the directory "="
        ("port = 5432 5433", "syntax error"),
        ("port", "syntax error"),
        ("crashbed.run_name = 'open", "syntax error"),
        ("= 5", "syntax error"),
    ],
)
def test_a_refused_line_is_named_with_file_and_number(line: str, message: str) -> None:
    with pytest.raises(StartupError) as caught:
        parse_file(f"# first\nfsync = on\n{line}\nport = 5432\n", "/data/postgresql.conf")
    assert message in caught.value.message
    assert 'in file "/data/postgresql.conf" line 3' in caught.value.message
    assert caught.value.sqlstate == CONFIG_FILE_ERROR
    assert caught.value.exit_code == 1


def test_options_are_named_in_a_refusal_and_win_over_the_file() -> None:
    assert parse_options(["port=5433", "max-connections = 7"]) == {"port": 5433, "max_connections": 7}
    with pytest.raises(StartupError, match="in option -c port=abc"):
        parse_options(["port=abc"])
    with pytest.raises(StartupError, match="-c port requires a value") as caught:
        parse_options(["port"])
    assert caught.value.hint == "Write -c name=value."
    assert make_settings(parse_file("port = 1", "f") | parse_options(["port=2"])).port == 2


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(
        StartupError, match=r'"min_wal_size" \(128MB\) must be at most "max_wal_size" \(64MB\)'
    ) as caught:
        make_settings(parse_options(["min_wal_size=128MB"]))
    assert caught.value.hint


def test_the_file_that_init_writes_changes_nothing_and_each_of_its_lines_can_be_uncommented() -> None:
    assert parse_file(sample_file(), "sample") == {}
    uncommented = re.sub(r"^#(?=\w)", "", sample_file(), flags=re.MULTILINE)
    values = parse_file(uncommented, "sample")
    assert set(values) == set(Settings.names())
    assert make_settings(values) == Settings()


def test_the_guide_lists_the_settings_that_there_are() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    assert settings_table() in guide, "docs/guide.md is stale: put in what `python -m supervisor.config` prints"


# A reload.


def reload_of(file: str, *options: str, current: Settings | None = None) -> Reload:
    values, errors = scan_file(file, "postgresql.conf")
    started = make_settings(parse_options(options))
    return reloaded(current or started, "postgresql.conf", values | parse_options(options), errors)


def test_a_reload_changes_what_it_may_and_says_so() -> None:
    found = reload_of("lock_timeout = 7s\ncheckpoint_timeout = 300\nrestart_after_crash = off")
    assert found.settings == Settings(lock_timeout=7000, restart_after_crash=False)
    assert found.findings == (
        ('parameter "lock_timeout" changed to "7s"', None),
        ('parameter "restart_after_crash" changed to "off"', None),
    )


def test_a_line_that_is_gone_means_the_default_again() -> None:
    found = reload_of("", current=Settings(lock_timeout=7000))
    assert found.settings == Settings()
    assert found.findings == (('parameter "lock_timeout" removed from configuration file, reset to default', None),)


def test_an_option_wins_at_a_reload_too_and_without_a_word() -> None:
    found = reload_of("lock_timeout = 7s\nport = 1", "lock_timeout=3s", "port=5433")
    assert found == (Settings(lock_timeout=3000, port=5433), ())


def test_what_needs_a_restart_keeps_its_value_and_the_rest_is_applied() -> None:
    found = reload_of("port = 1\nlock_timeout = 7s\nfsync = off")
    assert found.settings == Settings(lock_timeout=7000)
    assert [message for message, _ in found.findings] == [
        'parameter "port" cannot be changed without restarting the server',
        'parameter "fsync" cannot be changed without restarting the server',
        'parameter "lock_timeout" changed to "7s"',
        'configuration file "postgresql.conf" contains errors; unaffected changes were applied',
    ]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_setting_changes_at_a_reload_if_its_context_says_so(row: Row) -> None:
    other = {bool: "off", str: "error" if row.choices else "other", tuple: "other", float: "0.5"}
    text = other.get(row.kind) or str(int(row.minimum) + 33)
    found = reload_of(f"max_wal_size = 1GB\n{row.name} = {text}", current=Settings(max_wal_size=1024 * MIB))
    kept = found.settings == Settings(max_wal_size=1024 * MIB)
    assert kept == (row.context is Context.POSTMASTER)


def test_one_wrong_line_and_nothing_is_changed_but_every_wrong_line_is_named() -> None:
    found = reload_of("lock_timeout = 7s\nlock_timout = 8s\nport =\nbgwriter_delay = 1\n")
    assert found.settings == Settings()
    *errors, conclusion = found.findings
    assert [re.findall(r'in file "postgresql.conf" (line \d+)', message) for message, _ in errors] == [
        ["line 2"],
        ["line 3"],
        ["line 4"],
    ]
    assert conclusion == ('configuration file "postgresql.conf" contains errors; no changes were applied', None)


def test_settings_that_contradict_each_other_change_nothing() -> None:
    found = reload_of("min_wal_size = 128MB\nlock_timeout = 7s")
    assert found.settings == Settings()
    assert "must be at most" in found.findings[0].message
    assert found.findings[-1].message.endswith("no changes were applied")


def test_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    log = LinesLog()
    kept = ConfigFile(tmp_path).reload(Settings(lock_timeout=7000), log, Level.LOG)
    assert kept == Settings(lock_timeout=7000)
    assert log.lines == [
        f'could not read "{tmp_path}": Is a directory',
        f'configuration file "{tmp_path}" contains errors; no changes were applied',
    ]
