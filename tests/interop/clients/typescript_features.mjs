// The official TypeScript SDK, second generation: see `features.mjs`.

import { require } from './driver.mjs';
import { CHANGES, Person, main, see } from './features.mjs';

const { Client, StreamableHTTPClientTransport, LOG_LEVEL_META_KEY } = require('@modelcontextprotocol/client');

await main(async (job) => {
  const person = new Person();
  const capabilities = { elicitation: {}, sampling: {}, roots: {} };
  const client = new Client({ name: 'interop', version: '0' }, { capabilities, versionNegotiation: { mode: job.mode } });
  client.setRequestHandler('elicitation/create', person.elicit);
  client.setRequestHandler('sampling/createMessage', person.sample);
  client.setRequestHandler('roots/list', person.roots);
  client.setNotificationHandler('notifications/message', ({ params }) => void person.lines.push(params.data));
  for (const change of CHANGES) client.setNotificationHandler(`notifications/${change}`, () => void person.heard.push(change));
  const authProvider = { token: async () => job.token };
  await client.connect(new StreamableHTTPClientTransport(new URL(job.url), { authProvider }));
  const revision = client.getNegotiatedProtocolVersion();
  const call = (name, args, options, level) =>
    client.callTool({ name, arguments: args, ...(level && revision >= '2026' ? { _meta: { [LOG_LEVEL_META_KEY]: level } } : {}) }, options);
  return see(client, person, revision, call);
});
