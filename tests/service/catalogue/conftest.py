import pytest


@pytest.fixture(params=["tiny", pytest.param("tiny_on_postgresql", marks=pytest.mark.integration)])
def anywhere(request):
    """A tiny study in SQLite, and in PostgreSQL."""
    return request.getfixturevalue(request.param)
