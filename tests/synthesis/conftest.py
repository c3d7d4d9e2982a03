import pytest
import synthesis_fakes


@pytest.fixture(scope="session")
def network():
    return synthesis_fakes.colour_network()


@pytest.fixture
def teacher(network):
    return synthesis_fakes.teacher_of(network)
