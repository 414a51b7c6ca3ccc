// An ordinary Node consumer of the Engine's streams: `fetch`, split on blank lines, parse each `data:` line alone.
//
// Then native EventSource follows GET /execute/replay while a turn runs. A browser cannot give EventSource the key
// header, so it goes through a small same-origin proxy that adds it, as a web application would have. The proxy
// cuts the connection in the middle; EventSource reconnects by itself with Last-Event-ID, and must see neither gap
// nor duplicate.
//
// Usage: ENGINE_URL=... ENGINE_KEY=... node --experimental-eventsource sse_fetch.mjs

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import http from 'node:http';

const url = process.env.ENGINE_URL;
const key = process.env.ENGINE_KEY;
const names = [
  'thread_lifecycle', 'error', 'text_delta', 'thinking_delta', 'content_block_start', 'content_block_stop',
  'tool_call', 'tool_result', 'hitl_request', 'hitl_resolved', 'working_memory_update', 'compaction_event',
  'heartbeat', 'usage',
];

/** Runs one turn and returns its frames, read the naive way. */
async function turn(task, message) {
  const response = await fetch(`${url}/execute`, {
    method: 'POST',
    headers: { 'X-Engine-Key': key, 'Content-Type': 'application/json' },
    body: JSON.stringify({ message, task_id: task }),
  });
  assert.equal(response.status, 200);
  const frames = [];
  const decoder = new TextDecoder();
  let buffer = '';
  for await (const bytes of response.body) {
    buffer += decoder.decode(bytes, { stream: true });
    const parts = buffer.split('\n\n');
    buffer = parts.pop();
    for (const part of parts) {
      const frame = {};
      for (const line of part.split('\n')) {
        if (line.startsWith('id: ')) frame.id = line.slice(4);
        else if (line.startsWith('event: ')) frame.event = line.slice(7);
        else if (line.startsWith('data: ')) frame.data = JSON.parse(line.slice(6));
        else assert.fail(`unexpected line ${JSON.stringify(line)}`);
      }
      assert.ok(names.includes(frame.event), frame.event);
      frames.push(frame);
    }
  }
  assert.equal(buffer, '', 'the stream ended inside a frame');
  return frames;
}

const stored = (frames) => frames.filter((f) => f.event !== 'heartbeat');

async function fetchConsumer() {
  const task = `fetch-${randomUUID()}`;
  const first = await turn(task, 'The name of my boat is Windrose.');
  assert.deepEqual([first[0].event, first[0].data.phase], ['thread_lifecycle', 'started']);
  assert.deepEqual([first.at(-1).event, first.at(-1).data.phase], ['thread_lifecycle', 'completed']);
  const tools = await turn(task, 'run ls');
  const calls = tools.filter((f) => f.event === 'tool_call').map((f) => f.data.tool_call_id);
  const results = tools.filter((f) => f.event === 'tool_result').map((f) => f.data.tool_call_id);
  assert.equal(calls.length, 1);
  assert.deepEqual(calls, results);
  console.log(`node consumer: ${first.length + tools.length} frames read`);
}

/** Adds the key, and cuts the first event stream after `cutAfter` bytes. */
function startProxy(cutAfter) {
  const seen = [];
  const server = http.createServer((request, response) => {
    const lastEventId = request.headers['last-event-id'];
    const nth = seen.push({ lastEventId });
    const headers = { 'X-Engine-Key': key, Accept: 'text/event-stream' };
    if (lastEventId) headers['Last-Event-ID'] = lastEventId;
    const upstream = http.get(`${url}${request.url}`, { headers }, (answer) => {
      response.writeHead(answer.statusCode, { 'Content-Type': answer.headers['content-type'] });
      let sent = 0;
      answer.on('data', (bytes) => {
        if (nth === 1 && sent + bytes.length > cutAfter) {
          // In the middle of a frame: the unfinished frame must be thrown away and come again.
          response.write(bytes.subarray(0, cutAfter - sent));
          setImmediate(() => { response.destroy(); upstream.destroy(); });
          answer.removeAllListeners('data');
          return;
        }
        sent += bytes.length;
        response.write(bytes);
      });
      answer.on('end', () => response.end());
    });
    upstream.on('error', () => response.destroy());
    response.on('close', () => upstream.destroy());
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve({ server, seen })));
}

async function eventSourceConsumer() {
  const task = `eventsource-${randomUUID()}`;
  const first = stored(await turn(task, 'The name of my boat is Windrose.'));
  const { server, seen } = await startProxy(700);
  const source = new EventSource(
    `http://127.0.0.1:${server.address().port}/execute/replay?task_id=${task}&follow=true`,
  );
  const received = [];
  let second;
  const done = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error(`EventSource saw ${received.length} events, then nothing more`)), 60_000).unref();
    for (const name of names) {
      source.addEventListener(name, (message) => {
        if (name === 'heartbeat' || message.data === undefined) return;
        received.push({ id: message.lastEventId, event: name, data: JSON.parse(message.data) });
        const ended = received.filter((f) => f.event === 'thread_lifecycle' && f.data.phase !== 'started').length;
        if (ended === 2) resolve();
      });
    }
  });
  // A turn that begins while the stream is being followed.
  second = turn(task, 'run ls');
  await done;
  source.close();
  server.close();
  server.closeAllConnections();
  assert.deepEqual(received, [...first, ...stored(await second)], 'gap, duplicate or difference after the cut');
  assert.ok(seen.length >= 2, 'the connection was not cut');
  assert.ok(seen[1].lastEventId, 'EventSource sent no Last-Event-ID');
  console.log(`EventSource: ${received.length} events over ${seen.length} connections, resumed after id ${seen[1].lastEventId}`);
}

await fetchConsumer();
if (typeof EventSource === 'undefined') {
  console.log('EventSource: not in this Node');
  process.exitCode = 77;
} else {
  await eventSourceConsumer();
}
