"""Figures, pure: from numbers to SVG, PNG and the table of what is drawn; one look for each strategy everywhere."""
