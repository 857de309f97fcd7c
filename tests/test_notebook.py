"""The analysis notebook runs on stored runs as they are, and shows the figures that follow from the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "analysis.ipynb"
STORED = ROOT / "baselines" / "2-core-intel-xeon"
TELL = """
print(table.to_json(orient="records"))
print(last.file)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The cells of the notebook after it ran on the stored baseline, and as JSON what its table holds."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import json" + TELL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        # Neither the user's own start-up files nor a history that the cells would go into.
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.delenv("SHARDBENCH_RUNS", raising=False)
        patch.setenv("SHARDBENCH_HOST", STORED.name)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    return notebook.cells


def _printed(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def _drawn(cells):
    return [
        "".join(output.data["image/svg+xml"])
        for cell in cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]


@pytest.fixture(scope="module")
def told(cells):
    """The notebook's table by case, and the file that it is of."""
    rows, file = _printed(cells[-1]).splitlines()
    return {row["case"]: row for row in json.loads(rows)}, Path(file)


def test_it_is_stored_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_it_takes_the_last_run_of_a_machine(told):
    _, file = told
    assert file == max(STORED.glob("*.json"))


def test_its_table_is_what_follows_from_the_file(told):
    table, file = told
    packed = [benchmark["extra_info"].get("shardbench") for benchmark in json.loads(file.read_text())["benchmarks"]]
    results = {one["result"]["case_id"]: one for one in packed if one}
    assert table.keys() == results.keys()
    for case_id, one in results.items():
        row, ranks = table[case_id], one["result"]["ranks"]
        warm = ranks[0]["warmup_steps"]
        step_s = median(max(step) for step in zip(*(rank["step_s"][warm:] for rank in ranks), strict=True))
        assert row["step_ms"] == pytest.approx(1e3 * step_s, rel=1e-6)
        assert row["images_per_s"] == pytest.approx(row["gpus"] * row["batch_per_gpu"] / step_s, rel=1e-6)
        peak = max(rank["memory"]["peak_resident_bytes"] for rank in ranks)
        assert row["peak_memory_gib"] == pytest.approx(peak / 2**30, rel=1e-6)
        assert row["verdict"] == one["verdict"]


def test_its_figures_are_those_of_the_file(cells, told):
    from harness import frames
    from harness.case import Case
    from harness.figures import results as figures

    _, file = told
    stored = frames.read(file)
    drawn = _drawn(cells)
    by_id = {case.result.case_id: case.reference for case in stored}
    groups = figures.grouped([case.result for case in stored], by_gpus=False)
    assert len(groups) > 1
    for group in groups:
        own = [by_id[result.case_id] for result in group.results]
        assert figures.speedups(group, own, against="DDP on one GPU").svg in drawn
    own_cores = [
        case.result
        for case in stored
        if not case.result.oversubscribed and case.certificate is not None and case.certificate.granted
    ]
    most = max(Case.parse(result.case_id).gpu_count for result in own_cores)
    groups = figures.grouped(one for one in own_cores if Case.parse(one.case_id).gpu_count == most)
    assert len(groups) > 1
    for group in groups:
        assert figures.epoch_loss(group).svg in drawn
        assert figures.step_times(group).svg in drawn
        assert figures.trade_off(group).svg in drawn
    for result in (case.result for case in stored if case.result.confusion):
        assert figures.confusion(result).svg in drawn


def test_it_says_nothing_on_the_side(cells):
    """Such as a warning that pandas or this suite will do otherwise some day."""
    said = [output for cell in cells for output in cell.get("outputs", []) if output.get("name") == "stderr"]
    assert said == []
