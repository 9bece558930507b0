"""How much a job will take: what a clip costs each stage (rates.py, measured by measure.py), what pools make of that and how
many workers are needed (forecast.py, sizing.py), and the engine in simulated time (simulation.py), which holds for any size."""
