"""Files that are damaged, lie about their sizes or come from other programs: an immediate ValueError that names them.

tests/conformance/test_onnx_limits.py does the same for ONNX files.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedrnn
from fusedrnn import interop
from fusedrnn.interop import npz_files
from fusedrnn.parameters import Parameterized

I, H = 3, 5

Load = Callable[[bytes], Any]


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch):
    """Sizes in a file must not cause as many random weights to be drawn."""

    def draw(self: Any) -> None:
        raise AssertionError(f"drew the parameters of {self!r}")

    monkeypatch.setattr(Parameterized, "_draw", draw)


def layer(kind: str = "LSTM", **options: Any) -> Any:
    """A layer whose parameters are drawn here."""
    made = getattr(fusedrnn, kind).__new__(getattr(fusedrnn, kind))
    made._restore({}, I, H, options, rng=0)
    rng = np.random.default_rng(0)
    made.load_state_dict({spec.name: rng.standard_normal(spec.shape) for spec in made.__dict__["_specs"]})
    return made


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """An npy header without data."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(members: dict[str, Any], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Arrays, and members as they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content if isinstance(content, bytes) else npy(content))
    return file.getvalue()


def safetensors(members: dict[str, Any], metadata: Any = None, codes: dict[str, str] | None = None) -> bytes:
    """Arrays in the package's layout; `codes` are dtypes other than those of the arrays."""
    known = {"float32": "F32", "float64": "F64", "float16": "F16", "uint8": "U8", "complex64": "C64", "bool": "BOOL"}
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, array in members.items():
        code = (codes or {}).get(name) or known[array.dtype.name]
        offsets = [len(data), len(data) + array.nbytes]
        entries[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return headed(json.dumps(entries).encode(), data)


def headed(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def description(of: Any, **changes: Any) -> str:
    """The JSON of a layer, with other arguments; `...` omits an argument."""
    arguments = of._config() | {"dtype": of.dtype.name} | changes
    arguments = {name: value for name, value in arguments.items() if value is not ...}
    return json.dumps({"version": 1, "class": type(of).__name__, "arguments": arguments})


@pytest.fixture
def refused(tmp_path):
    """Check that a file is refused with a message that names function and file."""

    def check(form: str, content: bytes, message: str) -> None:
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            getattr(interop, f"load_{form}")(path)
        said = str(caught.value)
        assert said.startswith(f"load_{form}: "), said
        assert said.endswith(f"(file {str(path)!r})"), said

    return check


FORMS: dict[str, Callable[[Any, str], bytes]] = {
    "npz": lambda of, text: npz(of.state_dict() | {"fusedrnn": np.array(text)}),
    "safetensors": lambda of, text: safetensors(of.state_dict(), {"fusedrnn": text}),
}

# ---- what a file says of itself -------------------------------------------------------------------------------------

ARGUMENTS = {
    "layers": ({"num_layers": 100000}, "num_layers is 100000, but there are arrays of 1"),
    "layers beyond": ({"num_layers": 2**70}, "num_layers is 1180591620717411303424, but there are arrays of 1"),
    "units": ({"hidden_size": 20000}, r"hidden_size is 20000, but weight_hh_l0 has shape \(20, 5\); expected 5"),
    "inputs": ({"input_size": 2**31}, r"input_size is 2147483648, but weight_ih_l0 has shape \(20, 3\); expected 3"),
    "projection": ({"proj_size": 2**20}, r"proj_size is 1048576, but weight_hh_l0 has shape \(20, 5\); expected 0"),
    "a string": ({"hidden_size": "5"}, "hidden_size is '5', but weight_hh_l0 has shape"),
    "a float": ({"hidden_size": 5.0}, r"hidden_size is 5.0 \(float\); expected an integer"),
    "a list": ({"num_layers": [1]}, r"num_layers is \(1,\), but there are arrays of 1"),
    "none": ({"input_size": None}, "input_size is None, but weight_ih_l0 has shape"),
    "missing": ({"input_size": ...}, "the file's arguments is .*; expected input_size among them"),
    "rng": ({"rng": 3}, "rng is 3, which LSTM does not have"),
    "a parameter of ours": ({"params": {}}, "params is {}, which LSTM does not have"),
    "self": ({"self": 3}, "self is 3, which LSTM does not have"),
    "two directions": ({"bidirectional": True}, "missing: weight_ih_l0_reverse"),
    "no biases": ({"bias": False}, "unexpected: bias_ih_l0"),
    "an activation": ({"activation": ["elu", [1]]}, r"alpha of activation is \[1\] \(list\); expected a finite number"),
    "an integer beyond floats": ({"dropout": 10**400}, "dropout is inf; expected 0 <= dropout < 1"),
    "a dtype": ({"dtype": {"names": []}}, "dtype is {'names': .*}; expected 'float32' or 'float64'"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
@pytest.mark.parametrize("form", FORMS)
def test_arguments_that_do_not_fit_the_arrays(form, case, refused):
    changes, message = ARGUMENTS[case]
    refused(form, FORMS[form](layer(), description(layer(), **changes)), message)


DESCRIPTIONS = {
    "no JSON": ("[1", "is no description of a layer: JSONDecodeError"),
    "a list": ("[1]", "is no description of a layer: TypeError"),
    "deep": ("[" * 10**5, "is no description of a layer: RecursionError"),
    "long": ('{"version": ' + "9" * 5000 + "}", "is no description of a layer: ValueError"),
    "nothing": ("{}", "is no description of a layer: KeyError"),
    "a class that is a number": ('{"version": 1, "class": 3, "arguments": {}}', "the file's class is 3; expected"),
    "arguments in a list": ('{"version": 1, "class": "GRU", "arguments": [1]}', r"the file's arguments is \[1\]; exp"),
    "no arguments": ('{"version": 1, "class": "GRU", "arguments": {}}', "expected input_size among them"),
    "a version that is true": ('{"version": true, "class": "GRU", "arguments": {}}', "version is True; expected 1"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_descriptions_that_are_none(form, case, refused):
    text, message = DESCRIPTIONS[case]
    refused(form, FORMS[form](layer(), text), message)


@pytest.mark.parametrize("form", FORMS)
def test_layers_are_read_without_drawing(form, tmp_path):
    path = tmp_path / "file"
    for kind, options in (
        ("LSTM", {"proj_size": 2, "learned_state": True}),
        ("GRU", {"num_layers": 2}),
        ("RNNCell", {}),
    ):
        saved = layer(kind, **options)
        path.write_bytes(FORMS[form](saved, description(saved)))
        assert getattr(interop, f"load_{form}")(path) == saved
    late = layer()
    late.dropout = 0.5  # has no effect with one layer; the constructor would warn about it
    path.write_bytes(FORMS[form](late, description(late)))
    assert getattr(interop, f"load_{form}")(path) == late


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [10**8 - 1, 10**30])
def test_state_dicts_with_layers_far_up(form, number, refused):
    arrays = layer().state_dict() | {f"weight_hh_l{number}": np.ones(3, np.float32)}
    content = npz(arrays) if form == "npz" else safetensors(arrays)
    refused(form, content, f"unexpected: weight_hh_l{number}")


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_file_stays_an_oserror(form, tmp_path):
    with pytest.raises(FileNotFoundError):
        getattr(interop, f"load_{form}")(tmp_path / "nothing")
    with pytest.raises(TypeError):
        getattr(interop, f"load_{form}")(3)


# ---- npz ------------------------------------------------------------------------------------------------------------

ZEROS = bytes(2**24)


MEMBERS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "claims": (
        lambda: {"weight_ih_l0": header("(1099511627776, 3)") + bytes(240)},
        r"weight_ih_l0 has \d+ bytes; expected \d+: a header and <f4 of shape \(1099511627776, 3\)",
    ),
    "more data": (lambda: {"weight_ih_l0": header("(20, 3)") + ZEROS}, "weight_ih_l0 has 167.* bytes; expected 3"),
    "less data": (lambda: {"weight_ih_l0": header("(20, 3)") + bytes(200)}, "weight_ih_l0 has 2.* bytes; expected 3"),
    "long header": (
        lambda: {"weight_ih_l0": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + ZEROS},
        "weight_ih_l0 begins with .*; expected an npy header",
    ),
    "deep header": (
        lambda: {"weight_ih_l0": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000},
        "weight_ih_l0 has the header .*; expected a shape and a plain dtype",
    ),
    "recursive header": (
        lambda: {"weight_ih_l0": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"-" * 9000},
        "weight_ih_l0 has the header .*; expected a shape and a plain dtype",
    ),
    "negative": (lambda: {"weight_ih_l0": header("(-20, 3)")}, "expected a shape and a plain dtype"),
    "many axes": (
        lambda: {"weight_ih_l0": header(f"({'1, ' * 100})") + bytes(4)},
        "expected a shape and a plain dtype",
    ),
    "no array": (lambda: {"weight_ih_l0": b"hello"}, "weight_ih_l0 cannot be read|begins with"),
    "empty": (lambda: {"weight_ih_l0": b""}, "weight_ih_l0 cannot be read|begins with"),
    "objects": (lambda: {"weight_ih_l0": np.array([None, {}])}, "expected a shape and a plain dtype"),
    "fields": (lambda: {"weight_ih_l0": np.zeros(3, "f4,f4")}, "expected a shape and a plain dtype"),
    "strings": (lambda: {"weight_ih_l0": np.zeros((20, 3), "U2")}, "weight_ih_l0 has dtype <U2; expected real numbers"),
    "complex": (lambda: {"weight_ih_l0": np.zeros((20, 3), "c8")}, "weight_ih_l0 has dtype complex64; expected real"),
    "one axis": (lambda: {"weight_ih_l0": np.zeros(20)}, "found no weight_ih_l0 of two axes in"),
    "long text": (lambda: {"fusedrnn": header("()", "'<U4194288'") + ZEROS[:-64]}, "expected one string"),
    "two texts": (
        lambda: {"fusedrnn": np.array(["a", "b"])},
        "fusedrnn has dtype <U1 and shape .2,.; expected one str",
    ),
    "no text": (lambda: {"fusedrnn": header("()", "'<U1'") + b"\xff\xff\xff\xff"}, "fusedrnn cannot be read: Unicode"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_npz_members_are_looked_at_before_they_are_unpacked(case, refused):
    make, message = MEMBERS[case]
    refused("npz", npz(layer(bias=False).state_dict() | make()), message)


def test_npz_members_do_not_unpack_to_very_much_more_than_the_file(refused, monkeypatch):
    """Even if they are consistent with each other; nothing is allocated."""
    monkeypatch.setattr(npz_files, "ROOM", 2**16)
    packed = npz({"weight_ih_l0": np.zeros((400, 1000)), "weight_hh_l0": np.zeros((400, 100))})
    message = r"weight_ih_l0 unpacks to 3200000 bytes; expected at most \d+ more of a file of \d+ bytes"
    refused("npz", packed, message)


def test_npz_members_that_nobody_needs_are_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(
        npz({f"rnn.{n}": a for n, a in layer().state_dict().items()} | {"head.weight": b"hello", "x": ZEROS})
    )
    assert interop.load_npz(path) == layer()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_packed_in_ways_that_numpy_does_not(method, refused):
    pytest.importorskip({zipfile.ZIP_BZIP2: "bz2", zipfile.ZIP_LZMA: "lzma"}[method])
    refused(
        "npz", npz(layer().state_dict(), method), rf"compression of weight_ih_l0 is {method}; expected one of 0 \(st"
    )


def test_npz_that_python_2_wrote(tmp_path):
    path = tmp_path / "file"
    W = layer(bias=False).state_dict()
    path.write_bytes(npz(W | {"weight_ih_l0": header("(20L, 3L)") + W["weight_ih_l0"].tobytes()}))
    assert interop.load_npz(path) == layer(bias=False)


# ---- safetensors ----------------------------------------------------------------------------------------------------


def entry(dtype: Any = "F32", shape: Any = (4, 1), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def pair(data: int = 32, **changes: Any) -> bytes:
    """Two tensors, the second changed."""
    second = entry(offsets=(16, 32)) | changes
    return headed(json.dumps({"weight_ih_l0": entry(), "weight_hh_l0": second}).encode(), bytes(data))


HEADERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the length of the header is 0; expected at most 0, in a file of 0 bytes"),
    "longer than the file": (struct.pack("<Q", 2**63) + b"{}", r"the length of the header is \d+; expected at most 2"),
    "no text": (headed(b"\xff\xfe"), "the header cannot be read: UnicodeDecodeError"),
    "no JSON": (headed(b"{"), "the header cannot be read: JSONDecodeError"),
    "deep": (headed(b"[" * 10**5), "the header cannot be read: RecursionError"),
    "a list": (headed(b"[]"), "the header is 'list'; expected an object"),
    "metadata": (headed(b'{"__metadata__": 3}'), "__metadata__ is 3; expected an object"),
    "description": (headed(b'{"__metadata__": {"fusedrnn": 3}}'), "fusedrnn is 3; expected a string of JSON"),
    "one name twice": (headed(b'{"a": 1, "a": 2}'), "there are several entries called 'a'"),
    "no entry": (headed(b'{"a": 1}'), "a is described by 1; expected dtype, shape and data_offsets"),
    "more in an entry": (pair(more=1), "weight_hh_l0 is described by .*; expected dtype, shape and data_offsets"),
    "dtype": (pair(dtype=3), "weight_hh_l0 has dtype 3; expected a string"),
    "shape": (pair(shape=3), "weight_hh_l0 has shape 3; expected a list of"),
    "shape of floats": (pair(shape=[4.0, 1]), r"weight_hh_l0 has shape \[4.0, 1\]; expected a list of"),
    "shape below": (pair(shape=[-4, 1]), r"weight_hh_l0 has shape \[-4, 1\]; expected a list of"),
    "shape beyond": (pair(shape=[2**40, 1]), r"weight_hh_l0 has 16 bytes; expected 4398046511104, as F32 of shape"),
    "many axes": (pair(shape=[2**62] * 10**5), "weight_hh_l0 has shape .*; expected a list of at most 64 integers"),
    "offsets": (pair(data_offsets=[16]), r"weight_hh_l0 has data_offsets \[16\]; expected where its bytes begin"),
    "turned": (
        pair(data_offsets=[32, 16]),
        r"weight_hh_l0 has data_offsets \[32, 16\]; expected where its bytes begin",
    ),
    "overlap": (pair(data_offsets=[0, 16]), "weight_hh_l0 begins at 0; expected 16, where the tensor before it ends"),
    "hole": (pair(data_offsets=[20, 36]), "weight_hh_l0 begins at 20; expected 16, where the tensor before it ends"),
    "beyond the end": (pair(data=20), "the length of the data is 20; expected 32, as the header says"),
    "before the end": (pair(data=40), "the length of the data is 40; expected 32, as the header says"),
    "complex": (pair(dtype="C64", shape=[2, 1]), "weight_hh_l0 has shape|have 2 rows for hidden_size 1"),
    "unknown": (pair(dtype="F8_E8M0", shape=[4, 1]), "weight_hh_l0 has dtype F8_E8M0; expected one of F64, F32"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_safetensors_headers_are_checked(case, refused):
    content, message = HEADERS[case]
    refused("safetensors", content, message)


def test_tensors_that_nobody_needs_may_be_of_any_dtype(tmp_path):
    arrays = {f"rnn.{n}": a for n, a in layer().state_dict().items()} | {"head": np.zeros(3, np.uint8)}
    path = tmp_path / "file"
    path.write_bytes(safetensors(arrays, codes={"head": "F4"}))
    assert interop.load_safetensors(path) == layer()


def by_definition(code: str, bits: int) -> float:
    """A float from its sign, exponent and mantissa."""
    exponents, mantissas, bias = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15), "BF16": (8, 7, 127), "F16": (5, 10, 15)}[
        code
    ]
    sign = -1.0 if bits >> (exponents + mantissas) else 1.0
    exponent, mantissa = bits >> mantissas & (2**exponents - 1), bits & (2**mantissas - 1)
    if code == "F8_E4M3":
        if (exponent, mantissa) == (15, 7):
            return np.nan
    elif exponent == 2**exponents - 1:
        return np.nan if mantissa else sign * np.inf
    whole = mantissa / 2**mantissas + (exponent > 0)
    return sign * whole * 2.0 ** (max(exponent, 1) - bias)


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2", "BF16", "F16"])
def test_short_floats_become_float32_exactly(code, tmp_path):
    """With NumPy alone."""
    bits = np.arange(256, dtype=np.uint8) if code.startswith("F8") else np.arange(0, 2**16, 64, dtype=np.uint16)
    bits = bits.reshape(4 * 4, -1)
    arrays = {"weight_ih_l0": bits, "weight_hh_l0": bits[:, :4].copy()}
    path = tmp_path / "file"
    path.write_bytes(safetensors(arrays, codes=dict.fromkeys(arrays, code)))
    read = interop.load_safetensors(path)
    assert read.dtype == np.float32
    expected = [by_definition(code, int(b)) for b in bits.ravel()]
    np.testing.assert_array_equal(read.weight_ih_l0.ravel(), np.array(expected, np.float32))


# ---- damage ---------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, or a part missing."""
    if rng.random() < 0.2:
        return content[: rng.integers(len(content))]
    array = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 10])):
        array[rng.integers(len(array))] ^= 1 << int(rng.integers(8))
    return bytes(array)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_damaged_files(form, packed, tmp_path, rng):
    """Either read normally, if only a number is damaged, or refused like every other damaged file."""
    saved = layer("GRU")
    if form == "npz":
        arrays = saved.state_dict() | {"fusedrnn": np.array(description(saved))}
        content = npz(arrays, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
    else:
        content = safetensors(saved.state_dict(), None if packed else {"fusedrnn": description(saved)})
    path = tmp_path / "file"
    refusals = []
    for _ in range(200):
        path.write_bytes(damaged(content, rng))
        try:
            getattr(interop, f"load_{form}")(path)
        except ValueError as error:
            refusals.append(error)
    assert len(refusals) > 20
    assert {type(error) for error in refusals} == {ValueError}
    assert all(str(error).startswith(f"load_{form}: ") and str(path) in str(error) for error in refusals)
