"""Files as `torch.save` writes them, of all ages and around any program, without PyTorch."""

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile

import numpy as np

TYPES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<i8": "LongStorage", "|u1": "ByteStorage"}


class Storage:
    """One of PyTorch's storages: named by a persistent id."""

    def __init__(self, key, values, view=None):
        self.key, self.values, self.view = key, values, view


class Tensor:
    """Pickled as PyTorch pickles tensors: a call with a storage, an offset, a shape and strides."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@contextlib.contextmanager
def fake_torch():
    """Modules with the names that a pickle refers to, for as long as it is written."""
    names = {"torch": list(TYPES.values()), "torch._utils": ["_rebuild_tensor_v2"]}
    before = {name: sys.modules.get(name) for name in names}
    for name, members in names.items():
        module = types.ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {"__module__": name}))
        sys.modules[name] = module
    sys.modules["torch"]._utils = sys.modules["torch._utils"]
    try:
        yield sys.modules["torch"]
    finally:
        for name, module in before.items():
            sys.modules.pop(name) if module is None else sys.modules.__setitem__(name, module)


def torch_pickle(content, legacy):
    """(the pickle, the storages by key) of nested containers with arrays."""
    storages = {}

    def tensors_of(node):
        if isinstance(node, np.ndarray):
            key = str(len(storages))
            storages[key] = node.ravel()
            strides = tuple(s // node.itemsize for s in np.asarray(node, order="C").strides)
            return Tensor(Storage(key, storages[key]), 0, node.shape, strides)
        if isinstance(node, Tensor):
            storage = node.arguments[0]
            storages[storage.key] = storage.values
        if type(node) in (dict, collections.OrderedDict):
            return type(node)((key, tensors_of(value)) for key, value in node.items())
        return [tensors_of(value) for value in node] if isinstance(node, list) else node

    with fake_torch() as torch:

        class Pickler(pickle.Pickler):
            def persistent_id(self, node):
                if not isinstance(node, Storage):
                    return None
                kind, count = getattr(torch, TYPES[node.values.dtype.str]), len(node.values)
                return ("storage", kind, node.key, "cuda:0", count, *((node.view,) if legacy else ()))

        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump(tensors_of(content))
    return buffer.getvalue(), storages


def torch_save(content, path):
    """As PyTorch since 1.6."""
    program, storages = torch_pickle(content, legacy=False)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def legacy_head(protocol=1001, little=True):
    """The three pickles with which a file of PyTorch before 1.6 begins."""
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": protocol, "little_endian": little, "type_sizes": sizes}
    return b"".join(pickle.dumps(plain, 2) for plain in (0x1950A86A20F9469CFC6C, protocol, system))


def legacy_bytes(content, **system):
    """As PyTorch before 1.6: `_legacy_save` of torch/serialization.py."""
    program, storages = torch_pickle(content, legacy=True)
    numbers = (len(storages[key]).to_bytes(8, "little") + storages[key].tobytes() for key in sorted(storages))
    return legacy_head(**system) + program + pickle.dumps(sorted(storages), 2) + b"".join(numbers)


def legacy_save(content, path, **system):
    """`legacy_bytes` in a file."""
    path.write_bytes(legacy_bytes(content, **system))
    return path


def torch_zip(path, program: bytes, storages=(), compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """What `torch.save` writes, around any program."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", program)
        archive.writestr("net/byteorder", byteorder)
        for key, values in enumerate(storages):
            archive.writestr(f"net/data/{key}", values.tobytes())
        archive.writestr("net/version", b"3\n")
    return path
