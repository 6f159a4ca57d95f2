"""A loopback object store for the tests of storage: one server, emptied for each test."""

from collections.abc import Iterator

import pytest

from tests.support.object_store import Store, lead_drivers_to, object_store


@pytest.fixture(scope="session")
def server() -> Iterator[Store]:
    with object_store() as running:
        yield running


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    lead_drivers_to(server, monkeypatch)
    return server
