"""Log lines: for people on a terminal, JSON for containers and for the live table."""

import sys
from typing import Any

import structlog


def configure(*, json_lines: bool, **context: Any) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `context`. JSON goes to standard output, text to standard error."""
    renderer: Any = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if json_lines else "%H:%M:%S", utc=json_lines),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout if json_lines else sys.stderr),
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(**context)
    return logger
