"""Model files: what goes in comes out, damage is a ValueError, and a failed write leaves the old file alone."""

import hashlib
import json
import os
import stat
import struct
import sys

import numpy as np
import pytest
import safetensors.numpy

from cymlp import MLP, activations, losses

METADATA = {"columns": ["height", "weight"], "scale": [1.5, 2e-300], "π": None, "nested": {"deep": [True, -7, {}]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def _net(**options):
    return MLP([2, 3, 1], **{"hidden_activation": "tanh", "random_state": 0, "engine": "reference"} | options)


def _rejected(path, data, match="is not a whole cymlp model file"):
    """Loading a file of these bytes is a ValueError that names the file."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        MLP.load(path, engine="reference")
    assert str(path) in str(caught.value)


def _take_apart(path):
    """Header, the JSON document inside it, and the tensor's bytes."""
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


@pytest.mark.parametrize("loss", [losses.huber(0.3), losses.quantile(0.9), losses.get("absolute_error")], ids=str)
def test_round_trip(path, engine_name, dtype, rng, loss):
    net = MLP(
        [4, 6, 5, 3],
        ["elu", activations.leaky_relu(0.125)],
        "tanh",
        loss,
        dtype=dtype,
        random_state=0,
        engine=engine_name,
    )
    net.biases = [rng.normal(size=n) for n in (6, 5, 3)]
    net.save(path, metadata=METADATA)
    twin = MLP.load(path, n_threads=1, engine=engine_name)
    assert repr(twin) == repr(net)
    assert (twin.loss, twin.hidden_activations) == (net.loss, net.hidden_activations)
    assert twin.metadata == METADATA
    assert (twin.n_threads, twin.engine, twin.dtype) == (1, engine_name, dtype)
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    X = rng.normal(size=(9, 4))
    np.testing.assert_array_equal(twin.predict(X), net.predict(X))
    twin.train(X, rng.normal(size=(9, 3)), epochs=1)
    assert (twin.parameters != net.parameters).any()


def test_text_paths_and_overwriting(path):
    first, second = _net(random_state=1), _net(random_state=2)
    first.save(str(path))
    second.save(os.fsencode(path))
    assert MLP.load(str(path), engine="reference").parameters.tobytes() == second.parameters.tobytes()
    assert os.listdir(path.parent) == [path.name]


def test_metadata_survive_another_save(path):
    _net().save(path, metadata=METADATA)
    net = MLP.load(path, engine="reference")
    net.save(path)
    assert MLP.load(path, engine="reference").metadata == METADATA
    net.save(path, metadata={})
    assert MLP.load(path, engine="reference").metadata == {}


def test_tuples_come_back_as_lists(path):
    _net().save(path, metadata={"pair": (1, (2.5, "x"))})
    assert MLP.load(path, engine="reference").metadata == {"pair": [1, [2.5, "x"]]}


def test_equal_networks_give_equal_files(path, tmp_path):
    _net().save(path, metadata={"b": 1, "a": 2})
    _net().save(tmp_path / "other", metadata={"a": 2, "b": 1})
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_other_readers_of_safetensors_read_the_file(path):
    net = _net(dtype=np.float32)
    net.save(path)
    tensors = safetensors.numpy.load_file(path)
    assert list(tensors) == ["parameters"]
    np.testing.assert_array_equal(tensors["parameters"], net.parameters)


_LOOP = []
_LOOP.append(_LOOP)


@pytest.mark.parametrize(
    ("metadata", "exception", "message"),
    [
        ([], TypeError, "metadata must be None or a dict; got list"),
        ({1: 2}, TypeError, "metadata must have keys of type str; got 1"),
        ({"a": [{2: 3}]}, TypeError, r"metadata\['a'\]\[0\] must have keys of type str; got 2"),
        ({"a": np.float64(1)}, TypeError, r"metadata\['a'\] must be None, bool, .*; got float64"),
        ({"a": {1}}, TypeError, r"metadata\['a'\] must be .*; got set"),
        ({"a": [0.0, float("nan")]}, ValueError, r"metadata\['a'\]\[1\] must be finite; got nan"),
        ({"a": 2**63}, ValueError, r"metadata\['a'\] must fit in 64 bits"),
        ({"a": _LOOP}, ValueError, "metadata must not be nested this deep"),
    ],
)
def test_metadata_that_json_cannot_hold(metadata, exception, message, path):
    _net().save(path)
    before = path.read_bytes()
    with pytest.raises(exception, match=message):
        _net().save(path, metadata=metadata)
    assert path.read_bytes() == before


def test_every_damaged_byte_is_noticed(path):
    _net(dtype=np.float32).save(path, metadata={"a": "é"})
    data = path.read_bytes()
    MLP.load(path, engine="reference")
    for position in range(len(data)):
        for flip in (1, 32, 255):  # a near character, the other case, no ASCII
            damaged = bytearray(data)
            damaged[position] ^= flip
            _rejected(path, bytes(damaged))


def test_blanks_in_the_header_are_only_spaces(path):
    net = _net()
    for length in range(8):  # the header is filled up to a multiple of 8: one of these has spaces at its end
        net.save(path, metadata={"a": "x" * length})
        data = path.read_bytes()
        end = 8 + struct.unpack("<Q", data[:8])[0]
        if data[end - 1 : end] == b" ":
            for blank in b"\t\n\r":
                _rejected(path, data[: end - 1] + bytes([blank]) + data[end:])
            return
    pytest.fail("no header with spaces at its end")


def test_every_truncation_is_noticed(path):
    _net().save(path)
    data = path.read_bytes()
    for length in range(len(data)):
        _rejected(path, data[:length])
    for extra in (b"\0", b" " * 8, data):
        _rejected(path, data + extra, "bytes, expected")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        b"PK\x03\x04" + bytes(60),
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000_001) + b"{}" + bytes(100),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 3) + b"\xff{}",
        struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
        struct.pack("<Q", 600_001) + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        struct.pack("<Q", 5005) + b'{"a":' + b"9" * 4999 + b"}",
    ],
    ids=lambda data: f"{len(data)} bytes, {data[:12]!r}",
)
def test_files_of_another_kind(data, path):
    _rejected(path, data)


def _model(path, **options):
    _net(**options).save(path, metadata={"a": 1})
    return _take_apart(path)


def test_put_together_makes_a_good_file(path):
    path.write_bytes(_put_together(*_model(path)))
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


@pytest.mark.parametrize("key", ["activations", "dtype", "format_version", "layer_sizes", "loss", "metadata"])
def test_missing_keys(key, path):
    header, document, tensor = _model(path)
    del document[key]
    _rejected(path, _put_together(header, document, tensor))


@pytest.mark.parametrize("checksum", ["", None, 0, "0" * 64])
def test_wrong_checksums(checksum, path):
    header, document, tensor = _model(path)
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


def test_errors_of_the_system_stay_what_they_are(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        MLP.load(path)
    with pytest.raises(IsADirectoryError):
        MLP.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        _net().save(tmp_path / "nowhere" / "net")


def test_load_refuses_what_is_no_file():
    with pytest.raises(ValueError, match="not a regular file"):
        MLP.load(os.devnull)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.timeout(20)
def test_load_does_not_wait_for_a_pipe(path):
    os.mkfifo(path)
    with pytest.raises(ValueError, match="not a regular file") as caught:
        MLP.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("exception", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_write_changes_nothing(function, exception, exists, path, monkeypatch):
    if exists:
        _net(random_state=1).save(path)
    before = path.read_bytes() if exists else None

    def fail(*arguments):
        raise exception

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(exception)) as caught:
        _net(random_state=2).save(path)
    assert caught.value is exception
    assert os.listdir(path.parent) == ([path.name] if exists else [])
    assert not exists or path.read_bytes() == before


def test_a_write_is_durable_before_it_is_visible(path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace

    def log_fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append(("fsync", kind, os.fstat(descriptor).st_size if kind == "file" else None))
        fsync(descriptor)

    def log_replace(source, target):
        assert os.path.dirname(source) == os.path.dirname(target)
        steps.append(("replace", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(os, "replace", log_replace)
    _net().save(path)
    size = path.stat().st_size
    expected = [("fsync", "file", size), ("replace", size), ("fsync", "folder", None)]
    assert steps == expected[: 3 if os.name == "posix" else 2]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither file modes nor a umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_file_mode_is_that_of_open(umask, path, tmp_path):
    previous = os.umask(umask)
    try:
        _net().save(path)
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    path.chmod(0o640)
    _net().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_stays_a_link(path, tmp_path):
    target = tmp_path / "folder" / "net"
    target.parent.mkdir()
    path.symlink_to(target)
    net = _net()
    net.save(path)
    assert path.is_symlink()
    assert MLP.load(target, engine="reference").parameters.tobytes() == net.parameters.tobytes()
