"""Datasets: one file each; every Dataset in them is found by its folder."""
