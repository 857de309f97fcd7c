"""What a study's runs say: the figures of each, tables of them, and whether they bear a published claim out."""
