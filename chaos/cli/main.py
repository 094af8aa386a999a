"""The command line as a whole: verbs, and how an error becomes a sentence and an exit status.

Exit statuses: 0 held, 1 finding, 2 interrupted, 3 harness error, 4 usage, 5 inconclusive. click would exit with
2 on wrong usage; that is mapped to 4, because 2 is an interrupted run.
"""

from __future__ import annotations

import sys

import click

from chaos.cli.bundle import bundle
from chaos.cli.data import controldata, init, points, serve, waldump
from chaos.cli.demo import demo
from chaos.cli.doctor import doctor
from chaos.cli.evidence import judge, report
from chaos.cli.explain import explain
from chaos.cli.faults import faults
from chaos.cli.plan import plan, plans
from chaos.cli.reload import reload
from chaos.cli.replay import replay
from chaos.cli.run import run_command
from chaos.cli.verify import verify
from chaos.defects.defect import StaleDefectError
from chaos.errors import CampaignError, PlanError
from chaos.targets.target import TargetError
from chaos.verdict import ExitCode
from reports.rundir import RunDirectoryError
from supervisor import VERSION
from supervisor.errors import StartupError
from workloads.registry import WorkloadUnavailable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="crashbed")
def crashbed() -> None:
    """Crash a server on purpose; prove what survived.

    \b
    crashbed run                       20 kills of the built-in server, a verdict, a report
    crashbed run --kills 300           more of them
    crashbed run smoke                 a plan that is shipped; see crashbed plans
    crashbed run your.toml             a plan of your own, also for any server of several processes
    crashbed replay out/... --cycle 7  one cycle again
    crashbed explain out/...           how its first failure came about
    crashbed run --resume out/...      go on with a run that was cut off
    crashbed bundle out/...            a run in one file, for a bug report
    crashbed demo                      a server with a planted defect: see a red run
    crashbed doctor                    what this machine permits
    crashbed init -D data && crashbed serve -D data

    Exit status: 0 held, 1 finding, 2 interrupted, 3 harness error, 4 usage, 5 inconclusive.
    """


for command in (
    run_command,
    plan,
    plans,
    replay,
    judge,
    report,
    explain,
    bundle,
    demo,
    doctor,
    init,
    serve,
    reload,
    verify,
    waldump,
    controldata,
    points,
    faults,
):
    crashbed.add_command(command)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    try:
        result = crashbed.main(arguments, prog_name="crashbed", standalone_mode=False)
        return int(result) if isinstance(result, int) else ExitCode.HELD
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except PlanError as error:
        click.echo(f"crashbed: {error}", err=True)
        return ExitCode.USAGE
    except StartupError as error:
        click.echo(f"crashbed: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return ExitCode.HARNESS_ERROR
    except (CampaignError, TargetError, RunDirectoryError, StaleDefectError, WorkloadUnavailable) as error:
        click.echo(f"crashbed: {error}", err=True)
        return ExitCode.HARNESS_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"crashbed: {where}{error.strerror or error}", err=True)
        return ExitCode.HARNESS_ERROR
    except SystemExit:
        # How click ends when nobody reads its output: with 1, which is the status of a finding.
        return ExitCode.HARNESS_ERROR


if __name__ == "__main__":
    sys.exit(run())
