"""`python -m medjax VERB`, the same as `medjax VERB`."""

from medjax.cli.main import console

if __name__ == "__main__":
  console()
