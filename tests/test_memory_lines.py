"""The memory table says whose bytes they are, fits a terminal, and names what is wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from harness.anatomy.memory import figures
from harness.case import Case
from harness.plugins import Footprint
from harness.records.account import Driver, Held
from harness.report.memory import render
from tests.made import made_account

MIB = 2**20
STATE = Held(parameters=426 * MIB, gradients=MIB * 85 // 2, optimizer=MIB * 3 // 2, buffers=8_000)
WHOLE = Footprint(parameters=STATE.parameters, gradients=STATE.gradients, optimizer=STATE.optimizer)


def _account(**over):
    facts = {
        "kept": STATE,
        "at_update": STATE,
        "at_peak": replace(STATE, work=1_000 * MIB),
        "ends_bytes": (STATE.total,) * 4,
        "peak_resident_bytes": 2_000 * MIB,
        "plain_s": (0.2, 0.1, 0.1),
        "ledger_s": (9.0, 0.3, 0.3, 0.2),
    }
    return made_account(**(facts | over))


def _figures(name="ddp", ranks=2, options="", model="net", account=None, wanted=WHOLE):
    accounts = [account or _account()] * ranks
    strategy = SimpleNamespace(name=name, memory=wanted and (lambda share: wanted))
    return figures(Case.parse(f"{model}-{name}-{ranks}gpu-bs8{options}"), strategy, accounts)


def _lines(*cases):
    return list(render(cases))


def _row(name, *cases):
    (line,) = [line for line in _lines(*cases) if line.startswith(f"{name}-")]
    return line.split()[1:]


def test_each_case_has_a_row_of_mebibytes():
    row = _row("ddp", _figures())
    assert row[:9] == ["426", "42.5", "1.50", "-", "0.01", "-", "1000", "1470", "0"]
    assert row[9] == "470="


def test_a_prediction_that_is_not_met_is_marked_and_explained():
    small = replace(WHOLE, parameters=213 * MIB)
    lines = _lines(_figures("fsdp2", wanted=small))
    assert _row("fsdp2", _figures("fsdp2", wanted=small))[9] == "257!"
    text = " ".join(line.strip() for line in lines)
    assert "fsdp2-2gpu-bs8: parameters 426.0 MiB on every rank, predicted 213.0 MiB: 2.0 times" in text
    assert "as if it were not sharded over the 2 ranks (a module that is not wrapped)" in text


def test_what_is_not_known_is_na_and_why_is_said():
    lines = _lines(_figures(wanted=None))
    assert _row("ddp", _figures(wanted=None))[9] == "n/a"
    assert any("nothing is predicted, for ddp does not say what it keeps" in line for line in lines)
    never = _figures(account=_account(at_update=None))
    assert _row("ddp", never)[9:] == ["n/a", "n/a"]


def test_a_compiled_case_has_no_peak_for_it_would_be_that_of_eager_code():
    lines = _lines(_figures(options="-compile"))
    assert _row("ddp", _figures(options="-compile"))[6:8] == ["n/a", "n/a"]
    assert "torch.compile steps aside" in " ".join(lines)


def test_cuda_and_the_driver_have_their_say():
    driver = Driver(
        peak_allocated_bytes=1_500 * MIB,
        peak_reserved_bytes=1_600 * MIB,
        allocation_retries=3,
        used_bytes=2_000 * MIB,
        total_bytes=48_000 * MIB,
    )
    text = " ".join(
        line.strip() for line in _lines(_figures(account=_account(driver=driver, peak_resident_bytes=None)))
    )
    assert "CUDA allocated 1500 MiB at most and reserved 1600, after 3 retries" in text
    assert "the driver sees 2000 of 48000 in use" in text
    assert "resident" not in text


def test_what_accounting_costs_and_the_resident_set_are_said():
    text = " ".join(line.strip() for line in _lines(_figures()))
    assert "an accounted step takes 3.0 to 3.0 times a plain one; the resident set grew by up to 2000 MiB" in text


def test_the_table_fits_a_terminal():
    held = Held(parameters=426 * MIB, gradients=426 * MIB, optimizer=852 * MIB, master=426 * MIB, buffers=MIB, rest=MIB)
    full = _account(kept=held, at_update=held, at_peak=held)
    lines = _lines(_figures("fairscale_fsdp", 2, account=full), _figures("ddp", 4), _figures(model="other"))
    tables = [line for line in lines if line.startswith(("net", "other", "---", "fairscale", "ddp"))]
    assert len(tables) == 2 + 2 + 3
    assert max(map(len, tables)) <= 80


def test_nothing_is_said_without_cases():
    assert _lines() == []
