"""Named points and their map: the harness arms, a server process obeys, and both read counts after everybody died.

An arm that fires in the wrong process, twice, or never makes a run that proves nothing; a map that is lost with the
shared memory would lose coverage at every crash; a number that is used again would make old maps lie.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.points import MAP_SIZE, MAX_ARMS, Arm, Point, PointAction, PointHit, PointMap
from supervisor.roles import CHILD_ROLES, Role

ROOT = Path(__file__).parents[2]
HERE = Point.COMMIT_AFTER_FLUSH
ELSEWHERE = Point.COMMIT_AFTER_RECORD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "points.map"


@pytest.fixture
def points(path: Path) -> Iterator[PointMap]:
    made = PointMap(path, create=True)
    yield made
    made.close()


def arm(role: Role = Role.BACKEND, *, nth: int = 0, point: Point = HERE, k: int = 1) -> Arm:
    return Arm(role=role, nth=nth, point=point, k=k, action=PointAction.RAISE)


def passes_until_hit(pass_point: Callable[[Point], None], point: Point = HERE, limit: int = 10) -> int | None:
    """On which pass an arm fired, counted from 1."""
    for number in range(1, limit + 1):
        try:
            pass_point(point)
        except PointHit:
            return number
    return None


def test_numbers_are_dense_and_every_point_says_what_it_means() -> None:
    assert [int(point) for point in Point] == list(range(len(Point)))
    assert all(point.meaning for point in Point)
    assert len({point.meaning for point in Point}) == len(Point)


def test_every_point_is_somewhere_in_the_server() -> None:
    source = "".join(
        path.read_text()
        for package in ("supervisor", "chaos")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "points.py"
    )
    assert [point.name for point in Point if f".{point.name}" not in source] == []


@pytest.mark.parametrize("k", [1, 3])
def test_an_arm_fires_at_its_kth_pass_and_never_again(points: PointMap, k: int) -> None:
    number = points.arm(arm(k=k))
    pass_point = points.for_process(Role.BACKEND, 1)
    assert points.fired(number) is None
    assert passes_until_hit(pass_point) == k
    assert points.fired(number) == os.getpid()
    assert passes_until_hit(pass_point) is None
    assert passes_until_hit(points.for_process(Role.BACKEND, 1)) is None


def test_an_arm_fires_in_the_process_that_it_is_meant_for(points: PointMap) -> None:
    points.arm(arm(nth=2))
    for role in CHILD_ROLES:
        if role is not Role.BACKEND:
            assert passes_until_hit(points.for_process(role, 2)) is None
    assert passes_until_hit(points.for_process(Role.BACKEND, 1)) is None
    assert passes_until_hit(points.for_process(Role.BACKEND, 2), ELSEWHERE) is None
    assert passes_until_hit(points.for_process(Role.BACKEND, 2)) == 1


def test_passes_are_counted_in_one_process(points: PointMap) -> None:
    points.arm(arm(k=3))
    first, second = points.for_process(Role.BACKEND, 1), points.for_process(Role.BACKEND, 2)
    first(HERE)
    first(HERE)
    assert passes_until_hit(second, limit=2) is None
    assert passes_until_hit(second) == 1


def test_of_two_arms_at_one_point_each_fires(points: PointMap) -> None:
    points.arm(arm(k=1))
    points.arm(arm(k=2))
    pass_point = points.for_process(Role.BACKEND, 1)
    assert [passes_until_hit(pass_point, limit=1) for _ in range(3)] == [1, 1, None]


def test_a_process_obeys_the_arms_that_stood_when_it_began(points: PointMap) -> None:
    before = points.for_process(Role.BACKEND, 1)
    points.arm(arm())
    assert passes_until_hit(before) is None
    after = points.for_process(Role.BACKEND, 2)
    points.disarm_all()
    assert passes_until_hit(after) is None, "a disarmed arm fired"


def test_there_is_room_for_so_many_arms_and_a_sentence_for_one_more(points: PointMap) -> None:
    numbers = [points.arm(arm(nth=nth)) for nth in range(1, MAX_ARMS + 1)]
    assert numbers == list(range(MAX_ARMS))
    with pytest.raises(ValueError, match="all 64 arms are taken"):
        points.arm(arm())
    points.disarm_all()
    assert points.arm(arm()) == 0


def test_counts_are_kept_by_role_and_point_whoever_is_armed(points: PointMap) -> None:
    points.arm(arm())
    for role, passes in ((Role.BACKEND, 3), (Role.WALWRITER, 2)):
        passes_until_hit(points.for_process(role, 1), limit=passes)
    points.for_process(Role.BACKEND, 2)(ELSEWHERE)
    assert points.counts() == {(Role.BACKEND, HERE): 1, (Role.WALWRITER, HERE): 2, (Role.BACKEND, ELSEWHERE): 1}


def test_what_a_killed_process_counted_and_fired_is_in_the_file(points: PointMap, path: Path) -> None:
    number = points.arm(Arm(Role.BACKEND, 0, HERE, 3, PointAction.SIGKILL))
    assert passing_program(path).returncode == -signal.SIGKILL
    assert points.counts() == {(Role.BACKEND, HERE): 3}
    reader = PointMap(path)
    assert reader.fired(number) == points.fired(number) != os.getpid()
    reader.close()


def test_exit_leaves_with_the_status_that_it_was_given(points: PointMap, path: Path) -> None:
    points.arm(Arm(Role.BACKEND, 0, HERE, 1, PointAction.EXIT, 7))
    assert passing_program(path).returncode == 7


def test_pass_only_says_that_somebody_was_there(points: PointMap) -> None:
    number = points.arm(Arm(Role.BACKEND, 0, HERE, 2, PointAction.PASS))
    pass_point = points.for_process(Role.BACKEND, 1)
    assert passes_until_hit(pass_point) is None
    assert points.fired(number) == os.getpid()


def passing_program(path: Path) -> subprocess.CompletedProcess[bytes]:
    """A process that passes the point ten times."""
    program = (
        "import sys; from pathlib import Path; from supervisor.points import Point, PointMap\n"
        "from supervisor.roles import Role\n"
        "p = PointMap(Path(sys.argv[1])).for_process(Role.BACKEND, 1)\n"
        "for _ in range(10): p(Point.COMMIT_AFTER_FLUSH)\n"
    )
    return subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)


def test_a_new_map_is_empty_also_over_an_old_one(points: PointMap, path: Path) -> None:
    points.arm(arm())
    points.for_process(Role.WALWRITER, 1)(HERE)
    again = PointMap(path, create=True)
    assert again.counts() == {}
    assert passes_until_hit(again.for_process(Role.BACKEND, 1)) is None
    again.close()


@pytest.mark.parametrize("content", [b"", b"x" * MAP_SIZE, b"x" * (MAP_SIZE - 8)])
def test_another_file_is_no_map(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="points map"):
        PointMap(path)


def test_a_map_that_is_not_there_is_not_made_by_a_server(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PointMap(path)
    assert not path.exists()
