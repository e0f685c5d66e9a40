"""What is read of a run folder, and what is refused."""

import pytest

from spikewire import facts, report


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("report.json", None, "is missing, so the run is not finished"),
        ("metrics.jsonl", None, "is missing, so the run is not finished"),
        ("run.toml", None, "is missing, so the run is not finished"),
        ("report.json", b"{", "is not what a run writes"),
        ("report.json", b'{"accuracy": {"last": "high"}}', "at accuracy.last"),
        ("report.json", b"[" * 100_000, "is not what a run writes"),
        ("metrics.jsonl", b'{"epoch": 1}\n', "line 1 is not what a run writes"),
        ("metrics.jsonl", b"\xff\xfe\n", "is not UTF-8 text"),
        ("report.json", b'{"method": "\\ud800"}', "is not what a run writes"),
        ("run.toml", b"seed = \n", "is no valid TOML"),
        ("run.toml", b"a = " + b"[" * 5000, "is no valid TOML"),
    ],
)
def test_bad_files_are_named(tmp_path, monkeypatch, name, content, words, fake_run):
    run = fake_run(tmp_path / "run", epochs=1)
    monkeypatch.setattr(report, "figures", lambda *_: pytest.fail("work before reading"))
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=words) as caught:
        report.write(run)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_line_cut_off_while_writing_is_left_out(tmp_path, fake_run):
    run = fake_run(tmp_path / "run", epochs=3)
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-20])
    assert len(facts.read(run).records) == 2
    (run / "metrics.jsonl").write_text(text.rstrip("\n"))
    assert len(facts.read(run).records) == 3
