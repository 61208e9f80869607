"""Policies that assets share: each a named function with the failure it prevents."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, TypeVar

import dagster as dg

from resources.delta_tables import ConcurrentWrite
from resources.errors import Refused, without_stack
from resources.stalled_queries import QueryStalled

RETRY_DELAY_SECONDS = 30
# As engines, MLflow and databases tell of what can pass: most hand errors on as text.
TRANSIENT = re.compile(
    r"UNAVAILABLE|DEADLINE_EXCEEDED|IOException|SocketException|ConnectException|OperationalError"
    r"|database is locked"
    r"|Connection (refused|reset|aborted)|[Tt]imed? ?out|Temporary failure|Input/output error|No"
    r" space left|Task failed while writing"
    r"|(Object|Local)StoreError|object store"
)

P = ParamSpec("P")
R = TypeVar("R")


def landing_freshness() -> dg.FreshnessPolicy:
    """Prevents a pipeline that stopped from looking healthy: without a new delivery for 40 days it
    is stale, 35 days warns.

    For the register of deliveries only. A policy looks at the newest materialization of any month,
    so that an old month that is made again would turn a table of months fresh; which months those
    lack is told by their check no_month_waits.
    """
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(days=40), warn_window=timedelta(days=35)
    )


def clear_refusals(body: Callable[P, R]) -> Callable[P, R]:
    """Prevents a mistake that no repeat can mend from being tried again, and its message from
    drowning in a stack trace.

    Refusals of data, configuration, writes and tracking become dg.Failure with their message; all
    other errors pass.
    """

    @functools.wraps(body)
    def refusing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return body(*args, **kwargs)
        except Refused as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return refusing


def retry_transient(body: Callable[P, R]) -> Callable[P, R]:
    """Prevents a short loss of storage or network from failing a night's run: one more try of an
    asset after RETRY_DELAY_SECONDS.

    Refusals become failures as in clear_refusals and are not tried again; nor are Dagster's own
    errors, nor one that would come again (is_transient). An interrupt passes and ends the run. It
    is no dg.RetryPolicy because that tries an interrupted step again: a run that was cancelled
    would go on.
    """
    refusing = clear_refusals(body)

    @functools.wraps(body)
    def trying(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return refusing(*args, **kwargs)
        except (dg.Failure, dg.RetryRequested, dg.DagsterError):
            raise
        except Exception as error:
            if not is_transient(error):
                raise
            raise dg.RetryRequested(max_retries=1, seconds_to_wait=RETRY_DELAY_SECONDS) from error

    return trying


def is_transient(error: BaseException | None) -> bool:
    """Prevents a mistake from costing the delay of a repeat: whether an error, or what caused it,
    can pass by itself.

    Losses of files, network, servers and locks can; a wrong plan, value or type of a query or of
    Python code can't.
    """
    while error is not None:
        if isinstance(error, OSError | ConcurrentWrite | QueryStalled):
            return True
        if TRANSIENT.search(f"{type(error).__name__}: {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False


def step_message(event: dg.DagsterEvent) -> str:
    """Prevents a failed step from being told differently by command and sensor: its own
    description, that it was stopped, or the first cause of its error without the stack.
    """
    data = event.step_failure_data
    if data.error_source and data.error_source.name == "INTERRUPT":
        return "stopped; what is stored stays, and the next run goes on from there"
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause is not None and cause.cause is not None:
        cause = cause.cause
    return without_stack(cause.message) if cause else "no message"
