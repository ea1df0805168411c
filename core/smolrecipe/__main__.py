"""``python -m smolrecipe``."""

from smolrecipe.cli import main

if __name__ == "__main__":
    main()
