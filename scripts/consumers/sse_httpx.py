"""An ordinary Python consumer of the Engine's streams, written the naive way on purpose.

Frames are split on blank lines, each `data:` line is parsed alone, and nothing of the event stream format beyond
that is known: no CRLF, no multi-line data, no comments. What people write in an afternoon has to work unmodified.

Usage: ENGINE_URL=... ENGINE_KEY=... python sse_httpx.py
"""

import json
import os
import sys
import uuid

import httpx

DOCUMENTED = {
    "thread_lifecycle", "error", "text_delta", "thinking_delta", "content_block_start", "content_block_stop",
    "tool_call", "tool_result", "hitl_request", "hitl_resolved", "working_memory_update", "compaction_event",
    "heartbeat", "usage",
}


def frames(response):
    """Yields (id, event, data) of each frame, exactly as a first attempt would."""
    buffer = ""
    for text in response.iter_text():
        buffer += text
        while "\n\n" in buffer:
            frame, buffer = buffer.split("\n\n", 1)
            fields = dict(line.split(": ", 1) for line in frame.split("\n"))
            assert list(fields) == ["id", "event", "data"], f"unexpected frame: {frame!r}"
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
    assert buffer == "", f"the stream ended inside a frame: {buffer!r}"


def turn(client, task, message):
    """Runs one turn and returns its frames."""
    with client.stream("POST", "/execute", json={"message": message, "task_id": task}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream"), response.headers
        return list(frames(response))


def check_shape(seen, task):
    """What every turn's stream has in common."""
    names = [event for _, event, _ in seen]
    assert set(names) <= DOCUMENTED, set(names) - DOCUMENTED
    ids = [id for id, event, _ in seen if event != "heartbeat"]
    assert ids == sorted(set(ids)), f"ids must increase: {ids}"
    assert all(data["task_id"] == task and data["turn_id"] and data["timestamp"] for _, _, data in seen)
    assert (names[0], seen[0][2]["phase"]) == ("thread_lifecycle", "started"), seen[0]
    assert (names[-1], seen[-1][2]["phase"]) == ("thread_lifecycle", "completed"), seen[-1]
    assert "usage" in names


def reply(seen):
    """The text of the answer: the deltas, without those of discarded blocks."""
    dropped = {d["block_index"] for _, e, d in seen if e == "content_block_stop" and d.get("discarded")}
    return "".join(d["text"] for _, e, d in seen if e == "text_delta" and d["block_index"] not in dropped)


def main():
    task = f"httpx-{uuid.uuid4()}"
    headers = {"X-Engine-Key": os.environ["ENGINE_KEY"]}
    with httpx.Client(base_url=os.environ["ENGINE_URL"], headers=headers, timeout=60, trust_env=False) as client:
        first = turn(client, task, "The name of my boat is Windrose.")
        check_shape(first, task)
        assert reply(first).strip(), "the first turn answered nothing"

        second = turn(client, task, "What did I say the name of my boat is?")
        check_shape(second, task)
        assert "Windrose" in reply(second), f"the second turn does not know the first: {reply(second)!r}"

        tools = turn(client, task, "run ls")
        check_shape(tools, task)
        calls = [d for _, e, d in tools if e == "tool_call"]
        results = [d for _, e, d in tools if e == "tool_result"]
        assert [c["tool"] for c in calls] == ["bash"], calls
        assert [c["tool_call_id"] for c in calls] == [r["tool_call_id"] for r in results], (calls, results)
        assert results[0]["output"]["exit_code"] == 0, results[0]

        # What was streamed is what is replayed, and Last-Event-ID cuts exactly.
        everything = first + second + tools
        query = {"task_id": task, "follow": "false"}
        with client.stream("GET", "/execute/replay", params=query) as response:
            replayed = [f for f in frames(response) if f[1] != "heartbeat"]
        assert replayed == [f for f in everything if f[1] != "heartbeat"], "the replay differs from the streams"
        cut = len(replayed) // 2
        resume = {"Last-Event-ID": str(replayed[cut - 1][0])}
        with client.stream("GET", "/execute/replay", params=query, headers=resume) as response:
            assert [f for f in frames(response) if f[1] != "heartbeat"] == replayed[cut:]

        refused = httpx.post(client.base_url.join("/execute"), json={}, trust_env=False)
        assert refused.status_code == 401 and refused.json()["error"] == "INVALID_KEY", refused.text
    print(f"python consumer: {len(everything)} frames read, replayed and resumed")


if __name__ == "__main__":
    sys.exit(main())
