"""How good masks are, measured on scenes whose masks are known.

Cut-outs of an output of `materia run` are pasted, in their natural size and place, onto backgrounds of its other samples: one
alone, or two of which the second stands in front of the first. They go through the product's stage with boxes as a detector
would give them, and its masks are compared with the ones pasted. What it cannot tell is how masks fare on contact, shadows and
motion blur, which pasting does not make; and a cut-out has the faults of the masks that it was made with.

    python -m tools.eval_masks OUT --scenes 100
    python -m tools.eval_masks OUT --scenes 100 --set segment.backend=u2netp
"""
