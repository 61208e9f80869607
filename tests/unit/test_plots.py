"""The pictures: what they say, that they fit, and that empty frames give a picture too."""

import base64
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from medallion_assets import plots

EVALUATION = pd.DataFrame(
    [
        ("naive", "all", "all", 0, 0.8, 900.0, 0),
        ("naive", "demand_class", "lumpy", 0, 0.9, 400.0, 0),
        ("ets", "all", "all", 0, 0.6, 900.0, 0),
        ("ets", "demand_class", "lumpy", 0, 0.7, 400.0, 0),
        ("ets", "demand_class", "lumpy", 1, 0.5, 100.0, 0),
        ("ets", "all", "all", 2, 0.65, 450.0, 0),
        ("ets", "all", "all", 1, 0.55, 450.0, 0),
        ("ets", "region", "South", 0, 0.4, 300.0, 0),
        ("ets", "region", "North", 0, 0.3, 600.0, 0),
        ("odd", "all", "all", 0, np.nan, 0.0, 17),
    ],
    columns=[
        "model",
        "segment_kind",
        "segment",
        "horizon",
        "wql",
        "actual_qty",
        "missing_cell_count",
    ],
)
TOTALS = pd.DataFrame(
    [(202401, 90.0, 100.0, 60.0, 130.0), (202402, 110.0, 95.0, 55.0, 125.0)],
    columns=["target_yyyymm", "actual_qty", "forecast_qty", "q10", "q90"],
)
HISTOGRAM = pd.DataFrame({"tenth": range(1, 11), "cell_count": [5, *[10] * 8, 15]})
IMPORTANCE = pd.DataFrame({"feature": ["demand_lag_1", "unit_price"], "importance": [3.0, 1.0]})
HISTORY = pd.DataFrame(
    {"yyyymm": [202312, 202401], "demand_qty": [80.0, 20.0], "is_complete": [True, False]}
)
JUDGED = TOTALS.assign(demand_class=["smooth", "lumpy"])
HISTORY_OF_PARTS = pd.DataFrame(
    {"part_number": ["US$1$", "US$1$"], "yyyymm": [202312, 202401], "demand_qty": [80.0, 20.0]}
)
FORECAST_OF_PARTS = TOTALS.assign(part_number=["US$1$", "P2"])
BY_LAG = pd.DataFrame(
    {
        "segment": ["smooth", "all", "all"],
        "lag": [1, 2, 1],
        "wql": [0.3, 0.5, 0.4],
        "coverage_80": [0.7, 0.8, 0.9],
    }
)
ACCURACY = pd.DataFrame(
    [
        (202402, 1, "all", "all", 0.3),
        (202401, 1, "all", "all", 0.2),
        (202402, 1, "demand_class", "smooth", -0.1),
        (202402, 2, "all", "all", 0.9),
        (202402, 1, "status", "fallback", 0.5),
    ],
    columns=["yyyymm", "lag", "segment_kind", "segment", "value_added"],
)
DECISIONS = pd.DataFrame(
    [
        (1, 202401, "smooth", "promoted", 0.4, 0.8, 1),
        (2, 202402, "smooth", "refreshed", 0.6, 0.8, 2),
        (3, 202402, "smooth", "released", 0.5, 0.8, 2),
        (4, 202401, "smooth", "restated", 0.1, 0.8, 2),
        (5, 202402, "lumpy", "denied", None, 0.8, 2),
    ],
    columns=[
        "decision_number",
        "yyyymm",
        "demand_class",
        "decision",
        "champion_wql",
        "baseline_wql",
        "registry_version",
    ],
)

CLASSED = pd.DataFrame(
    [("smooth", 1.0, 0.2), ("lumpy", 3.0, 0.9), ("new", 1.5, 0.1), ("lumpy", 12.0, None)],
    columns=["demand_class", "adi", "cv2"],
)

FIGURES = {
    "error_by_segment": lambda **options: plots.error_by_segment(
        EVALUATION, "ets", "naive", **options
    ),
    "forecast_against_actual": lambda **options: plots.forecast_against_actual(
        TOTALS, "ets", **options
    ),
    "calibration": lambda **options: plots.calibration(HISTOGRAM, "ets", **options),
    "feature_importance": lambda **options: plots.feature_importance(IMPORTANCE, "ets", **options),
    "model_comparison": lambda **options: plots.model_comparison(EVALUATION, **options),
    "demand_history": lambda **options: plots.demand_history(HISTORY, **options),
    "served_forecast": lambda **options: plots.served_forecast(HISTORY, TOTALS, **options),
    "forecast_by_class": lambda **options: plots.forecast_by_class(JUDGED, JUDGED, **options),
    "largest_errors": lambda **options: plots.largest_errors(
        HISTORY_OF_PARTS, FORECAST_OF_PARTS, **options
    ),
    "error_by_lag": lambda **options: plots.error_by_lag(BY_LAG, **options),
    "coverage_by_lag": lambda **options: plots.coverage_by_lag(BY_LAG, **options),
    "value_added": lambda **options: plots.value_added(ACCURACY, **options),
    "value_by_version": lambda **options: plots.value_by_version(DECISIONS, **options),
    "demand_classes": lambda **options: plots.demand_classes(CLASSED, **options),
}
EMPTY = {
    "error_by_segment": lambda: plots.error_by_segment(EVALUATION[:0], "ets", "naive"),
    "forecast_against_actual": lambda: plots.forecast_against_actual(TOTALS[:0], "ets"),
    "calibration": lambda: plots.calibration(HISTOGRAM[:0], "ets"),
    "feature_importance": lambda: plots.feature_importance(IMPORTANCE[:0], "ets"),
    "model_comparison": lambda: plots.model_comparison(EVALUATION[:0]),
    "demand_history": lambda: plots.demand_history(HISTORY[:0]),
    "served_forecast": lambda: plots.served_forecast(HISTORY, TOTALS[:0]),
    "forecast_by_class": lambda: plots.forecast_by_class(JUDGED[:0], JUDGED[:0]),
    "largest_errors": lambda: plots.largest_errors(HISTORY_OF_PARTS, FORECAST_OF_PARTS[:0]),
    "error_by_lag": lambda: plots.error_by_lag(BY_LAG[:0]),
    "coverage_by_lag": lambda: plots.coverage_by_lag(BY_LAG[:0]),
    "value_added": lambda: plots.value_added(ACCURACY[:0]),
    "value_by_version": lambda: plots.value_by_version(DECISIONS[:0]),
    "demand_classes": lambda: plots.demand_classes(CLASSED[:0]),
}


def title(figure: Figure) -> str:
    return figure.get_suptitle() or figure.axes[0].get_title(loc="left")


def tick_labels(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_has_a_title_and_named_axes(name: str) -> None:
    """A reader knows what is shown and in which unit."""
    figure = FIGURES[name]()
    assert figure.axes[0].get_title(loc="left")
    assert figure.axes[-1].get_xlabel()
    assert figure.axes[0].get_ylabel() or figure.get_supylabel()


@pytest.mark.parametrize("name", FIGURES)
def test_simulated_data_say_so(name: str) -> None:
    """The title carries the warning, and only then."""
    assert title(FIGURES[name](is_simulated=True)).endswith(" (simulated data)")
    assert "simulated" not in title(FIGURES[name]())


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_show_is_said(name: str) -> None:
    """An empty frame gives a picture with the reason instead of an error."""
    assert any(text.get_text() for text in EMPTY[name]().axes[0].texts)


def test_a_model_is_shown_beside_the_baseline() -> None:
    """One bar per segment: classes, months ahead in order, regions by demand; the baseline's mark
    where it has one.
    """
    figure = plots.error_by_segment(EVALUATION, "ets", "naive")
    assert tick_labels(figure) == [
        "all parts",
        "class lumpy",
        "1 month ahead",
        "2 months ahead",
        "region North",
        "region South",
    ]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.6, 0.7, 0.55, 0.65, 0.3, 0.4]
    assert list(figure.axes[0].lines[0].get_xdata())[:2] == [0.8, 0.9]


def test_models_are_ordered_by_error_and_incomplete_ones_named() -> None:
    """The best model is on top, one without figures last with the cells it lacks."""
    assert tick_labels(plots.model_comparison(EVALUATION)) == [
        "ets",
        "naive",
        "odd\nlacks 17 cells",
    ]


def test_parts_are_drawn_in_their_class() -> None:
    """The legend counts the parts of each class; new parts and those without demand are left
    out.
    """
    [legend] = plots.demand_classes(CLASSED).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "smooth (1)",
        "erratic (0)",
        "intermittent (0)",
        "lumpy (1)",
    ]


def test_calibration_shows_the_share_within_80_percent() -> None:
    """Eight tenths of ten cells of 100."""
    figure = plots.calibration(HISTOGRAM, "ets")
    assert any("80.0%" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_panel_per_class_and_part() -> None:
    """Classes in their order, parts in that of the forecast; a part number with dollar signs is
    drawn as it is.
    """
    assert [
        axes.get_title(loc="left") for axes in plots.forecast_by_class(JUDGED, JUDGED[:0]).axes
    ] == ["smooth", "lumpy"]
    figure = plots.largest_errors(HISTORY_OF_PARTS, FORECAST_OF_PARTS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["US$1$", "P2"]
    assert "US$1$" in plots.svg(figure)


def test_value_added_is_drawn_one_month_ahead() -> None:
    """All parts and classes in order of months; other lags and segments are left out."""
    lines = {
        line.get_label(): list(line.get_ydata())
        for line in plots.value_added(ACCURACY).axes[0].lines
        if line.get_label()[0] != "_"
    }
    assert lines == {"smooth": [-0.1], "all parts": [0.2, 0.3]}


def test_versions_are_compared_by_what_they_save() -> None:
    """One point per month and class, the last decision's; restated ones and those without figures
    are left out.
    """
    line = plots.value_by_version(DECISIONS).axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 1]
    assert list(line.get_ydata()) == pytest.approx([1 - 0.4 / 0.8, 1 - 0.5 / 0.8])


def test_an_svg_is_narrow_and_the_same_each_time() -> None:
    """A picture for a page: text as text, so many inches wide, no time of making, and no title,
    which the page writes.
    """
    first, second = (plots.svg(FIGURES["model_comparison"](), width=4.0) for _ in range(2))
    assert first == second
    assert 'width="288pt"' in first
    assert "<text" in first
    assert "Forecast error by model" not in re.sub(r"<!--.*?-->", "", first)


def test_drawing_changes_no_input() -> None:
    """The frames are read only."""
    before = EVALUATION.copy(deep=True)
    plots.model_comparison(EVALUATION)
    pd.testing.assert_frame_equal(EVALUATION, before)


def test_markdown_holds_a_png_with_its_title() -> None:
    """What the UI shows inline is the picture itself."""
    match = re.fullmatch(
        r"!\[(.+)\]\(data:image/png;base64,(.+)\)",
        plots.rendered(FIGURES["calibration"]()).markdown,
    )
    assert match is not None
    assert match.group(1) == "Calibration: ets"
    assert base64.b64decode(match.group(2)).startswith(b"\x89PNG")


def test_markdown_is_made_to_fit() -> None:
    """A picture of noise, half a megabyte at full size, is stored at a lower resolution."""
    figure = Figure(figsize=(8, 8))
    figure.add_axes((0, 0, 1, 1)).imshow(np.random.default_rng(7).random((800, 800)))
    assert len(plots.rendered(figure, "noise").markdown) < plots.MAX_MARKDOWN_BYTES


def test_a_picture_is_the_same_bytes_each_time() -> None:
    """A run that is repeated stores the same metadata."""
    assert plots.rendered(FIGURES["model_comparison"]()) == plots.rendered(
        FIGURES["model_comparison"]()
    )


def test_a_class_is_drawn_with_its_demand_before_anything_was_judged() -> None:
    """The first published forecast stands behind the demand of its class."""
    sold = JUDGED[["target_yyyymm", "demand_class", "actual_qty"]]
    coming = JUDGED.drop(columns="actual_qty")
    figure = plots.forecast_by_class(JUDGED[:0], coming, sold)
    drawn = [line for line in figure.axes[0].get_lines() if line.get_label() == "actual"]
    assert len(drawn[0].get_xdata()) > 0


def test_months_of_an_axis_are_evenly_apart() -> None:
    """Demand of thirteen months and a forecast of six have ticks every half year, in whatever order
    the months come.
    """
    months = [202412, *range(202501, 202513)]
    sold = pd.DataFrame({"target_yyyymm": months[::-1], "demand_class": "smooth"})
    sold["actual_qty"] = 5.0
    coming = pd.DataFrame({"target_yyyymm": range(202601, 202607), "demand_class": "smooth"})
    coming = coming.assign(forecast_qty=5.0, q10=4.0, q90=6.0)
    figure = plots.forecast_by_class(JUDGED[:0], coming, sold)
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "smooth")
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "2024-12",
        "2025-06",
        "2025-12",
        "2026-06",
    ]
