"""Where a step's time, memory and energy go: figures derived from stored records, predictions, and the two compared."""
