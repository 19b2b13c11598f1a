"""The structures and numbers that moe_tune repeats are those of moet.h: asked of a C compiler."""
import os
import shutil
import subprocess
import tempfile
import unittest

import moe_tune
from moe_tune import _library

SOURCE = os.environ.get("MOET_SOURCE")


@unittest.skipUnless(SOURCE and shutil.which("cc"), "needs a C compiler and MOET_SOURCE")
class Abi(unittest.TestCase):
    def ask(self, expressions):
        """Values of C expressions of moet.h."""
        program = "#include <stdio.h>\n#include \"moet.h\"\nint main(void) {\n"
        program += "".join(f'printf("%ld\\n", (long)({e}));\n' for e in expressions) + "return 0; }\n"
        with tempfile.TemporaryDirectory() as folder:
            source, binary = os.path.join(folder, "ask.c"), os.path.join(folder, "ask")
            with open(source, "w") as file:
                file.write(program)
            subprocess.run(["cc", "-I", os.path.join(SOURCE, "src"), source, "-o", binary], check=True)
            return [int(line) for line in subprocess.run([binary], capture_output=True, check=True).stdout.split()]

    def test_structures(self):
        for name, structure in _library.STRUCTURES.items():
            import ctypes

            fields = [field for field, *_ in structure._fields_]
            expressions = [f"sizeof({name})"] + [f"offsetof({name}, {field})" for field in fields]
            here = [ctypes.sizeof(structure)] + [getattr(structure, field).offset for field in fields]
            sizes = [f"sizeof((({name} *)0)->{field})" for field in fields]
            here += [getattr(structure, field).size for field in fields]
            self.assertEqual(dict(zip(expressions + sizes, self.ask(expressions + sizes))),
                             dict(zip(expressions + sizes, here)), name)

    def test_version(self):
        self.assertEqual(_library.lib.moet_version().decode(), moe_tune.__version__)
        with open(os.path.join(SOURCE, "bindings", "python", "pyproject.toml")) as file:
            self.assertIn(f'version = "{moe_tune.__version__}"', file.read())

    def test_numbers(self):
        self.assertEqual(self.ask([f"MOET_OP_{op.upper()}" for op in _library.OPS] + ["MOET_OP_COUNT"]),
                         list(_library.OPS.values()) + [len(_library.OPS)])
        self.assertEqual(self.ask([f"MOET_HIT_{hit.upper()}" for hit in _library.HITS] + ["MOET_HIT_COUNT"]),
                         list(range(len(_library.HITS) + 1)))
        from moe_tune import paddle

        self.assertEqual(self.ask(["MOET_KEY_SIZE", "MOET_CONFIG_SIZE", "MOET_MAX_ROWS", "MOET_OK"]),
                         [_library.KEY_SIZE, _library.CONFIG_SIZE, paddle.MAX_ROWS, 0])
        self.assertLessEqual(self.ask(["sizeof(moet_problem)"])[0], _library.PROBLEM_SIZE)


if __name__ == "__main__":
    unittest.main()
