"""Tables and plans: moet.h's handle, moet_plan, moet_launch and moet_ffn."""
import contextlib
import ctypes
import itertools
import sys
import threading
import weakref
from collections import namedtuple
from ctypes import byref, c_int32, c_void_p

from . import _cuda, _tensor
from ._library import (COMMAND_SIZE, HITS, ChoiceStruct, FfnArgs, LaunchArgs, PlanOptions, Routing, StatsStruct,
                       check, lib, make_problem)

Choice = namedtuple("Choice", "hit config distance tuned_rows tuned_time_us")
Choice.__doc__ = "What a launch runs: hit is 'exact', 'nearest' or 'default'; moet_choice in moet.h says the rest."

_plans = weakref.WeakValueDictionary()  # by number, for the torch ops
_numbers = itertools.count(1)
_nothing = contextlib.nullcontext()


# Set by torch_ops: whether torch.compile is looking, the ops that it is to see, and torch's types by our names.
_is_traced = bool
_ops = None
_torch_types = None


def plan_by_number(number):
    plan = _plans.get(number)
    if plan is None:
        raise RuntimeError(f"plan {number} is gone: keep a plan alive as long as what was compiled with it")
    return plan


class Table:
    """A tuned table, or none, on one device. Closed when it and its plans are no longer used, or by close().

    Plans of one table may be called from several threads, one call at a time goes through.
    """

    def __init__(self, folder=None, device="auto"):
        handle = c_void_p()
        check(lib.moet_open(None if folder is None else str(folder).encode(), str(device).encode(), byref(handle)))
        self._opened = handle
        self._close = weakref.finalize(self, lib.moet_close, handle)
        self._plans = weakref.WeakSet()
        self._routing = Routing()
        self._lock = threading.RLock()  # a collected plan may be destroyed inside a call
        self.device_key = lib.moet_device_key(handle).decode()
        on_cuda = self.device_key.startswith("backend=cuda")
        # moet_open left the device's context current.
        self._context = _cuda.current_context() if on_cuda else None
        self.ordinal = _cuda.current_ordinal() if on_cuda else None

    @property
    def _handle(self):
        if not self._close.alive:
            raise ValueError("the table is closed")
        return self._opened

    def close(self):
        """Destroys its plans and closes it, now; what they were launched for must be done. `with` does so at its end."""
        with self._lock:
            for plan in list(self._plans):
                plan._destroy()
                plan._plan = None
            with self._current():
                self._close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    @property
    def entry_count(self):
        return lib.moet_entry_count(self._handle)

    @property
    def refusals(self):
        """One line for each entry that does not serve here, with the reason, and for each plan whose problem the table
        has with other fields alone."""
        return [lib.moet_refusal(self._handle, i).decode() for i in range(lib.moet_refusal_count(self._handle))]

    @property
    def stats(self):
        """How launches were answered so far: {"exact": 3, "nearest": 20, "fallback": 0, "refused": 0} (moet_stats)."""
        stats = StatsStruct()
        lib.moet_stats_read(self._handle, byref(stats))
        return {name: getattr(stats, name) for name, _ in StatsStruct._fields_}

    def gemm(self, op="down", *, experts, hidden, inter, max_rows, layout="nk", bias=False, numerics="train",
             device_counts=False, expected_rows=0, expected_max_over_mean=0.0, max_sms=0):
        """A plan of a grouped GEMM. op "up": [rows, hidden] by [E, 2 inter, hidden]; "down": [rows, inter] by
        [E, hidden, inter]; layout "kn" has the weights' last two dimensions the other way around."""
        problem, key = make_problem(op, experts=experts, hidden=hidden, inter=inter, layout=layout, bias=bias,
                                    numerics=numerics)
        options = PlanOptions(max_rows=max_rows, max_sms=max_sms, device_counts=device_counts,
                              expected_rows=expected_rows, expected_max_over_mean=expected_max_over_mean)
        return GemmPlan(self, problem, key, options, experts, 2 * inter if op == "up" else hidden,
                        inter if op == "down" else hidden, layout, bias)

    def ffn(self, *, experts, hidden, inter, choices, max_tokens, max_rows=0, layout="nk", activation="swiglu",
            clamp=0.0, bias=False, down_bias=False, prob="combine", combine="exact", numerics="train",
            device_counts=True, expected_rows=0, expected_max_over_mean=0.0, max_sms=0):
        """A plan of the expert path of one rank, permute to combine; docs/ffn.md says its arithmetic."""
        problem, key = make_problem("ffn", experts=experts, hidden=hidden, inter=inter, layout=layout,
                                    activation=activation, clamp=float(clamp), bias=bias, down_bias=down_bias,
                                    prob=prob, combine=combine, numerics=numerics)
        options = PlanOptions(max_rows=max_rows, max_tokens=max_tokens, choices=choices, max_sms=max_sms,
                              device_counts=device_counts, expected_rows=expected_rows,
                              expected_max_over_mean=expected_max_over_mean)
        return FfnPlan(self, problem, key, options, experts, hidden, inter, layout, bias, down_bias, prob)

    def record_start(self, capacity=4096):
        """Keeps from now on the host counts that the table has no near answer to, at most `capacity` different ones."""
        with self._lock:
            check(lib.moet_record_start(self._handle, capacity))

    def record_save(self, path):
        """Writes what is recorded as a workload file for `moe-tune sweep --workloads`, and goes on recording."""
        check(lib.moet_record_save(self._handle, str(path).encode()))

    def record_stop(self):
        with self._lock:
            lib.moet_record_stop(self._handle)

    def _current(self):
        """A context manager in which the device's CUDA context is the thread's."""
        if self._context is None or _cuda.current_context() == self._context:
            return _nothing
        return _cuda.pushed(self._context)


def open(folder=None, device="auto"):  # noqa: A001: moe_tune.open, as moet_open
    """Opens a table's folder (None: family defaults answer) on "auto", "host", "cuda" (the device of the thread's
    current context) or "cuda:N"."""
    return Table(folder, device)


def _place(ordinal):
    return "the host" if ordinal is None else f"cuda:{ordinal}"


def _destroy(table, plan):
    with table._lock, table._current():
        lib.moet_plan_destroy(plan)


class Plan:
    """What both kinds share. A plan's launches follow each other on one stream: make one for each stream."""

    def __init__(self, table, problem, key, options):
        if "torch" in sys.modules:
            from . import torch_ops  # noqa: F401: it registers itself
        plan = c_void_p()
        with table._lock, table._current():
            check(lib.moet_plan_create(table._handle, problem, byref(options), byref(plan)))
        self.table, self.problem_key = table, key
        self.max_rows, self.device_counts = options.max_rows, options.device_counts
        self._plan = plan
        self._torch_device = -1 if table.ordinal is None else table.ordinal
        self.number = next(_numbers)
        _plans[self.number] = self
        # Holds the table, so that it is closed after its plans.
        self._destroy = weakref.finalize(self, _destroy, table, plan)
        table._plans.add(self)

    @property
    def workspace_bytes(self):
        return 0 if self._plan is None else lib.moet_plan_workspace_bytes(self._plan)

    def query(self, counts=None):
        """The Choice for these rows per expert; a plan with device counts needs none."""
        choice = ChoiceStruct()
        held = []
        pointer = None if counts is None else self._host_counts(counts, held)
        with self.table._lock:
            check(lib.moet_plan_query(self._plan, pointer, byref(choice)))
        return Choice(HITS[choice.hit], choice.config.decode(), choice.distance, choice.tuned_rows,
                      choice.tuned_time_us)

    def replay_command(self, counts):
        """The shell command that measures and verifies what runs for these counts."""
        text, held = ctypes.create_string_buffer(COMMAND_SIZE), []
        pointer = self._host_counts(counts, held)
        with self.table._lock:
            check(lib.moet_plan_replay_command(self._plan, pointer, text, COMMAND_SIZE))
        return text.value.decode()

    def _pointer(self, name, tensor, shape, dtype, stream, held):
        """Where a dense tensor of this shape is; `held` keeps what must live as long as the call."""
        if _torch_types is not None and isinstance(tensor, _torch_types["tensor"]):
            # A few comparisons of what torch has at hand: most of a call's time is spent in such checks.
            if (tensor.dtype is _torch_types[dtype] and tensor.shape == shape and tensor.is_contiguous()
                    and tensor.get_device() == self._torch_device):
                pointer = tensor.data_ptr()
                if pointer:  # without elements, and on the device "meta", there is none
                    return pointer
        view = self._view(name, tensor, shape, dtype, stream)
        held.append(view)
        return view.pointer

    def _view(self, name, tensor, shape, dtype, stream, dense=True):
        """Checked against what the plan needs; None in shape is any size, dtype one or a tuple."""
        if tensor is None:
            raise TypeError(f"{name} is needed")
        view = _tensor.view(tensor, stream)
        if view.ordinal != self.table.ordinal:
            raise ValueError(f"{name} is on {_place(view.ordinal)}, the table was opened on "
                             f"{_place(self.table.ordinal)}: move it, or open the table there")
        dtypes = (dtype,) if isinstance(dtype, str) else dtype
        if view.dtype not in dtypes:
            raise TypeError(f"{name} is {view.dtype}, {' or '.join(dtypes)} needed" +
                            (" (NumPy: uint16 or ml_dtypes.bfloat16)" if dtype == "bfloat16" else ""))
        if len(view.shape) != len(shape) or any(n is not None and n != m for n, m in zip(shape, view.shape)):
            wanted = ", ".join("*" if n is None else str(n) for n in shape)
            raise ValueError(f"{name} is [{', '.join(map(str, view.shape))}], [{wanted}] needed")
        if dense and view.strides is not None:
            raise ValueError(f"{name} is not contiguous: pass {_tensor.dense_text(name, tensor)}")
        return view

    def _out(self, out, like, shape):
        if out is None:
            out = _tensor.empty_like(like, shape)
            if out is None:
                raise TypeError("a DLPack tensor's owner must make the output: pass out=")
        elif _tensor.is_numpy(out) and not out.flags.writeable:
            raise ValueError("out is a read-only array")
        return out

    def _host_counts(self, counts, held):
        """Where int32 [E] of them is in host memory."""
        if _torch_types is not None and isinstance(counts, _torch_types["tensor"]):
            if (counts.dtype is _torch_types["int32"] and counts.shape == (self.experts,) and counts.is_contiguous()
                    and counts.get_device() < 0):
                return counts.data_ptr()
        if not isinstance(counts, (list, tuple)):
            if hasattr(counts, "__dlpack_device__") and int(counts.__dlpack_device__()[0]) == _tensor.DLPACK_CUDA:
                raise ValueError("counts are on CUDA, this plan reads them on the host: pass a list, or make the plan "
                                 "with device_counts=True")
            if not hasattr(counts, "tolist"):
                raise TypeError(f"counts are {counts!r}: rows of each expert needed, a list or an array on the host")
            counts = counts.tolist()
        if len(counts) != self.experts:
            raise ValueError(f"counts has {len(counts)} numbers, the plan {self.experts} experts")
        if not all(0 <= count < 1 << 31 for count in counts):
            raise ValueError(f"counts are {list(counts)}: numbers of rows, 0 and more, needed")
        array = (c_int32 * self.experts)(*counts)
        held.append(array)
        return ctypes.addressof(array)

    def _stream(self, tensor, stream):
        """The CUstream as an integer; None only where nobody said one, on the host or for DLPack."""
        if self.table.ordinal is None:
            return None
        if stream is None:
            return _tensor.current_stream(tensor)
        return int(getattr(stream, "cuda_stream", stream))


class GemmPlan(Plan):
    """A grouped GEMM. plan(x, w, counts) gives [rows, n] BF16."""

    def __init__(self, table, problem, key, options, experts, n, k, layout, bias):
        super().__init__(table, problem, key, options)
        self.experts, self.n, self.k, self.has_bias = experts, n, k, bias
        self._args = LaunchArgs()  # written under the table's lock only
        self._args_pointer = byref(self._args)
        self._w_shape = (experts, n, k) if layout == "nk" else (experts, k, n)

    def __call__(self, x, w, counts, bias=None, out=None, stream=None):
        """x [rows, k], experts' rows in ascending order of expert; w [E, n, k] or, kn, [E, k, n]; bias [E, n]; BF16.

        counts: rows of each expert, which sum to x's rows: a list, or an array on the host. A plan with device counts
        takes int32 [E] on the device, and x and out have max_rows rows, of which those past the counts are not
        written. stream: a CUDA stream (an integer, or torch's); default: torch's current one."""
        if _is_traced() and out is None and stream is None:
            return _ops.gemm(x, w, counts, bias, self.number)
        return self.launch(x, w, counts, bias, out, stream)

    def launch(self, x, w, counts, bias=None, out=None, stream=None):
        """The same, never as a torch op."""
        stream = self._stream(x, stream)
        rows, held = _tensor.rows("x", x, stream), []
        x_pointer = self._pointer("x", x, (rows, self.k), "bfloat16", stream, held)
        w_pointer = self._pointer("w", w, self._w_shape, "bfloat16", stream, held)
        bias_pointer = None
        if self.has_bias:
            bias_pointer = self._pointer("bias", bias, (self.experts, self.n), "bfloat16", stream, held)
        elif bias is not None:
            raise ValueError("a bias was passed, and the plan has none: make it with bias=True")
        if self.device_counts:
            if rows < self.max_rows:
                raise ValueError(f"x has {rows} rows: with device counts max_rows = {self.max_rows} must be readable")
            counts_pointer = self._pointer("counts", counts, (self.experts,), "int32", stream, held)
        else:
            counts_pointer = self._host_counts(counts, held)
        out = self._out(out, x, (rows, self.n))
        out_pointer = self._pointer("out", out, (rows, self.n), "bfloat16", stream, held)
        table = self.table
        with table._lock, table._current():
            if not self.device_counts:
                routing = table._routing
                check(lib.moet_routing_summarize(counts_pointer, self.experts, routing))
                if routing.rows != rows:
                    raise ValueError(f"counts sum to {routing.rows}, x has {rows} rows")
            args = self._args
            args.x, args.w, args.bias, args.out = x_pointer, w_pointer, bias_pointer, out_pointer
            args.counts, args.stream = counts_pointer, stream
            check(lib.moet_launch(self._plan, self._args_pointer))
        return out


class FfnPlan(Plan):
    """The expert path. plan(x, ids, weights, up, down) gives [tokens, hidden] BF16."""

    def __init__(self, table, problem, key, options, experts, hidden, inter, layout, bias, down_bias, prob):
        super().__init__(table, problem, key, options)
        self.experts, self.hidden, self.choices = experts, hidden, options.choices
        self.max_tokens = options.max_tokens
        self._needs_weights = prob != "none"
        self._shapes = {"up": (experts, 2 * inter, hidden) if layout == "nk" else (experts, hidden, 2 * inter),
                        "down": (experts, hidden, inter) if layout == "nk" else (experts, inter, hidden),
                        "up_bias": (experts, 2 * inter) if bias else None,
                        "down_bias": (experts, hidden) if down_bias else None}

    def _rows(self, name, tensor, shape, dtypes, stream, held):
        """Pointer, distance and type of a matrix with a row a token; the rows may lie apart."""
        view = self._view(name, tensor, shape, dtypes, stream, dense=False)
        if view.strides is not None and shape[1] > 1 and view.strides[1] != 1:
            raise ValueError(f"{name}'s rows are not contiguous: pass {_tensor.dense_text(name, tensor)}")
        stride = 0  # to moet_ffn: dense rows
        if view.strides is not None and shape[0] > 1:
            stride = view.strides[0]
            # 0 is what broadcasting and expand() make.
            if stride is None or stride <= 0:
                how = ("are no whole number of elements apart" if stride is None else
                       "overlap" if stride == 0 else "run backwards")
                raise ValueError(f"{name}'s rows {how}: pass {_tensor.dense_text(name, tensor)}")
        held.append(view)
        return view.pointer, stride, view.dtype

    def _bias(self, name, tensor, stream, held):
        shape = self._shapes[name]
        if (shape is None) != (tensor is None):
            raise ValueError(f"the plan has {'no ' if shape is None else 'a '}{name}: "
                             f"{'make it with one, or pass none' if shape is None else 'pass it'}")
        return None if tensor is None else self._pointer(name, tensor, shape, "bfloat16", stream, held)

    def __call__(self, x, ids, weights, up, down, up_bias=None, down_bias=None, counts=None, out=None, stream=None):
        """x [tokens, hidden] BF16; ids [tokens, choices] int32 or int64: local expert, -1 where a choice is on another
        rank; weights [tokens, choices] float32 (None with prob "none"); up [E, 2 inter, hidden], down
        [E, hidden, inter] or, kn, their last two dimensions the other way around; biases [E, 2 inter], [E, hidden].

        counts, only for a plan with device_counts=False: how many tokens chose each expert, on the host."""
        if _is_traced() and out is None and stream is None:
            return _ops.ffn(x, ids, weights, up, down, up_bias, down_bias, counts, self.number)
        return self.launch(x, ids, weights, up, down, up_bias, down_bias, counts, out, stream)

    def launch(self, x, ids, weights, up, down, up_bias=None, down_bias=None, counts=None, out=None, stream=None):
        """The same, never as a torch op."""
        stream = self._stream(x, stream)
        tokens, held = _tensor.rows("x", x, stream), []
        args = FfnArgs(tokens=tokens, stream=stream)
        args.x, args.x_stride, _ = self._rows("x", x, (tokens, self.hidden), "bfloat16", stream, held)
        args.ids, args.ids_stride, ids_type = self._rows("ids", ids, (tokens, self.choices), ("int32", "int64"), stream,
                                                         held)
        args.ids_int64 = ids_type == "int64"
        if self._needs_weights:
            args.weights, args.weights_stride, _ = self._rows("weights", weights, (tokens, self.choices), "float32",
                                                              stream, held)
        args.up = self._pointer("up", up, self._shapes["up"], "bfloat16", stream, held)
        args.down = self._pointer("down", down, self._shapes["down"], "bfloat16", stream, held)
        args.up_bias = self._bias("up_bias", up_bias, stream, held)
        args.down_bias = self._bias("down_bias", down_bias, stream, held)
        if self.device_counts != (counts is None):
            raise ValueError("this plan counts on the device: counts are not needed" if self.device_counts else
                             "this plan has its counts from the host: pass counts, or make it with device_counts=True")
        if counts is not None:
            args.counts = self._host_counts(counts, held)
        out = self._out(out, x, (tokens, self.hidden))
        args.out, args.out_stride, _ = self._rows("out", out, (tokens, self.hidden), "bfloat16", stream, held)
        table = self.table
        with table._lock, table._current():
            check(lib.moet_ffn(self._plan, byref(args)))
        return out
