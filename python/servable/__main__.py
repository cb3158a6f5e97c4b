"""`python -m servable` is the command `servable`."""

from servable.cli.main import main

if __name__ == "__main__":
    main()
