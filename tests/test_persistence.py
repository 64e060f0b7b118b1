"""Model files: what goes in comes out, damage is a ValueError, and a failed write leaves the old file alone."""

import os
import stat
import struct
import sys

import numpy as np
import pytest
import safetensors.numpy

from cymlp import MLP, activations, losses
from cymlp.normalizations import BatchNorm, LayerNorm

METADATA = {"columns": ["height", "weight"], "scale": [1.5, 2e-300], "π": None, "nested": {"deep": [True, -7, {}]}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


# By version: format 1 knows no normalisation, and layer normalisation has no second tensor.
VERSIONS = {"version 1": None, "version 2": ["batch"], "one tensor": ["layer"]}


@pytest.fixture(params=VERSIONS)
def normalization(request):
    return VERSIONS[request.param]


def _net(**options):
    return MLP([2, 3, 1], **{"hidden_activation": "tanh", "random_state": 0, "engine": "reference"} | options)


def _rejected(path, data, match="is not a whole cymlp model file"):
    """Loading a file of these bytes is a ValueError that names the file."""
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        MLP.load(path, engine="reference")
    assert str(path) in str(caught.value)


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


def test_round_trip_with_normalization(path, engine_name, dtype, rng):
    kinds = ["batch", None, LayerNorm(0.125), BatchNorm(0.3, 1e-3)]
    options = {"dtype": dtype, "random_state": 0, "engine": engine_name}
    net = MLP([4, 6, 5, 4, 7, 3], "tanh", normalization=kinds, **options)
    net.scales = [None if scale is None else rng.normal(size=scale.shape) for scale in net.scales]
    net.statistics = rng.uniform(size=net.statistics.shape)
    net.save(path, metadata=METADATA)
    twin = MLP.load(path, engine=engine_name)
    assert (repr(twin), twin.normalizations, twin.metadata) == (repr(net), net.normalizations, METADATA)
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    assert twin.statistics.tobytes() == net.statistics.tobytes()
    assert twin.statistics.dtype == dtype
    X, y = rng.normal(size=(9, 4)), rng.normal(size=(9, 3))
    np.testing.assert_array_equal(twin.predict(X), net.predict(X))
    twin.train(X, y, epochs=1)
    assert (twin.statistics != net.statistics).any()
    other = path.with_name("other")
    MLP.load(path, engine=engine_name).save(other)
    assert other.read_bytes() == path.read_bytes()


# What the first release wrote.
VERSION_1 = (
    b'\xa0\x01\x00\x00\x00\x00\x00\x00{"__metadata__":{"cymlp":"{\\"activations\\":[{\\"name\\":\\"tanh\\",\\"slope\\":0.01},'
    b'{\\"name\\":\\"identity\\",\\"slope\\":0.01}],\\"dtype\\":\\"float32\\",\\"format_version\\":1,\\"layer_sizes\\":[1,2,1],'
    b'\\"loss\\":{\\"delta\\":0.5,\\"name\\":\\"huber\\"},\\"metadata\\":{\\"a\\":\\"\\\\u00e9\\"},\\"sha256\\":'
    b'\\"79acec0990df8773fc6fa6a91dc44835095373048d685be657db5ad3ca7f9574\\"}"},'
    b'"parameters":{"dtype":"F32","shape":[7],"data_offsets":[0,28]}}       '
    b"\x00\x00\xc0?\x00\x00\x00\xc0\x00\x00\x00?\x00\x00\x80\xbf\x00\x00\x80>\x00\x00@@\x00\x00\x80@"
)


def test_files_without_normalization_are_what_they_were(path):
    path.write_bytes(VERSION_1)
    net = MLP.load(path, engine="reference")
    np.testing.assert_array_equal(net.parameters, [1.5, -2, 0.5, -1, 0.25, 3, 4])
    assert (net.loss, net.metadata, net.normalizations) == (losses.huber(0.5), {"a": "é"}, (None,))
    for again in (net, MLP([1, 2, 1], "tanh", "identity", losses.huber(0.5), normalization=[None], dtype=np.float32)):
        again.parameters = net.parameters
        again.save(path.with_name("other"), metadata={"a": "é"})
        assert path.with_name("other").read_bytes() == VERSION_1


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


def test_equal_networks_give_equal_files(path, tmp_path, normalization):
    _net(normalization=normalization).save(path, metadata={"b": 1, "a": 2})
    _net(normalization=normalization).save(tmp_path / "other", metadata={"a": 2, "b": 1})
    assert path.read_bytes() == (tmp_path / "other").read_bytes()


def test_other_readers_of_safetensors_read_the_file(path, normalization):
    net = _net(dtype=np.float32, normalization=normalization)
    net.save(path)
    tensors = safetensors.numpy.load_file(path)
    assert sorted(tensors) == ["parameters", "statistics"][: 2 if normalization == ["batch"] else 1]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, getattr(net, name))


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


def test_every_damaged_byte_is_noticed(path, normalization):
    _net(dtype=np.float32, normalization=normalization).save(path, metadata={"a": "é"})
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


def test_every_truncation_is_noticed(path, normalization):
    _net(normalization=normalization).save(path)
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
