"""difftalk as a library: one module a stage, and the packages they share.

    from stages import infer
    infer.run(infer.Config(steps=10), inputs=infer.Inputs(...), out=Path("out.mp4"))

Import arrows, enforced by tests/test_arrows.py: difftalk_cli -> stages.<stage> -> artifacts media faces
speech models diffusion training metrics -> errors, shapes, runtime.
"""

__version__ = "0.1.0"
