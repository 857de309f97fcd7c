"""A study of two small cases, given as `--plugins` beside the small model."""

from harness.case import Case
from harness.evidence import claims
from harness.evidence.tables import Table
from harness.plugins import Planned, Study

PAIR = tuple(Case(model="tiny_net", strategy="ddp", gpu_count=1, batch_size=batch) for batch in (16, 8))
CANNOT = Case(model="tiny_net", strategy="ddp", gpu_count=4096, batch_size=8)


def _tables(evidence):
    rows = tuple((str(case), run.last_loss) for case, run in evidence.runs.items())
    yield Table(name="losses", title="losses", head=("case", "loss"), rows=rows)


TINY = Study(
    name="tiny",
    about="whether a larger batch is faster",
    plan=lambda profile, registry: [Planned(case=case, timed=True) for case in (*PAIR, CANNOT)],
    tables=_tables,
    claims=lambda evidence: [
        claims.faster(evidence, "the larger batch is faster", PAIR),
        claims.faster(evidence, "many GPUs are faster than one", (CANNOT, PAIR[1])),
    ],
)
