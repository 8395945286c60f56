"""Exports against their receipts: changed, missing and uncertified calls."""

import io
import json
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmring_verify import (
    CannotVerify,
    NotVerified,
    canonical_json,
    check_export,
    parse,
    read_keys,
    verify_receipt,
)
from llmring_verify.export_check import ExportIndex
from llmring_verify.receipt import call_from_export
from tests.support.verify_cli import KEYS, run
from tests.vectors.generate.files import FOLDER
from tests.vectors.generate.good import CALLS, LEGACY, UNPRICED, legacy
from tests.vectors.generate.second_signer import ACTIVE, Document, batch, call, export_line, usage


class Export:
    """An export and its receipts, in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check(
        self, calls: list[Document], receipts: list[Document], *earlier: list[Document]
    ) -> tuple[int, Any]:
        names = []
        for number, each in enumerate((calls, *earlier)):
            names.append(self.folder / f"{number}.jsonl")
            names[-1].write_text("".join(map(export_line, each)))
        output = self.folder / "receipts.jsonl"
        output.write_text("".join(f"{json.dumps(receipt)}\n" for receipt in receipts))
        more = [part for name in names[1:] for part in ("--earlier", name)]
        code, text = run("export", names[0], output, *more, "--json", *KEYS)
        return code, json.loads(text.splitlines()[-1])


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path)


def ids(*indexes: int) -> list[str]:
    return [CALLS[index]["log_id"] for index in indexes]


SEVEN = ACTIVE.envelope(batch(81, CALLS))


def test_differences_are_reported_call_by_call(export: Export) -> None:
    assert export.check(CALLS[::-1], [SEVEN])[0] == 0
    for name, changed in {
        "cost": {"currency": "USD", "amount": "0.0000000009", "source": "registry"},
        "tokens": {"input": 1, "output": 1, "cached_input": 1},
        "logged_at": CALLS[1]["logged_at"],
        "status": "error",
        "details": {"service_tier": "flex"},
    }.items():
        now = [CALLS[0], CALLS[1], CALLS[2] | {name: changed}, *CALLS[3:]]
        assert export.check(now, [SEVEN])[0] == 1
        code, output = export.check(now, [SEVEN], CALLS)
        assert (code, output["calls"]) == (1, {"changed": ids(2), "missing": [], "uncertified": []})
    code, output = export.check([*CALLS[:3], *CALLS[4:]], [SEVEN], CALLS)
    assert (code, output["calls"]) == (1, {"changed": [], "missing": ids(3), "uncertified": []})
    code, output = export.check([*CALLS, call(9)], [SEVEN])
    found = {"changed": [], "missing": [], "uncertified": [call(9)["log_id"]]}
    assert (code, output["calls"]) == (1, found)
    code, output = export.check([*CALLS, CALLS[0]], [SEVEN])
    assert code == 1
    assert "twice" in output["errors"][0]


def test_overlapping_batches_are_resolved(export: Export) -> None:
    outer = ACTIVE.envelope(batch(82, [CALLS[0], CALLS[6]]))
    inner = ACTIVE.envelope(batch(83, CALLS[1:6]))
    assert export.check(CALLS, [outer, inner])[0] == 0
    # If batches interleave, the calls of one of them resolve both.
    odd, even = (ACTIVE.envelope(batch(number, CALLS[number % 2 :: 2])) for number in (85, 84))
    assert export.check(CALLS, [odd, even])[0] == 1
    assert export.check(CALLS, [odd, even], CALLS[::2])[0] == 0


def test_several_receipts_of_a_call_must_agree(export: Export) -> None:
    again = ACTIVE.envelope(usage(86, CALLS[3]))
    assert export.check(CALLS, [SEVEN, again])[0] == 0
    other = ACTIVE.envelope(usage(87, CALLS[3] | {"model": "gpt-4o"}))
    code, output = export.check(CALLS, [SEVEN, other])
    assert (code, output["calls"]["changed"]) == (1, ids(3))


def test_a_receipt_with_wrong_totals_is_reported(export: Export) -> None:
    calls = [*CALLS[:6], CALLS[6] | {"cost": UNPRICED}]
    assert export.check(calls, [ACTIVE.envelope(batch(88, calls))])[0] == 0
    honest = batch(89, calls)
    cost = honest["totals"]["cost"] | {"amount": "0.0000000001"}
    for lie in (
        {"totals": honest["totals"] | {"cost": cost}},
        {"to": calls[6]["logged_at"][:-2] + "9Z"},
    ):
        code, output = export.check(calls, [ACTIVE.envelope(honest | lie)])
        assert code == 1
        assert "time range or totals" in output["errors"][0]


def test_reports_use_singular_and_plural(export: Export) -> None:
    for calls, receipts, output in (
        (CALLS, [SEVEN], "7 of 7 calls certified by 1 receipt and unchanged."),
        (CALLS[:1], [SEVEN], "1 of 1 call certified by 1 receipt and unchanged."),
        (
            CALLS,
            [SEVEN, ACTIVE.envelope(usage(86))],
            "7 of 7 calls certified by 2 receipts and unchanged.",
        ),
        (CALLS, [], "0 of 7 calls certified by 0 receipts and unchanged."),
    ):
        assert output in export.check(calls, receipts, CALLS)[1]["proved"][0]
    alone = ACTIVE.envelope(batch(91, CALLS[:1]))
    wrong = export.check(CALLS[1:], [alone, legacy(LEGACY)])[1]["errors"]
    assert any("its 1 call: not found as signed" in each for each in wrong)
    assert any(each.startswith("1 legacy receipt: ") for each in wrong)
    assert any(each.startswith("calls certified by no receipt (6)") for each in wrong)


def test_legacy_receipts_certify_no_calls(export: Export) -> None:
    code, output = export.check(CALLS, [SEVEN, legacy(LEGACY)])
    assert code == 1
    assert "1 legacy receipt: " in output["errors"][0]


def test_a_program_checks_an_export() -> None:
    keys = read_keys((FOLDER / "keys.json").read_bytes())
    lines = (FOLDER / "receipts.jsonl").read_bytes().splitlines()
    receipts = [verify_receipt(parse(line), keys) for line in lines]
    with (FOLDER / "calls.jsonl").open("rb") as calls:
        check = check_export(calls, receipts)
    assert (len(check.certified()), check.missing(), check.uncertified()) == (8, set(), set())
    with (
        (FOLDER / "calls-later.jsonl").open("rb") as later,
        (FOLDER / "calls.jsonl").open("rb") as calls,
    ):
        check = check_export(later, receipts, [calls])
    differences = (check.missing(), check.changed, check.uncertified())
    assert [len(calls) for calls in differences] == [1, 1, 1]


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
def test_invalid_lines_are_rejected(before: str, after: str, tmp_path: Path) -> None:
    lines = "".join(map(export_line, CALLS))
    assert before in lines
    (tmp_path / "calls.jsonl").write_text(lines.replace(before, after))
    code, output = run("export", tmp_path / "calls.jsonl", FOLDER / "receipts.jsonl", *KEYS)
    assert code == 2
    assert "line 3" in output or "line 1" in output


NAMES = st.sampled_from(sorted(json.loads(export_line(CALLS[0]))))
NUMBERS = st.from_regex(
    r"-?[1-9][0-9]{0,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,20})?", fullmatch=True
)
VALUES = st.recursive(
    NUMBERS | st.sampled_from(["null", "true", "[]", "{}", '""']) | st.text().map(json.dumps),
    lambda each: each.map("[{}]".format) | each.map('{{"a": {}}}'.format),
)


@given(NAMES, VALUES)
def test_any_line_is_read_or_rejected(name: str, value: str) -> None:
    line = json.dumps(json.loads(export_line(CALLS[0])) | {name: "@"}).replace('"@"', value)
    with suppress(NotVerified, CannotVerify):
        assert len(ExportIndex.read(io.BytesIO(line.encode())).leaves) == 1


def test_the_earliest_time_is_accepted(export: Export) -> None:
    first = CALLS[0] | {"logged_at": "0001-01-01T00:00:00.000000Z"}
    assert export.check([first], [ACTIVE.envelope(batch(90, [first]))])[0] == 0


def details_of_export(number: str) -> object:
    line = export_line(CALLS[2] | {"details": {"audio_seconds": 1}})
    for separator in (":", ": "):
        line = line.replace(f'"audio_seconds"{separator}1}}', f'"audio_seconds": {number}}}')
    return call_from_export(canonical_json.parse(line.encode(), Decimal))["details"][
        "audio_seconds"
    ]


@pytest.mark.parametrize(
    ("number", "certified"),
    [("12", 12), ("12.0", 12), ("12.50", "12.5"), ("1e-6", "0.000001"), ("1.5E1", 15)],
)
def test_a_detail_with_a_fraction_is_certified_as_text(number: str, certified: object) -> None:
    assert details_of_export(number) == certified


@pytest.mark.parametrize("number", ["1e999999", "1.5e999999", "1e-999999", "-12.5e30", "[]"])
def test_a_detail_out_of_range_is_refused(number: str) -> None:
    with pytest.raises(NotVerified):
        details_of_export(number)
