"""What it takes to do a run again: resolved values, sources, versions, data, and the machine."""
