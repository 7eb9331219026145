// The official TypeScript SDK, first generation: see `features.mjs`.

import { require } from './driver.mjs';
import { CHANGES, Person, main, see } from './features.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
const { WebSocketClientTransport } = require('@modelcontextprotocol/sdk/client/websocket.js');
const types = require('@modelcontextprotocol/sdk/types.js');

const SCHEMAS = {
  'tools/list_changed': types.ToolListChangedNotificationSchema,
  'prompts/list_changed': types.PromptListChangedNotificationSchema,
  'resources/updated': types.ResourceUpdatedNotificationSchema,
};

await main(async (job) => {
  const person = new Person();
  const client = new Client({ name: 'interop', version: '0' }, { capabilities: { elicitation: {}, sampling: {}, roots: {} } });
  client.setRequestHandler(types.ElicitRequestSchema, person.elicit);
  client.setRequestHandler(types.CreateMessageRequestSchema, person.sample);
  client.setRequestHandler(types.ListRootsRequestSchema, person.roots);
  client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) => void person.lines.push(params.data));
  for (const change of CHANGES) client.setNotificationHandler(SCHEMAS[change], () => void person.heard.push(change));
  const carrier = job.mode === 'socket' ? socket(job) : http(job);
  await client.connect(carrier);
  return see(client, person, carrier.protocolVersion, (name, args, options) => client.callTool({ name, arguments: args }, undefined, options));
});

function http(job) {
  return new StreamableHTTPClientTransport(new URL(job.url), { requestInit: { headers: { Authorization: `Bearer ${job.token}` } } });
}

// The SDK's own WebSocket can send no headers; so the token is the first message.
function socket(job) {
  const carrier = new WebSocketClientTransport(new URL(job.url.replace(/^https/, 'wss').replace(/mcp$/, 'ws')));
  const start = carrier.start.bind(carrier);
  carrier.start = async () => {
    await start();
    await carrier.send({ token: job.token });
  };
  carrier.setProtocolVersion = (revision) => void (carrier.protocolVersion = revision);
  return carrier;
}
