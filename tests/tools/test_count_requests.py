"""What a chunk costs an object store: five objects, whatever the number of its slices."""

from tools.count_requests import Asked, count

CHUNKS = 2  # further ones


def test_slices_cost_the_store_of_the_output_no_request():
    cost = count("inline", rows_per_slice=1, rows_per_chunk=4)
    assert cost.clips == CHUNKS * 4
    written = {asked.kind: times / CHUNKS for asked, times in cost.further.items() if asked.method == "PUT"}
    assert written == dict.fromkeys(("shards", "index", "instances", "rejects", "commits"), 1)
    a_chunk = cost.of_a_clip("PUT", "DELETE", "LIST") * 4
    assert a_chunk <= 0.01 * 1024
    assert cost.further[Asked("HEAD", "shards")] == cost.further[Asked("DELETE", "shards")] == 0
