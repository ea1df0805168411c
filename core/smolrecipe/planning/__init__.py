"""From a typed recipe to a plan: stages in order, each with its parents and its digest."""
