"""What stored records hold, held to their own raw samples and to each other: what was edited or is missing."""
