"""What a tensor is to libmoet: a pointer, a shape, a type and a place. Of torch, Paddle, NumPy, or by DLPack from others.

No framework is imported here: whoever passes its tensors has imported it.
"""
import ctypes
import sys
from ctypes import POINTER, Structure, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p, py_object

DLPACK_CPU, DLPACK_CUDA, DLPACK_CUDA_HOST, DLPACK_CUDA_MANAGED = 1, 2, 3, 13


class View:
    """One tensor. strides are in elements, None where it is dense, one of them None where it is no whole number of them;
    ordinal is of the CUDA device, None on the host; owner keeps it alive."""

    __slots__ = ("pointer", "shape", "strides", "dtype", "ordinal", "owner")

    def __init__(self, pointer, shape, strides, dtype, ordinal, owner):
        self.pointer, self.shape, self.strides = pointer, shape, strides
        self.dtype, self.ordinal, self.owner = dtype, ordinal, owner


# ---- torch ----


def _view_torch(tensor, stream):
    # One device index, and None for anything that is neither the host nor CUDA's.
    device = tensor.device
    if device.type == "cuda":
        ordinal = device.index
    elif device.type == "cpu":
        ordinal = None
    else:
        raise TypeError(f"a tensor is on '{device}': moe_tune runs on 'cuda' and 'cpu'")
    strides = None if tensor.is_contiguous() else tensor.stride()
    return View(tensor.data_ptr(), tensor.shape, strides, str(tensor.dtype)[6:], ordinal, tensor)


# ---- Paddle ----


def _view_paddle(tensor, stream):
    place = tensor.place
    if not (place.is_gpu_place() or place.is_cpu_place()):
        raise TypeError(f"a tensor is on {place}: moe_tune runs on GPUs and the host")
    ordinal = place.gpu_device_id() if place.is_gpu_place() else None
    strides = None if tensor.is_contiguous() else tuple(tensor.strides)
    return View(tensor.data_ptr(), tuple(tensor.shape), strides, str(tensor.dtype).split(".")[-1], ordinal, tensor)


# ---- NumPy: BF16 as uint16, or ml_dtypes' ----


_numpy_names = {}  # NumPy works a name out anew each time


def _view_numpy(array, stream):
    dtype = array.dtype
    name = _numpy_names.get(dtype)
    if name is None:
        name = "bfloat16" if dtype.name == "uint16" else dtype.name
        if not dtype.isnative:
            name = f"{dtype.name} in the other byte order"
        _numpy_names[dtype] = name
    if array.flags.c_contiguous:
        strides = None
    else:
        size = array.itemsize
        # A field of a structured array may lie at other distances.
        strides = tuple(None if stride % size else stride // size for stride in array.strides)
    return View(array.__array_interface__["data"][0], array.shape, strides, name, None, array)


# ---- DLPack ----


class _Device(Structure):
    _fields_ = [("kind", c_int32), ("ordinal", c_int32)]


class _DataType(Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class _Tensor(Structure):
    _fields_ = [("data", c_void_p), ("device", _Device), ("dimensions", c_int32), ("dtype", _DataType),
                ("shape", POINTER(c_int64)), ("strides", POINTER(c_int64)), ("byte_offset", c_uint64)]


_DLPACK_TYPES = {(4, 16): "bfloat16", (0, 32): "int32", (0, 64): "int64", (2, 32): "float32", (1, 16): "bfloat16"}
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = c_void_p, [py_object, c_char_p]


def _view_dlpack(source, stream):
    if not hasattr(source, "__dlpack__"):
        raise TypeError(f"a {type(source).__name__} is no tensor: pass one of torch or NumPy, or one with __dlpack__")
    kind, ordinal = (int(value) for value in source.__dlpack_device__())
    if kind in (DLPACK_CUDA, DLPACK_CUDA_MANAGED):
        if stream is None:
            raise TypeError("a DLPack tensor on CUDA says nothing of streams: pass stream=, the CUstream as an "
                            "integer, 0 for the default stream")
        # The producer makes its data ready on the stream that reads it. DLPack names the default stream 1.
        capsule = source.__dlpack__(stream=stream or 1)
    elif kind in (DLPACK_CPU, DLPACK_CUDA_HOST):
        capsule, ordinal = source.__dlpack__(), None
    else:
        raise TypeError(f"a DLPack tensor is on a device of kind {kind}: moe_tune runs on CUDA (2) and the host (1)")
    # Never marked as used: the capsule frees the producer's structure when the view goes.
    tensor = _Tensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[:tensor.dimensions])
    dtype = _DLPACK_TYPES.get((tensor.dtype.code, tensor.dtype.bits)) if tensor.dtype.lanes == 1 else None
    strides = tuple(tensor.strides[:tensor.dimensions]) if tensor.strides else None
    if strides and _is_dense(shape, strides):
        strides = None
    return View((tensor.data or 0) + tensor.byte_offset, shape, strides,
                dtype or f"DLPack code {tensor.dtype.code} of {tensor.dtype.bits} bits", ordinal, capsule)


def _is_dense(shape, strides):
    length = 1
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size != 1 and stride != length:
            return 0 in shape
        length *= size
    return True


# ---- any ----

_viewers = {}  # by the tensor's type


def _is_of(module, name):
    """A predicate: is a tensor of that module's class, where anybody has imported the module?"""

    def is_one(tensor):
        loaded = sys.modules.get(module)
        return loaded is not None and isinstance(tensor, getattr(loaded, name, ()))

    return is_one


is_torch, is_paddle, is_numpy = _is_of("torch", "Tensor"), _is_of("paddle", "Tensor"), _is_of("numpy", "ndarray")
_KINDS = ((is_torch, _view_torch), (is_paddle, _view_paddle), (is_numpy, _view_numpy))


def view(tensor, stream):
    viewer = _viewers.get(type(tensor))
    if viewer is None:
        viewer = next((viewer for is_kind, viewer in _KINDS if is_kind(tensor)), _view_dlpack)
        _viewers[type(tensor)] = viewer
    return viewer(tensor, stream)


def rows(name, tensor, stream):
    """The first dimension."""
    shape = getattr(tensor, "shape", None)
    if shape is None:
        shape = view(tensor, stream).shape
    if len(shape) != 2:
        raise ValueError(f"{name} is {list(shape)}, a matrix needed")
    return shape[0]


def dense_text(name, tensor):
    """What makes a tensor dense, in the words of its framework."""
    return f"numpy.ascontiguousarray({name})" if is_numpy(tensor) else f"{name}.contiguous()"


def current_stream(tensor):
    """The CUstream on which the tensor's framework works now; None where it does not say or no GPU is meant."""
    if is_torch(tensor):
        return sys.modules["torch"].cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else None
    if is_paddle(tensor) and tensor.place.is_gpu_place():
        return sys.modules["paddle"].device.current_stream(tensor.place).stream_base.cuda_stream
    return None


def empty_like(tensor, shape):
    """An uninitialised tensor of the type, at the place of another; None where only its owner could make one."""
    if is_torch(tensor):
        return tensor.new_empty(shape)
    if is_paddle(tensor):
        made = sys.modules["paddle"].empty(list(shape), dtype=tensor.dtype)
        return made if made.place == tensor.place else made.to(tensor.place)
    if is_numpy(tensor):
        return sys.modules["numpy"].empty(shape, dtype=tensor.dtype)
    return None
