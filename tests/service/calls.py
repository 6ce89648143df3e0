"""Calls of `python -m service`, in a process of their own or in this one."""

import subprocess

from click.testing import CliRunner, Result

from service.__main__ import cli
from tests.conftest import TinyStudy


def done(study: TinyStudy, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(**study.command(*arguments), capture_output=True, check=False)


def in_process(study: TinyStudy, *arguments: str) -> Result:
    return CliRunner(env=study.command(*arguments)["env"]).invoke(cli, arguments)
