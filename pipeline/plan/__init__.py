"""The plan of a job: every row of the input, checked, cut into chunks (one shard each) and slices (one unit of work each).

In: an input's address. Out: a folder with the rows in segments, and `plan.json`, written last, so that a crash while planning
leaves no plan. Made by one pass in bounded memory, by many processes where the input is large. A plan is frozen: a job that
goes on reads what it planned when it first started (engine: decision 4). On request what the input has gained since becomes a
further part.
"""

from pipeline.plan.growth import Growth, growth
from pipeline.plan.making import extend_plan, make_plan
from pipeline.plan.plan import Plan, frozen_plan, open_plan, save_plan
from pipeline.plan.tasks import Tasks

__all__ = ["Growth", "Plan", "Tasks", "extend_plan", "frozen_plan", "growth", "make_plan", "open_plan", "save_plan"]
