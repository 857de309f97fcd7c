"""Text for people: the table at the end of a run, and where a run is while it goes on."""
