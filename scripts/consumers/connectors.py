"""The reference MCP servers from npm, connected through POST /assets/connect and used in real turns.

A scripted model in this process speaks OpenAI's protocol: a user message that is a JSON list of calls becomes one
assistant message with exactly these calls, and after their results the turn ends. So every call takes the way of any
tool call: rules, journal, sandbox, stream. Standard library only.

Usage: connectors.py PROGRAM WORK TOOLS    PROGRAM: september-engine; WORK: an empty directory; TOOLS: where npm
installed the servers.
"""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

KEY = "connectors-test-key-0123456789"
WANTED = "Please run exactly these calls: "
WAIT_S = 60  # for anything that has to happen; a busy machine starts node in seconds


class Model(http.server.BaseHTTPRequestHandler):
    """Answers POST /chat/completions."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # pictures that a tool returned follow its result as a user message of their own
        asked = max(at for at, said in enumerate(request["messages"]) if WANTED in json.dumps(said["content"]))
        if any(said["role"] == "tool" for said in request["messages"][asked:]):
            delta, reason = {"content": "done"}, "stop"
        else:
            said = request["messages"][asked]["content"]
            texts = [said] if isinstance(said, str) else [part.get("text", "") for part in said]
            # the last one is what is asked now: what was recalled of earlier turns stands before it
            text = next(text for text in reversed(texts) if WANTED in text)
            calls = json.loads(text[text.rindex(WANTED) + len(WANTED):])
            delta, reason = {"tool_calls": [
                {"index": at, "id": f"call_{time.monotonic_ns()}_{at}", "type": "function",
                 "function": {"name": name.replace(".", "__"), "arguments": json.dumps(given)}}
                for at, (name, given) in enumerate(calls)]}, "tool_calls"
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
                  {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
                  {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Engine:
    """One real process; `kill` is kill -9, `start` finds the same brain."""

    def __init__(self, program, work, roots, model):
        self.program, self.work, self.roots, self.model = program, work, roots, model
        self.port = free_port()
        self.process = None

    def start(self):
        environment = {
            "PATH": os.environ["PATH"], "HOME": self.work, "ENGINE_API_KEY": KEY, "ENGINE_HOST": "127.0.0.1",
            "ENGINE_PORT": str(self.port), "SQLITE_DB_PATH": f"{self.work}/brain/brain.sqlite",
            "LLM_PROVIDER": "openai", "LLM_BASE_URL": self.model, "ALLOWED_ROOTS": ",".join(self.roots),
            "AD_CALL_TIMEOUT_S": "120", "ENGINE_LOG_FORMAT": "json",
        }
        self.log = open(f"{self.work}/log", "ab")
        self.process = subprocess.Popen([self.program, "serve"], env=environment, cwd=self.work, stdout=self.log,
                                        stderr=self.log)
        until = time.monotonic() + WAIT_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self.process.poll() is None, "the Engine ended: " + open(f"{self.work}/log").read()[-2000:]
                assert time.monotonic() < until, "the Engine does not get ready"
                time.sleep(0.05)

    def kill(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(WAIT_S)

    def request(self, method, path, body=None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Engine-Key": KEY, "Content-Type": "application/json"})
        try:
            return urllib.request.urlopen(request, timeout=180)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def call(self, method, path, body=None):
        return json.load(self.request(method, path, body))

    def turn(self, task, calls):
        """Runs the calls in one turn and returns the outcome of each, in order. Questions are answered."""
        outcomes, order, told = {}, [], None
        message = WANTED + json.dumps(calls)
        with self.request("POST", "/execute", {"message": message, "task_id": task, "direct": True}) as stream:
            for line in stream:
                if line.startswith(b"event: "):
                    told = line[7:].strip().decode()
                if not line.startswith(b"data: "):
                    continue
                data = json.loads(line[6:])
                if told == "tool_call":
                    order.append(data["tool_call_id"])
                elif told == "tool_result":
                    assert data["tool_call_id"] not in outcomes, "a call has one result"
                    outcomes[data["tool_call_id"]] = data
                elif told == "hitl_request":
                    answer = "yes" if data["kind"] == "permission" else json.dumps({"name": "Asha"})
                    self.call("POST", "/hitl/respond", {"request_id": data["request_id"], "answer": answer})
                elif told == "error":
                    raise AssertionError(data)
        assert len(order) == len(calls) == len(outcomes), (len(order), len(calls), len(outcomes))
        return [outcomes[id] for id in order]


def fitting(schema):
    """The least input a schema accepts."""
    def value(of):
        if "enum" in of:
            return of["enum"][0]
        if of.get("type") == "array":
            return [value(of.get("items", {})) for _ in range(of.get("minItems", 0))]
        if of.get("type") == "object":
            return fitting(of)
        least = max(of.get("minimum", 5), 1)
        return {"number": least, "integer": least, "boolean": True}.get(of.get("type"), "test")
    return {name: value(schema["properties"][name]) for name in schema.get("required", [])}


def connect(engine, name, command, environment=None):
    entry = {"server_name": name, "display_name": name, "transport": "stdio", "command": command,
             "env": environment or {}, "auth_method": "none"}
    made = engine.call("POST", "/assets/connect", {"server_name": name, "server_config": entry})
    assert made["status"] == "connected", made
    tools = {tool["name"]: tool for tool in engine.call("GET", "/tools")["tools"]
             if tool["name"].startswith(name + ".")}
    shown = [c for c in engine.call("GET", "/assets/connections") if c["ref_id"] == made["ref_id"]]
    assert shown[0]["tools"] == len(tools), (shown, len(tools))
    return tools


def ok(outcome):
    assert "error" not in outcome, outcome
    return json.dumps(outcome["output"])


def filesystem(engine, files, tools):
    at = f"{files}/note.txt"
    ok(engine.turn("files", [["filesystem.write_file", {"path": at, "content": "kept by a real turn"}]])[0])
    assert open(at).read() == "kept by a real turn"
    read, listed = engine.turn("files", [["filesystem.read_text_file", {"path": at}],
                                         ["filesystem.list_directory", {"path": files}]])
    assert "kept by a real turn" in ok(read) and "note.txt" in ok(listed)
    refused = engine.turn("files", [["filesystem.read_text_file", {"path": "/etc/shadow"}]])[0]
    assert refused["reason"] == "failed", refused


def memory(engine, tools):
    ok(engine.turn("memory", [["memory.create_entities", {"entities": [
        {"name": "Asha", "entityType": "person", "observations": ["likes tea"]}]}]])[0])
    assert "likes tea" in ok(engine.turn("memory", [["memory.read_graph", {}]])[0])


def everything(engine, tools):
    echo, total = engine.turn("everything", [["everything.echo", {"message": "said by a turn"}],
                                             ["everything.get-sum", {"a": 5, "b": 7}]])
    assert "said by a turn" in ok(echo) and "12" in ok(total)


def main(program, work, tools):
    bin = f"{tools}/node_modules/.bin"
    files = f"{work}/files"
    os.makedirs(f"{work}/brain")
    os.makedirs(files)
    model = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    engine = Engine(program, work, [files, tools], f"http://127.0.0.1:{model.server_port}")
    node = subprocess.check_output(["node", "-p", "process.execPath"], text=True).strip()
    try:
        engine.start()
        of = {
            "filesystem": connect(engine, "filesystem", [node, os.path.realpath(f"{bin}/mcp-server-filesystem"), files]),
            "memory": connect(engine, "memory", [node, os.path.realpath(f"{bin}/mcp-server-memory")],
                              {"MEMORY_FILE_PATH": f"{files}/memory.json"}),
            "everything": connect(engine, "everything", [node, os.path.realpath(f"{bin}/mcp-server-everything")]),
        }
        filesystem(engine, files, of["filesystem"])
        memory(engine, of["memory"])
        everything(engine, of["everything"])
        for name, offered in of.items():
            for tool in sorted(offered):
                outcome = engine.turn("all", [[tool, fitting(offered[tool]["input_schema"])]])[0]
                assert outcome.get("reason") in (None, "failed"), outcome
            print(f"{name}: {len(offered)} tools called in turns")
        engine.kill()
        engine.start()
        assert "likes tea" in ok(engine.turn("memory", [["memory.read_graph", {}]])[0])
        print("after kill -9 the connections are there and answer")
    finally:
        engine.kill(signal.SIGTERM)
        model.shutdown()
    text = open(f"{work}/log").read()
    assert "panicked" not in text and '"level":"ERROR"' not in text, [
        line for line in text.splitlines() if "panicked" in line or '"level":"ERROR"' in line]


if __name__ == "__main__":
    main(*sys.argv[1:])
