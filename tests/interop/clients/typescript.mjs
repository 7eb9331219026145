// The official TypeScript SDK, second generation: OAuth by code and PKCE, by client credentials, or a bearer.

import { Person, connect, main, outcomeOf, require } from './driver.mjs';

const { Client, ClientCredentialsProvider, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');

const negotiation = { legacy: 'legacy', auto: 'auto' };

await main(async (job, login) => {
  const mode = negotiation[job.mode] ?? { pin: job.mode };
  const make = () => new Client({ name: 'interop', version: '0' }, { versionNegotiation: { mode } });
  const transport = (authProvider) => () => new StreamableHTTPClientTransport(new URL(job.url), { authProvider, fetch: login.fetch });
  let client, carrier;
  if (login.user) {
    const person = new Person(login);
    [client, carrier] = await connect(make, transport(person), person);
  } else {
    const provider = login.program
      ? counted(new ClientCredentialsProvider({ clientId: login.program, clientSecret: `${login.program}-secret`, expectedIssuer: job.issuer }), login)
      : { token: async () => login.token };
    carrier = transport(provider)();
    client = make();
    await client.connect(carrier);
  }
  return {
    revision: client.getNegotiatedProtocolVersion(),
    server: client.getServerVersion(),
    instructions: client.getInstructions() ?? null,
    tools: async () => (await client.listTools()).tools.map((tool) => tool.name),
    call: async (name, args) => outcomeOf(await client.callTool({ name, arguments: args })),
    close: () => client.close(),
  };
});

function counted(provider, login) {
  const save = provider.saveTokens.bind(provider);
  provider.saveTokens = (tokens) => {
    login.tokens += 1;
    save(tokens);
  };
  return provider;
}
