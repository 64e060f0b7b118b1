"""Model files that somebody made on purpose: whatever is not what `save` writes is a ValueError."""

import hashlib
import json
import struct

import numpy as np
import pytest
from test_persistence import VERSIONS, _net, _rejected

from cymlp import MLP


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def _take_apart(path):
    """Header, the JSON document inside it, and the bytes of the tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["cymlp"]), data[8 + length :]


def _canonical(document):
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _put_together(header, document, tensor, sign=True):
    """The bytes of a model file as an attacker makes it, with a checksum that matches."""
    if document is not None:
        if sign:
            body = {key: value for key, value in document.items() if key != "sha256"}
            document = document | {"sha256": hashlib.sha256(_canonical(body).encode() + tensor).hexdigest()}
        header = header | {"__metadata__": {"cymlp": _canonical(document)}}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensor


def _model(path, **options):
    _net(**options).save(path, metadata={"a": 1})
    return _take_apart(path)


@pytest.mark.parametrize("normalization", VERSIONS.values(), ids=VERSIONS)
def test_put_together_makes_a_good_file(normalization, path):
    path.write_bytes(_put_together(*_model(path, normalization=normalization)))
    assert MLP.load(path, engine="reference").metadata == {"a": 1}


HOSTILE_HEADERS = {
    "a tensor more": lambda header: header | {"other": {"dtype": "U8", "shape": [0], "data_offsets": [104, 104]}},
    "no tensor": lambda header: {"__metadata__": header["__metadata__"]},
    "no metadata": lambda header: {"parameters": header["parameters"]},
    "metadata not an object": lambda header: header | {"__metadata__": []},
    "metadata with more": lambda header: header | {"__metadata__": header["__metadata__"] | {"x": "y"}},
    "description not a text": lambda header: header | {"__metadata__": {"cymlp": 3}},
    "description not JSON": lambda header: header | {"__metadata__": {"cymlp": "{"}},
    "description no object": lambda header: header | {"__metadata__": {"cymlp": "[1]"}},
    "description not UTF-8": lambda header: header | {"__metadata__": {"cymlp": "\ud800"}},
    "description nested": lambda header: header | {"__metadata__": {"cymlp": "[" * 100_000}},
    "infinite": lambda header: header | {"__metadata__": {"cymlp": "Infinity"}},
    "twice": lambda header: json.dumps(header).replace('"parameters":', '"parameters": {}, "parameters":').encode(),
    "other dtype": lambda header: header | {"parameters": header["parameters"] | {"dtype": "F32"}},
    "integers": lambda header: header | {"parameters": header["parameters"] | {"dtype": "I64"}},
    "other shape": lambda header: header | {"parameters": header["parameters"] | {"shape": [13, 1]}},
    "negative shape": lambda header: header | {"parameters": header["parameters"] | {"shape": [-13]}},
    "float shape": lambda header: header | {"parameters": header["parameters"] | {"shape": [13.0]}},
    "huge shape": lambda header: header | {"parameters": header["parameters"] | {"shape": [2**62]}},
    "offsets beyond": lambda header: header | {"parameters": header["parameters"] | {"data_offsets": [0, 2**62]}},
    "offsets swapped": lambda header: header | {"parameters": header["parameters"] | {"data_offsets": [104, 0]}},
    "offset not 0": lambda header: header | {"parameters": header["parameters"] | {"data_offsets": [8, 112]}},
    "more about the tensor": lambda header: header | {"parameters": header["parameters"] | {"x": 1}},
    "tensor no object": lambda header: header | {"parameters": 3},
}


@pytest.mark.parametrize("change", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_hostile_headers(change, path):
    header, _, tensor = _model(path)
    _rejected(path, _put_together(change(header), None, tensor))


def _offsets(header, **offsets):
    return header | {name: header[name] | {"data_offsets": list(pair)} for name, pair in offsets.items()}


# 16 parameters, then 6 statistics, of 8 bytes each.
HOSTILE_STATISTICS = {
    "no statistics": lambda header: {name: header[name] for name in ("__metadata__", "parameters")},
    "no parameters": lambda header: {name: header[name] for name in ("__metadata__", "statistics")},
    "a tensor more": lambda header: header | {"other": {"dtype": "U8", "shape": [0], "data_offsets": [176, 176]}},
    "other dtype": lambda header: header | {"statistics": header["statistics"] | {"dtype": "F32"}},
    "other shape": lambda header: header | {"statistics": header["statistics"] | {"shape": [2, 3]}},
    "huge shape": lambda header: header | {"statistics": header["statistics"] | {"shape": [2**62]}},
    "no object": lambda header: header | {"statistics": []},
    "statistics first": lambda header: _offsets(header, statistics=(0, 48), parameters=(48, 176)),
    "the same bytes twice": lambda header: _offsets(header, statistics=(0, 48)),
    "a gap": lambda header: _offsets(header, statistics=(136, 184)),
    "exchanged": lambda header: header | {"parameters": header["statistics"], "statistics": header["parameters"]},
}


@pytest.mark.parametrize("change", HOSTILE_STATISTICS.values(), ids=HOSTILE_STATISTICS)
def test_hostile_headers_with_statistics(change, path):
    header, _, tensors = _model(path, normalization="batch")
    assert header["statistics"] == {"dtype": "F64", "shape": [6], "data_offsets": [128, 176]}
    _rejected(path, _put_together(change(header), None, tensors), "tensor")


TANH = {"name": "tanh", "slope": 0.01}
IDENTITY = {"name": "identity", "slope": 0.01}
HOSTILE_DOCUMENTS = {
    "version": ({"format_version": 3}, "format_version 3 is none of 1, 2"),
    "version's type": ({"format_version": True}, "format_version True"),
    "a key more": ({"code": "import os"}, "has the keys"),
    "dtype": ({"dtype": "float16"}, "dtype is 'float16'"),
    "dtype's type": ({"dtype": ["float64"]}, "dtype is"),
    "object dtype": ({"dtype": "O"}, "dtype is 'O'"),
    "sizes": ({"layer_sizes": [2, 3]}, "activations"),
    "one size": ({"layer_sizes": [13], "activations": []}, "layer_sizes"),
    "no list": ({"layer_sizes": "231"}, "layer_sizes"),
    "negative size": ({"layer_sizes": [2, -3, 1]}, "layer_sizes holds -3"),
    "zero size": ({"layer_sizes": [2, 0, 1]}, "layer_sizes holds 0"),
    "float size": ({"layer_sizes": [2.0, 3, 1]}, "layer_sizes holds 2.0"),
    "bool size": ({"layer_sizes": [2, 3, True]}, "layer_sizes holds True"),
    "huge sizes": ({"layer_sizes": [2**62, 2**62, 2**62]}, "tensor is not"),
    "huger size": ({"layer_sizes": [2, 2**64, 1]}, "layer_sizes holds"),
    "other sizes": ({"layer_sizes": [2, 4, 1]}, "tensor is not"),
    "activations": ({"activations": [TANH]}, "one per layer"),
    "unknown activation": (
        {"activations": [{"name": "os.system", "slope": 0.01}, IDENTITY]},
        "activation must be one of",
    ),
    "hidden softmax": ({"activations": [{"name": "softmax", "slope": 0.01}, IDENTITY]}, "not for hidden"),
    "slope": ({"activations": [{"name": "tanh", "slope": -1.0}, IDENTITY]}, "slope must be"),
    "slope's type": ({"activations": [{"name": "tanh", "slope": "1"}, IDENTITY]}, "wrong type"),
    "name's type": ({"activations": [{"name": ["tanh"], "slope": 0.1}, IDENTITY]}, "wrong type"),
    "activation's keys": ({"activations": [{"name": "tanh"}, IDENTITY]}, "is not made of name and slope"),
    "activation no object": ({"activations": ["tanh", IDENTITY]}, "is not made of name and slope"),
    "loss": ({"loss": {"name": "hinge", "delta": 1.0}}, "loss must be one of"),
    "delta": ({"loss": {"name": "huber", "delta": 0.0}}, "delta must be"),
    "level": ({"loss": {"name": "quantile", "level": 1.0}}, "level must be"),
    "quantile's delta": ({"loss": {"name": "quantile", "delta": 0.5}}, "is not made of name and level"),
    "delta's level": ({"loss": {"name": "huber", "level": 0.5}}, "is not made of name and delta"),
    "loss's name": ({"loss": {"name": ["quantile"], "delta": 0.5}}, "wrong type"),
    "loss's type": ({"loss": None}, "is not made of name and delta"),
    "pair": ({"loss": {"name": "categorical_cross_entropy", "delta": 1.0}}, "needs output_activation"),
    "metadata": ({"metadata": [1]}, "metadata is not an object"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE_DOCUMENTS.values(), ids=HOSTILE_DOCUMENTS)
def test_hostile_documents(change, message, path):
    header, document, tensor = _model(path)
    _rejected(path, _put_together(header, document | change, tensor), message)


BATCH = {"name": "batch", "momentum": 0.1, "epsilon": 1e-5}
HOSTILE_NORMALIZATIONS = {
    "version 1": ({"format_version": 1}, "has the keys"),
    "version 3": ({"format_version": 3}, "format_version 3 is none of 1, 2"),
    "no list": ({"normalization": "batch"}, "not a list, one per layer"),
    "null": ({"normalization": None}, "not a list, one per layer"),
    "hidden layers only": ({"normalization": [BATCH]}, "not a list, one per layer"),
    "a layer more": ({"normalization": [BATCH, None, None]}, "not a list, one per layer"),
    "none": ({"normalization": [None, None]}, "no file of format_version 2"),
    "of the output": ({"normalization": [BATCH, BATCH]}, "has one for the output"),
    "no object": ({"normalization": ["batch", None]}, "not made of objects"),
    "name's type": ({"normalization": [BATCH | {"name": 1}, None]}, "not made of objects"),
    "no name": ({"normalization": [{"momentum": 0.1, "epsilon": 1e-5}, None]}, "not made of objects"),
    "unknown": ({"normalization": [BATCH | {"name": "os.system"}, None]}, "normalization is 'os.system'"),
    "keys": ({"normalization": [BATCH | {"size": 1.0}, None]}, "not made of name and momentum, epsilon"),
    "keys of another": ({"normalization": [BATCH | {"name": "layer"}, None]}, "not made of name and epsilon"),
    "a key too few": ({"normalization": [{"name": "batch", "epsilon": 1e-5}, None]}, "not made of name and"),
    "momentum": ({"normalization": [BATCH | {"momentum": 1.5}, None]}, r"momentum must be a number in \[0, 1\]"),
    "momentum's type": ({"normalization": [BATCH | {"momentum": 1}, None]}, "has a wrong type"),
    "epsilon": ({"normalization": [BATCH | {"epsilon": 0.0}, None]}, "epsilon must be a number > 0"),
    "epsilon's type": ({"normalization": [BATCH | {"epsilon": True}, None]}, "has a wrong type"),
    "another kind": ({"normalization": [{"name": "layer", "epsilon": 1e-5}, None]}, "does not name 'parameters' as"),
    "other sizes": ({"layer_sizes": [2, 4, 1]}, "tensor is not"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE_NORMALIZATIONS.values(), ids=HOSTILE_NORMALIZATIONS)
def test_hostile_documents_with_normalization(change, message, path):
    header, document, tensors = _model(path, normalization="batch")
    assert document["normalization"] == [BATCH, None]
    _rejected(path, _put_together(header, document | change, tensors), message)


def test_statistics_without_normalization(path):
    header, document, tensors = _model(path, normalization="batch")
    del document["normalization"]
    _rejected(path, _put_together(header, document | {"format_version": 1}, tensors), "does not name 'parameters' as")


def test_a_version_that_the_network_does_not_need(path):
    header, document, tensor = _model(path)
    for change in ({}, {"normalization": [None, None]}):
        _rejected(path, _put_together(header, document | change | {"format_version": 2}, tensor))


@pytest.mark.parametrize("key", ["activations", "dtype", "format_version", "layer_sizes", "loss", "metadata"])
@pytest.mark.parametrize("normalization", VERSIONS.values(), ids=VERSIONS)
def test_missing_keys(normalization, key, path):
    header, document, tensor = _model(path, normalization=normalization)
    del document[key]
    _rejected(path, _put_together(header, document, tensor))


@pytest.mark.parametrize("checksum", ["", None, 0, "0" * 64])
@pytest.mark.parametrize("normalization", VERSIONS.values(), ids=VERSIONS)
def test_wrong_checksums(normalization, checksum, path):
    header, document, tensor = _model(path, normalization=normalization)
    _rejected(path, _put_together(header, document | {"sha256": checksum}, tensor, sign=False), "checksum")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ", ", 1),
        lambda text: text.replace("0.01", "0.010", 1),
        lambda text: text.replace('"a"', '"\\u0061"', 1),
        lambda text: text.replace('{"a":1}', '{"a":2,"a":1}', 1),
        lambda text: text + " ",
    ],
)
def test_the_same_document_in_other_words(change, path):
    header, document, tensor = _model(path)
    text = _canonical(document)
    assert change(text) != text
    _rejected(path, _put_together(header | {"__metadata__": {"cymlp": change(text)}}, None, tensor))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite(value, path, dtype):
    header, document, tensor = _model(path, dtype=dtype)
    values = np.frombuffer(tensor, dtype).copy()
    values[5] = value
    _rejected(
        path, _put_together(header, document, values.tobytes()), "parameters must be finite; got .* at position 5"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "statistics must be finite; got .* at position 4"),
        (np.inf, "statistics must be finite; got .* at position 4"),
        (-1, "statistics must have variances >= 0; got -1.0 for unit 1 of layer 1"),
    ],
)
def test_statistics_that_cannot_be(value, message, path, dtype):
    header, document, tensors = _model(path, dtype=dtype, normalization="batch")
    values = np.frombuffer(tensors, dtype).copy()
    values[16 + 4] = value
    _rejected(path, _put_together(header, document, values.tobytes()), message)


def test_huge_claims_allocate_nothing(path):
    resource = pytest.importorskip("resource")
    header, document, _ = _model(path)
    n = 2**40
    document |= {"layer_sizes": [2**20, 2**20, 1]}
    count = n + 2**20 + 2**20 + 1
    header |= {"parameters": {"dtype": "F64", "shape": [count], "data_offsets": [0, 8 * count]}}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _rejected(path, _put_together(header, document, b""), "bytes, expected")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
