"""The hub's client is shut for the thread that asks for it, and open again afterwards."""

import threading

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from zoo.contracts.hub import no_hub


@pytest.fixture
def online(monkeypatch):
    """Let the client think that it may use the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.usefixtures("online")
def test_the_client_is_offline_inside_and_as_it_was_outside():
    before = constants.is_offline_mode
    assert not constants.is_offline_mode()
    with no_hub():
        assert constants.is_offline_mode()
        with no_hub():
            assert constants.is_offline_mode()
        assert constants.is_offline_mode()
        with pytest.raises(OfflineModeIsEnabled):
            HfApi(endpoint="http://127.0.0.1:9").repo_exists("a/b")
    assert not constants.is_offline_mode()
    assert constants.is_offline_mode is before


@pytest.mark.usefixtures("online")
def test_an_error_inside_opens_it_again():
    with pytest.raises(ZeroDivisionError), no_hub():
        raise ZeroDivisionError
    assert not constants.is_offline_mode()


@pytest.mark.usefixtures("online")
def test_other_threads_go_on_as_they_were():
    said = []
    with no_hub():
        thread = threading.Thread(target=lambda: said.append(constants.is_offline_mode()))
        thread.start()
        thread.join()

    assert said == [False]
