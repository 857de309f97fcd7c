"""While a case runs on one machine nothing of it listens where another machine could reach it."""

from __future__ import annotations

import ipaddress
import threading

import psutil
import pytest

from harness.case import Case


def _listening() -> set[str]:
    """Return the addresses that descendants of this process listen on."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            sockets = process.net_connections(kind="inet")
        except psutil.Error:
            continue  # it ended meanwhile
        found |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


class _Watch:
    """Looks again and again who listens while its block runs."""

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.addresses |= _listening()

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("launcher", ["warm", "torchrun"])
def test_ranks_of_one_machine_meet_on_loopback_alone(launcher, pipeline, make_pipeline):
    case = Case(model="tiny_net", strategy="ddp", gpu_count=2, batch_size=4)
    pipeline.ranks.prepare(case)
    own = pipeline
    if launcher != "warm":
        # Cold ranks import torch first, which takes its time on a busy machine; the data are the same.
        own = make_pipeline(launcher=launcher, case_timeout_s=240)
        own.ranks._prepared = pipeline.ranks._prepared
    with _Watch() as watch:
        own.ranks.launch(case, str(case))
    assert watch.addresses, "the ranks met somewhere"
    outside = {one for one in watch.addresses if not ipaddress.ip_address(one).is_loopback}
    assert outside == set()
