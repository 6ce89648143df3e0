"""The command `hptune`: the verbs of `python -m service` under the package's name."""

from service.__main__ import cli


def main() -> None:
    """Run the verb that the command line names."""
    cli(prog_name="hptune")


if __name__ == "__main__":
    main()
