"""An export against its receipts: what was changed, is missing, or has none."""

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmring_verify.ledger import load
from llmring_verify.canonical_json import Refused, Unchecked
from tests.vectors.generate.good import CALLS, OLD, UNPRICED, old
from tests.vectors.generate.__main__ import FOLDER
from tests.vectors.generate.second_signer import ACTIVE, Doc, batch, call, export_line, usage
from tests.support.verify_cli import KEYS, run


class Export:
    """An export and its receipts, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def audit(self, calls: list[Doc], receipts: list[Doc], *earlier: list[Doc]) -> tuple[int, Any]:
        names = []
        for number, each in enumerate((calls, *earlier)):
            names.append(self.folder / f"{number}.jsonl")
            names[-1].write_text("".join(map(export_line, each)))
        told = self.folder / "receipts.jsonl"
        told.write_text("".join(f"{json.dumps(each)}\n" for each in receipts))
        more = [part for name in names[1:] for part in ("--earlier", name)]
        code, text = run("export", names[0], told, *more, "--json", *KEYS)
        return code, json.loads(text.splitlines()[-1])


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path)


def ids(*places: int) -> list[str]:
    return [CALLS[each]["log_id"] for each in places]


SEVEN = ACTIVE.seal(batch(81, CALLS))


def test_an_export_that_differs_is_told_call_by_call(export: Export) -> None:
    assert export.audit(CALLS[::-1], [SEVEN])[0] == 0
    for name, changed in {
        "cost": {"currency": "USD", "amount": "0.0000000009", "source": "registry"},
        "tokens": {"input": 1, "output": 1, "cached_input": 1},
        "logged_at": CALLS[1]["logged_at"],
        "status": "error",
        "details": {"service_tier": "flex"},
    }.items():
        now = [CALLS[0], CALLS[1], CALLS[2] | {name: changed}, *CALLS[3:]]
        assert export.audit(now, [SEVEN])[0] == 1
        code, told = export.audit(now, [SEVEN], CALLS)
        assert (code, told["calls"]) == (1, {"changed": ids(2), "missing": [], "surplus": []})
    code, told = export.audit([*CALLS[:3], *CALLS[4:]], [SEVEN], CALLS)
    assert (code, told["calls"]) == (1, {"changed": [], "missing": ids(3), "surplus": []})
    code, told = export.audit([*CALLS, call(9)], [SEVEN])
    found = {"changed": [], "missing": [], "surplus": [call(9)["log_id"]]}
    assert (code, told["calls"]) == (1, found)
    code, told = export.audit([*CALLS, CALLS[0]], [SEVEN])
    assert code == 1
    assert "twice" in told["wrong"][0]


def test_batches_between_one_another_are_told_apart(export: Export) -> None:
    outer = ACTIVE.seal(batch(82, [CALLS[0], CALLS[6]]))
    inner = ACTIVE.seal(batch(83, CALLS[1:6]))
    assert export.audit(CALLS, [outer, inner])[0] == 0
    # Of those that are woven into each other, a list of what one of them holds tells both.
    odd, even = (ACTIVE.seal(batch(number, CALLS[number % 2 :: 2])) for number in (85, 84))
    assert export.audit(CALLS, [odd, even])[0] == 1
    assert export.audit(CALLS, [odd, even], CALLS[::2])[0] == 0


def test_a_call_may_have_many_receipts_that_agree(export: Export) -> None:
    again = ACTIVE.seal(usage(86, CALLS[3]))
    assert export.audit(CALLS, [SEVEN, again])[0] == 0
    other = ACTIVE.seal(usage(87, CALLS[3] | {"model": "gpt-4o"}))
    code, told = export.audit(CALLS, [SEVEN, other])
    assert (code, told["calls"]["changed"]) == (1, ids(3))


def test_a_receipt_that_miscounts_is_told_of(export: Export) -> None:
    calls = [*CALLS[:6], CALLS[6] | {"cost": UNPRICED}]
    assert export.audit(calls, [ACTIVE.seal(batch(88, calls))])[0] == 0
    honest = batch(89, calls)
    cost = honest["totals"]["cost"] | {"amount": "0.0000000001"}
    for lie in (
        {"totals": honest["totals"] | {"cost": cost}},
        {"to": calls[6]["logged_at"][:-2] + "9Z"},
    ):
        code, told = export.audit(calls, [ACTIVE.seal(honest | lie)])
        assert code == 1
        assert "times or totals" in told["wrong"][0]


def test_one_is_told_of_as_one(export: Export) -> None:
    for calls, receipts, told in (
        (CALLS, [SEVEN], "Certified by 1 receipt, as they are here: 7 of 7 calls."),
        (CALLS[:1], [SEVEN], "Certified by 1 receipt, as they are here: 1 of 1 call."),
        (CALLS, [SEVEN, ACTIVE.seal(usage(86))], "by 2 receipts, as they are here: 7 of 7 calls."),
        (CALLS, [], "by 0 receipts, as they are here: 0 of 7 calls."),
    ):
        assert told in export.audit(calls, receipts, CALLS)[1]["proved"][0]
    alone = ACTIVE.seal(batch(91, CALLS[:1]))
    wrong = export.audit(CALLS[1:], [alone, old(OLD)])[1]["wrong"]
    assert any("its 1 call: not here, or not as signed" in each for each in wrong)
    assert any(each.startswith("1 old receipt: no") for each in wrong)
    assert any(each.startswith("calls in no receipt (6)") for each in wrong)


def test_old_receipts_certify_no_calls(export: Export) -> None:
    code, told = export.audit(CALLS, [SEVEN, old(OLD)])
    assert code == 1
    assert "1 old receipt: no" in told["wrong"][0]


COST = '"first_cost": 0.0000000003'
LINES = [
    (COST, '"first_cost": 0.00000000031'),
    (COST, '"first_cost": 1e999999999'),
    (COST, '"first_cost": -0.0000000003'),
    (COST, '"first_cost": "a lot"'),
    (COST, '"first_cost": null'),
    (COST, '"first_cost": []'),
    (COST, '"first_cost": true'),
    (COST, '"first_cost": "0.0000000003"'),
    (COST, '"first_cost": "  0.0_000000003 "'),
    (COST, '"first_cost": "\uff13e-10"'),
    (COST, '"first_cost": 2e9'),
    (COST, f'"first_cost": {10**4000}'),
    (COST, '"first_cost": 1e99999999999999999999'),
    ('"temperature": 0.7', '"temperature": -1e99999999999999999999'),
    (COST, '"cost_today": 3'),
    ("2026-11-21T07:00:03.003003Z", "2026-11-21T07:00:03.003003+00:00"),
    ("2026-11-21T07:00:03.003003Z", "yesterday"),
    ('"2026-11-21T07:00:03.003003Z"', "[]"),
    ('"2026-11-21T07:00:03.003003Z"', "20261121"),
    ('"input_tokens": 1003', '"input_tokens": 1003.0'),
    ('"status": "ok"', '"status": "fine"'),
    ('"profile"', '"provider"'),
    ("{", "["),
]


@pytest.mark.parametrize(("before", "after"), LINES)
def test_a_line_that_no_export_writes_is_not_read(before: str, after: str, tmp_path: Path) -> None:
    lines = "".join(map(export_line, CALLS))
    assert before in lines
    (tmp_path / "calls.jsonl").write_text(lines.replace(before, after))
    code, told = run("export", tmp_path / "calls.jsonl", FOLDER / "receipts.jsonl", *KEYS)
    assert code == 2
    assert "line 3" in told or "line 1" in told


NAMES = st.sampled_from(sorted(json.loads(export_line(CALLS[0]))))
NUMBERS = st.from_regex(
    r"-?[1-9][0-9]{0,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,20})?", fullmatch=True
)
VALUES = st.recursive(
    NUMBERS | st.sampled_from(["null", "true", "[]", "{}", '""']) | st.text().map(json.dumps),
    lambda each: each.map("[{}]".format) | each.map('{{"a": {}}}'.format),
)


@given(NAMES, VALUES)
def test_a_line_is_read_or_refused(name: str, value: str) -> None:
    line = json.dumps(json.loads(export_line(CALLS[0])) | {name: "@"}).replace('"@"', value)
    with suppress(Refused, Unchecked):
        assert len(load(io.BytesIO(line.encode())).leaves) == 1


def test_times_before_all_servers_are_times(export: Export) -> None:
    first = CALLS[0] | {"logged_at": "0001-01-01T00:00:00.000000Z"}
    assert export.audit([first], [ACTIVE.seal(batch(90, [first]))])[0] == 0
