"""From a case to its verdict: ranks started, certified, timed, explained and judged."""
