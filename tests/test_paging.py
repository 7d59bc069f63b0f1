"""Every change is seen, whatever the pages hold, and a Butler whose pages lead nowhere is given up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.paging import EPOCH, MOST_STEPS, OVERLAP, PAGE, STEP, Paging

DAY = EPOCH + timedelta(days=20_000)


def pulled(paging: Paging, at_us: list[int], inclusive: bool = False) -> tuple[set[int], int]:
    """Which changes (each at so many microseconds) are seen, in how many pages, of a Butler that does as it should."""
    rows = sorted((DAY + timedelta(microseconds=us), number) for number, us in enumerate(at_us))
    seen: set[int] = set()
    for pages in range(1, 2000):
        after = [row for row in rows if row[0] > paging.after or (inclusive and row[0] == paging.after)]
        page = after[: paging.limit]
        seen |= {number for _, number in page}
        if not paging.goes_on(len(page), max((at for at, _ in page), default=None)):
            return seen, pages
    raise AssertionError("it never ends")


@given(st.lists(st.integers(0, 3_000_000), max_size=1200, unique=True), st.booleans())
def test_every_change_is_seen_when_no_two_are_of_one_moment(at_us: list[int], inclusive: bool) -> None:
    paging = Paging.since(None)
    seen, _ = pulled(paging, at_us, inclusive)
    assert seen == set(range(len(at_us)))
    assert paging.whole


@given(st.lists(st.integers(0, 5), max_size=900), st.booleans())
def test_what_may_have_been_passed_over_is_said(at_us: list[int], inclusive: bool) -> None:
    paging = Paging.since(None)
    seen, _ = pulled(paging, at_us, inclusive)
    assert seen == set(range(len(at_us))) or not paging.whole


def test_a_page_overlaps_the_one_before_by_a_second() -> None:
    paging = Paging.since(DAY)
    assert paging.after == DAY - OVERLAP
    assert paging.goes_on(PAGE, DAY + timedelta(hours=1))
    assert (paging.after, paging.limit) == (DAY + timedelta(hours=1) - OVERLAP, PAGE)
    assert not paging.goes_on(PAGE - 1, DAY + timedelta(hours=2))
    assert paging.whole


def test_a_full_page_of_nothing_new_doubles_once_and_then_goes_by_microseconds() -> None:
    paging = Paging.since(DAY)
    assert paging.goes_on(PAGE, DAY)
    assert (paging.after, paging.limit) == (DAY - OVERLAP, PAGE)
    assert paging.goes_on(PAGE, DAY)
    assert (paging.after, paging.limit) == (DAY - OVERLAP, 2 * PAGE)
    assert paging.goes_on(2 * PAGE, DAY)
    assert (paging.after, paging.limit, paging.whole) == (DAY - STEP, 2 * PAGE, True)
    assert paging.goes_on(2 * PAGE, DAY)
    assert (paging.after, paging.whole) == (DAY, False)


@pytest.mark.parametrize("newest", [None, EPOCH, DAY])
def test_pages_that_lead_nowhere_are_given_up(newest: object) -> None:
    """All dated in the future, or the same for ever."""
    paging = Paging.since(None)
    pages = 1
    while paging.goes_on(paging.limit, newest):  # type: ignore[arg-type]
        pages += 1
        assert pages <= MOST_STEPS + 3
    assert not paging.whole


def test_one_that_knows_no_limit_has_said_all_in_one_page() -> None:
    paging = Paging.since(None)
    assert not paging.goes_on(PAGE + 1, DAY)
    assert paging.whole


def test_it_goes_back_before_no_watermark_and_no_beginning() -> None:
    assert Paging.since(EPOCH).after == EPOCH
    paging = Paging.since(DAY)
    assert paging.goes_on(PAGE, EPOCH)
    assert paging.after == DAY - OVERLAP
