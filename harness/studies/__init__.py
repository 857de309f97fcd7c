"""Published studies that the suite runs whole: every Study is found by its folder."""
