"""load_ncnn against ncnn: the outputs of its layers from random files, and files that are damaged."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedrnn import interop
from tolerances import assert_close

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FORMATS = ["float32", "marked float32", "float16", "table"]
T = 7


def stored(array: Any, form: str, rng: np.random.Generator) -> bytes:
    """An array as ncnn stores it."""
    if form == "float16":
        data = array.astype("<f2").tobytes()
        return (0x01306B47).to_bytes(4, "little") + data + bytes(-len(data) % 4)
    if form == "table":
        table, data = np.linspace(-1, 1, 256).astype("<f4"), rng.integers(0, 256, array.size).astype(np.uint8).tobytes()
        return b"\1\0\0\0" + table.tobytes() + data + bytes(-len(data) % 4)
    return (0x0002C056 if form == "marked float32" else 0).to_bytes(4, "little") + array.astype("<f4").tobytes()


def layer(rng: np.random.Generator, kind: str, I: int, H: int, direction: int, P: int, form: str) -> tuple[str, bytes]:
    """Parameters and weights of one layer."""
    G, D = GATES[kind], 2 if direction == 2 else 1
    shapes = [(D, G * H, I), (D, 1 if kind == "RNN" else 4, H), (D, G * H, P), *([(D, P, H)] if P != H else [])]
    data = b"".join(stored(rng.standard_normal(shape) / 2, form, rng) for shape in shapes)
    return f"0={P} 1={D * G * H * I} 2={direction}" + (f" 3={H}" if P != H else ""), data


def write(folder: Path, lines: list[str], data: bytes) -> tuple[str, str]:
    param, weights = folder / "model.param", folder / "model.bin"
    param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    weights.write_bytes(data)
    return str(param), str(weights)


def outputs(files: tuple[str, str], x: Any, name: str) -> Any:
    ncnn = pytest.importorskip("ncnn", reason="ncnn is not installed: pip install '.[conformance]'")
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    assert net.load_param(files[0]) == 0
    assert net.load_model(files[1]) == 0
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(x))
    return np.array(extractor.extract(name)[1])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("kind", "direction"), list(itertools.product(GATES, range(3))))
def test_layers(kind, direction, form, tmp_path, rng):
    for _ in range(3):
        I, H = (int(n) for n in rng.integers(1, 7, 2))
        P = int(rng.integers(1, H + 1)) if kind == "LSTM" else H
        params, data = layer(rng, kind, I, H, direction, P, form)
        files = write(tmp_path, ["Input x 0 1 x", f"{kind} rec 1 1 x y {params}"], data)
        x = rng.standard_normal((T, I)).astype("f")
        assert_close(interop.load_ncnn(*files)(x)[0], outputs(files, x, "y"), dtype="float32", K=I + H, T=T, what=kind)


def test_layers_behind_others(tmp_path, rng):
    lstm, first = layer(rng, "LSTM", 4, 5, 0, 5, "float32")
    gru, second = layer(rng, "GRU", 5, 3, 1, 3, "float16")
    dense = stored(rng.standard_normal((4, 6)), "float16", rng) + rng.standard_normal(4).astype("<f4").tobytes()
    lines = ["Input x 0 1 x", "InnerProduct d 1 1 x a 0=4 1=1 2=24", "ReLU r 1 1 a b 0=0.1"]
    lines += [f"LSTM l 1 1 b c {lstm}", f"GRU g 1 1 c y {gru}"]
    files = write(tmp_path, lines, dense + first + second)
    x = rng.standard_normal((T, 6)).astype("f")
    ours = interop.load_ncnn(*files)
    assert repr(ours) == "Stack([LSTM(4, 5, bias='single'), GRU(5, 3, backwards=True)])"
    below = outputs(files, x, "b")
    assert_close(ours(below)[0], outputs(files, x, "y"), dtype="float32", K=9, T=T, what="stack")
    assert repr(interop.load_ncnn(*files, "g")) == "GRU(5, 3, backwards=True)"
    assert interop.load_ncnn(*files, ["l", "g"]) == ours


GRU = "GRU g 1 1 x y 0=5 1=45 2=0"
GOOD = b"".join(bytes(4) + np.zeros(n, "<f4").tobytes() for n in (45, 20, 75))
INPUT = "Input x 0 1 x"

DAMAGED: dict[str, tuple[Any, Any, str]] = {
    "no layer": ([INPUT], GOOD, "found no LSTM, GRU or RNN in 1 layers"),
    "int8": ([INPUT, f"{GRU} 8=2"], GOOD, "GRU 'g' is quantised"),
    "int8 numbers": ([INPUT, GRU], (0x000D4B38).to_bytes(4, "little") + GOOD[4:], "weight_xc of GRU 'g' is quantised"),
    "short": ([INPUT, GRU], GOOD[:-1], "the .bin file has 299 more bytes; expected 300 for weight_hc"),
    "empty": ([INPUT, GRU], b"", "the .bin file has 0 more bytes; expected 4 for weight_xc"),
    "huge": ([INPUT, "GRU g 1 1 x y 0=2000000000 1=2000000000"], GOOD, "expected a multiple of 6000000000"),
    "large": ([INPUT, "GRU g 1 1 x y 0=1000 1=2100000000"], GOOD, "expected 8400000000 for weight_xc"),
    "negative": ([INPUT, "GRU g 1 1 x y 0=-5 1=45"], GOOD, "0= of GRU 'g' is -5; expected an integer >= 0"),
    "not whole": ([INPUT, "GRU g 1 1 x y 0=5 1=46"], GOOD, "1= of GRU 'g' is 46; expected a multiple of 15"),
    "zero": ([INPUT, "GRU g 1 1 x y 0=0 1=45"], GOOD, "expected a multiple of 0"),
    "float": ([INPUT, "GRU g 1 1 x y 0=5.5 1=45"], GOOD, "0= of GRU 'g' is None; expected an integer"),
    "direction": ([INPUT, "GRU g 1 1 x y 0=5 1=45 2=3"], GOOD, "2= of GRU 'g' is 3; expected 0, 1 or 2"),
    "twice": ([INPUT, GRU, GRU], GOOD, "there are several entries called 'g'"),
    "key twice": ([INPUT, f"{GRU} 0=5"], GOOD, "a parameter of 'g' is '0=5'"),
    "counts": ([INPUT, "GRU g 99999 1 x y"], GOOD, "layer 1 is 'GRU g 99999 1 x y'; expected type, name, counts"),
    "big integer": ([INPUT, f"GRU g 1 1 x y 0={'9' * 5000} 1=45"], GOOD, "0= of GRU 'g' is None"),
    "unknown": ([INPUT, "MyLayer m 1 1 x z", "GRU g 1 1 z y 0=5 1=45"], GOOD, "MyLayer 'm' stands before a recurrent"),
    "several": (
        [INPUT, GRU, "GRU h 1 1 x z 0=5 1=45"],
        GOOD,
        "several recurrent layers: 'g', 'h'; choose one with layer=",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_files_that_are_refused(case, tmp_path):
    lines, data, message = DAMAGED[case]
    with pytest.raises(ValueError, match=f"^load_ncnn: .*{message}"):
        interop.load_ncnn(*write(tmp_path, lines, data))


def test_param_files_that_are_none(tmp_path):
    weights = tmp_path / "model.bin"
    weights.write_bytes(GOOD)
    for content, message in ((b"", "the first line"), (b"\xff\xfe", "binary"), (b"7767517\n9 1\n", "the second line")):
        (tmp_path / "model.param").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            interop.load_ncnn(tmp_path / "model.param", weights)
    with pytest.raises(OSError):
        interop.load_ncnn(tmp_path / "none.param", weights)


def test_random_damage(tmp_path, rng):
    """Whatever is changed, a ValueError or a layer comes out."""
    text = "\n".join(["7767517", "2 2", INPUT, GRU]) + "\n"
    param, weights = tmp_path / "model.param", tmp_path / "model.bin"
    weights.write_bytes(GOOD)
    for _ in range(300):
        content = bytearray(text, "ascii")
        for _ in range(int(rng.integers(1, 4))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        param.write_bytes(bytes(content))
        with contextlib.suppress(ValueError):
            interop.load_ncnn(param, weights)
