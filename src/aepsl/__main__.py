"""``python -m aepsl`` is the command ``aepsl``."""

from aepsl.cli.app import main

if __name__ == "__main__":
    main()
