"""Proof that the gate keeps its promises: simulated suites, and faults planted in living ones."""
