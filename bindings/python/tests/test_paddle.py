"""batched_gemm and the expert path as Paddle has them: with NumPy, and with Paddle's tensors where it is installed."""
import os
import unittest

import numpy as np

from bf16 import COUNTS, EXPERTS, HIDDEN, INTER, ROWS, draw, from_float, grouped, is_close, is_near, path
from moe_tune import paddle as moet_paddle

try:
    import paddle
except ImportError:
    paddle = None
TABLE = os.environ.get("MOET_TEST_TABLE")


class Signature(unittest.TestCase):
    def setUp(self):
        self.generator = np.random.default_rng(11)

    def tearDown(self):
        moet_paddle.use_table(None)

    def test_both_transpositions(self):
        x = draw(self.generator, ROWS, HIDDEN)
        for trans_rhs in (False, True):
            w = draw(self.generator, EXPERTS, *((48, HIDDEN) if trans_rhs else (HIDDEN, 48)))
            out = moet_paddle.batched_gemm(x, w, COUNTS, False, trans_rhs)
            self.assertEqual(out.shape, (ROWS, 48))
            self.assertTrue(is_close(out, grouped(x, w, COUNTS, kn=not trans_rhs)))

    def test_more_rows_than_before(self):
        w = draw(self.generator, EXPERTS, HIDDEN, 48)
        self.assertIs(moet_paddle.table(), moet_paddle.table())
        for rows in (1, 300, 2):
            x = draw(self.generator, rows, HIDDEN)
            counts = [rows, 0, 0, 0]
            self.assertTrue(is_close(moet_paddle.batched_gemm(x, w, counts), grouped(x, w, counts, kn=True)))

    def test_messages(self):
        x, w = draw(self.generator, ROWS, HIDDEN), draw(self.generator, EXPERTS, HIDDEN, 48)
        for words, args in (("4 numbers that sum to 11, rhs has 4 experts and lhs 10 rows", (x, w, [3, 0, 5, 3])),
                            ("trans_lhs", (x, w, COUNTS, True)),
                            ("[experts, K, N] needed", (x, w[0], COUNTS)),
                            ("x is float32, bfloat16 needed", (x.astype(np.float32), w, COUNTS))):
            with self.assertRaises(Exception) as caught:
                moet_paddle.batched_gemm(*args)
            self.assertIn(words, str(caught.exception))

    @unittest.skipUnless(TABLE, "needs MOET_TEST_TABLE")
    def test_the_table_of_the_up_gemm_answers(self):
        table = moet_paddle.open_table(TABLE, "host")
        plan = moet_paddle._gemm_plan(table, 64, [16] * 4, experts=4, n=64, k=64, layout="nk")
        self.assertEqual((plan.query([16] * 4).hit, plan.problem_key[:5]), ("exact", "op=up"))

    def test_expert_path(self):
        ids = np.array([[0, 1], [2, -1], [3, 0], [-1, -1], [1, 3]])
        counts = np.bincount(ids[ids >= 0], minlength=EXPERTS).tolist()
        x, weights = draw(self.generator, 5, HIDDEN), self.generator.random((5, 2), np.float32) + np.float32(0.5)
        up = from_float(self.generator.standard_normal((EXPERTS, 2 * INTER, HIDDEN)) / 8)
        down = from_float(self.generator.standard_normal((EXPERTS, HIDDEN, INTER)) / 8)
        kn = [np.ascontiguousarray(w.transpose(0, 2, 1)) for w in (up, down)]
        for advance in (False, True):
            out = moet_paddle.expert_ffn(x, ids, weights, *kn, counts, prob_in_advance=advance)
            expected = path(x, ids, weights, up, down, "advance" if advance else "combine", paddle=not advance)
            self.assertTrue(is_near(out, expected), advance)


@unittest.skipUnless(paddle, "paddlepaddle is not installed")
class Tensors(unittest.TestCase):
    def test_batched_gemm(self):
        paddle.seed(3)
        x = paddle.randn([ROWS, HIDDEN]).astype("bfloat16")
        w = paddle.randn([EXPERTS, HIDDEN, 48]).astype("bfloat16")
        out = moet_paddle.batched_gemm(x, w, COUNTS)
        self.assertEqual((out.shape, out.dtype, out.place), ([ROWS, 48], paddle.bfloat16, x.place))
        begin = 0
        for expert, count in enumerate(COUNTS):
            expected = paddle.matmul(x[begin:begin + count].astype("float32"), w[expert].astype("float32"))
            difference = (out[begin:begin + count].astype("float32") - expected).abs()
            self.assertTrue(bool((difference <= expected.abs() * 2**-8 + 1e-3).all()))
            begin += count

    def test_expert_path_and_dlpack(self):
        paddle.seed(4)
        x, up = paddle.randn([3, HIDDEN]).astype("bfloat16"), paddle.randn([EXPERTS, HIDDEN, 64]).astype("bfloat16")
        down = paddle.randn([EXPERTS, INTER, HIDDEN]).astype("bfloat16")
        ids, weights = paddle.to_tensor([[0, 1], [2, -1], [-1, -1]], dtype="int64"), paddle.rand([3, 2])
        out = moet_paddle.expert_ffn(x, ids, weights, up, down, [1, 1, 1, 0], prob_in_advance=True)
        arrays = [np.from_dlpack(t.view("int16")).view(np.uint16) for t in (x, up, down)]
        same = moet_paddle.expert_ffn(arrays[0], ids.numpy(), weights.numpy(), arrays[1], arrays[2], [1, 1, 1, 0],
                                      prob_in_advance=True)
        np.testing.assert_array_equal(np.from_dlpack(out.view("int16")).view(np.uint16), same)
        self.assertTrue((same[2] == 0).all() and same[:2].any())


if __name__ == "__main__":
    unittest.main()
