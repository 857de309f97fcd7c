"""What pytest sees: options, tests and fixtures, what a run records, and what it tells at its end."""
