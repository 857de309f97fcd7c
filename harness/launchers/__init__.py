"""Ways to start ranks; every Launcher is found by its folder."""
