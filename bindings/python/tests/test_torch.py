"""torch tensors, torch.compile and the custom ops; on a GPU also streams, CUDA graphs and DLPack between frameworks."""
import unittest

try:
    import torch
except ImportError:
    torch = None

import moe_tune

EXPERTS, HIDDEN, INTER, COUNTS, ROWS = 4, 64, 32, [3, 0, 5, 2], 10
SHAPE = dict(experts=EXPERTS, hidden=HIDDEN, inter=INTER)
HAS_GPU = torch is not None and torch.cuda.is_available()


def grouped(x, w, counts):
    """float32 [rows, N] by a loop over experts, w [E, N, K]."""
    parts = torch.split(x[:sum(counts)].float(), counts)
    return torch.cat([part @ w[expert].float().T for expert, part in enumerate(parts)])


class ByDlpack:
    """Nothing of a tensor but DLPack."""

    def __init__(self, tensor):
        self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__


class Cases:
    """What holds on the host and on a GPU; `device` and `spec` are the subclass's."""

    def setUp(self):
        torch.manual_seed(5)
        self.table = moe_tune.open(None, self.spec)

    def draw(self, *shape):
        return torch.randn(*shape, device=self.device).bfloat16()

    def near(self, actual, expected):
        difference, scale = (actual.float() - expected).abs(), expected.abs().clamp(min=float(expected.abs().max()) / 64)
        self.assertTrue(bool((difference <= scale * 2**-8).all()))

    def test_gemm(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        for counts in (COUNTS, torch.tensor(COUNTS), torch.tensor(COUNTS, dtype=torch.int32)):
            out = plan(x, w, counts)
            self.assertEqual((out.dtype, out.device.type), (torch.bfloat16, self.device))
            self.near(out, grouped(x, w, COUNTS))
        parameter = torch.nn.Parameter(w)
        self.assertTrue(torch.equal(plan(x, parameter, COUNTS), out))

    def test_compile(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        w = self.draw(EXPERTS, 2 * INTER, HIDDEN)

        def layer(x, counts):
            return torch.relu(plan(x * 2, w, counts)) + 1

        compiled = torch.compile(layer, fullgraph=True, dynamic=True)
        for counts in (COUNTS, [1, 2, 3, 4], [0, 0, 7, 0]):
            x, counts = self.draw(sum(counts), HIDDEN), torch.tensor(counts, dtype=torch.int32)
            self.assertTrue(torch.equal(compiled(x, counts), layer(x, counts)))

    def test_compile_of_the_path(self):
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=32)
        x, up, down = self.draw(6, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN), self.draw(EXPERTS, HIDDEN, INTER)
        ids = torch.tensor([[0, 1], [2, -1], [3, 0]] * 2, device=self.device)
        weights = torch.rand(6, 2, device=self.device)
        eager = plan(x, ids, weights, up, down)
        compiled = torch.compile(lambda x: plan(x, ids, weights, up, down), fullgraph=True)
        self.assertTrue(torch.equal(compiled(x), eager))
        self.assertTrue(bool(eager.any()))

    def test_ops_are_registered_rightly(self):
        plan = self.table.gemm("down", **SHAPE, max_rows=64)
        counts = torch.tensor(COUNTS, dtype=torch.int32)
        args = (self.draw(ROWS, INTER), self.draw(EXPERTS, HIDDEN, INTER), counts, None, plan.number)
        result = torch.library.opcheck(torch.ops.moe_tune.gemm.default, args)
        self.assertEqual(set(result.values()), {"SUCCESS"})
        number = plan.number
        del plan
        with self.assertRaisesRegex(RuntimeError, "is gone: keep a plan alive"):
            torch.ops.moe_tune.gemm(*args[:4], number)

    def test_dlpack(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS + 2, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        out, stream = torch.zeros(ROWS, 2 * INTER, device=self.device).bfloat16(), 0 if self.device == "cuda" else None
        plan(ByDlpack(x[2:]), ByDlpack(w), COUNTS, out=ByDlpack(out), stream=stream)
        self.assertTrue(torch.equal(out, plan(x[2:], w, COUNTS)))
        with self.assertRaisesRegex(ValueError, "w is not contiguous"):
            plan(ByDlpack(x[2:]), ByDlpack(w.transpose(1, 2)), COUNTS, out=ByDlpack(out), stream=stream)

    def test_messages(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        with self.assertRaisesRegex(TypeError, "x is float32, bfloat16 needed"):
            plan(x.float(), w, COUNTS)
        with self.assertRaisesRegex(TypeError, "on 'meta'"):
            plan(x.to("meta"), w, COUNTS)
        path = self.table.ffn(**SHAPE, choices=2, max_tokens=8)
        ids, weights = torch.zeros(3, 2, dtype=torch.int32, device=self.device), torch.ones(3, 2, device=self.device)
        with self.assertRaisesRegex(ValueError, r"x's rows overlap: pass x.contiguous\(\)"):
            path(x[:1].expand(3, HIDDEN), ids, weights, w, self.draw(EXPERTS, HIDDEN, INTER))


@unittest.skipUnless(torch, "torch is not installed")
class OnHost(Cases, unittest.TestCase):
    device, spec = "cpu", "host"


@unittest.skipUnless(HAS_GPU, "no GPU")
class OnGpu(Cases, unittest.TestCase):
    device, spec = "cuda", "cuda"

    def test_current_and_given_stream(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        expected = plan(x, w, COUNTS)
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
            x2 = x * 1  # ready late, on this stream only
            self.assertTrue(torch.equal(plan(x2, w, COUNTS), expected))
        torch.cuda.synchronize()
        for given in (stream, stream.cuda_stream):
            out = torch.empty_like(expected)
            plan(x, w, COUNTS, out=out, stream=given)
            stream.synchronize()
            self.assertTrue(torch.equal(out, expected))

    def test_graph_replays_with_other_counts(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64, device_counts=True)
        x, w = self.draw(64, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        counts = torch.tensor(COUNTS, dtype=torch.int32, device="cuda")
        plan(x, w, counts)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = plan(x, w, counts)
        for other in (COUNTS, [64, 0, 0, 0], [1, 2, 3, 4]):
            counts.copy_(torch.tensor(other, dtype=torch.int32))
            out.fill_(float("nan"))
            graph.replay()
            torch.cuda.synchronize()
            self.near(out[:sum(other)], grouped(x, w, other))
            self.assertTrue(bool(out[sum(other):].isnan().all()))

    def test_graph_of_the_path(self):
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=32)
        x, up, down = self.draw(6, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN), self.draw(EXPERTS, HIDDEN, INTER)
        ids = torch.tensor([[0, 1], [2, -1], [3, 0]] * 2, device="cuda", dtype=torch.int32)
        weights = torch.rand(6, 2, device="cuda")
        plan(x, ids, weights, up, down)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = plan(x, ids, weights, up, down)
        ids.copy_(ids.flip(0))
        graph.replay()
        self.assertTrue(torch.equal(out, plan(x, ids, weights, up, down)))

    def test_compile_with_cuda_graphs(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64, device_counts=True)
        x, w = self.draw(64, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        counts = torch.tensor(COUNTS, dtype=torch.int32, device="cuda")
        layer = torch.compile(lambda x, counts: plan(x, w, counts) * 2, fullgraph=True, mode="reduce-overhead")
        for other in (COUNTS, COUNTS, COUNTS, [1, 2, 3, 4]):
            counts = torch.tensor(other, dtype=torch.int32, device="cuda")
            out = layer(x, counts).clone()
            self.near(out[:sum(other)], 2 * plan(x, w, counts)[:sum(other)].float())

    def test_dlpack_with_its_stream(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        out, stream = torch.empty(ROWS, 2 * INTER, device="cuda", dtype=torch.bfloat16), torch.cuda.Stream()
        for given in (0, stream.cuda_stream):
            out.zero_()
            plan(ByDlpack(x), ByDlpack(w), COUNTS, out=ByDlpack(out), stream=given)
            torch.cuda.synchronize()
            self.near(out, grouped(x, w, COUNTS))
        with self.assertRaisesRegex(TypeError, "pass stream="):
            plan(ByDlpack(x), ByDlpack(w), COUNTS, out=ByDlpack(out))

    def test_counts_and_tensors_elsewhere(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        with self.assertRaisesRegex(ValueError, "device_counts=True"):
            plan(x, w, torch.tensor(COUNTS, device="cuda"))
        with self.assertRaisesRegex(ValueError, "w is on the host, the table was opened on cuda:0"):
            plan(x, w.cpu(), COUNTS)

    def test_another_thread(self):
        import threading

        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        expected, results = plan(x, w, COUNTS), []
        torch.cuda.synchronize()
        thread = threading.Thread(target=lambda: results.append(plan(x, w, COUNTS)))
        thread.start()
        thread.join()
        torch.cuda.synchronize()
        self.assertTrue(torch.equal(results[0], expected))


if __name__ == "__main__":
    unittest.main()
