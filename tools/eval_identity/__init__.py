"""Whether the references of one word show one individual: a test of two clips side by side.

Two clips of one kind (two people, two dogs) stand side by side in one video, whose caption names both. A word whose references
come from both halves was given two individuals. Nobody need label anything: the seam between the halves tells. What it cannot
tell is a mix-up of two individuals within a half, so clips that name two of a kind are not taken.

    python -m tools.eval_identity make clips.jsonl pairs/ --pairs 16
    materia run --config local --input pairs/manifest.jsonl --output out/
    python -m tools.eval_identity score out/ pairs/
"""
