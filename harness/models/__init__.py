"""Models: one file a family; every Model in them is found by its folder."""
