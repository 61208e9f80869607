"""The monthly report: which parts it puts first, what it says of changes, and that the page is safe
and whole whatever the data hold.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from medallion_assets import plots
from medallion_assets.partitions import add_months
from medallion_assets.report.cells import qty
from medallion_assets.report.data import (
    FORECAST_COLUMNS,
    FORMER_COLUMNS,
    SHOWN_PARTS,
    ReportData,
    expected_costs,
    vintage_reason,
)
from medallion_assets.report.page import monthly_report
from medallion_assets.report.watchlists import WRONG, watchlists
from medallion_assets.tables import (
    CHAMPION,
    DECILES,
    DEMAND_ANOMALY,
    DEMAND_FORECAST_TOTAL,
    FORECAST_ACCURACY,
    FORECAST_CHANGE,
    MODEL_EVALUATION,
)
from resources.settings import PromotionSettings

ORIGIN, BEFORE = 202402, 202401
COSTS = PromotionSettings(over_rate=0.1, under_rate=0.5)
EVIL = "<script>alert('x')</script>"


def forecast(
    part: str, qty: float, origin: int = ORIGIN, spread: float = 0.0, **others: Any
) -> list[dict[str, Any]]:
    """Rows of gold.demand_forecast of a part for two months: deciles from qty - spread to qty +
    spread.
    """
    common = {
        "part_number": part,
        "status": "forecast",
        "reason": None,
        "demand_class": "smooth",
        "model": "theta",
        "trained_yyyymm": origin,
    }
    common |= {"registry_version": 1, "forecast_qty": qty} | {
        name: qty + spread * (i - 4) / 4 for i, name in enumerate(DECILES)
    }
    return [
        {**common, "horizon": h, "target_yyyymm": add_months(origin, h)} | others for h in (1, 2)
    ]


def excluded(
    part: str, reason: str = "no sale in 25 months, active_months is 24"
) -> dict[str, Any]:
    empty = dict.fromkeys(["forecast_qty", *DECILES])
    return {
        **forecast(part, 0.0)[0],
        **empty,
        "horizon": 0,
        "target_yyyymm": ORIGIN,
        "status": "excluded",
        "reason": reason,
        "model": None,
    }


def total_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of gold.demand_forecast_total of forecast rows, of all parts and of each class: q10 is
    10 below and q90 20 above what is expected, and 24 of 30 past totals lay between.
    """
    sums: dict[tuple[str, str, int], float] = {}
    for row in rows:
        if row["horizon"]:
            for kind, name in (("all", "all"), ("demand_class", row["demand_class"])):
                key = (kind, name, row["target_yyyymm"])
                sums[key] = sums.get(key, 0.0) + row["forecast_qty"]
    measured = {"coverage_80": 0.8, "origin_month_count": 30, "target_month_count": 8}
    return [
        {"segment_kind": kind, "segment": name, "target_yyyymm": month, "forecast_qty": qty}
        | {"q10": qty - 10, "q90": qty + 20, "method": "joint_errors"}
        | measured
        for (kind, name, month), qty in sums.items()
    ]


def report_data(
    rows: list[dict[str, Any]], former: list[dict[str, Any]] | None = None, **others: Any
) -> ReportData:
    """A report of these rows; every part costs 2 and is of class A."""
    parts = sorted({row["part_number"] for row in [*rows, *(former or [])]})
    empty = {
        spec: pd.DataFrame(columns=list(spec.column_names))
        for spec in (FORECAST_ACCURACY, FORECAST_CHANGE, DEMAND_ANOMALY, MODEL_EVALUATION, CHAMPION)
    }
    totals = pd.DataFrame(total_rows(rows), columns=list(DEMAND_FORECAST_TOTAL.column_names))
    fields: dict[str, Any] = {
        "origin": ORIGIN,
        "vintage": 1,
        "before": BEFORE if former is not None else None,
        "forecast": pd.DataFrame(rows, columns=list(FORECAST_COLUMNS)),
        "former": pd.DataFrame(former or [], columns=list(FORMER_COLUMNS)),
        "changes": empty[FORECAST_CHANGE],
        "vintages": pd.DataFrame(columns=["vintage", "published_at", "reason"]),
        "features": pd.DataFrame({"part_number": parts, "abc_class": "A", "unit_price": 2.0}),
        "actual": pd.DataFrame({"part_number": parts, "demand_qty": 10.0}),
        "demand": pd.DataFrame(
            {"yyyymm": [202303, 202401, ORIGIN], "demand_qty": [10.0, 20.0, 30.0]}
        ),
        "totals": totals,
        "accuracy": empty[FORECAST_ACCURACY],
        "sold_by_class": pd.DataFrame(
            {"target_yyyymm": [202401, 202402], "demand_class": "smooth", "actual_qty": [7.0, 9.0]}
        ),
        "judged": pd.DataFrame(
            columns=["target_yyyymm", "demand_class", "actual_qty", "forecast_qty", "q10", "q90"]
        ),
        "evaluation": empty[MODEL_EVALUATION],
        "decisions": empty[CHAMPION],
        "retraining": pd.DataFrame(),
        "costs": COSTS,
        "anomalies": empty[DEMAND_ANOMALY],
        "anomaly_rate": 0.05,
        "served_ahead": pd.DataFrame(
            columns=["part_number", "target_yyyymm", "forecast_qty", "q10", "q90"]
        ),
        "is_simulated": False,
    }
    return ReportData(**fields | others)


def page(
    data: ReportData,
    history: dict[str, list[float]] | None = None,
    descriptions: dict[str, str] | None = None,
) -> str:
    rows = [
        (part, add_months(data.origin, place + 1 - len(values)), qty)
        for part, values in (history or {}).items()
        for place, qty in enumerate(values)
    ]
    demand = pd.DataFrame(rows, columns=["part_number", "yyyymm", "demand_qty"])
    return monthly_report(data, watchlists(data), demand, descriptions or {}, "abc")


def listed(data: ReportData, title: str) -> list[str]:
    return [
        part
        for found in watchlists(data)
        if found.title == title
        for part in found.rows["part_number"]
    ]


class Elements(HTMLParser):
    """Tags of a page with their attributes, and the text outside of script and style."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open[-1:]):
            self.text += data


@pytest.fixture(scope="module", autouse=True)
def plain_pictures() -> Any:
    """Pictures are tested beside their code; here one drawing serves all pages."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = plots.svg(Figure(figsize=(1, 1)))
        patch.setattr(plots, "svg", lambda figure: drawn)
        yield


def test_a_part_number_is_text_whatever_it_holds() -> None:
    """Markup in a part number, a description or a reason of exclusion is shown, and is no element
    of the page.
    """
    data = report_data(
        [*forecast(EVIL, 9.0, spread=3.0), excluded("P2", EVIL)],
        [*forecast(EVIL, 1.0, BEFORE), *forecast("P2", 1.0, BEFORE)],
    )
    text = page(data, {EVIL: [3.0, 4.0]}, {EVIL: "<b onclick=x>bold</b>"})
    scripts = [tag for tag, _ in Elements(text).tags if tag == "script"]
    assert len(scripts) == 1
    assert "b" not in [tag for tag, _ in Elements(text).tags]
    assert EVIL in Elements(text).text
    assert EVIL not in text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address but the page's own anchors and pictures that are in it, and a policy that forbids
    the rest.
    """
    elements = Elements(page(report_data(forecast("P1", 5.0, spread=1.0))))
    addresses = [
        value or ""
        for _, found in elements.tags
        for name, value in found.items()
        if name in ("src", "href")
    ]
    assert len(addresses) > 6
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in addresses)
    policy = next(
        found["content"]
        for tag, found in elements.tags
        if found.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in str(policy)
    assert any(found.get("name") == "viewport" for _, found in elements.tags)


def test_every_picture_has_its_title_on_the_page() -> None:
    """As a caption and as the text for who can't see it; the drawing itself has none."""
    elements = Elements(
        page(report_data(forecast("P1", 5.0, spread=1.0), forecast("P1", 9.0, BEFORE)))
    )
    titles = [str(found["alt"]) for tag, found in elements.tags if tag == "img"]
    assert "Demand of all parts and its forecast" in titles
    assert "Parts with the largest error" in titles
    assert all(title in elements.text for title in titles)


def test_equal_data_give_an_equal_page() -> None:
    """No clock and no random name is in it, and it says what it was made from."""
    data = report_data(forecast("P1", 5.0, spread=1.0), forecast("P1", 4.0, BEFORE))
    assert page(data) == page(data)
    assert '<meta name="made-from" content="abc">' in page(data)


def test_the_first_origin_says_that_there_is_nothing_to_compare() -> None:
    """Without an earlier forecast there are no changes, and no list that needs one."""
    data = report_data(forecast("P1", 5.0, spread=1.0))
    assert "This is the first forecast that was published" in page(data)
    assert [found.title for found in watchlists(data)] == ["Largest expected cost of error"]


def test_a_month_without_forecasts_is_a_page_too() -> None:
    """Where every part is excluded, and nothing was ever decided or judged, the page says so."""
    text = Elements(page(report_data([excluded("P1")]))).text
    assert "0 parts are forecast (none); 1 are not active." in text
    assert "Nothing was decided since the forecast before." in text
    assert "Nothing that was served is over yet" in text


def test_a_part_without_history_has_its_forecast_alone() -> None:
    """A part announced this month has a sparkline of its forecast."""
    text = page(
        report_data(forecast("NEW", 5.0, spread=2.0, demand_class="new", status="new_part"))
    )
    assert "demand of 0 months; forecast 5.0, 5.0" in text


def test_the_expected_cost_of_error_by_hand() -> None:
    """Deciles 6 to 14 about 10 at price 2: units too many 10 and too few 10 over nine deciles, for
    two months.
    """
    rows = pd.DataFrame(forecast("P1", 10.0, spread=4.0))
    cost = expected_costs(rows, pd.Series({"P1": 2.0}), COSTS)
    assert cost["P1"] == pytest.approx(2 * 2.0 * (0.1 * 10 + 0.5 * 10) / 9)


def test_parts_come_in_order_of_cost_and_those_without_a_price_last() -> None:
    """The widest distribution first; of a part without a price no cost is known, and it is not on
    the list.
    """
    data = report_data(
        [
            *forecast("P1", 10.0, spread=1.0),
            *forecast("P2", 10.0, spread=4.0),
            *forecast("P3", 10.0, spread=9.0),
        ]
    )
    data.features.loc[2, "unit_price"] = None
    assert listed(data, "Largest expected cost of error") == ["P2", "P1"]


def test_a_jump_is_more_than_half_of_the_former_interval() -> None:
    """A forecast that moved by 3 where q10 to q90 were 4 wide has jumped; one that moved by 1, or
    not at all above its q90, has not.
    """
    unlikely = dict.fromkeys(DECILES, 0.0)
    data = report_data(
        [*forecast("P1", 13.0), *forecast("P2", 11.0), *forecast("P3", 5.0, **unlikely)],
        [
            *forecast("P1", 10.0, BEFORE, 2.0),
            *forecast("P2", 10.0, BEFORE, 2.0),
            *forecast("P3", 5.0, BEFORE, **unlikely),
        ],
    )
    assert listed(data, "Forecasts that jumped") == ["P1"]
    told = next(
        found for found in watchlists(data) if found.title == "Forecasts that jumped"
    ).rows.iloc[0]
    assert (told["told"], told["figure"]) == (
        "13.0 in the 1 month that both forecast, 10.0 said before",
        6.0,
    )


def test_parts_that_turned_intermittent_or_died() -> None:
    """From smooth to lumpy is new; lumpy before and now is not; excluded now and forecast before is
    dead, excluded twice is not.
    """
    data = report_data(
        [
            *forecast("P1", 5.0, demand_class="lumpy"),
            *forecast("P2", 5.0, demand_class="lumpy"),
            excluded("P3"),
            excluded("P4"),
        ],
        [
            *forecast("P1", 5.0, BEFORE),
            *forecast("P2", 5.0, BEFORE, demand_class="lumpy"),
            *forecast("P3", 7.0, BEFORE),
            excluded("P4"),
        ],
    )
    assert listed(data, "Newly intermittent") == ["P1"]
    assert listed(data, "Newly dead") == ["P3"]
    text = page(data)
    assert "no sale in 25 months, active_months is 24; 14.0 was expected before" in text
    assert "smooth until the forecast before, lumpy now" in text


def test_the_largest_error_is_that_of_the_origin_month() -> None:
    """Sold 10 each in February: forecast 4 in January for it is worse than 9, and what was right is
    not listed.
    """
    data = report_data(
        forecast("P1", 5.0),
        [*forecast("P1", 4.0, BEFORE), *forecast("P2", 9.0, BEFORE), *forecast("P3", 10.0, BEFORE)],
    )
    assert listed(data, WRONG) == ["P1", "P2"]
    assert "sold 10.0, forecast 4.0 (4.0 to 4.0)" in page(data)


def test_long_lists_are_cut_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more parts than are shown the page holds the first, and tells how many there are."""
    data = report_data(
        [row for n in range(30) for row in forecast(f"P{n:02}", 10.0, spread=1.0 + n)]
    )
    found = watchlists(data)[0]
    assert (found.count, len(found.rows), found.rows["part_number"].iloc[0]) == (
        30,
        SHOWN_PARTS,
        "P29",
    )
    assert f"The first {SHOWN_PARTS} of 30 parts." in page(data)
    assert "P05" not in page(data)


def test_totals_of_a_month_split_by_what_is_the_same() -> None:
    """March: P1 went from 4 to 5, P2 came with 3, P3 went with 7; the page's rows say so."""
    data = report_data(
        [*forecast("P1", 5.0), *forecast("P2", 3.0)],
        [*forecast("P1", 4.0, BEFORE), *forecast("P3", 7.0, BEFORE)],
    )
    rows = re.findall(r"<td[^>]*>2024-03</td>(?:<td[^>]*>[^<]*</td>)+", page(data))
    cells = [re.findall(r">([^<]+)</td>", row) for row in rows]
    assert ["2024-03", "11.0", "8.0", "+1.0", "+3.0", "-7.0"] in cells


def test_why_a_vintage_came_is_what_its_reasons_share() -> None:
    """The reason of the row itself is left out."""
    reasons = [
        "vintage 2: version 3 serves instead of 2; 12 cells changed",
        "vintage 2: version 3 serves instead of 2; 12 cells changed; no sale",
    ]
    assert vintage_reason(reasons, 2) == "version 3 serves instead of 2; 12 cells changed"
    assert vintage_reason([], 1) == ""


def decision(number: int, month: int, demand_class: str, what: str, reason: str) -> dict[str, Any]:
    row = {
        "yyyymm": month,
        "decision_number": number,
        "demand_class": demand_class,
        "decision": what,
        "champion": "theta",
    }
    return row | {
        "actor": "policy",
        "champion_wql": 0.5,
        "baseline_wql": 0.8,
        "reason": reason,
        "registry_version": number,
    }


def test_decisions_since_the_forecast_before_are_told() -> None:
    """Those of the month are in the table and in the summary, older ones are not; a decision to
    train stands beside them.
    """
    decisions = pd.DataFrame(
        [
            decision(1, BEFORE, "lumpy", "denied", "too few"),
            decision(2, ORIGIN, "smooth", "promoted", "certainly better"),
        ]
    )
    retraining = pd.DataFrame(
        [{"yyyymm": ORIGIN, "decision": "retrain", "reason": "drift in two months", "run_id": "r"}]
    )
    text = Elements(
        page(
            replace(
                report_data(forecast("P1", 5.0), []), decisions=decisions, retraining=retraining
            )
        )
    ).text
    assert "certainly better" in text
    assert "New champions: theta for smooth." in text
    assert "too few" not in text
    assert "drift in two months" in text


def accuracy(month: int, lag: int, segment: str, **figures: Any) -> dict[str, Any]:
    kind = "all" if segment == "all" else "demand_class"
    row = {
        "yyyymm": month,
        "lag": lag,
        "segment_kind": kind,
        "segment": segment,
        "cell_count": 10,
        "actual_qty": 100.0,
        "forecast_qty": 150.0,
    }
    row |= {
        "mae": 5.0,
        "rmse": 6.0,
        "wape": 0.5,
        "bias": 0.5,
        "wql": 0.4,
        "coverage_80": 0.6,
        "naive_wape": 0.4,
        "value_added": -0.25,
    }
    return row | {"mean_absolute_change": 0.1, "is_backfilled": False} | figures


def test_weaknesses_are_marked_in_words() -> None:
    """Half too high, too few within the interval and worse than the naive forecast: each with its
    reason; stability stands beside.
    """
    rows = pd.DataFrame([accuracy(ORIGIN, 1, segment) for segment in ("all", "smooth")])
    text = page(
        replace(report_data(forecast("P1", 5.0), forecast("P1", 5.0, BEFORE)), accuracy=rows)
    )
    for mark in ("far too high or low", "interval too narrow", "worse than the naive forecast"):
        assert f'<abbr title="{mark}">!</abbr>' in text
    assert (
        "100 units were sold in 2024-02, and 150 forecast a month ahead, 50% more; 60% of parts lay"
        " within q10 to q90." in text
    )
    assert ">10%</td>" in text


def evaluated(model: str, kind: str, segment: str, horizon: int, wql: float) -> dict[str, Any]:
    row = {
        "yyyymm": ORIGIN,
        "model": model,
        "segment_kind": kind,
        "segment": segment,
        "horizon": horizon,
        "cell_count": 10,
        "wql": wql,
    }
    return row | {"bias": 0.0, "coverage_80": 0.8, "calibration_80": 0.8, "actual_qty": 10.0}


def test_the_serving_model_is_judged_on_its_evidence() -> None:
    """By class beside the baseline, by ABC class and by months ahead; models that do not serve are
    left out.
    """
    rows = [evaluated("theta", "demand_class", "smooth", h, 0.4 + h / 10) for h in (0, 1, 2)]
    rows += [
        evaluated("seasonal_naive", "demand_class", "smooth", 0, 0.8),
        evaluated("theta", "abc_class", "B", 0, 0.45),
    ]
    rows += [evaluated("other", "demand_class", "smooth", 0, 0.1)]
    text = Elements(
        page(replace(report_data(forecast("P1", 5.0)), evaluation=pd.DataFrame(rows)))
    ).text
    assert "The serving models on the evidence of 2024-02, by class" in text
    assert "+50%" in text
    assert "0.450" in text
    assert "0.600" in text
    assert "0.100" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (0.123, "0.12"),
        (0.0, "0"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_quantities_have_the_digits_they_need(value: float | None, text: str) -> None:
    """Thousands without, units with one, less than one with two."""
    assert qty(value) == text


def test_totals_have_intervals_of_their_own() -> None:
    """The table and the first sentence show q10 and q90 of the total, not sums of the parts', and
    how often past totals fell within.
    """
    data = report_data([*forecast("P1", 60.0, spread=50.0), *forecast("P2", 40.0, spread=30.0)])
    text = Elements(page(data)).text
    assert "100 units are expected in 2024-03 (90.0 to 120)" in text
    assert "80% of 30 past totals fell within it" in text
    assert "sum of q10" not in text


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({"method": "full_dependence", "origin_month_count": 0}, "No past total is known yet"),
        ({"origin_month_count": 12}, "Few months make it wider"),
        ({"origin_month_count": 0, "coverage_80": None}, "not measured yet"),
    ],
)
def test_intervals_of_little_evidence_say_so(others: dict[str, Any], told: str) -> None:
    """Without past totals, with few of them, and before one could be measured."""
    rows = forecast("P1", 60.0)
    totals = [{**row, **others} for row in total_rows(rows)]
    assert told in Elements(page(report_data(rows, totals=pd.DataFrame(totals)))).text


def test_improbable_demand_stands_on_the_page_with_its_label() -> None:
    """The section shows what was sold and published, money and label; of a month of which nothing
    was published it says that nothing is ruled out.
    """
    anomaly = dict.fromkeys(DEMAND_ANOMALY.column_names) | {
        "yyyymm": ORIGIN,
        "part_number": "P-77",
        "direction": "high",
        "demand_qty": 500.0,
        "forecast_qty": 10.0,
        "q10": 8.0,
        "q90": 12.0,
        "adjusted_p_value": 0.0004,
        "tested_part_count": 20,
        "money_at_stake": 980.0,
        "label": "one_off",
        "label_note": "a fair",
        "labelled_by": "ada",
    }
    sold = dict.fromkeys(FORECAST_ACCURACY.column_names, 0.5) | {
        "yyyymm": ORIGIN,
        "lag": 1,
        "segment_kind": "all",
        "segment": "all",
        "cell_count": 20,
    }
    data = report_data(
        forecast("A", 1.0),
        anomalies=pd.DataFrame([anomaly]),
        accuracy=pd.DataFrame([sold]),
    )
    shown = page(data)
    for told in ("P-77", "10.0 (8.0 to 12.0)", "one_off by ada: a fair", "1 is improbable"):
        assert told in shown
    nothing = page(report_data(forecast("A", 1.0)))
    assert "so no anomaly is claimed, and none is ruled out" in nothing


def test_a_forecast_without_totals_has_a_page() -> None:
    """Where an older release published it and totals are not made yet, the page shows the rest."""
    rows = forecast("P1", 60.0)
    none = pd.DataFrame(columns=list(DEMAND_FORECAST_TOTAL.column_names))
    assert (
        "60.0 units are expected in 2024-03 and"
        in Elements(page(report_data(rows, totals=none))).text
    )
