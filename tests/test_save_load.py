"""`fusedrnn.save` and `fusedrnn.load`: everything comes back, and a file that was changed anywhere is refused."""

import base64
import itertools
import json
import os
import random
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from fusedrnn.interop import object_files, safetensors_files
from fusedrnn.parameters import CLASSES

I, H = 4, 4  # as some layers need equal or even sizes for some options

#: Values of the options that all layers share, and of the options of some.
SHARED: dict[str, list[Any]] = {
    "num_layers": [2],
    "bias": [False, "single"],
    "batch_first": [True],
    "dropout": [0.25],
    "bidirectional": [True],
    "backwards": [True],
    "learned_state": [True],
    "zoneout": [0.1, (0.1, 0.2)],
    "recurrent_dropout": [0.1],
    "weight_dropout": [0.1],
    "layer_norm": [True],
    "dtype": ["float64"],
    "proj_size": [2],
    "peephole": ["ifo", "o_prev"],
    "coupled": [True],
    "activation": ["softsign", ("elu", 0.7), ("scaled_tanh", 1.7, 0.6)],
    "recurrent_activation": ["hard_sigmoid", ("hard_sigmoid", 0.2)],
    "output_activation": ["sigmoid"],
    "clip": [0.75],
    "cell_clip": [1.5],
    "nonlinearity": ["relu", "tanh"],
    "reset_after": [False],
    "reset_gate": [False],
    "r_min": [0.5],
    "r_max": [0.75],
    "max_phase": [1.0],
    "layer_norm_eps": [1e-3],
}


def single_options() -> list[tuple[str, dict[str, Any]]]:
    """Each class as it is, and with each value of each of its options."""
    made: list[tuple[str, dict[str, Any]]] = []
    for name, cls in CLASSES.items():
        made.append((name, {}))
        for option, default in cls._arguments:
            values = SHARED.get(option)
            if values is None:  # an option of one family
                values = [not default] if isinstance(default, bool) else []
            for value in values:
                extra = {"num_layers": 2} if option == "dropout" else {}
                made.append((name, {option: value} | extra))
    return made


def constructed(name: str, options: dict[str, Any]) -> Any:
    """The layer, or None if the class does not take the value."""
    try:
        return CLASSES[name](I, H, **options, rng=0)
    except (ValueError, TypeError):
        return None


SINGLE = [(name, options) for name, options in single_options() if constructed(name, options) is not None]


def name_of(given: Any) -> str:
    return str(given).replace(" ", "")


def pairs(count: int) -> list[tuple[str, dict[str, Any]]]:
    """Random pairs of options that can be combined."""
    draw = random.Random(0)
    found: list[tuple[str, dict[str, Any]]] = []
    while len(found) < count:
        (name, one), (_, other) = draw.choice(SINGLE), draw.choice(SINGLE)
        if constructed(name, one | other) is not None:
            found.append((name, one | other))
    return found


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch):
    """Hundreds of files are written here; what survives a loss of power is not tested."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def there_and_back(tmp_path):
    def both(value: Any) -> Any:
        path = tmp_path / "file"
        fusedrnn.save(path, value)
        assert os.listdir(tmp_path) == ["file"], "nothing else stays"
        return fusedrnn.load(path)

    return both


def same(a: Any, b: Any) -> bool:
    """Equality of trees, with types, NaN and arrays."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(itertools.starmap(same, zip(a, b, strict=True)))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return bool(a == b)


# ---- round trips


@pytest.mark.parametrize(("name", "options"), SINGLE, ids=name_of)
def test_every_layer_and_cell_with_every_option(name, options, there_and_back):
    layer = constructed(name, options)
    loaded = there_and_back(layer)
    assert type(loaded) is type(layer)
    assert loaded == layer
    assert loaded.rng.random() == layer.rng.random()
    if hasattr(layer, "freeze"):
        frozen = layer.freeze()
        again = there_and_back(frozen)
        assert again == frozen
        assert repr(again) == repr(frozen)
        x = np.random.default_rng(0).standard_normal((5, 2, I))
        assert same(frozen(x)[0], again(x)[0])


@pytest.mark.parametrize(("name", "options"), pairs(150), ids=name_of)
def test_options_together(name, options, there_and_back):
    layer = constructed(name, options)
    assert there_and_back([layer]) == [layer]
    if hasattr(layer, "freeze"):
        assert there_and_back(layer.freeze()) == layer.freeze()


def groups() -> dict[str, Any]:
    LSTM, GRU = fusedrnn.LSTM, fusedrnn.GRU
    two_ways = fusedrnn.Bidirectional(LSTM(3, 5, rng=0), GRU(3, 4, backwards=True, rng=1))
    deep = fusedrnn.Bidirectional(fusedrnn.Stack([GRU(3, 4), LSTM(4, 2)], rng=0), fusedrnn.QRNN(3, 2), "sum")
    return {
        "stack": fusedrnn.Stack([LSTM(3, 5, proj_size=2), fusedrnn.LRU(2, 4)], dropout=0.25, rng=3),
        "two ways": two_ways,
        "stack of two ways": fusedrnn.Stack([two_ways, fusedrnn.MinGRU(9, 4), GRU(4, 2, bidirectional=True)], 0.5),
        "two ways of stacks": deep,
        "a pair": fusedrnn.Stack([deep, fusedrnn.Bidirectional(LSTM(2, 2), GRU(2, 3), None)]),
        "ensemble": fusedrnn.Ensemble([LSTM(3, 5, rng=seed) for seed in range(3)]),
        "ensemble of stacks": fusedrnn.Ensemble([fusedrnn.Stack([LSTM(3, 5), GRU(5, 2)]) for _ in range(2)]),
        "stack of stacks": fusedrnn.Stack([fusedrnn.Stack([GRU(3, 4)]), fusedrnn.Stack([fusedrnn.SRU(4, 4)])]),
        "float64": fusedrnn.Stack([LSTM(3, 5, dtype="float64", batch_first=True)]),
    }


@pytest.mark.parametrize("name", groups())
def test_groups(name, there_and_back):
    group = groups()[name]
    loaded = there_and_back(group)
    assert loaded == group
    frozen = group.freeze()
    again = there_and_back(frozen)
    assert again == frozen
    assert repr(again) == repr(frozen)
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    (y, _), (y_again, _) = frozen(x), again(x)
    assert same(y, y_again)
    members = there_and_back(list(frozen._group.layers))  # frozen members, one of which may be reversed
    assert len(members) == len(group.layers)


def test_frozen_members_and_pickles(there_and_back, tmp_path):
    import pickle

    frozen = pickle.loads(pickle.dumps(fusedrnn.LSTM(3, 5, rng=0).freeze()))
    assert there_and_back(frozen) == frozen
    make, arguments = frozen.__reduce__()
    earlier = make(*arguments[:-1])  # as pickles of earlier versions
    with pytest.raises(TypeError, match="save: the value is FrozenLayer; expected one that was frozen by this version"):
        fusedrnn.save(tmp_path / "other", earlier)
    assert not [name for name in os.listdir(tmp_path) if name != "file"]


TREES: dict[str, Any] = {
    "scalars": [None, True, False, 0, -(2**200), 0.1, -0.0, float("nan"), float("-inf"), "", "ä\0\ud800\U0001f600"],
    "nested": {"a": {"b.c": [1, (2, [3, ()])]}, "a.b": {"c": 4}, 3: "three", -1: {}},
    "arrays": {
        "f": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 3), np.float32),
        "zero axes": np.array(2.5, np.float16),
        "bools": np.array([[True, False]]),
        "integers": [np.array([1, 255], kind) for kind in ("u1", "i2", "u2", "i4", "u4", "i8", "u8")],
        "nan": np.array([np.nan, -0.0, np.inf]),
    },
    "names": {"a.b": np.zeros(1), "a": {"b": np.ones(1)}, "__metadata__": np.full(1, 2.0), "": np.full(1, 3.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees(name, there_and_back):
    assert same(there_and_back(TREES[name]), TREES[name])


@pytest.mark.parametrize("name", TREES)
def test_the_package_safetensors_reads_the_same_arrays(name, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
    path = tmp_path / "file"
    fusedrnn.save(path, {"x": TREES[name], "layer": fusedrnn.GRU(3, 5, rng=0)})
    arrays = numpy.load_file(path)
    assert np.array_equal(arrays["layer.weight_hh_l0"], fusedrnn.GRU(3, 5, rng=0).weight_hh_l0)
    if name == "names":
        found = {key: float(array[0]) for key, array in arrays.items() if key.startswith("x.")}
        assert found == {"x.a.b": 0.0, "x.a.b#2": 1.0, "x.__metadata__": 2.0, "x.": 3.0}


def test_a_layer_alone_is_a_state_dict_for_others(tmp_path):
    path = tmp_path / "file"
    layer = fusedrnn.LSTM(3, 5, 2, bidirectional=True, rng=0)
    fusedrnn.save(path, layer)
    torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed: pip install safetensors")
    module = pytest.importorskip("torch").nn.LSTM(3, 5, 2, bidirectional=True)
    module.load_state_dict(torch.load_file(path))
    assert interop.from_torch(module) == layer


def test_arrays_in_any_memory_and_order_of_bytes(there_and_back):
    x = np.arange(24.0).reshape(4, 6)
    views = [
        x.T,
        x[::-1, ::2],
        x.astype(">f8"),
        np.broadcast_to(np.float32(3), (2, 3)),
        x.view(type("Own", (np.ndarray,), {})),
    ]
    for view, loaded in zip(views, there_and_back(views), strict=True):
        assert np.array_equal(view, loaded)
        assert loaded.dtype == view.dtype.newbyteorder("=")
        assert loaded.flags.writeable
    assert same(there_and_back([np.float64(0.1), np.float32(0.1), np.int16(3), np.bool_(True), np.str_("x")]),
                [0.1, float(np.float32(0.1)), 3, True, "x"])  # fmt: skip


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "SFC64", "MT19937", "Philox"])
def test_generators_go_on_where_they_were(kind, there_and_back):
    layer = fusedrnn.LSTM(3, 5, 2, dropout=0.5, rng=np.random.Generator(getattr(np.random, kind)(3)))
    layer.rng.random(700, np.float32)
    loaded = there_and_back(layer)
    x = np.ones((4, 2, 3), np.float32)
    assert np.array_equal(layer.forward(x)[0], loaded.forward(x)[0])
    assert np.array_equal(layer.rng.integers(0, 99, 1000), loaded.rng.integers(0, 99, 1000))


def test_layers_that_share_a_generator_share_it_afterwards(there_and_back):
    rng = np.random.default_rng(0)
    net = fusedrnn.Stack([fusedrnn.LSTM(3, 5, rng=rng), fusedrnn.GRU(5, 2, rng=rng)], dropout=0.5, rng=rng)
    loaded = there_and_back({"net": net, "other": fusedrnn.GRU(3, 5)})
    assert loaded["net"].rng is loaded["net"].layers[0].rng is loaded["net"].layers[1].rng
    assert loaded["other"].rng is not loaded["net"].rng


def test_idle_dropout_comes_back_without_a_warning(there_and_back):
    layer, stack = fusedrnn.LSTM(3, 5), fusedrnn.Stack([fusedrnn.LSTM(3, 5)])
    layer.dropout = stack.dropout = 0.5
    assert there_and_back([layer, stack]) == [layer, stack]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_embeddings_and_linear_layers(dtype, there_and_back):
    made = [
        fusedrnn.Linear(3, 5, dtype=dtype, rng=0),
        fusedrnn.Linear(3, 5, False, dtype=dtype, rng=0),
        fusedrnn.Embedding(7, 2, dtype=dtype, rng=0),
        fusedrnn.Embedding(7, 2, -1, dtype=dtype, rng=0),
    ]
    loaded = there_and_back({"parts": made})["parts"]
    assert loaded == made
    assert [part.rng.random() for part in loaded] == [part.rng.random() for part in made]
    assert np.array_equal(loaded[0](np.ones((2, 3))), made[0](np.ones((2, 3))))


def test_mamba(there_and_back):
    Mamba = fusedrnn.Mamba
    for layer in (
        Mamba(4, rng=0),
        Mamba(4, 3, 2, 3, 2, False, True, dt_min=1e-4, dt_init="constant", batch_first=True, dtype="float64", rng=0),
        Mamba(4, backwards=True, rng=0),
    ):
        loaded = there_and_back([layer, layer.freeze()])
        assert loaded == [layer, layer.freeze()]
        assert loaded[0].rng.random() == layer.rng.random()
        assert same(loaded[1](np.ones((5, 2, 4)))[0], layer.freeze()(np.ones((5, 2, 4)))[0])
    for group in (
        fusedrnn.Bidirectional(Mamba(4, rng=0), Mamba(4, rng=1)),
        fusedrnn.Stack([Mamba(4, rng=0), fusedrnn.GRU(4, 5, rng=1)]),
    ):
        assert there_and_back([group, group.freeze()]) == [group, group.freeze()]
        x = np.random.default_rng(0).standard_normal((5, 2, 4))
        assert same(there_and_back(group.freeze())(x)[0], group.freeze()(x)[0])


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_training_goes_on_with_the_same_bits(kind, there_and_back):
    """A model of three parts with dropout, its optimiser and the step: saved in the middle, and not saved."""

    def start() -> dict[str, Any]:
        model = {
            "words": fusedrnn.Embedding(9, 4, rng=0),
            "net": fusedrnn.LSTM(4, 5, 2, dropout=0.5, rng=1),
            "head": fusedrnn.Linear(5, 3, rng=2),
        }
        return model

    def optimiser(model: dict[str, Any]) -> Any:
        options: dict[str, Any] = {"momentum": 0.9} if kind == "SGD" else {}
        return getattr(fusedrnn.optim, kind)(list(model.values()), lr=0.01, **options)

    def train(model: dict[str, Any], optimizer: Any, steps: int) -> None:
        tokens = np.arange(12).reshape(6, 2) % 9
        for _ in range(steps):
            x, of_words = model["words"].forward(tokens)
            y, _, of_net = model["net"].forward(x)
            scores, of_head = model["head"].forward(y)
            head = of_head.backward(scores)
            net = of_net.backward(head.x)
            words = of_words.backward(net.x)
            optimizer.step([words, net, head])

    whole = start()
    train(whole, optimiser(whole), 6)
    model = start()
    first = optimiser(model)
    train(model, first, 3)
    loaded = there_and_back({"model": model, "optimizer": first.state_dict(), "step": 3})
    second = optimiser(loaded["model"])
    second.load_state_dict(loaded["optimizer"])
    train(loaded["model"], second, 6 - loaded["step"])
    assert loaded["model"] == whole


# ---- what cannot be saved


class Own(fusedrnn.LSTM):
    pass


class OwnStack(fusedrnn.Stack):
    pass


def endless() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["again"] = tree
    return tree


REFUSED: dict[str, tuple[Any, str]] = {
    "subclass": ({"a": Own(3, 5)}, r"save: a is Own; expected an object of the package's own classes"),
    "frozen subclass": (Own(3, 5).freeze(), "save: the value is FrozenLayer; expected one that was frozen by this"),
    "group": ([OwnStack([fusedrnn.LSTM(3, 5)])], "save: 0 is OwnStack; expected an object of the package's own"),
    "frozen group": (OwnStack([fusedrnn.LSTM(3, 5)]).freeze(), "save: the value is OwnStack; expected layers, cells"),
    "in a group": (fusedrnn.Stack([Own(3, 5)]), "save: 0 is Own; expected"),
    "function": (
        {"f": [print]},
        r"save: f.0 is builtin_function_or_method; expected layers, cells, Embedding, Linear, Stack",
    ),
    "set": ({1, 2}, "save: the value is set; expected"),
    "bytes": (b"x", "save: the value is bytes; expected"),
    "complex": (1j, "save: the value is complex; expected"),
    "object array": ({"x": np.array([None])}, r"save: x \(dtype object\) is ndarray; expected arrays of bool"),
    "complex array": (np.zeros(3, complex), r"save: the value \(dtype complex128\) is ndarray"),
    "masked array": (np.ma.zeros(3), "is MaskedArray; expected arrays of"),
    "long double": (np.longdouble(1), "save: the value is longdouble; expected"),
    "key": ({"a": {1.5: 2}}, "save: a key of a is float; expected str or int"),
    "key True": ({True: 2}, "save: a key of the dict is bool; expected str or int"),
    "endless": (endless(), "save: the value is 'nested deeper, or within itself'; expected at most 64 levels"),
    "stream": (fusedrnn.LSTM(3, 5).freeze().stream(), "save: the value is Stream; expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_saved_changes_nothing(name, tmp_path):
    value, message = REFUSED[name]
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((TypeError, ValueError), match=message):
        fusedrnn.save(path, value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_parameters_that_do_not_fit_are_not_saved(tmp_path):
    layer = fusedrnn.LSTM(3, 5)
    layer.weight_hh_l0 = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="LSTM: weight_hh_l0 has shape"):
        fusedrnn.save(tmp_path / "file", layer)


def test_a_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "file"
    fusedrnn.save(path, 1)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    fusedrnn.save(link, 2)
    assert link.is_symlink()
    assert (fusedrnn.load(path), stat.S_IMODE(path.stat().st_mode)) == (2, 0o640)

    def fails(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        fusedrnn.save(path, 3)
    assert fusedrnn.load(path) == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"save: path is .*; expected a regular file, or a new name"):
        fusedrnn.save(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        fusedrnn.save(tmp_path / "no" / "file", 1)
    new = tmp_path / "new"
    mask = os.umask(0o022)
    try:
        fusedrnn.save(str(new).encode(), 1)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o644


# ---- files that are damaged, lie, or are of other versions


def small() -> dict[str, Any]:
    return {"net": fusedrnn.RNN(1, 1, bias=False, rng=0).freeze(), "step": 3, "m": np.arange(3.0)}


def test_every_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    fusedrnn.save(path, small())
    whole = path.read_bytes()
    draw = random.Random(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^load: "):
            fusedrnn.load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^load: "):
            fusedrnn.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=r"^load: "):
        fusedrnn.load(path)
    path.write_bytes(whole)
    assert fusedrnn.load(path)["step"] == 3


def with_checksum(content: bytes) -> bytes:
    place = 8 + len(safetensors_files.CHECKED)
    blank = content[:place] + b"00000000" + content[place + 8 :]
    return content[:place] + b"%08x" % zlib.crc32(blank) + content[place + 8 :]


def test_a_file_that_lies_with_a_right_checksum_does_not_crash(tmp_path):
    """Bytes of the description are changed, and the checksum is made right: either ValueError or some value."""
    path = tmp_path / "file"
    fusedrnn.save(path, small() | {"layer": fusedrnn.LSTM(2, 2, learned_state=True, rng=0)})
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(1)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 3))):
            place = draw.randrange(8 + len(safetensors_files.CHECKED) + 10, end)
            damaged[place] = (
                draw.choice(b'0123456789.-"[]{},:truefalsn\\ e') if draw.random() < 0.9 else draw.randrange(256)
            )
        path.write_bytes(with_checksum(bytes(damaged)))
        try:
            fusedrnn.load(path)
        except ValueError:  # whatever else is raised fails the test
            refused += 1
    assert refused > 150


def file_of(description: Any, arrays: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A file with a right checksum and any description."""
    import io

    file = io.BytesIO()
    text = description if isinstance(description, str) else json.dumps(description | changes)
    safetensors_files.write_tensors(file, arrays or {}, {"fusedrnn": text})
    return file.getvalue()


def tree(node: Any, **more: Any) -> dict[str, Any]:
    return {"version": 2, "tree": node} | more


def layer_node(**changes: Any) -> dict[str, Any]:
    arguments = {"input_size": 1, "hidden_size": 2} | changes.pop("arguments", {})
    arrays = {name: name for name in fusedrnn.RNN(1, 2).params}
    return {"is": "layer", "class": "RNN", "arguments": arguments, "arrays": arrays} | changes


LIES: dict[str, tuple[Any, str]] = {
    "version": ({"version": 3, "tree": None}, "the file's version is 3; expected 1 to 2: a later fusedrnn wrote"),
    "version 0": ({"version": 0, "tree": None}, "the file's version is 0; expected 1 to 2"),
    "version True": ({"version": True, "tree": None}, "the file's version is True"),
    "no version": ({"tree": None}, "no description"),
    "no tree": ({"version": 2}, "no description"),
    "a list": ("[1, 2]", "no description"),
    "no JSON": ("{", "no description"),
    "infinity": ('{"version": 2, "tree": Infinity}', "no description"),
    "deep": ('{"version": 2, "tree": ' + "[" * 5000 + "]" * 5000 + "}", "levels|no description"),
    "very deep": ("[" * 10**6, "no description"),
    "unknown node": (tree({"is": "code"}), "a node of the file's tree is 'code'; expected a known kind"),
    "no kind": (tree({}), "no description"),
    "kind of a kind": (tree({"is": []}), r"a node of the file's tree is \[\]"),
    "number": (tree({"is": "number", "value": "1e999"}), "a number is '1e999'; expected nan, inf or -inf"),
    "pairs": (tree({"is": "dict", "pairs": [[1, 2], [1, 3]]}), "a key is 1; expected a string or an integer, once"),
    "a triple": (tree({"is": "dict", "pairs": [[1, 2, 3]]}), "too many values"),
    "key": (tree({"is": "dict", "pairs": [[[1], 2]]}), r"a key is \[1\]"),
    "no list": (tree({"is": "tuple", "items": "abc"}), "items is 'abc'; expected a list"),
    "tensor": (tree({"is": "array", "tensor": "x"}), "the name of a tensor is 'x'; expected one of the file"),
    "tensor's name": (tree({"is": "array", "tensor": {}}), "the name of a tensor is {}"),
    "class": (tree(layer_node(**{"class": "Exception"})), "the file's class is 'Exception'"),
    "base class": (tree(layer_node(**{"class": "RecurrentLayer"})), "the file's class is 'RecurrentLayer'"),
    "huge": (tree(layer_node(arguments={"hidden_size": 2**30})), "hidden_size is 1073741824, but weight_hh_l0 has"),
    "many": (tree(layer_node(arguments={"num_layers": 2**40})), "num_layers is 1099511627776, but there are arrays"),
    "option": (tree(layer_node(arguments={"hidden_dim": 3})), "hidden_dim is 3, which RNN does not have"),
    "value": (tree(layer_node(arguments={"bias": {"is": "array", "tensor": "bias_ih_l0"}})), "bias"),
    "wide Mamba": (
        tree({"is": "layer", "class": "Mamba", "arguments": {"d_model": 2**40}, "arrays": {}}),
        "d_model is 1099511627776, but in_proj.weight has shape",
    ),
    "many tokens": (
        tree(
            {"is": "layer", "class": "Embedding", "arguments": {"num_embeddings": 2**40, "embedding_dim": 2}}
            | {"arrays": {"weight": "weight_ih_l0"}}
        ),
        "the arrays of Embedding is .*; expected weight",
    ),
    "a part": (tree(layer_node(arrays={"weight_ih_l0": "weight_ih_l0"})), "found no weight_hh_l0"),
    "generator": (tree(layer_node(generator=0)), "the number of a generator is 0; expected one of 0"),
    "generators": (tree(None, generators={"a": 1}), "generators is {'a': 1}; expected a list"),
    "a generator": (tree(None, generators=[{"is": "dict", "pairs": [["bit_generator", "os"]]}]), "a generator is 'os'"),
    "group": (tree({"is": "group", "class": "list", "members": [], "arguments": {}}), "the file's group is 'list'"),
    "no members": (tree({"is": "group", "class": "Stack", "members": [], "arguments": {}}), "load: Stack: "),
    "a member": (tree({"is": "group", "class": "Ensemble", "members": [3], "arguments": {}}), "load: Ensemble: "),
    "one way": (
        tree({"is": "group", "class": "Bidirectional", "members": [layer_node()], "arguments": {}}),
        "the number of directions is 1; expected 2",
    ),
    "an argument": (
        tree({"is": "group", "class": "Stack", "members": [layer_node()], "arguments": {"a": 1}}),
        "the arguments of Stack is {'a': 1}; expected known ones",
    ),
    "dropout": (
        tree({"is": "group", "class": "Stack", "members": [layer_node()], "arguments": {"dropout": "x"}}),
        "Stack: dropout",
    ),
    "frozen": (tree({"is": "frozen", "of": 3, "arguments": {}}), "what was frozen is 3; expected a layer or a group"),
    "frozen cell": (
        tree({"is": "frozen", "of": layer_node(), "arguments": {"precision": "int3"}}),
        "RNN: precision is 'int3'",
    ),
    "of freeze": (
        tree({"is": "frozen", "of": layer_node(), "arguments": {"code": 1}}),
        "the arguments of freeze is .*; expected precision alone",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_files_that_lie(name, tmp_path):
    description, message = LIES[name]
    path = tmp_path / "file"
    path.write_bytes(file_of(description, fusedrnn.RNN(1, 2, rng=0).state_dict()))
    with pytest.raises(ValueError, match=message) as caught:
        fusedrnn.load(path)
    assert str(caught.value).startswith("load: ")
    assert str(caught.value).endswith(f"(file {str(path)!r})")


@pytest.mark.parametrize(
    ("kind", "change"), [("MT19937", ("pos", 10**6)), ("MT19937", ("pos", -1)), ("Philox", ("buffer_pos", 9))]
)
def test_counters_of_generators_stay_within_their_arrays(kind, change, tmp_path, monkeypatch):
    """NumPy reads outside of its array for these counters."""
    honest = object_files.state_of

    def lying(owner: str, rng: Any) -> dict[str, Any]:
        state = honest(owner, rng)
        (state if change[0] in state else state["state"])[change[0]] = change[1]
        return state

    path = tmp_path / "file"
    monkeypatch.setattr(object_files, "state_of", lying)
    fusedrnn.save(path, fusedrnn.RNN(1, 2, rng=np.random.Generator(getattr(np.random, kind)(0))))
    with pytest.raises(ValueError, match=f"the state of a generator {kind} cannot be read"):
        fusedrnn.load(path)


def test_bools_are_zero_or_one(tmp_path):
    path = tmp_path / "file"
    fusedrnn.save(path, np.array([True, False, True]))
    content = bytearray(path.read_bytes())
    content[-1] = 2
    path.write_bytes(with_checksum(bytes(content)))
    with pytest.raises(ValueError, match="array has bytes above 1; expected bytes 0 and 1, as BOOL"):
        fusedrnn.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the length of the header"),
        (b"PK\x03\x04" + b"\0" * 100, "the file is a zip archive; expected one that fusedrnn.save wrote"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "the file is an HDF5 file; expected"),
        (struct.pack("<Q", 2) + b"{}", "the file is a safetensors file of another program; expected"),
        (struct.pack("<Q", 10**18) + b"{}", "the length of the header is 1000000000000000000; expected at most 2"),
    ],
)
def test_files_of_others(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fusedrnn.load(path)


def test_a_rewritten_file_says_so(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
    import safetensors

    path = tmp_path / "file"
    fusedrnn.save(path, fusedrnn.RNN(1, 2, rng=0))
    with safetensors.safe_open(path, "numpy") as file:
        metadata = {"a": "b"} | file.metadata()
    numpy.save_file(numpy.load_file(path), path, metadata)
    with pytest.raises(ValueError, match=r"checksum"):
        fusedrnn.load(path)


# ---- earlier versions

#: A file of version 2, made once: a frozen Stack of an RNN(1, 1) and the number 7.
VERSION_2 = """
eNqdVMGOmzAQzaEfUvmMIiBRu5tL97THPbTHgNAEhtiqsZFtdpVESP2yflvHhl1IiCq1lpDx85vnmYeH9tMqjAsrigYdVOCgKNjuwurOYmWUWp
em3KRsxx4PyeYxxi2LPvYIvWTsFY0VWmVsl0YZcwaRXgkXluaMVaJ0GaOdFoTx0H6fMYUem0i10WdUgabrq/Cj0V0bNkoJdsB+OCh/BqzB5oCD
6hQi4YTmJuT7y0tAwBy7BpWz4yGq7VxhxdnnnNA+F1WFao6orimCon0HtJJCIRjhTkHbgeJB/CDAk5zp0K/AlbyoqWiqdVeDtB6tjG5155F4HY
eYShgsHTkIcsZr0BwxyJdalTBYCMR7BTe4rTopQ42inVYHcuYNTGVnUpJyVVgV1oHDGX7WCuepUBqdMWROcZvkG4ojX8KVO7VDjrXU4DZpxvrg
sYHTaPAYKXgh48CkL7+O19fwdAK/z+MfPG/xQm0OvnP4Pc4I9n2+vApXxfX9ktCSP2K86fOKSYxutHXor+nXPO97cuFOnb6rgmPUNs/UUhGzHP
xqn0RJHrHQe7quLTpLYBxt81sd/h862+hh0pmc+ovKUuMhStIbEf7PIkkaJV/Inc806JfzbbX69ZsemldPfwA5DXuM
"""


def version_1() -> bytes:
    """What save_safetensors of version 1 wrote, through another library and without a checksum."""
    layer = fusedrnn.RNN(1, 2, nonlinearity="relu", rng=0)
    arguments = layer._config() | {"dtype": "float32"}
    header: dict[str, Any] = {
        "__metadata__": {"fusedrnn": json.dumps({"version": 1, "class": "RNN", "arguments": arguments})}
    }
    data = b""
    for name, array in layer.state_dict().items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_version_1(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(version_1())
    assert fusedrnn.load(path) == fusedrnn.RNN(1, 2, nonlinearity="relu", rng=0)
    assert interop.load_safetensors(path) == fusedrnn.RNN(1, 2, nonlinearity="relu", rng=0)


def test_version_2(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(zlib.decompress(base64.b64decode(VERSION_2)))
    loaded = fusedrnn.load(path)
    assert loaded["step"] == 7
    layer = fusedrnn.RNN(1, 1)
    layer.load_state_dict({"weight_ih_l0": [[0.5]], "weight_hh_l0": [[-0.25]], "bias_ih_l0": [1], "bias_hh_l0": [2]})
    assert loaded["net"] == fusedrnn.Stack([layer]).freeze()


# ---- the functions that were there before


def test_save_safetensors_writes_groups_and_frozen_ones(tmp_path):
    path: Path = tmp_path / "file"
    for thing in (*groups().values(), fusedrnn.LSTM(3, 5).freeze(), groups()["stack"].freeze()):
        interop.save_safetensors(thing, path)
        assert interop.load_safetensors(path) == thing
        assert fusedrnn.load(path) == thing
    layer = fusedrnn.LSTM(3, 5, rng=0)
    interop.save_safetensors(layer, path)
    assert fusedrnn.load(path) == layer
    fusedrnn.save(path, {"encoder": layer, "step": 3})
    assert interop.load_safetensors(path)["encoder"] == layer
    assert interop.load_safetensors(path, "encoder") == layer
    with pytest.raises(TypeError, match=r"save_safetensors: got dict; expected .* \(fusedrnn.save writes dicts"):
        interop.save_safetensors({}, path)


@pytest.mark.parametrize("name", groups())
def test_save_npz_says_what_writes_groups(name, tmp_path):
    for thing in (groups()[name], groups()[name].freeze()):
        with pytest.raises(TypeError, match=r"save_npz: got \w+; expected a layer or a cell \(fusedrnn.save writes"):
            interop.save_npz(thing, tmp_path / "file")
    assert not [name for name in os.listdir(tmp_path) if name != "file"]
