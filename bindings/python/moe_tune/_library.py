"""libmoet by ctypes: finding it, its functions, its structures (src/moet.h is their manual)."""
import ctypes
import os
from ctypes import POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_void_p

VERSION = "0.1.0"
KEY_SIZE = 256
CONFIG_SIZE = 384
PROBLEM_SIZE = 256  # no less than sizeof(moet_problem), which is only passed on
COMMAND_SIZE = 65536
OPS = {"up": 0, "down": 1, "ffn": 2}
HITS = ("exact", "nearest", "default")


class Error(RuntimeError):
    """A moet call failed. `status` is its name in moet.h ("INVALID", "NOT_FOUND", ...), the text says what to do."""

    def __init__(self, status, message):
        super().__init__(f"{message} [{status}]")
        self.status = status


class PlanOptions(Structure):
    _fields_ = [("max_rows", c_int64), ("max_tokens", c_int64), ("choices", c_int32), ("max_sms", c_int32),
                ("device_counts", c_bool), ("expected_rows", c_int64), ("expected_max_over_mean", c_double)]


class LaunchArgs(Structure):
    _fields_ = [("x", c_void_p), ("w", c_void_p), ("bias", c_void_p), ("out", c_void_p), ("counts", c_void_p),
                ("stream", c_void_p)]


class FfnArgs(Structure):
    _fields_ = [("x", c_void_p), ("x_stride", c_int64), ("ids", c_void_p), ("ids_int64", c_bool),
                ("ids_stride", c_int64), ("weights", c_void_p), ("weights_stride", c_int64), ("up", c_void_p),
                ("up_bias", c_void_p), ("down", c_void_p), ("down_bias", c_void_p), ("out", c_void_p),
                ("out_stride", c_int64), ("tokens", c_int64), ("device_tokens", c_void_p), ("counts", c_void_p),
                ("stream", c_void_p)]


class Routing(Structure):
    _fields_ = [("experts", c_int32), ("active", c_int32), ("rows", c_int64), ("max", c_int32),
                ("max_over_mean", c_double), ("tokens", c_int64)]


class ChoiceStruct(Structure):
    _fields_ = [("hit", c_int), ("config", c_char * CONFIG_SIZE), ("distance", c_double), ("tuned_rows", c_int64),
                ("tuned_time_us", c_double)]


class StatsStruct(Structure):
    _fields_ = [("exact", c_int64), ("nearest", c_int64), ("fallback", c_int64), ("refused", c_int64)]


# C name of each structure, for tests/test_abi.py
STRUCTURES = {"moet_plan_options": PlanOptions, "moet_launch_args": LaunchArgs, "moet_ffn_args": FfnArgs,
              "moet_routing": Routing, "moet_choice": ChoiceStruct, "moet_stats": StatsStruct}

# name: result, arguments
FUNCTIONS = {
    "moet_version": (c_char_p, []),
    "moet_status_name": (c_char_p, [c_int]),
    "moet_last_error": (c_char_p, []),
    "moet_problem_init": (None, [c_void_p, c_int, c_int32, c_int32, c_int32]),
    "moet_problem_format": (None, [c_void_p, c_char_p]),
    "moet_problem_parse": (c_int, [c_char_p, c_void_p]),
    "moet_routing_summarize": (c_int, [c_void_p, c_int32, POINTER(Routing)]),
    "moet_open": (c_int, [c_char_p, c_char_p, POINTER(c_void_p)]),
    "moet_close": (None, [c_void_p]),
    "moet_entry_count": (c_int32, [c_void_p]),
    "moet_refusal_count": (c_int32, [c_void_p]),
    "moet_refusal": (c_char_p, [c_void_p, c_int32]),
    "moet_device_key": (c_char_p, [c_void_p]),
    "moet_stats_read": (None, [c_void_p, POINTER(StatsStruct)]),
    "moet_record_start": (c_int, [c_void_p, c_int32]),
    "moet_record_save": (c_int, [c_void_p, c_char_p]),
    "moet_record_stop": (None, [c_void_p]),
    "moet_plan_create": (c_int, [c_void_p, c_void_p, POINTER(PlanOptions), POINTER(c_void_p)]),
    "moet_plan_destroy": (None, [c_void_p]),
    "moet_plan_workspace_bytes": (c_size_t, [c_void_p]),
    "moet_launch": (c_int, [c_void_p, c_void_p]),
    "moet_ffn": (c_int, [c_void_p, c_void_p]),
    "moet_plan_query": (c_int, [c_void_p, c_void_p, POINTER(ChoiceStruct)]),
    "moet_plan_replay_command": (c_int, [c_void_p, c_void_p, c_char_p, c_size_t]),
}


def _candidates():
    """Files to try, in order; a name without a folder is left to the system's loader."""
    named = os.environ.get("MOET_LIBRARY")
    if named:
        return [named]
    return [os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libmoet.so.0"), "libmoet.so.0"]


def _load():
    tried = []
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"{path} ({error})")
            continue
        for name, (result, arguments) in FUNCTIONS.items():
            try:
                function = getattr(library, name)
            except AttributeError:
                raise ImportError(f"{path} lacks {name}: it is not the libmoet that this moe_tune was made for; "
                                  "install both from one release") from None
            function.restype, function.argtypes = result, arguments
            if name == "moet_version" and function() != VERSION.encode():
                raise ImportError(f"{path} is libmoet {function().decode()}, this moe_tune is {VERSION}: install both "
                                  "from one release")
        return library
    raise ImportError("libmoet.so.0 was not found: build and install moe-tune (cmake --install), then set "
                      "MOET_LIBRARY to its libmoet.so.0, or install the wheel of scripts/build_wheel.sh, which has it "
                      "inside; tried " + "; ".join(tried))


lib = _load()


def check(status):
    if status:
        raise Error(lib.moet_status_name(status).decode(), lib.moet_last_error().decode())


def _value_text(value):
    """As problem keys hold values: numbers in their shortest form, flags as 0 and 1."""
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, float):
        return str(value)
    texts = (f"{value:.{digits}g}" for digits in range(1, 18))
    return next((text for text in texts if float(text) == value), str(value))


def make_problem(op, **fields):
    """A moet_problem and its key text: the library's defaults for the op, and fields by their names in the key."""
    if op not in OPS:
        raise ValueError(f"op is '{op}', known are {', '.join(OPS)}")
    problem = ctypes.create_string_buffer(PROBLEM_SIZE)
    text = ctypes.create_string_buffer(KEY_SIZE)
    lib.moet_problem_init(problem, OPS[op], 8, 8, 8)
    lib.moet_problem_format(problem, text)
    key = dict(pair.split("=", 1) for pair in text.value.decode().split(","))
    for name, value in fields.items():
        if name not in key:
            raise ValueError(f"op {op} has no '{name}': its problem is {text.value.decode()}")
        key[name] = _value_text(value)
    # Every field by the text that the library parses, so that it judges names and bounds.
    check(lib.moet_problem_parse(",".join(f"{name}={value}" for name, value in key.items()).encode(), problem))
    lib.moet_problem_format(problem, text)
    return problem, text.value.decode()
