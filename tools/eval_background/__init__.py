"""How well a place is shown where somebody hid it: a test with walkers pasted on clips without people.

A cut-out of a person or an animal walks over a clip of a place, or stands in it. What it hides in the frame of record is known,
so the background reference can be compared with the truth. Cameras are those of the clips as they move, and three of our own
over a still of the place: static, a pan, a hand that shakes.

    python -m tools.eval_background make clips.jsonl walkers/ --walkers 16 --cutouts out/
    materia run --config local --input walkers/manifest.jsonl --output walkers_out/
    python -m tools.eval_background score walkers_out/ walkers/
"""
