"""Files: whole or absent, and read back to the bit."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikewire import formats, measure

STATE = {
    "epoch": {"epoch": 3, "accuracy": {"test": 97.25, "validation": None}},
    "model": {"fc.weight": torch.randn(3, 2), "bn.steps": torch.tensor(7)},
    "groups": [{"lr": 0.1, "betas": [0.9, 0.999], "params": [0, 1]}],
}


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_a_checkpoint_comes_back_to_the_bit_and_the_old_one_goes(tmp_path):
    formats.save_checkpoint(tmp_path, STATE | {"epoch": None}, "1")
    formats.save_checkpoint(tmp_path, STATE, "2")
    assert same(formats.load_checkpoint(tmp_path), STATE)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-2.safetensors",
        "checkpoint.json",
    ]
    formats.remove_checkpoint(tmp_path)
    assert formats.load_checkpoint(tmp_path) is None


def test_a_checkpoint_that_was_not_completed_leaves_the_one_before(tmp_path, monkeypatch):
    formats.save_checkpoint(tmp_path, STATE, "1")

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "write_json", die)  # killed between tensors and manifest
    with pytest.raises(KeyboardInterrupt):
        formats.save_checkpoint(tmp_path, STATE | {"groups": []}, "2")
    assert same(formats.load_checkpoint(tmp_path), STATE)


@pytest.mark.parametrize("damage", ["cut", "manifest", "gone", "elsewhere"])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path, damage):
    formats.save_checkpoint(tmp_path, STATE, "1")
    tensors, manifest = tmp_path / "checkpoint-1.safetensors", tmp_path / "checkpoint.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    elif damage == "manifest":
        manifest.write_text("{")
    elif damage == "gone":
        tensors.unlink()
    else:
        record = json.loads(manifest.read_text()) | {"tensors": "../../etc/passwd"}
        manifest.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="delete .* to start the run again"):
        formats.load_checkpoint(tmp_path)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.0, 1.0), st.integers(0, 9))
def test_a_sparse_file_holds_the_same_network(tmp_path_factory, rows, columns, density, seed):
    path = tmp_path_factory.mktemp("sparse") / "net.safetensors"
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(columns, rows)
    mask = torch.rand(rows, columns, generator=generator) < density
    with torch.no_grad():
        layer.weight.mul_(mask)
    size = formats.save_sparse(path, layer, {"weight": mask})
    assert size == path.stat().st_size
    assert same(formats.load_sparse(path), dict(layer.state_dict()))


def test_a_sparse_file_is_as_small_as_its_synapses(tmp_path):
    layer = nn.Linear(1000, 1000, bias=False)
    sizes = {}
    for alive in (100_000, 1000):
        mask = torch.zeros(1_000_000, dtype=torch.bool)
        mask[:alive] = True
        sizes[alive] = formats.save_sparse(
            tmp_path / "net", layer, {"weight": mask.view(1000, 1000)}
        )
    dense = formats.save_dense(tmp_path / "dense", layer)
    assert 4_000_000 < dense < 4_001_000
    assert 525_000 < sizes[100_000] < 526_000  # 4 bytes a survivor, 1 bit an entry
    assert 8_000 < sizes[1000] < 9_000  # 4 bytes a survivor, 4 bytes its position


def test_sparse_files_that_do_not_fit_together_are_refused(tmp_path):
    layer, mask = nn.Linear(4, 4, bias=False), torch.eye(4, dtype=torch.bool)
    formats.save_sparse(tmp_path / "net", layer, {"weight": mask})
    (tmp_path / "cut").write_bytes((tmp_path / "net").read_bytes()[:-3])
    formats.save_dense(tmp_path / "dense", layer)
    for name in ("cut", "dense"):
        with pytest.raises(ValueError, match="no sparse network"):
            formats.load_sparse(tmp_path / name)
    from safetensors.torch import save_file

    shapes = {"spikewire-sparse-1": json.dumps({"w": [4]})}
    bad = {"w.values": torch.ones(2), "w.places": torch.tensor([0, 9], dtype=torch.int32)}
    save_file(bad, tmp_path / "bad", metadata=shapes)
    with pytest.raises(ValueError, match="do not fit together"):
        formats.load_sparse(tmp_path / "bad")
    save_file({"w.values": torch.ones(2)}, tmp_path / "none", metadata=shapes)
    with pytest.raises(ValueError, match="no sparse network|do not fit"):
        formats.load_sparse(tmp_path / "none")


def test_weights_are_read_from_every_kind_of_file(tmp_path):
    net = nn.Linear(40, 3)
    masks = {"weight": torch.rand(3, 40) < 0.3}
    with torch.no_grad():
        net.weight.mul_(masks["weight"])
    formats.save_dense(tmp_path / "dense.safetensors", net)
    formats.save_sparse(tmp_path / "sparse.safetensors", net, masks)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    for name in ("dense.safetensors", "sparse.safetensors", "net.pth"):
        assert same(formats.load_weights(tmp_path / name), dict(net.state_dict())), name
    formats.save_masks(tmp_path / "masks.safetensors", masks)
    assert same(formats.load_weights(tmp_path / "masks.safetensors"), masks)


class Harm:
    """Would make a folder when a pickle of it is read."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_files_without_weights_are_refused_and_nothing_in_them_is_run(tmp_path):
    torch.save({"weight": Harm(tmp_path / "harmed")}, tmp_path / "harm.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not a network")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    for name, message in (
        ("harm.pth", "holds no weights that can be read"),
        ("list.pth", "no state_dict, it holds list"),
        ("text.pth", "holds no weights that can be read"),
        ("cut.safetensors", "holds no weights that can be read"),
    ):
        with pytest.raises(ValueError, match=message):
            formats.load_weights(tmp_path / name)
    assert not (tmp_path / "harmed").exists()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        formats.load_weights(tmp_path / "nowhere.pth")


def test_what_a_mask_leaves_out_is_0_in_the_file(tmp_path):
    net, mask = nn.Linear(10, 10, bias=False), torch.ones(10, 10, dtype=torch.bool)
    mask[0, 0] = False
    formats.save_sparse(tmp_path / "net", net, {"weight": mask})  # stored whole: one zero of 100
    assert same(formats.load_sparse(tmp_path / "net")["weight"], net.weight.detach() * mask)
    with pytest.raises(ValueError, match=r"is torch.bool of shape \(10,\): give a bool mask"):
        formats.save_sparse(tmp_path / "other", net, {"weight": mask[0]})
    assert not (tmp_path / "other").exists()


def test_a_file_cannot_claim_more_memory_than_there_is(tmp_path, monkeypatch):
    net, masks = nn.Linear(10, 10), {"weight": torch.eye(10, dtype=torch.bool)}
    formats.save_sparse(tmp_path / "net", net, masks)
    monkeypatch.setattr(formats, "_MOST_NUMBERS", 99)
    with pytest.raises(ValueError, match="claims more than 99 numbers"):
        formats.load_sparse(tmp_path / "net")
    formats.save_sparse(tmp_path / "net", net, masks)  # as it is, then
    assert formats.load_sparse(tmp_path / "net")["weight"].count_nonzero() == 10


def test_several_may_write_one_file(tmp_path):
    def writer(letter):
        for _ in range(50):
            formats.write(tmp_path / "page", letter * 100_000)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(writer, (b"a", b"b")))
    assert (tmp_path / "page").read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_what_is_no_tensor_of_a_state_dict_is_left_out(tmp_path):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            raise AssertionError(state)

    net = Counting(4, 4)
    formats.save_dense(tmp_path / "net.safetensors", net)
    formats.save_sparse(tmp_path / "sparse", net, {"weight": torch.eye(4, dtype=torch.bool)})
    assert set(formats.load_weights(tmp_path / "net.safetensors")) == {"weight", "bias"}
    assert measure(net, torch.rand(2, 4)).bytes_dense == 80
