"""From a recipe file to a typed recipe: read, compose, structure."""
