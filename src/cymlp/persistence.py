"""Model files: safetensors with a tensor, ``parameters``, and one entry of metadata, ``cymlp``, a JSON document.

The document holds what the tensor means and a SHA-256 over both.  A network with normalised layers, and no other, is of
format version 2: the document has a key more, "normalization", and where layers are batch-normalised their running
statistics are a second tensor, ``statistics``.  Only one text is valid for a given network: canonical
JSON (keys sorted, no blanks, ASCII), so that a damaged file never loads as a slightly different network.  Reading
executes nothing, believes no number in the file before comparing it with the file's size, and reports whatever is wrong
as ValueError.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import _validation, activations, losses, normalizations
from .layout import Layout

try:
    import fcntl
except ImportError:  # not a POSIX system: leftovers of writers that were killed stay
    fcntl = None

__all__ = [
    "Head",
    "Model",
    "canonical",
    "digest",
    "load",
    "open_at_once",
    "read_head",
    "read_tensors",
    "require",
    "save",
    "sweep",
    "write_atomically",
]

# Format version -> the keys of its document.
_KEYS = {1: {"activations", "dtype", "format_version", "layer_sizes", "loss", "metadata", "sha256"}}
_KEYS[2] = _KEYS[1] | {"normalization"}
_DTYPES = {"float32": "F32", "float64": "F64"}
_TEMPORARY = re.compile(r"\.cymlp-[0-9a-f]{16}\.tmp")
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format sets it


@dataclass(frozen=True, slots=True)
class Model:
    """What a model file holds: all of it checked, the vectors of parameters and of statistics finite."""

    layer_sizes: tuple
    activations: tuple
    normalizations: tuple  # for each hidden layer one, or None
    loss: losses.Loss
    parameters: np.ndarray
    statistics: np.ndarray
    metadata: dict


def canonical(document):
    """The one text of a JSON document that counts."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(document, *arrays):
    """SHA-256 in hexadecimal over the canonical document without its checksum, and then the arrays in little endian."""
    described = {key: value for key, value in document.items() if key != "sha256"}
    checksum = hashlib.sha256(canonical(described).encode())
    for array in arrays:
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        checksum.update(memoryview(little_endian).cast("B"))
    return checksum.hexdigest()


def _plain(value, where):
    """`value` as JSON gives it back; TypeError or ValueError naming the place where JSON cannot hold it."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if type(value) is int:
        if abs(value) >= 2**63:
            raise ValueError(f"{where} must fit in 64 bits; got an integer of {value.bit_length()} bits")
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite; got {value}")
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} must have keys of type str; got {key!r}")
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(f"{where} must be None, bool, int, float, str, list or dict; got {type(value).__name__}")


def save(path, network, metadata):
    """Write `network`, an `MLP`, and `metadata`, a dict, to the file `path`; see `MLP.save`."""
    from safetensors.numpy import save as to_bytes

    if not isinstance(metadata, dict):
        raise TypeError(f"metadata must be None or a dict; got {type(metadata).__name__}")
    try:
        metadata = _plain(metadata, "metadata")
    except RecursionError:
        raise ValueError("metadata must not be nested this deep, or hold itself") from None
    tensors = {"parameters": network.parameters}
    if network.statistics.size:
        tensors["statistics"] = network.statistics
    document = {
        "activations": [
            {"name": activation.name, "slope": float(activation.slope)}
            for activation in (*network.hidden_activations, network.output_activation)
        ],
        "dtype": network.dtype.name,
        "format_version": 1,
        "layer_sizes": list(network.layer_sizes),
        "loss": {"name": network.loss.name, _number_of(network.loss.name): network.loss.parameter},
        "metadata": metadata,
    }
    if any(network.normalizations):
        layers = (*network.normalizations, None)
        document["format_version"] = 2
        document["normalization"] = [None if one is None else {"name": one.name, **one.numbers()} for one in layers]
    document["sha256"] = digest(document, *tensors.values())
    text = canonical(document)
    if len(text) > _HEADER_LIMIT // 2:
        raise ValueError(f"metadata must be smaller than {_HEADER_LIMIT // 2} bytes of JSON; got {len(text)}")
    write_atomically(path, to_bytes(tensors, metadata={"cymlp": text}))


def _new_file(folder):
    """Path and descriptor of a file to be written; locked until it is closed, so that `sweep` leaves it alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        path = os.path.join(folder, f".cymlp-{secrets.token_hex(8)}.tmp")
        descriptor = os.open(path, flags, 0o666)  # less the umask, as open() gives
        if fcntl is None:
            return path, descriptor
        with contextlib.suppress(OSError):  # a file system without locks: nobody else gets one either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink > 0:
            return path, descriptor
        os.close(descriptor)  # it was swept away before it was locked


def sweep(folder):
    """Remove what writers that were killed have left in a folder.

    Raises
    ------
    OSError
        Where there is no such folder.
    """
    for name in os.listdir(folder):
        if fcntl is not None and _TEMPORARY.fullmatch(name):
            with contextlib.suppress(OSError):  # its writer is alive, has just finished, or is somebody else's
                path = os.path.join(folder, name)
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(descriptor)


def write_atomically(path, data):
    """Replace the file `path` by `data`: whoever looks, even after a power cut, sees all of the old or of the new."""
    path = os.path.realpath(os.fsdecode(path))  # a link stays one, as with open()
    folder = os.path.dirname(path)
    temporary, descriptor = _new_file(folder)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))  # an existing file keeps its mode
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path):
    """Read a model file.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Model

    Raises
    ------
    ValueError
        For anything that `save` cannot have written, naming the file and the reason.
    OSError
        Where the file cannot be read.
    """
    path = os.fsdecode(path)
    with open(path, "rb", opener=open_at_once) as file:
        try:
            return _read(file)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path!r} is not a whole cymlp model file: {error}") from error


def open_at_once(path, flags):
    """As open() opens a file, but without waiting for somebody to write into a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class Head(NamedTuple):
    """What stands before the tensors in a safetensors file of ours.

    Attributes
    ----------
    tensors : dict
        What the header says of each, by name.
    document : dict
        From the metadata.
    is_canonical : bool
        Whether it is there in the one text that counts.
    start, size : int
        Where the bytes of tensors begin, and the size of the file.
    """

    tensors: dict
    document: dict
    is_canonical: bool
    start: int
    size: int


def read_head(file, entry, kind):
    """The `Head` of a file whose metadata are one `entry`; ValueError where it is none, for files called `kind`."""
    status = os.fstat(file.fileno())
    require(stat.S_ISREG(status.st_mode), "it is not a regular file")
    size = status.st_size
    require(size >= 8, f"it has {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    require(length <= min(size - 8, _HEADER_LIMIT), f"its header claims {length} bytes, and the file has {size}")
    header = file.read(length)
    require(header.rstrip(b" ").endswith(b"}"), "its header is not a JSON object padded with spaces")
    header = parse(header, "header")
    require(isinstance(header, dict), "its header is not a JSON object")
    outer = header.pop("__metadata__", None)
    require(isinstance(outer, dict) and outer.keys() == {entry}, f"its metadata are not those of a cymlp {kind}")
    require(isinstance(outer[entry], str), "its description is not a text")
    document = parse(outer[entry].encode(), "description")
    require(isinstance(document, dict), "its description is not a JSON object")
    return Head(header, document, canonical(document) == outer[entry], 8 + length, size)


def read_tensors(file):
    """All tensors of a safetensors file, whose bytes fill it without gaps; ValueError where they do not."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    file.seek(0)
    try:
        return from_bytes(file.read())
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read(file):
    tensors, document, is_canonical, start, size = read_head(file, "cymlp", "model")
    version = document.get("format_version")
    require(
        type(version) is int and version in _KEYS, f"format_version {version!r} is none of {', '.join(map(str, _KEYS))}"
    )
    keys = _KEYS[version]
    require(document.keys() == keys, f"its description has the keys {sorted(document)}, expected {sorted(keys)}")
    require(is_canonical, "its description is not canonical JSON")
    sizes, layers, loss = _check_architecture(document)
    kinds = _check_normalization(document, len(layers)) if version == 2 else (None,) * len(layers)
    layout, dtype, end = Layout(sizes, kinds), np.dtype(document["dtype"]), 0
    lengths = {"parameters": layout.n_parameters}
    if layout.n_statistics:
        lengths["statistics"] = layout.n_statistics
    names = " and ".join(map(repr, lengths))
    require(tensors.keys() == lengths.keys(), f"its header does not name {names} as its tensors")
    for name, n in lengths.items():
        begin, end = end, end + n * dtype.itemsize
        tensor = {"dtype": _DTYPES[dtype.name], "shape": [n], "data_offsets": [begin, end]}
        require(canonical(tensors[name]) == canonical(tensor), f"its tensor is not {tensor}")
    require(size == start + end, f"it has {size} bytes, expected {start + end}")
    tensors = read_tensors(file)
    vectors = {name: tensors[name].astype(dtype) for name in lengths}  # writable, and in native byte order
    require(digest(document, *vectors.values()) == document["sha256"], "its checksum does not match")
    for name, vector in vectors.items():
        _validation.check_finite(vector, name)
    statistics = vectors.get("statistics", np.empty(0, dtype))
    layout.check_variances(statistics, "statistics")
    return Model(sizes, layers, kinds[:-1], loss, vectors["parameters"], statistics, document["metadata"])


def require(condition, reason):
    """ValueError for `reason` unless `condition` holds."""
    if not condition:
        raise ValueError(reason)


def parse(data, what):
    """JSON in UTF-8 without what it tolerates: keys twice, NaN and Infinity."""

    def unique(pairs):
        result = dict(pairs)
        require(len(result) == len(pairs), f"its {what} has a key twice")
        return result

    def refuse(constant):
        raise ValueError(f"its {what} holds {constant}")

    try:
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError(f"its {what} is nested too deep") from None


def _check_architecture(document):
    """Layer sizes, activations and loss, of the right types and going together."""
    sizes = document["layer_sizes"]
    require(isinstance(sizes, list) and len(sizes) >= 2, "layer_sizes is not a list of at least 2 numbers")
    for size in sizes:
        require(type(size) is int and 1 <= size <= sys.maxsize, f"layer_sizes holds {size!r}")
    layers = document["activations"]
    require(isinstance(layers, list) and len(layers) == len(sizes) - 1, "activations is not a list, one per layer")
    layers = tuple(activations.Activation(**_fields(layer, "slope", "activations")) for layer in layers)
    for layer in layers[:-1]:
        require(layer.definition.hidden, f"{layer.name!r} is not for hidden layers")
    loss = document["loss"]
    loss = losses.Loss(**_fields(loss, _number_of(loss.get("name") if isinstance(loss, dict) else None), "loss"))
    losses.check_pair(loss, layers[-1])
    dtype = document["dtype"]
    require(isinstance(dtype, str) and dtype in _DTYPES, f"dtype is {dtype!r}")
    require(isinstance(document["metadata"], dict), "metadata is not an object")
    return tuple(sizes), layers, loss


def _check_normalization(document, n_layers):
    """One normalisation or None for each layer; for the output None, and not for all."""
    entries = document["normalization"]
    require(isinstance(entries, list) and len(entries) == n_layers, "normalization is not a list, one per layer")
    kinds = []
    for entry in entries:
        if entry is None:
            kinds.append(None)
            continue
        require(isinstance(entry, dict) and isinstance(entry.get("name"), str), "normalization is not made of objects")
        cls = normalizations.NORMALIZATIONS.get(entry["name"])
        require(cls is not None, f"normalization is {entry['name']!r}")
        numbers = {key: value for key, value in entry.items() if key != "name"}
        expected = cls().numbers().keys()
        require(numbers.keys() == expected, f"normalization is not made of name and {', '.join(expected)}")
        require(all(type(value) is float for value in numbers.values()), "normalization has a wrong type")
        kinds.append(cls(**numbers))
    require(kinds[-1] is None, "normalization has one for the output")
    require(any(kinds), "normalization has none: this is no file of format_version 2")
    return tuple(kinds)


def _number_of(loss):
    """The field of `losses.Loss` that a loss reads, or that stands there for one that reads none."""
    return "level" if loss == "quantile" else "delta"


def _fields(value, number, where):
    require(isinstance(value, dict) and value.keys() == {"name", number}, f"{where} is not made of name and {number}")
    require(isinstance(value["name"], str) and type(value[number]) is float, f"{where} has a wrong type")
    return value
