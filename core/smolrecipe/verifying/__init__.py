"""Checking what was published: which folders, their files, and what the plugins prove of them."""
