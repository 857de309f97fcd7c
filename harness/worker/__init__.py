"""One rank from start to report; the one room of this package that imports torch."""
