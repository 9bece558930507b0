"""Nobody but the page itself gets anything out of the server, or anything into it; and questions in SQL stay questions."""

import json
import time

import pytest
from pages import HOST, OWN, make_pages, page

pytest.importorskip("duckdb", reason="needs the view extra")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def client(out):
    return page(out)[0]


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{HOST.split(':')[1]}", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_name_in_the_host_header_is_refused(client, host):
    """A name that an attacker's DNS has turned to this machine."""
    assert client.get("/api/about", headers={"host": host}).status_code == 421


def test_every_answer_carries_the_policy(client):
    for path in ("/", "/static/app.js", "/api/about", "/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_the_page_names_nothing_of_another_machine(client):
    page_text = client.get("/").text
    assert "http://" not in page_text
    assert "https://" not in page_text
    assert "<script>" not in page_text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{HOST}", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_marks_and_questions_of_another_site_are_refused(client, headers):
    for path, body in (("/api/mark", {"n": 0, "bad": True}), ("/api/sql", {"sql": "select 1"})):
        assert client.post(path, json=body, headers=headers).status_code == 403
    assert client.get("/api/sample", params={"n": 0}).json()["mark"] is None


def test_a_form_of_another_site_cannot_pose_as_json(client):
    answer = client.post("/api/mark", content='{"n": 0, "bad": true}', headers=OWN | {"content-type": "text/plain"})
    assert answer.status_code == 415


def test_marking_by_a_link_is_not_possible(client):
    assert client.get("/api/mark", params={"n": 0, "bad": "true"}).status_code == 405


def test_another_site_cannot_embed_pictures(client):
    assert client.get("/small/0/0/frame1.jpg", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200


def test_on_another_address_everything_needs_the_token(out):
    client, _ = page(out, hosts=None, token="s3cret")
    for path in ("/", "/api/about", "/media/0/0/mp4", "/static/app.js"):
        assert client.get(path).status_code == 403
    assert client.get("/", params={"token": "s3cres"}).status_code == 403
    entered = client.get("/", params={"token": "s3cret"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in entered.headers["set-cookie"]
    assert client.get("/api/about").status_code == 200


def test_no_server_answers_to_every_name_without_a_token(out):
    with pytest.raises(ValueError, match="token"):
        page(out, hosts=None)


def ask(client, sql):
    return client.post("/api/sql", json={"sql": sql}, headers=OWN)


def test_a_question_is_answered_with_its_rows(client):
    found = ask(client, "select key, n_subjects, subject_words from samples order by key limit 2").json()
    assert found["columns"] == ["key", "n_subjects", "subject_words"]
    assert found["rows"] == [["clip-0000", 1, ["dog"]], ["clip-0001", 1, ["cat"]]]


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from read_blob('{file}')",
        "select * from read_parquet('{file}')",
        "select * from '{file}'",
        "select * from glob('/*')",
        "select * from read_json('http://127.0.0.1:9/x')",
        "copy samples to '{file}.csv'",
        "copy (select 1) to '{file}.csv'",
        "attach '{file}.db'",
        "export database '{file}'",
        "install httpfs",
        "load httpfs",
        "pragma database_list",
        "set memory_limit = '100GB'",
        "set enable_external_access = true",
        "create table x as select 1",
        "create temp table x as select 1",
        "insert into samples (n) values (9)",
        "delete from samples",
        "drop table samples",
        "with gone as (delete from samples returning *) select * from gone",
        "begin",
        "call pragma_version()",
        "explain select 1",
        "select 1; select 2",
        "select 1; drop table samples",
        "",
        "nonsense",
        "select getenv('HOME')",
        "select * from table_of_python",
        "prepare p as select 1",
        "use memory",
        "checkpoint",
    ],
)
def test_nothing_but_one_select_over_the_tables_is_answered(client, tmp_path, sql):
    table_of_python = {"secret": [1]}  # noqa: F841 - DuckDB could find variables by name
    file = tmp_path / "secret.csv"
    file.write_text("a,b\n1,2\n")
    answer = ask(client, sql.replace("{file}", str(file)))
    assert answer.status_code == 400, answer.text
    assert answer.text
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert ask(client, "select count(*) from samples").json()["rows"] == [[5]]


def test_a_question_without_end_is_stopped(out):
    from materia.view.database import QueryError

    _, viewer = page(out)
    start = time.monotonic()
    with pytest.raises(QueryError, match="stopped after"):
        viewer.database.ask(
            "select count(*) from range(1000000) a, range(1000000) b where a.range + b.range = -1", timeout_s=0.3
        )
    assert time.monotonic() - start < 5
    assert viewer.database.ask("select 1").rows == [[1]]


def test_a_question_that_wants_all_memory_is_refused(out):
    from materia.view.database import QueryError

    _, viewer = page(out)
    with pytest.raises(QueryError, match=r"(?i)memory"):
        viewer.database.ask("select range as a, random() as b from range(200000000) order by b", timeout_s=60)


def test_an_answer_is_cut_and_says_so(client):
    found = ask(client, "select * from range(5000)").json()
    assert (len(found["rows"]), found["more"]) == (1000, True)


def test_samples_of_a_question_are_shown_in_its_order(client):
    state = {"sql": "select key from samples where n_subjects = 1 order by key desc limit 2"}
    found = client.get("/api/select", params={"q": json.dumps(state)}).json()
    assert [row["key"] for row in found["rows"]] == ["clip-0004", "clip-0003"]
    answer = client.get("/api/select", params={"q": json.dumps({"sql": "select 1 as one"})})
    assert (answer.status_code, "column `key`" in answer.text) == (400, True)
