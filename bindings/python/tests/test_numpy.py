"""Tables and plans on the host with NumPy: results, checks, messages; and tensors that come by DLPack only."""
import gc
import json
import os
import tempfile
import threading
import unittest

import numpy as np

import moe_tune
from bf16 import COUNTS, EXPERTS, HIDDEN, INTER, ROWS, draw, from_float, grouped, is_close, is_near, path, to_float

TABLE = os.environ.get("MOET_TEST_TABLE")  # of tests/lib.sh's small workloads
SHAPE = dict(experts=EXPERTS, hidden=HIDDEN, inter=INTER)


class ByDlpack:
    """Nothing of an array but DLPack; or what pretends to be on another device."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack_device__(self):
        return self.device or self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


class Base(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.table = moe_tune.open(None, "host")

    def setUp(self):
        self.generator = np.random.default_rng(7)

    def draw(self, *shape):
        return draw(self.generator, *shape)

    def refuses(self, words, call, *args, error=Exception, **kwargs):
        with self.assertRaises(error) as caught:
            call(*args, **kwargs)
        self.assertIn(words, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


class Gemm(Base):
    def test_every_op_layout_and_bias(self):
        for op, n, k in (("up", 2 * INTER, HIDDEN), ("down", HIDDEN, INTER)):
            for layout in ("nk", "kn"):
                for bias in (False, True):
                    plan = self.table.gemm(op, **SHAPE, max_rows=ROWS, layout=layout, bias=bias)
                    x, w = self.draw(ROWS, k), self.draw(EXPERTS, *((n, k) if layout == "nk" else (k, n)))
                    b = self.draw(EXPERTS, n) if bias else None
                    out = plan(x, w, COUNTS, bias=b)
                    with self.subTest(op=op, layout=layout, bias=bias):
                        self.assertEqual((out.shape, out.dtype), ((ROWS, n), np.uint16))
                        self.assertTrue(is_close(out, grouped(x, w, COUNTS, layout == "kn", b)))

    def test_counts_in_every_form_and_given_out(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        expected = plan(x, w, COUNTS)
        for counts in (tuple(COUNTS), np.array(COUNTS), np.array(COUNTS, np.int32)):
            out = np.zeros((ROWS, 2 * INTER), np.uint16)
            self.assertIs(plan(x, w, counts, out=out), out)
            np.testing.assert_array_equal(out, expected)
        self.assertEqual(plan(x[:0], w, [0] * EXPERTS).shape, (0, 2 * INTER))

    def test_device_counts_leave_rows_past_them_alone(self):
        plan = self.table.gemm("down", **SHAPE, max_rows=16, device_counts=True, expected_rows=10)
        x, w = self.draw(16, INTER), self.draw(EXPERTS, HIDDEN, INTER)
        out = np.full((16, HIDDEN), 0x7FC0, np.uint16)
        plan(x, w, np.array(COUNTS, np.int32), out=out)
        self.assertTrue(is_close(out[:ROWS], grouped(x[:ROWS], w, COUNTS)))
        self.assertTrue((out[ROWS:] == 0x7FC0).all())
        self.refuses("max_rows = 16 must be readable", plan, x[:ROWS], w, np.array(COUNTS, np.int32))

    def test_one_row_alone_has_the_bits_it_has_in_a_batch(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=64)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        np.testing.assert_array_equal(plan(x[4:5], w, [0, 0, 1, 0]), plan(x, w, COUNTS)[4:5])

    def test_messages(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=ROWS)
        x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
        for words, args in (
            ("counts sum to 11, x has 10 rows", (x, w, [3, 0, 5, 3])),
            ("counts has 3 numbers, the plan 4 experts", (x, w, [3, 0, 7])),
            ("0 and more, needed", (x, w, [-1, 4, 5, 2])),
            ("x is [10, 32], [10, 64] needed", (x[:, :32], w, COUNTS)),
            ("x is float32, bfloat16 needed", (x.astype(np.float32), w, COUNTS)),
            ("x is not contiguous: pass numpy.ascontiguousarray(x)", (self.draw(ROWS, 2 * HIDDEN)[:, ::2], w, COUNTS)),
            ("w is [3, 64, 64], [4, 64, 64] needed", (x, w[:3], COUNTS)),
            ("x is [], a matrix needed", (np.uint16(1), w, COUNTS)),
            ("x is [64], a matrix needed", (x[0], w, COUNTS)),
            ("a str is no tensor", ("x", w, COUNTS)),
            ("w is needed", (x, None, COUNTS)),
            ("the plan has none: make it with bias=True", (x, w, COUNTS, w)),
        ):
            self.refuses(words, plan, *args)
        self.refuses("at most 10", plan, self.draw(12, HIDDEN), w, [12, 0, 0, 0])
        frozen = np.zeros((ROWS, 2 * INTER), np.uint16)
        frozen.flags.writeable = False
        self.refuses("read-only", plan, x, w, COUNTS, out=frozen)
        unaligned = np.zeros(ROWS * HIDDEN + 1, np.uint16)[1:].reshape(ROWS, HIDDEN)
        self.refuses("16-byte aligned", plan, unaligned, w, COUNTS, error=moe_tune.Error)
        self.refuses("op is 'sideways', known are up, down, ffn", self.table.gemm, "sideways", **SHAPE, max_rows=1)
        self.refuses("counts are None: rows of each expert needed", plan, x, w, None, error=TypeError)
        self.refuses("counts are 7: rows of each expert needed", plan, x, w, 7, error=TypeError)
        self.refuses("activation is 'relu', known to this version are none, swiglu, swiglu_clamp, gpt_oss",
                     self.table.ffn, **SHAPE, choices=1, max_tokens=1, activation="relu")
        self.refuses("layout is 'mn', known to this version are nk, kn", self.table.gemm, "up", **SHAPE, max_rows=1,
                     layout="mn")
        self.refuses("multiples of 8", self.table.gemm, "up", experts=1, hidden=12, inter=8, max_rows=1)
        self.refuses("device '7'", moe_tune.open, None, 7)
        self.refuses("name a folder that `moe-tune emit` wrote", moe_tune.open, "/nonexistent", "host")

    def test_threads_share_a_plan(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=ROWS)
        w = self.draw(EXPERTS, 2 * INTER, HIDDEN)
        inputs = [self.draw(ROWS, HIDDEN) for _ in range(4)]
        expected = [plan(x, w, COUNTS) for x in inputs]
        wrong = []

        def work(i):
            for _ in range(50):
                if not np.array_equal(plan(inputs[i], w, COUNTS), expected[i]):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_a_plan_outlives_its_table(self):
        plan = moe_tune.open(None, "host").gemm("up", **SHAPE, max_rows=ROWS)
        gc.collect()
        self.assertEqual(plan.query(COUNTS).hit, "default")
        self.assertIn("moe-tune bench --device host", plan.replay_command(COUNTS))
        self.assertGreater(plan.workspace_bytes, 0)

    def test_close(self):
        with moe_tune.open(None, "host") as table:
            plan = table.gemm("up", **SHAPE, max_rows=ROWS)
            x, w = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN)
            plan(x, w, COUNTS)
        table.close()
        self.refuses("plan is NULL", plan, x, w, COUNTS, error=moe_tune.Error)
        self.refuses("plan is NULL", plan.query, COUNTS, error=moe_tune.Error)
        self.refuses("plan is NULL", plan.replay_command, COUNTS, error=moe_tune.Error)
        self.assertEqual(plan.workspace_bytes, 0)
        for call in (lambda: table.gemm("up", **SHAPE, max_rows=ROWS), lambda: table.entry_count,
                     lambda: table.refusals, lambda: table.stats, lambda: table.record_start(8),
                     lambda: table.record_save("unused.jsonl"), table.record_stop):
            self.refuses("the table is closed", call, error=ValueError)

    def test_what_the_table_does_not_know_is_recorded(self):
        table = moe_tune.open(None, "host")
        self.refuses("moet_record_start", table.record_save, "unused.jsonl", error=moe_tune.Error)
        table.record_start(8)
        plan = table.gemm("up", **SHAPE, max_rows=ROWS)
        for _ in range(3):
            plan(self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN), COUNTS)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "met.jsonl")
            table.record_save(path)
            with open(path) as file:
                met = [json.loads(line) for line in file]
        self.assertEqual([(one["counts"], one["weight"]) for one in met], [(COUNTS, 3)])
        table.record_stop()
        self.assertEqual(table.stats, {"exact": 0, "nearest": 0, "fallback": 3, "refused": 0})

    @unittest.skipUnless(TABLE, "needs MOET_TEST_TABLE")
    def test_a_tuned_table_answers(self):
        table = moe_tune.open(TABLE, "host")
        self.assertEqual((table.entry_count > 0, table.refusals), (True, []))
        choice = table.gemm("up", **SHAPE, max_rows=64).query([16] * 4)
        self.assertEqual((choice.hit, choice.tuned_rows), ("exact", 64))
        self.assertGreater(choice.tuned_time_us, 0)
        table.gemm("up", **SHAPE, max_rows=64, layout="kn")
        self.assertEqual(len(table.refusals), 1)
        self.assertIn("the table has layout=nk; the plan asks layout=kn", table.refusals[0])


class Dlpack(Base):
    def test_only_dlpack(self):
        plan = self.table.gemm("up", **SHAPE, max_rows=ROWS)
        x, w, out = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN), np.zeros((ROWS, 64), np.uint16)
        plan(ByDlpack(x), ByDlpack(w), COUNTS, out=ByDlpack(out))
        np.testing.assert_array_equal(out, plan(x, w, COUNTS))
        self.refuses("pass out=", plan, ByDlpack(x), ByDlpack(w), COUNTS)
        self.refuses("pass stream=", plan, ByDlpack(x, (2, 0)), w, COUNTS)
        self.refuses("device of kind 7", plan, ByDlpack(x, (7, 0)), w, COUNTS)
        transposed = ByDlpack(np.ascontiguousarray(x.T).T)
        self.refuses("x is not contiguous", plan, transposed, w, COUNTS, out=out)

    def test_the_producer_gets_its_memory_back(self):
        import sys

        plan = self.table.gemm("up", **SHAPE, max_rows=ROWS)
        x, w, out = self.draw(ROWS, HIDDEN), self.draw(EXPERTS, 2 * INTER, HIDDEN), np.zeros((ROWS, 64), np.uint16)
        before = sys.getrefcount(x)
        for _ in range(100):
            plan(ByDlpack(x), w, COUNTS, out=out)
        self.assertEqual(sys.getrefcount(x), before)


class Ffn(Base):
    IDS = np.array([[0, 1], [2, -1], [3, 0], [-1, -1], [1, 3]])

    def inputs(self):
        tokens = len(self.IDS)
        return (self.draw(tokens, HIDDEN), self.generator.random((tokens, 2), np.float32) + np.float32(0.5),
                from_float(self.generator.standard_normal((EXPERTS, 2 * INTER, HIDDEN)) / 8),
                from_float(self.generator.standard_normal((EXPERTS, HIDDEN, INTER)) / 8))

    def test_router_weights_in_every_place(self):
        x, weights, up, down = self.inputs()
        for prob, combine in (("none", "exact"), ("advance", "exact"), ("combine", "exact"), ("combine", "paddle")):
            plan = self.table.ffn(**SHAPE, choices=2, max_tokens=8, prob=prob, combine=combine)
            out = plan(x, self.IDS, None if prob == "none" else weights, up, down)
            expected = path(x, self.IDS, weights, up, down, prob, combine == "paddle")
            with self.subTest(prob=prob, combine=combine):
                self.assertTrue(is_near(out, expected))
                self.assertTrue((out[3] == 0).all())

    def test_strides_and_types_of_ids(self):
        x, weights, up, down = self.inputs()
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=8)
        expected = plan(x, self.IDS, weights, up, down)
        wide_x, wide_ids, out = np.zeros((5, 128), np.uint16), np.zeros((5, 3), np.int32), np.zeros((5, 96), np.uint16)
        wide_x[:, :HIDDEN], wide_ids[:, :2] = x, self.IDS
        plan(wide_x[:, :HIDDEN], wide_ids[:, :2], weights, up, down, out=out[:, :HIDDEN])
        np.testing.assert_array_equal(out[:, :HIDDEN], expected)
        self.assertTrue((out[:, HIDDEN:] == 0).all())

    def test_rows_that_share_memory_are_refused(self):
        x, weights, up, down = self.inputs()
        plan, ids = self.table.ffn(**SHAPE, choices=2, max_tokens=8), self.IDS
        self.refuses("x's rows overlap: pass numpy.ascontiguousarray(x)", plan, np.broadcast_to(x[:1], x.shape), ids,
                     weights, up, down)
        self.refuses("ids's rows overlap", plan, x, np.broadcast_to(ids[:1], ids.shape), weights, up, down)
        self.refuses("weights's rows overlap", plan, x, ids, np.broadcast_to(weights[:1], weights.shape), up, down)
        self.refuses("x's rows run backwards", plan, x[::-1], ids, weights, up, down)
        self.refuses("x's rows overlap: pass x.contiguous()", plan, ByDlpack(np.lib.stride_tricks.as_strided(
            x, x.shape, (0, 2))), ids, weights, up, down, out=np.zeros_like(x))
        single = self.table.ffn(**SHAPE, choices=1, max_tokens=8)
        self.refuses("ids's rows overlap", single, x, np.broadcast_to(ids[:1, :1], (5, 1)), weights[:, :1], up, down)
        # One row has no distance, and a single choice none inside its row.
        np.testing.assert_array_equal(plan(np.broadcast_to(x[0], (1, HIDDEN)), ids[:1], weights[:1], up, down),
                                      plan(x[:1], ids[:1], weights[:1], up, down))
        alone = np.lib.stride_tricks.as_strided(ids, (5, 1), (16, 0))
        np.testing.assert_array_equal(single(x, alone, weights[:, :1], up, down),
                                      single(x, np.ascontiguousarray(alone), weights[:, :1], up, down))

    def test_fields_of_structures_and_the_other_byte_order(self):
        x, weights, up, down = self.inputs()
        plan, tokens = self.table.ffn(**SHAPE, choices=2, max_tokens=8), len(self.IDS)
        uneven = np.zeros(tokens, [("x", np.uint16, HIDDEN), ("flag", np.uint8)])["x"]
        self.refuses("x's rows are no whole number of elements apart: pass numpy.ascontiguousarray(x)", plan, uneven,
                     self.IDS, weights, up, down)
        even = np.zeros(tokens, [("flag", np.int64), ("ids", np.int64, 2)])["ids"]
        even[:] = self.IDS
        np.testing.assert_array_equal(plan(x, even, weights, up, down), plan(x, self.IDS, weights, up, down))
        gemm = self.table.gemm("up", **SHAPE, max_rows=64)
        self.refuses("x is uint16 in the other byte order, bfloat16 needed", gemm, x.astype(x.dtype.newbyteorder()),
                     up, [tokens, 0, 0, 0], error=TypeError)
        self.refuses("ids is int64 in the other byte order", plan, x, self.IDS.astype(
            self.IDS.dtype.newbyteorder()), weights, up, down, error=TypeError)

    def test_counts_from_the_host(self):
        x, weights, up, down = self.inputs()
        counts = np.bincount(self.IDS[self.IDS >= 0], minlength=EXPERTS)
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=8, device_counts=False)
        with_device = self.table.ffn(**SHAPE, choices=2, max_tokens=8)
        np.testing.assert_array_equal(plan(x, self.IDS, weights, up, down, counts=counts),
                                      with_device(x, self.IDS, weights, up, down))
        self.refuses("pass counts", plan, x, self.IDS, weights, up, down)
        self.refuses("counts are not needed", with_device, x, self.IDS, weights, up, down, counts=counts)

    def test_biases(self):
        x, weights, up, down = self.inputs()
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=8, prob="none", bias=True, down_bias=True)
        zero = plan(x, self.IDS, None, up, down, np.zeros((4, 64), np.uint16), np.zeros((4, 64), np.uint16))
        shifted = plan(x, self.IDS, None, up, down, np.zeros((4, 64), np.uint16), from_float(np.full((4, 64), 100.0)))
        np.testing.assert_allclose(to_float(shifted) - to_float(zero),
                                   (self.IDS >= 0).sum(1)[:, None] * np.full((1, 64), 100.0), rtol=0.02, atol=1e-6)
        self.refuses("the plan has a up_bias: pass it", plan, x, self.IDS, None, up, down)

    def test_messages(self):
        x, weights, up, down = self.inputs()
        plan = self.table.ffn(**SHAPE, choices=2, max_tokens=4)
        self.refuses("5 tokens, the plan was made for at most 4", plan, x, self.IDS, weights, up, down)
        self.refuses("ids is [5, 1], [5, 2] needed", plan, x, self.IDS[:, :1], weights, up, down)
        self.refuses("ids is int16, int32 or int64 needed", plan, x, self.IDS.astype(np.int16), weights, up, down)
        self.refuses("weights is needed", plan, x, self.IDS, None, up, down)
        self.refuses("op ffn has no 'x_dtype'", lambda: moe_tune._library.make_problem("ffn", x_dtype="bf16"))
        self.refuses("clamp", self.table.ffn, **SHAPE, choices=2, max_tokens=4, activation="swiglu_clamp")


if __name__ == "__main__":
    unittest.main()
