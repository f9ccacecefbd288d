"""Rules: where a real device does something other than PyTorch's fake kernels say, what it does instead.

A fake kernel gives the shape, strides and dtype of an op's results, for any device. It does not know which kernel a GPU would
choose, what that kernel needs while it runs, or what a library takes for itself. Each such fact is one rule, a function under
the decorator `torchprof.estimation.rules.registry.rule`:

    @rule(
        Kind.KERNEL,
        "aten::dropout",
        on="cuda",
        when="training, with 0 < p < 1 and an input that is not empty",
        source="is_fused_kernel_acceptable in aten/src/ATen/native/Dropout.cpp",
    )
    def dropout(op, input, p, train):
        return torch.ops.aten.native_dropout(input, p, train)[0]

To add one:

1. Choose what it changes: a `Kind` says what the function is given and what it returns.
2. Write it in the file of its subject in this folder, or in a new file: every file here is imported. State the ops, the device,
   any further condition in words (``when``), and the source: the file and function in PyTorch, or the document of NVIDIA's,
   that a reader can check it against. A condition that the function can test, it tests.
3. Give it a witness in ``tests/integration/test_estimate_rules.py``: a program whose estimate differs without the rule, and by
   how much. A rule without one fails the tests.

`registry.py` keeps the rules, `applied.py` puts those of one estimate into effect and takes them back.
"""
