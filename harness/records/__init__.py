"""What accounted and traced runs, probes and samplers store: raw facts; figures are derived on reading."""
