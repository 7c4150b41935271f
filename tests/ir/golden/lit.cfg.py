"""lit: each file says in its first line what to run on it."""

import lit.formats

config.name = "heterarch ir"  # type: ignore[name-defined]  # noqa: F821
config.test_format = lit.formats.ShTest(execute_external=False)  # type: ignore[name-defined]  # noqa: F821
config.test_exec_root = lit_config.params["exec"]  # type: ignore[name-defined]  # noqa: F821
config.suffixes = [".mlir"]  # type: ignore[name-defined]  # noqa: F821
