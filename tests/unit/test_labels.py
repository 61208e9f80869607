"""Labels: which hold, what they make stale, and which are refused."""

import pandas as pd
import pytest

from medallion_assets.labels import Label, Labelling, label_slices, standing
from medallion_assets.tables import DEMAND_LABEL, MONTHLY_DEMAND, REJECTED_LINES
from resources.errors import Refused
from tests.fakes import FakeLakehouse, filled

MONTH = 202402


@pytest.fixture
def lakehouse() -> FakeLakehouse:
    """Demand of P1 and a rejected line of P9 in one month."""
    made = FakeLakehouse()
    demand = filled(MONTHLY_DEMAND, part_number="P1", yyyymm=MONTH)
    line = filled(REJECTED_LINES, part_number=" p9", yyyymm=MONTH)
    made.merge(MONTHLY_DEMAND, made.create_frame(MONTHLY_DEMAND, [demand]), [MONTH])
    made.merge(REJECTED_LINES, made.create_frame(REJECTED_LINES, [line]), [MONTH])
    return made


def said(lakehouse: FakeLakehouse) -> list[tuple[str, int, str]]:
    """What holds."""
    rows = standing(lakehouse.rows(DEMAND_LABEL))
    return list(zip(rows["part_number"], rows["yyyymm"], rows["label"], strict=True))


def test_the_newest_label_holds_and_who_gave_it_is_stored(lakehouse: FakeLakehouse) -> None:
    """Two labels of one month are two rows; the second holds."""
    ada, bob = (Labelling(lakehouse, name, {}) for name in ("ada", "bob"))
    assert ada.give("p1 ", MONTH, "error", "typo") == Label("P1", MONTH, "error", "typo")
    bob.give("P1", MONTH, "real", "asked them")
    rows = lakehouse.rows(DEMAND_LABEL)
    assert rows[["label_number", "actor"]].to_numpy().tolist() == [[1, "ada"], [2, "bob"]]
    assert rows["labelled_at"].notna().all()
    assert said(lakehouse) == [("P1", MONTH, "real")]


def test_the_same_label_again_adds_nothing(lakehouse: FakeLakehouse) -> None:
    """A label that stands already is not stored once more."""
    ada = Labelling(lakehouse, "ada", {})
    ada.give("P1", MONTH, "one_off", "fair")
    assert ada.give("P1", MONTH, "one_off", "fair") is None
    assert len(lakehouse.rows(DEMAND_LABEL)) == 1


def test_a_withdrawn_label_is_as_if_it_had_not_been(lakehouse: FakeLakehouse) -> None:
    """After a withdrawal nothing holds and no month has a slice; another withdrawal is refused."""
    ada = Labelling(lakehouse, "ada", {})
    ada.give("P1", MONTH, "error", "typo")
    assert [s.yyyymm for s in label_slices(lakehouse)] == [MONTH]
    ada.withdraw("P1", MONTH, "it was right")
    assert said(lakehouse) == []
    assert label_slices(lakehouse) == []
    with pytest.raises(Refused, match="nothing to withdraw"):
        ada.withdraw("P1", MONTH, "once more")


def test_a_label_of_nothing_is_refused(lakehouse: FakeLakehouse) -> None:
    """Neither demand nor a rejected line: refused. A rejected line is enough, as it is spelled."""
    ada = Labelling(lakehouse, "ada", {})
    with pytest.raises(Refused, match="neither demand nor a rejected line"):
        ada.give("P2", MONTH, "real", "sure")
    with pytest.raises(Refused, match="202403"):
        ada.give("P1", 202403, "real", "sure")
    assert ada.give("P9", MONTH, "real", "a pallet") is not None


def test_a_slice_follows_what_is_said_and_nothing_else(lakehouse: FakeLakehouse) -> None:
    """Another label gives the month another version, and the same label the same."""
    ada = Labelling(lakehouse, "ada", {})
    ada.give("P1", MONTH, "error", "typo")
    first = label_slices(lakehouse)[0].data_version
    ada.give("P1", MONTH, "real", "no typo")
    second = label_slices(lakehouse)[0].data_version
    ada.give("P1", MONTH, "error", "typo")
    assert first != second
    assert label_slices(lakehouse)[0].data_version == first


def test_labels_follow_a_renamed_part() -> None:
    """A label of a former number is one of the last number of its part."""
    row = {"label_number": 1, "part_number": "OLD", "yyyymm": MONTH, "label": "error"}
    rows = pd.DataFrame([row | {"note": "", "actor": "ada"}])
    assert standing(rows, {"OLD": "NEW"})["part_number"].tolist() == ["NEW"]
