"""Claims: one owner at a time, whoever dies, comes back or waits."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from spikewire.claims import Claims


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [100.0]

    def wait(seconds):
        now[0] += seconds

    monkeypatch.setattr("spikewire.claims.time.monotonic", lambda: now[0])
    monkeypatch.setattr("spikewire.claims.time.sleep", wait)
    return wait


def beat(claim):
    """A heartbeat; times of files may be coarser than this test is quick."""
    past = claim.path.stat().st_mtime_ns
    os.utime(claim.path, ns=(past + 10**9, past + 10**9))


def test_a_claim_is_stale_once_its_heart_has_been_still_for_as_long_as_others_watch(
    tmp_path, clock
):
    owner, other = Claims(tmp_path, 10), Claims(tmp_path, 10)
    claim = owner.take("a")
    clock(1000)  # nobody has looked yet: how old the file is says nothing
    assert other.take("a") is None
    clock(9)
    assert other.take("a") is None
    beat(claim)
    clock(9)
    assert other.take("a") is None
    clock(9)
    assert other.take("a") is None and not claim.lost
    clock(1)
    assert other.take("a").path.name == "0002"
    assert claim.lost


def test_who_was_paused_with_the_owner_lets_its_heart_beat_first(tmp_path, clock, monkeypatch):
    owner, other = Claims(tmp_path, 10), Claims(tmp_path, 10)
    claim = owner.take("a")
    assert other.take("a") is None
    clock(1000)
    monkeypatch.setattr("spikewire.claims.time.sleep", lambda _: beat(claim))
    assert other.take("a") is None and not claim.lost


def test_what_is_given_back_can_be_had_at_once(tmp_path):
    claims = Claims(tmp_path)
    for number in (1, 2, 3):
        claim = claims.take("trials/a")
        assert claim.path.relative_to(tmp_path).parts == ("trials", "a", f"{number:04}")
        assert json.loads(claim.path.read_text())["pid"] == os.getpid()
        with claim:
            assert claims.take("trials/a") is None
        assert not claim.lost


def test_a_name_that_goes_on_like_another_is_another(tmp_path):
    claims = Claims(tmp_path)
    assert claims.take("a") and claims.take("a-0001") and claims.take("a-0")


def test_of_many_that_try_at_once_one_succeeds(tmp_path):
    won, ready = [], threading.Barrier(8)

    def attempt():
        claims = Claims(tmp_path)
        ready.wait()
        won.append(claims.take("a"))

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in won if claim is not None]) == 1


def test_an_owner_has_a_heartbeat(tmp_path):
    claim = Claims(tmp_path, 0.06).take("a")
    os.utime(claim.path, (1, 1))
    with claim:
        deadline = time.monotonic() + 5
        while claim.path.stat().st_mtime < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claim.path.stat().st_mtime > 2
    assert claim.path.stat().st_mtime == 0


def test_wrong_patience():
    with pytest.raises(ValueError, match="patience is 0: give seconds, above 0"):
        Claims(Path("nowhere"), 0)


def test_files_that_a_file_system_adds_are_no_claims(tmp_path):
    claims = Claims(tmp_path)
    claims.take("a").give_back()
    for name in (".nfs0001", ".DS_Store"):
        (tmp_path / "a" / name).touch()
    assert claims.take("a").path.name == "0002"
