"""`python -m gateway` runs the command `gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
