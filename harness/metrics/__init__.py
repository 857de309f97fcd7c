"""Figures: how each is derived from raw samples, shown and gated; every Metric is found by its folder."""
