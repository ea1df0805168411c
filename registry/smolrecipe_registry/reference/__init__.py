"""The reference of what is installed, as Markdown: hooks, descriptors, and every component with its options.

Everything is read off the objects themselves (hook specifications, descriptor classes, a loaded catalog), so it holds
for a stranger's plugin as for a built-in one. No engine is imported.
"""

from smolrecipe_registry.reference.pages import all_pages, page_about, write_pages

__all__ = ["all_pages", "page_about", "write_pages"]
