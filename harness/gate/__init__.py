"""Better, worse, or cannot tell: pure functions from results to verdicts."""
