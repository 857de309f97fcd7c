"""Ways to train one model on several devices: one file a family; every Strategy in them is found by its folder."""
