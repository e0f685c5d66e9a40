"""One mechanism from TOML and words to dataclasses and back."""

import tomllib

import pytest

from spikewire import METHODS, Cosine, Method, RigL
from spikewire.config import build, defaults, method, override, read, recipe, recipes
from spikewire.lottery import Settled
from spikewire.shares import erk


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_builds_and_survives_its_own_toml(name):
    built = recipe(read(name))
    assert recipe(tomllib.loads(built.toml())) == built
    assert build(built.network) is not None


@pytest.mark.parametrize("name", METHODS)
def test_every_method_constructs_with_defaults_and_survives_toml(name):
    built = recipe({"method": {"name": name}})
    assert type(built.method) is METHODS[name]
    assert recipe(tomllib.loads(built.toml())).method == built.method == METHODS[name]()
    assert set(defaults(METHODS[name])) == set(vars(built.method))


def test_words_are_laid_over_a_recipe():
    words = [
        "method=rigl",
        "method.churn=cosine(0.5, finish=0.8)",
        "method.share=erk",
        "epochs=3",
        "optimizer.lr=1e-2",
        "network.T=2",
        'only=["fc*"]',
    ]
    built = recipe(override(read("digits"), words))
    assert isinstance(built.method, RigL)
    assert built.method.churn == Cosine(0.5, finish=0.8)
    assert built.method.share is erk
    assert (built.epochs, built.optimizer.lr, built.only) == (3, 0.01, ["fc*"])
    assert built.network.arguments["T"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.sparsty=0.9"], "did you mean 'sparsity'"),
        (["epoch=3"], "did you mean 'epochs'"),
        (["method=rigel"], "did you mean 'rigl'"),
        (["method.sparsity=1.0"], "up to but not including 1"),
        (["method=gradr", "method.sparsity=0.3"], "0.5 <= sparsity"),
        (["method.score=magnitud"], "did you mean 'magnitude'"),
        (["method.share=erx"], "did you mean 'erk'"),
        (["method.every=0"], "1 or more"),
        (["method.until=2"], "0 <= begin < finish <= 1"),
        (["optimizer.schedule=cosin(1, 0)"], "did you mean 'cosine'"),
        (["optimizer.schedule=open('x')"], "no schedule"),
        (["optimizer.name=adan"], "did you mean 'adam'"),
        (["optimizer.lr=0"], "greater than 0"),
        (["epochs=ten"], "epochs: "),
        (["epochs.x=1"], "not a table"),
        (["network=tinny"], "did you mean 'tiny'"),
        (["data.augment=mnit"], "did you mean 'mnist'"),
        (["data.validation=1.0"], "less than 1"),
        (["epochs"], "write key=value"),
        (["keep=[1, 40]"], "there are 30 epochs"),
        (["seed=18446744073709551616"], "seed: Input should be less than"),
        (["keep=-1"], "keep: Input should be greater than or equal to 0"),
        (["stop=settled(0.9)"], "give method=dense"),
        (["method=dense", "stop=setled(0.9)"], "did you mean 'settled'"),
        (["method=dense", "stop=settled(1.5)"], "not including 1"),
    ],
)
def test_wrong_words_are_answered_with_the_mend(words, message):
    with pytest.raises(ValueError, match=message):
        recipe(override(read("digits"), words))


def test_a_rule_for_stopping_and_epochs_to_keep_survive_toml():
    words = ["method=dense", "stop=settled(0.9, window=3)", "keep=[0, 20]"]
    built = recipe(override(read("digits"), words))
    assert built.stop == Settled(0.9, window=3) and built.keep == [0, 20]
    assert recipe(tomllib.loads(built.toml())) == built
    assert recipe(override(read("digits"), ["stop=never", "keep=2"])).keep == [2]


def test_files_beside_a_recipe_need_no_path(tmp_path):
    (tmp_path / "recipe.toml").write_text('weights = "net.pth"\npossible = "elsewhere.pth"\n')
    (tmp_path / "net.pth").touch()
    assert read(str(tmp_path / "recipe.toml")) == {
        "weights": str(tmp_path / "net.pth"),
        "possible": "elsewhere.pth",
    }


def test_unknown_recipes_and_files():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        read("digit")
    with pytest.raises(ValueError, match="no such file"):
        read("nowhere.toml")


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'only = ["\xfc"]\n')
    with pytest.raises(ValueError, match=r"latin.toml is not UTF-8 text .*: save it as UTF-8"):
        read(str(tmp_path / "latin.toml"))


def test_networks_and_methods_of_your_own(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "from torch import nn\n"
        "from spikewire import Method\n"
        "def net(width=4):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))\n"
        "def number():\n    return 3\n"
        "@dataclass(frozen=True)\n"
        "class Idle(Method):\n    tau: float = 0.5\n"
    )
    built = recipe(override(read(f"{file}:net"), ["network.width=10"]))
    assert build(built.network)[1].out_features == 10
    assert isinstance(method(f"{file}:Idle", tau=0.1), Method)
    for network, message in (
        (f"{file}:nett", "did you mean 'net'"),
        (f"{file}:number", "no torch module"),
        (f"{tmp_path}/other.py:net", "there is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            build(recipe({"network": network}).network)
    with pytest.raises(ValueError, match="does not take"):
        build(recipe({"network": {"name": f"{file}:net", "depth": 3}}).network)
    with pytest.raises(ValueError, match="no dataclass"):
        method(f"{file}:number")
