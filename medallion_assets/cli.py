"""The command line. Each command is a thin front of Dagster jobs and tables, and imports only what
it uses, so that help comes at once.

What the jobs do lies in the assets; what a person reads at the end lies in summary.py.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from medallion_assets.environment import configuration_file, configure, current_settings
from resources.errors import Refused
from resources.settings import Settings

if TYPE_CHECKING:
    from medallion_assets.champion.promotion import Decision
    from medallion_assets.champion.stewardship import Stewardship
    from medallion_assets.operations import export as exports
    from medallion_assets.plans import Plan, Plans

# What starts a step, in Databricks' words; steps.py says how runs are tagged by it.
TRIGGERS = (
    "command_line",
    "one_time",
    "periodic",
    "file_arrival",
    "table",
    "run_job_task",
    "continuous",
    "retry",
)

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def main() -> None:
    """Entry point of the ``medallion`` command; a refusal ends it with its message and exit code
    2.
    """
    try:
        commands(standalone_mode=True)
    except SystemExit as ended:
        # A task of a Databricks job that ends by an exit counts as failed, whatever its code.
        if ended.code:
            raise
    except Refused as error:
        Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(
            str(error), style="red", markup=False
        )
        sys.exit(2)


@click.group(help="Raw sales orders in, an evidence-backed monthly forecast by part number out.")
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="the configuration; by default the file that MEDALLION_CONFIG names",
)
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="NAME=VALUE",
    help="value of a ${NAME} in the configuration, before the environment's; may be repeated",
)
def commands(file: Path | None, values: tuple[str, ...]) -> None:
    """All commands read one configuration."""
    if wrong := [value for value in values if not re.fullmatch(r"\w+=.*", value, re.DOTALL)]:
        raise Refused(f"--set {wrong[0]}: write NAME=VALUE, for a ${{NAME}} in the configuration")
    configure(file, dict(value.split("=", 1) for value in values))


@commands.command(
    help="Take in what landed, forecast the newest complete month, and show the result."
)
def run() -> None:
    """Everything from orders to the served forecast; what is up to date is left as it is."""
    settings = current_settings()
    sources = ", ".join(source.name for source in settings.sources)
    console.print(
        f"{configuration_file()}: orders of {sources}, engine {settings.engine}, tables below"
        f" {settings.lakehouse_root}"
    )
    _simulate(settings)
    from medallion_assets.operations import runs, summary

    with runs.session(settings, console) as session:
        is_changed = session.everything()
    summary.show(settings, console, is_changed)


@commands.command(
    help=(
        "Make assets for a range of months: a job (monthly_data, monthly_forecast, publish,"
        " retraining, register_deliveries) or a list of tables such as"
        " gold.demand_forecast,gold.champion. For schedulers: reports to Dagster Pipes where it"
        " started this process."
    )
)
@click.argument("assets")
@click.option(
    "--from",
    "first",
    required=True,
    help="yyyymm; or first, newest (with lines), complete (newest), running (the present one)",
)
@click.option("--to", "last", required=True, help="as --from")
@click.option(
    "--trigger",
    type=click.Choice(TRIGGERS, case_sensitive=False),
    default=TRIGGERS[0],
    show_default=True,
    help="what started it, in Databricks' words; one_time and command_line are a person",
)
@click.option("--dagster-pipes-context", hidden=True)
@click.option("--dagster-pipes-messages", hidden=True)
def step(assets: str, first: str, last: str, trigger: str, **_read_by_pipes: str | None) -> None:
    """What is up to date is left as it is; exit code 2 where a step failed."""
    from medallion_assets.operations import steps

    names = [name.strip() for name in assets.split(",") if name.strip()]
    steps.run(current_settings(), names, (first, last), trigger, console)


@commands.command(
    help="Dagster's interface and daemon, and MLflow's interface, on this machine only."
)
@click.option("--port", default=3000, show_default=True, help="Dagster's port")
@click.option("--mlflow-port", default=5000, show_default=True, help="MLflow's port")
def ui(port: int, mlflow_port: int) -> None:
    """Serve until interrupted."""
    from medallion_assets.environment import prepare_dagster_home
    from medallion_assets.operations import servers
    from resources import place

    settings = current_settings()
    _simulate(settings)
    for sentence in place.settle(settings):
        console.print(sentence, style="yellow", markup=False)
    servers.serve(settings, prepare_dagster_home(settings), port, mlflow_port, console)


@commands.command(help="Write the files of the simulated wholesaler.")
def simulate() -> None:
    """Files that are there already and equal are left alone."""
    settings = current_settings()
    if settings.simulation is None:
        raise Refused("this configuration has no section simulation; use config/sample.yaml")
    _simulate(settings)


@commands.command(
    help="Show the newest forecast, champions and accounting without running anything."
)
def status() -> None:
    """Reads the tables without Spark."""
    from medallion_assets.operations import summary

    summary.show(current_settings(), console, is_changed=None)


@commands.command(
    help="Check the configuration, the engine, its parts and the machine; say what is missing."
)
def doctor() -> None:
    """The engine is started and answers small queries. Exit code 1 where something needed is
    missing; the lakehouse is only read.
    """
    from medallion_assets.operations import doctor as examination

    if not examination.show(current_settings, configuration_file(), console):
        sys.exit(1)


@commands.command(
    help=(
        "Say what order files hold, and propose a configuration for them; FILE is a file, a folder"
        " of files or of a Delta table. Exit code 0: the proposal can run; 3: a question is open."
    )
)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="write the configuration there; by default it is printed",
)
@click.option("--overwrite", is_flag=True, help="replace the file if it exists")
@click.option(
    "--count/--no-count",
    default=None,
    help="run the rules on all lines to count what they accept; by default up to 64 MB a file",
)
def inspect(files: tuple[Path, ...], out: Path | None, overwrite: bool, count: bool | None) -> None:
    """Reads a sample without a configuration; tables of a lakehouse are not touched."""
    from medallion_assets.operations.inspection import inspecting

    if inspecting.inspect(files, out, overwrite, count, console).open_questions:
        sys.exit(3)


@commands.command(
    help="Forecast held-out months through the front door, in a new lakehouse, and score them."
)
@click.option(
    "--set",
    "series",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parquet file of unique_id, ds, y",
)
@click.option(
    "--horizon", required=True, type=click.IntRange(1, 24), help="months held out and forecast"
)
@click.option(
    "--origin",
    type=int,
    help="yyyymm, last month known; for order files, which the configuration names",
)
@click.option(
    "--rolling",
    default=0,
    type=click.IntRange(0),
    help="so many origins a month apart, each scored one step ahead",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="new folder for lakehouse and results",
)
@click.option(
    "--model", "models", multiple=True, help="only these models of the zoo; may be repeated"
)
def accuracy(  # noqa: PLR0913, PLR0917 - the options of the command
    series: Path | None,
    horizon: int,
    origin: int | None,
    rolling: int,
    out: Path,
    models: tuple[str, ...],
) -> None:
    """Of a series file, or of the configured orders from an origin."""
    from medallion_assets.bench import holdout as benchmark

    asked = benchmark.Benchmark(horizon, rolling, out, models, console)
    if series:
        benchmark.of_series(series, asked)
    elif origin:
        benchmark.of_orders(current_settings(), origin, asked)
    else:
        raise Refused(
            "give --set with a series file, or --origin for the orders of the configuration"
        )


@commands.command(
    help=(
        "When each policy of retraining would have trained on history, what it costs, and how good"
        " its forecasts would be."
    )
)
@click.option("--from", "first", required=True, type=int, help="yyyymm, first origin")
@click.option(
    "--to",
    "last",
    required=True,
    type=int,
    help="yyyymm, last origin; the months after it through the horizon must be there",
)
@click.option(
    "--horizon", required=True, type=click.IntRange(1, 24), help="months forecast at each origin"
)
@click.option(
    "--every",
    multiple=True,
    default=(3, 6),
    show_default=True,
    type=click.IntRange(1),
    help="months between trainings; may be repeated",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="new folder for lakehouse and results",
)
def replay(first: int, last: int, horizon: int, every: tuple[int, ...], out: Path) -> None:
    """Of the configured orders, in a lakehouse of its own that is given a month at a time."""
    from medallion_assets.bench import replay as replaying

    settings = current_settings()
    _simulate(settings)
    replaying.replay(settings, first, last, horizon, every, out, console)


@commands.command(help="A forecast made elsewhere (given_forecasts) beside ours, on its own cells.")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="page to write, .html")
def compare(name: str, out: Path | None) -> None:
    """WQL of both by class, the difference and its interval; nothing is fitted."""
    from medallion_assets.operations import compare as comparing

    comparing.compare(current_settings(), name, out, console)


@commands.command(help="Where the served forecast of a part for a month came from.")
@click.argument("part")
@click.argument("target_month", type=int)
@click.option(
    "--origin",
    type=int,
    help="yyyymm of the forecast; by default the newest that reaches the month",
)
def explain(part: str, target_month: int, origin: int | None) -> None:
    """Model, version, run, evidence, demand, features and order lines; nothing is run."""
    from medallion_assets.operations import explain as explanation

    explanation.explain(current_settings(), part, target_month, origin, console)


@commands.command(
    help="Write the current forecast of an origin to a file, checked against the table."
)
@click.option(
    "--origin",
    type=int,
    help="yyyymm the forecast was made at the end of; by default the newest published",
)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "xlsx", "parquet"]),
    default="csv",
    show_default=True,
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="by default forecast_<origin>.<format> in this folder",
)
@click.option("--overwrite", is_flag=True, help="replace the file if it exists")
@click.option(
    "--apostrophe",
    is_flag=True,
    help="csv: an apostrophe before part numbers that a spreadsheet would take for formulas",
)
def export(
    origin: int | None,
    file_format: exports.Format,
    out: Path | None,
    overwrite: bool,
    apostrophe: bool,
) -> None:
    """Read without Spark, in pieces; nothing appears under the name that does not equal the
    table.
    """
    from medallion_assets.operations import export as exports
    from medallion_assets.operations import runs

    asked = exports.Export(file_format, out, overwrite, apostrophe)
    exports.export(runs.reader(current_settings()), origin, asked, console)


@commands.command(
    help=(
        "Fit the model of an MLflow run again from what it pinned, and compare forecast by"
        " forecast."
    )
)
@click.argument("run_id")
def reproduce(run_id: str) -> None:
    """Exit code 1 where the numbers differ."""
    from medallion_assets.operations import reproduce as reproduction
    from medallion_assets.operations import runs

    settings = current_settings()
    with runs.session(settings, console) as session:
        told = reproduction.reproduce(
            settings, runs.writer(settings), session.tracking(), run_id, console.print
        )
    for change in told.changed:
        console.print(f"[yellow]changed since[/yellow] {change}")
    if told.is_equal:
        console.print(
            f"[green]equal[/green]: {told.cells:,} forecasts with their deciles, largest difference"
            f" {told.largest_difference:.1e}"
        )
        return
    console.print(
        f"[red]different[/red]: {told.differing_cells:,} of {told.cells:,} forecasts, by up to"
        f" {told.largest_difference:.2%}; {told.missing_cells:,} are in one of the two only"
        + ("" if told.changed else "; commit and libraries are those of the run")
    )
    sys.exit(1)


@commands.group(
    help="Show what a destructive act would do, and store it under a name; nothing is changed."
)
def plan() -> None:
    """TABLE is layer.table; of a model's slices of gold.zoo_forecast also --model."""


@plan.command(
    name="backfill", help="Compute stored months again although their inputs did not change."
)
@click.argument("table")
@click.option("--from", "first", required=True, type=int, help="yyyymm")
@click.option("--to", "last", required=True, type=int, help="yyyymm")
@click.option("--model", default="", help="the model, for gold.zoo_forecast")
def plan_backfill(table: str, first: int, last: int, model: str) -> None:
    """Months without data need no plan and are not in it."""
    from medallion_assets import plans
    from medallion_assets.partitions import month_range

    _plan(lambda made: made.backfill(plans.table_named(table), month_range(first, last), model))


@plan.command(name="restore", help="Make a table what it was at an earlier version.")
@click.argument("table")
@click.option("--to", "version", required=True, type=int, help="Delta version")
def plan_restore(table: str, version: int) -> None:
    """Months that changed since are due again."""
    from medallion_assets import plans

    _plan(lambda made: made.restore(plans.table_named(table), version))


@plan.command(name="vacuum", help="Remove files that no version within the retention needs.")
@click.argument("table")
def plan_vacuum(table: str) -> None:
    """The retention is retention.reproducible_months."""
    from medallion_assets import plans

    _plan(lambda made: made.vacuum(plans.table_named(table)))


@commands.command(
    help="Carry out a plan, exactly as it was shown; refused when the table moved since."
)
@click.argument("plan_id")
def apply(plan_id: str) -> None:
    """See `medallion history plans`."""
    from medallion_assets import plans
    from medallion_assets.operations import runs

    settings = current_settings()
    with runs.session(settings, console) as session:
        session.apply(plans.find(runs.reader(settings), plan_id), getpass.getuser())
    console.print(f"applied {plan_id}")


@commands.command(help="Return to the version before an applied plan, where that is possible.")
@click.argument("plan_id")
def undo(plan_id: str) -> None:
    """Refused when the table was written after the plan."""
    from medallion_assets import plans
    from medallion_assets.operations import runs

    settings = current_settings()
    with runs.session(settings, console) as session:
        found = session.plans(getpass.getuser()).undo(plans.find(runs.reader(settings), plan_id))
    console.print(
        f"undone {plan_id}: {found.table.id} is what it was at version {found.table_version}"
    )


@commands.command(
    help=(
        "Let the model of a proposal serve; DECISION is its number in `medallion history"
        " champions`."
    )
)
@click.argument("decision", type=int)
@click.option("--why", required=True, help="stored with the decision")
def approve(decision: int, why: str) -> None:
    """With promotion.mode approve; the forecast is published anew."""
    _steward(lambda steward: steward.approve(decision, why))


@commands.command(
    help=(
        "Serve a demand class (or all) by the fit of an earlier registered version, and hold it"
        " there."
    )
)
@click.argument("demand_class")
@click.option(
    "--to", "version", required=True, type=int, help="registered version that served before"
)
@click.option("--why", required=True, help="stored with the decision")
@click.option(
    "--months",
    type=click.IntRange(1),
    help="hold for so many months of evidence; without it until `medallion release`",
)
def rollback(demand_class: str, version: int, why: str, months: int | None) -> None:
    """The class is evaluated, but not promoted; the forecast is published anew."""
    from medallion_assets.champion.stewardship import classes_named

    _steward(lambda steward: steward.rollback(classes_named(demand_class), version, why, months))


@commands.command(help="Let evidence decide a held demand class (or all) again.")
@click.argument("demand_class")
@click.option("--why", required=True, help="stored with the decision")
def release(demand_class: str, why: str) -> None:
    """What serves stays until the next training."""
    from medallion_assets.champion.stewardship import classes_named

    _steward(lambda steward: steward.release(classes_named(demand_class), why))


@commands.command(
    help="Say what a part's demand in a month was; it is shown and honoured, and changes no demand."
)
@click.argument("part")
@click.argument("month", type=int)
@click.option(
    "--as",
    "label",
    type=click.Choice(["real", "error", "one_off"]),
    help="real: as it was; error: it was not so; one_off: no sign of more",
)
@click.option("--withdraw", is_flag=True, help="take the label back")
@click.option("--note", required=True, help="why; stored with the label")
def label(part: str, month: int, label: str | None, withdraw: bool, note: str) -> None:
    """MONTH is yyyymm. A correction of demand comes as a file."""
    from medallion_assets.operations import runs

    if withdraw == (label is not None):
        raise Refused("give either --as real, error or one_off, or --withdraw")
    settings = current_settings()
    with runs.session(settings, console) as session:
        labelling = session.labelling(getpass.getuser())
        made = (
            labelling.give(part, month, label, note)
            if label
            else labelling.withdraw(part, month, note)
        )
    if made is None:
        console.print("It is labelled so already; nothing was stored.")
        return
    console.print(
        f"{made.part_number} {made.yyyymm}: {made.label}. `medallion run` brings what follows from"
        " it up to date."
    )


@commands.group(help="Who decided what, when and why.")
def history() -> None:
    """Read without Spark."""


@history.command(name="plans", help="Every plan, and what became of it.")
def plan_history() -> None:
    """Name, state, who, when and what it does."""
    from medallion_assets.operations import summary

    summary.plan_history(current_settings(), console)


@history.command(name="labels", help="Every label given or withdrawn, the newest last.")
def label_history() -> None:
    """Number, part, month, label, who, when and why."""
    from medallion_assets.operations import summary

    summary.label_history(current_settings(), console)


@history.command(help="Every decision on champions, the newest last.")
@click.option("--class", "demand_class", help="only this demand class")
def champions(demand_class: str | None) -> None:
    """Number, month, class, decision, model, version, who, figures and reason."""
    from medallion_assets.champion.stewardship import classes_named
    from medallion_assets.operations import summary

    summary.champion_history(current_settings(), console, classes_named(demand_class or "all"))


@commands.command(help="Write docs/tables.md from the table specifications.")
@click.option(
    "--folder", default="docs", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
def docs(folder: Path) -> None:
    """Only what differs is written."""
    from medallion_assets.operations import documents

    for path in documents.write(folder):
        console.print(f"wrote {path}")


def _plan(make: Callable[[Plans], Plan]) -> None:
    from medallion_assets.operations import runs

    settings = current_settings()
    with runs.session(settings, console) as session:
        made = make(session.plans(getpass.getuser()))
    console.print(f"[bold]{made.plan_id}[/bold] {made.sentence(runs.reader(settings))}")
    console.print(f"Nothing was changed. To do it: medallion apply {made.plan_id}")


def _steward(change: Callable[[Stewardship], Sequence[Decision]]) -> None:
    from medallion_assets.operations import runs

    settings = current_settings()
    with runs.session(settings, console) as session:
        session.steward(getpass.getuser(), change)


def _simulate(settings: Settings) -> None:
    from medallion_assets import simulation

    if settings.simulation is None:
        return
    wanted = settings.simulation
    simulated = simulation.Simulation(
        parts=wanted.parts,
        months=wanted.months,
        first_month=wanted.first_month,
        seed=wanted.seed,
        shift_month=wanted.shift_month,
    )
    written = simulation.write(simulated, Path(wanted.folder))
    if written:
        console.print(
            f"Simulated wholesaler: {len(written)} files of made-up orders written to"
            f" {wanted.folder}"
        )
