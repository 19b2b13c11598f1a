"""The calling thread's CUDA context, which libmoet needs to be its device's. By the driver, whatever framework runs."""
import contextlib
import ctypes
from ctypes import byref, c_int, c_void_p

_driver = None


def _load():
    global _driver
    if _driver is None:
        _driver = ctypes.CDLL("libcuda.so.1")
    return _driver


def _call(name, *arguments):
    result = getattr(_load(), name)(*arguments)
    if result:
        raise RuntimeError(f"{name} failed with CUDA error {result}")


def current_context():
    """The handle of the thread's context, None where it has none."""
    context = c_void_p()
    _call("cuCtxGetCurrent", byref(context))
    return context.value


def current_ordinal():
    ordinal = c_int()
    _call("cuCtxGetDevice", byref(ordinal))
    return ordinal.value


@contextlib.contextmanager
def pushed(context):
    """The context is current inside, and what was before it afterwards."""
    _call("cuCtxPushCurrent_v2", c_void_p(context))
    try:
        yield
    finally:
        _call("cuCtxPopCurrent_v2", byref(c_void_p()))
