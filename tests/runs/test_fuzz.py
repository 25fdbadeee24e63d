"""Nothing in a runs folder makes a command end in a traceback, run code, or change what is not advbench's."""

import gc

import pytest

from tests.tools.fuzz import COMMANDS, Fuzz


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ADVBENCH_RUNS", raising=False)
        gc.collect()  # results of other tests delete their folders as they go
        return Fuzz(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def _runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVBENCH_RUNS", raising=False)


def faults(fuzz: Fuzz, numbers: range) -> list[tuple[object, ...]]:
    return [(number, *found) for number in numbers if (found := fuzz.input(number))[-1]]


def test_a_hundred_damaged_folders_are_refused_in_a_sentence_or_read(fuzz: Fuzz) -> None:
    assert faults(fuzz, range(100)) == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_damaged_folders_are_refused_in_a_sentence_or_read(fuzz: Fuzz) -> None:
    assert faults(fuzz, range(100, 1100)) == []


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_sound_folders_are_read_by_every_command(fuzz: Fuzz, command: str) -> None:
    *_, code, told, found = fuzz.input(0, command)
    assert (code, found) == (2 if command == "resume" else 0, {}), told
