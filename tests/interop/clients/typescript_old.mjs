// The official TypeScript SDK, first generation, which most clients of 2025 are made with: OAuth by code and PKCE, or a bearer.

import { Person, connect, main, outcomeOf, require } from './driver.mjs';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

await main(async (job, login) => {
  const make = () => new Client({ name: 'interop', version: '0' });
  let client, carrier;
  if (login.user) {
    const person = new Person(login);
    const transport = () => new StreamableHTTPClientTransport(new URL(job.url), { authProvider: person, fetch: login.fetch });
    [client, carrier] = await connect(make, transport, person);
  } else {
    const requestInit = { headers: { Authorization: `Bearer ${login.token}` } };
    carrier = new StreamableHTTPClientTransport(new URL(job.url), { requestInit, fetch: login.fetch });
    client = make();
    await client.connect(carrier);
  }
  return {
    revision: carrier.protocolVersion,
    server: client.getServerVersion(),
    instructions: client.getInstructions() ?? null,
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    call: async (name, args) => outcomeOf(await client.callTool({ name, arguments: args })),
    close: () => client.close(),
  };
});
