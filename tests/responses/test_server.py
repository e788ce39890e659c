"""Responses from a server, against a small one on this machine that speaks the protocol of vLLM or of transformers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import inversion
from inversion import InputError
from inversion.measure import measure_run
from inversion.preparation import Preparation
from inversion.responses import Generation, Problem, generate, read_problems
from inversion.responses.server import Server

PROBLEMS = [Problem(f"{a} + 2 =", answer=str(a + 2)) for a in range(6)]
GREEDY = Generation(0.0, 6)


class Handler(BaseHTTPRequestHandler):
    """Writes with the real model, greedily; fails as often as it is told to."""

    def reply(self, state, content):
        body = json.dumps(content).encode()
        self.send_response(state)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        names = self.server.names
        self.reply(200, {"data": [{"id": name, "owned_by": self.server.kind} for name in names]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            if self.server.failures > 0:
                self.server.failures -= 1
                return self.reply(503, {})
            if self.server.dies_after is not None and len(self.server.bodies) > self.server.dies_after:
                return self.reply(400, {"message": "no more"})
            if unknown := [name for name in self.server.strict if name in body]:
                return self.reply(422, {"message": f"Unexpected fields: {unknown if self.server.names_fields else ''}"})
            bridge, ids = self.server.bridge, body["prompt"]
            if isinstance(ids, str):
                ids = bridge.tokenizer(ids)["input_ids"]
            ((tokens, finished),) = generate(bridge, [ids], Generation(0.0, body["max_tokens"]), 0)
        tokens = [] if self.server.silent else tokens
        text = bridge.tokenizer.decode(tokens[:-1] if finished else tokens)
        choice = {"text": text, "finish_reason": "stop" if finished else "length"}
        if self.server.kind == "vllm":
            choice |= {"token_ids": tokens, "prompt_token_ids": ids}
        usage = {"prompt_tokens": len(ids) + self.server.extra}
        return self.reply(200, {"choices": [choice], "usage": usage})

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def bridge(checkpoint):
    return inversion.load_model(checkpoint())


@pytest.fixture
def server(bridge, monkeypatch):
    monkeypatch.setattr("inversion.responses.server.LONGEST_PAUSE", 0.01)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.bridge, served.kind, served.names = bridge, "vllm", ["tiny"]
    served.failures, served.dies_after, served.extra, served.silent = 0, None, 0, False
    served.strict, served.names_fields = (), True
    served.bodies, served.lock = [], threading.Lock()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def measured(bridge, server, out, generation=GREEDY, **options):
    asked = Server(f"http://127.0.0.1:{server.server_port}/v1", concurrency=3, **options)
    return measure_run(bridge, PROBLEMS, out, generation=generation, preparation=Preparation(server=asked))


def recorded_server(folder):
    return json.loads((folder / "run.json").read_text())["responses"]["server"]


def tokens_of(folder):
    return [list(ids) for ids in inversion.load_responses(folder).response_token_ids]


def test_a_server_that_gives_token_ids_makes_the_run_that_the_model_itself_makes(bridge, server, tmp_path):
    folder = measured(bridge, server, tmp_path / "a")
    own = measure_run(bridge, PROBLEMS, tmp_path / "own", generation=GREEDY)
    assert tokens_of(folder) == tokens_of(own)
    mine, theirs = inversion.load_responses(folder), inversion.load_responses(own)
    assert mine.text.tolist() == theirs.text.tolist()
    assert mine.finished.tolist() == theirs.finished.tolist()
    # Sampling settings are sent, and those stored with the model overruled.
    sent = server.bodies[0]
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["repetition_penalty"]) == (0.0, 1.0, -1, 1.0)
    assert len({body["seed"] for body in server.bodies}) == len(PROBLEMS)
    recorded = json.loads((folder / "run.json").read_text())["responses"]
    assert recorded["server"] == {"model": "tiny"}
    assert recorded["temperature"] == 0.0


def test_what_was_interrupted_goes_on_where_it_stopped(bridge, server, tmp_path):
    server.dies_after = 3
    with pytest.raises(InputError, match="refuses a request .400.*no more"):
        measured(bridge, server, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    keep = tmp_path / "a.responses.jsonl"
    with keep.open("a") as file:
        file.write('{"key": "cut off by a ki')
    kept = keep.read_text().count("\n")
    assert 0 < kept <= 3
    server.dies_after, server.bodies[:] = None, []
    measured(bridge, server, tmp_path / "a")
    assert len(server.bodies) == len(PROBLEMS) - kept
    # Nothing is asked again, not even where the server is gone; what was kept can be measured by itself.
    server.bodies[:] = []
    measured(bridge, server, tmp_path / "a")
    assert server.bodies == []
    again = measure_run(bridge, read_problems(str(keep)), tmp_path / "b")
    assert sorted(tokens_of(again)) == sorted(tokens_of(tmp_path / "a"))


def test_what_one_model_wrote_is_not_taken_for_another(bridge, checkpoint, server, tmp_path):
    measured(bridge, server, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "first")
    # Another model behind the same address, and the same name for another model that is measured.
    server.names = ["other"]
    folder = measured(bridge, server, tmp_path / "a")
    assert len(server.bodies) == 2 * len(PROBLEMS)
    assert json.loads((folder / "run.json").read_text())["responses"]["server"] == {"model": "other"}
    folder.rename(tmp_path / "second")
    measured(inversion.load_model(checkpoint(), random_weights=True, seed=7), server, tmp_path / "a")
    assert len(server.bodies) == 3 * len(PROBLEMS)


def test_overwriting_a_run_has_its_responses_written_again(bridge, server, tmp_path, caplog):
    measured(bridge, server, tmp_path / "a")
    measured(bridge, server, tmp_path / "a")
    assert len(server.bodies) == len(PROBLEMS)
    assert "6 of 6 responses are kept in" in caplog.text
    asked = Preparation(server=Server(f"http://127.0.0.1:{server.server_port}"))
    measure_run(bridge, PROBLEMS, tmp_path / "a", generation=GREEDY, preparation=asked, overwrite=True)
    assert len(server.bodies) == 2 * len(PROBLEMS)
    assert len((tmp_path / "a.responses.jsonl").read_text().splitlines()) == len(PROBLEMS)
    gone = Preparation(server=Server("http://127.0.0.1:9", retries=0))
    with pytest.raises(InputError, match="did not answer"):
        measure_run(bridge, PROBLEMS, tmp_path / "a", generation=GREEDY, preparation=gone, overwrite=True)
    assert (tmp_path / "a.responses.jsonl").is_file()


def test_a_server_that_is_gone_is_not_needed_for_what_it_wrote(bridge, server, tmp_path, caplog):
    folder = measured(bridge, server, tmp_path / "a")
    before = tokens_of(folder)
    folder.rename(tmp_path / "moved")
    gone = Preparation(server=Server("http://127.0.0.1:9", retries=0))
    again = measure_run(bridge, PROBLEMS, tmp_path / "a", generation=GREEDY, preparation=gone)
    assert tokens_of(again) == before
    assert "going by what tiny wrote before" in caplog.text


@pytest.mark.parametrize("line", ["{", "[]", "{}", "\x00", '{"key": "a", "response": 1}'])
def test_a_damaged_line_of_what_is_kept_is_one_sentence(bridge, server, tmp_path, line):
    measured(bridge, server, tmp_path / "a")
    keep = tmp_path / "a.responses.jsonl"
    lines = keep.read_text().splitlines()
    keep.write_text("\n".join([lines[0], line, *lines[1:], ""]))
    with pytest.raises(InputError, match="responses.jsonl, line 2 is damaged; remove it"):
        measured(bridge, server, tmp_path / "a")


def test_other_settings_are_other_requests(bridge, server, tmp_path):
    measured(bridge, server, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "moved")
    measured(bridge, server, tmp_path / "a", Generation(0.0, 5))
    assert len(server.bodies) == 2 * len(PROBLEMS)


def test_failures_that_pass_are_tried_again(bridge, server, tmp_path):
    server.failures = 4
    measured(bridge, server, tmp_path / "a")
    assert len(server.bodies) == len(PROBLEMS) + 4
    server.failures = 100
    with pytest.raises(InputError, match="did not answer in 2 tries .state 503"):
        measured(bridge, server, tmp_path / "b", retries=1)


def test_a_server_without_token_ids_is_sent_text_and_told_which_settings_hold(bridge, server, tmp_path, caplog):
    server.kind = "someone"
    folder = measured(bridge, server, tmp_path / "a")
    sent = server.bodies[0]
    assert isinstance(sent["prompt"], str)
    assert json.loads(sent["generation_config"])["do_sample"] is False
    assert "6 of 6 responses came without token ids" in caplog.text
    assert inversion.load_responses(folder).text.tolist() == [
        bridge.tokenizer.decode(ids[:-1] if done else ids)
        for ids, done in generate(bridge, [bridge.tokenizer(p.prompt)["input_ids"] for p in PROBLEMS], GREEDY, 0)
    ]
    sampling = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
    assert {name: sent[name] for name in sampling} == sampling
    # It may have ignored all of this, and that is said.
    fields = [*sampling, "generation_config"]
    assert recorded_server(folder) == {"model": "tiny", "unconfirmed": fields}
    assert "may have sampled by settings of its own, such as a top-k: may have ignored top_k, min_p" in caplog.text


@pytest.mark.parametrize("names_fields", [True, False])
def test_what_a_server_refuses_is_left_out_and_recorded(bridge, server, tmp_path, caplog, names_fields):
    server.kind, server.strict, server.names_fields = "someone", ("repeat_penalty", "generation_config"), names_fields
    folder = measured(bridge, server, tmp_path / "a")
    assert not {"repeat_penalty", "generation_config"} & server.bodies[-1].keys()
    assert server.bodies[-1]["top_k"] == -1
    kept = ["top_k", "min_p", "repetition_penalty"]
    assert recorded_server(folder) == {"model": "tiny", "refused": list(server.strict), "unconfirmed": kept}
    assert "it refused repeat_penalty, generation_config and may have ignored top_k" in caplog.text
    # transformers serve refuses what it does not know, and samples by the configuration that it is sent.
    server.strict = ("top_k", "min_p", "repetition_penalty", "repeat_penalty")
    if names_fields:
        caplog.clear()
        assert recorded_server(measured(bridge, server, tmp_path / "b", Generation(0.0, 5))) == {"model": "tiny"}
        assert "settings of its own" not in caplog.text
    server.strict = (*server.strict, "generation_config")
    with pytest.raises(InputError, match="does not take top_k; leave it out"):
        measured(bridge, server, tmp_path / "c", Generation(1.0, 5, top_k=3))


def test_a_server_that_writes_nothing_leaves_no_run(bridge, server, tmp_path):
    server.silent = True
    with pytest.raises(InputError, match="wrote nothing for any of"):
        measured(bridge, server, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_a_server_may_do_wrong_is_one_sentence(bridge, server, tmp_path):
    server.kind, server.extra = "someone", 1
    with pytest.raises(InputError, match="reads a prompt of 7 tokens as 8 others"):
        measured(bridge, server, tmp_path / "a")
    server.names = ["one", "two"]
    with pytest.raises(InputError, match="lists 2 models .one, two.; name the one to ask with --server-model"):
        measured(bridge, server, tmp_path / "a")
    asked = Preparation(server=Server("http://127.0.0.1:9", retries=0))
    with pytest.raises(InputError, match="did not answer in 1 tries .ConnectError"):
        measure_run(bridge, PROBLEMS, tmp_path / "a", preparation=asked)
    for bad in ({"url": "localhost:8000"}, {"concurrency": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(InputError):
            Server(**{"url": "http://localhost", **bad})
    assert not (tmp_path / "a").exists()
