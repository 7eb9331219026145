// A loopback OpenID provider for the demo and the tests: the certified `oidc-provider`, told what this service needs.
//
// People sign in under any name and any password, so it must never be reached but from loopback. All it knows is in
// memory: a restart has new keys, and every token from before is void.
//
// Ready when it prints its one line, {"issuer": …}. By environment:
//   PORT            port on 127.0.0.1; 0 (the default) lets the system choose
//   LISTEN          another address to listen on: in a container, whose port is published on loopback alone
//   RESOURCE        audiences that tokens may be asked for, by comma; the first is the default
//   OTHER_RESOURCE  one more audience: tokens that the service has to refuse
//   OPAQUE_RESOURCE one more audience: its tokens are opaque, and the clients `edge` and `core` may ask what they mean
//   ALG             how everything is signed: RS256 (the default), PS256, ES256, ES384, EdDSA, …; of several, by comma, the
//                   first, and each for a client of its own, such as `ci-ES384`
//   TTL             life of an access token in seconds (600)
//   BRIEF           JSON, name to seconds: people and programs whose access tokens live only so long, and are never told to
//   PROGRAMS        names of further programs like `ci`, by comma
//   MEMBERSHIPS     JSON, name to list: the groups that people are in, such as {"alice": ["dba"]}
//   PAGE            redirect URI of the client `approval-page`, by which people log in to decide on changes that wait
//   REDIRECTS       redirect URIs of the client `demo`, by comma; any port will do
//   TLS_KEY, TLS_CERT  PEM files: https instead of http; HOST is then the certificate's name (127.0.0.1)
//   TOOLS_DIR       where the packages are installed (`.tools` in the checkout)

import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const env = process.env;
const list = (text) => (text ? text.split(',') : []);

const resources = list(env.RESOURCE ?? 'http://127.0.0.1:8080/mcp');
const allResources = [...resources, ...list(env.OTHER_RESOURCE), ...list(env.OPAQUE_RESOURCE)];
const opaqueResource = env.OPAQUE_RESOURCE;
const algorithms = list(env.ALG ?? 'RS256');
const algorithm = algorithms[0];
const lifetime = Number(env.TTL ?? 600);
const brief = JSON.parse(env.BRIEF ?? '{}');
const groups = JSON.parse(env.MEMBERSHIPS ?? '{}');
const host = env.HOST ?? '127.0.0.1';
const redirects = list(env.REDIRECTS ?? 'http://127.0.0.1/callback,http://localhost/callback');
const ownScopes = 'whitelist:read whitelist:write';

// The package stands beside the checkout's other tools, where an `import` from this file would not look.
const tools = resolve(env.TOOLS_DIR ?? fileURLToPath(new URL('../../../.tools', import.meta.url)));
const { Provider, errors } = createRequire(`${tools}/node/`)('oidc-provider');

// It remarks on its development-only parts (in-memory storage, the sign-in pages), all of which are meant here.
for (const channel of ['info', 'warn']) {
  const say = console[channel];
  console[channel] = (...words) => String(words[0]).includes('oidc-provider ') || say(...words);
}

function signingKey(algorithm) {
  const [type, options] =
    /^[RP]S/.test(algorithm) ? ['rsa', { modulusLength: 2048 }]
    : /^ES/.test(algorithm) ? ['ec', { namedCurve: { ES256: 'P-256', ES384: 'P-384', ES512: 'P-521' }[algorithm] }]
    : ['ed25519', {}];
  const key = generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' });
  return { ...key, alg: algorithm, use: 'sig', kid: `${algorithm}-${randomBytes(4).toString('hex')}` };
}

function claimsOf(name) {
  return {
    sub: name,
    email: `${name}@example.test`,
    email_verified: true,
    name: name.charAt(0).toUpperCase() + name.slice(1),
    preferred_username: name,
    groups: groups[name] ?? [],
  };
}

const introspectors = ['edge', 'core'];

function program(name, grants) {
  return { client_id: name, client_secret: `${name}-secret`, grant_types: grants, response_types: [], redirect_uris: [] };
}

const configuration = {
  jwks: { keys: algorithms.map(signingKey) },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  responseTypes: ['code'],
  enabledJWA: { idTokenSigningAlgValues: algorithms },
  clientDefaults: { id_token_signed_response_alg: algorithm },
  ttl: {
    AccessToken: (_ctx, token) => brief[token.accountId] ?? lifetime,
    ClientCredentials: (_ctx, token) => brief[token.clientId] ?? lifetime,
    IdToken: lifetime,
    Grant: 86400, Interaction: 600, RefreshToken: 86400, Session: 86400,
  },
  scopes: ['openid', 'offline_access', 'email', 'profile', ...ownScopes.split(' ')],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username', 'groups'] },
  findAccount: (_ctx, name) => ({ accountId: name, claims: () => claimsOf(name) }),
  // Beside what RFC 9068 asks for: who the person is, which the service writes on what it does for them.
  extraTokenClaims: (_ctx, token) => {
    if (token.kind !== 'AccessToken') return undefined; // A program's own token speaks for no person.
    const { email, email_verified, name, preferred_username, groups: memberships } = claimsOf(token.accountId);
    return { email, email_verified, name, preferred_username, groups: memberships };
  },
  clients: [
    {
      client_id: 'demo', // People's programs: public, so without a secret, and native, so on any loopback port.
      client_name: 'Demo client',
      application_type: 'native',
      token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
      redirect_uris: redirects,
    },
    ...list(env.PAGE).map((redirect) => ({
      client_id: 'approval-page', // The edge's own page: it has a secret, and sends people here each time.
      client_name: 'Approvals',
      client_secret: 'approval-page-secret',
      redirect_uris: [redirect],
    })),
    program('ci', ['client_credentials']), // A program that acts for itself.
    ...algorithms.map((name) => program(`ci-${name}`, ['client_credentials'])),
    ...list(env.PROGRAMS).map((name) => program(name, ['client_credentials'])),
    ...introspectors.map((name) => program(name, [])),
  ],
  clientBasedCORS: () => true, // MCP clients that run in a browser.
  pkce: { required: () => true },
  // By default only with `offline_access`; MCP clients seldom ask for that, and tokens are short here.
  issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  features: {
    clientCredentials: { enabled: true },
    introspection: {
      enabled: opaqueResource !== undefined,
      allowedPolicy: (_ctx, client) => introspectors.includes(client.clientId),
    },
    deviceFlow: { enabled: true }, // Programs on machines without a browser.
    devInteractions: { enabled: true },
    registration: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (_ctx, _client, oneOf) => oneOf ?? resources[0],
      useGrantedResource: () => true,
      getResourceServerInfo: (_ctx, resource, client) => {
        if (!allResources.includes(resource)) throw new errors.InvalidTarget();
        const own = client.clientId.startsWith('ci-') ? client.clientId.slice(3) : algorithm;
        return {
          scope: ownScopes,
          audience: resource,
          accessTokenFormat: resource === opaqueResource ? 'opaque' : 'jwt', // RFC 9068: `typ` is at+jwt.
          jwt: { sign: { alg: own } },
        };
      },
    },
  },
};

const server = env.TLS_KEY
  ? createTlsServer({ key: readFileSync(env.TLS_KEY), cert: readFileSync(env.TLS_CERT) })
  : createServer();

server.on('error', (error) => {
  console.error(`oidc provider: ${error.message}`);
  process.exit(1);
});

// The issuer is an address, and the address is known only once the socket is bound.
server.listen(Number(env.PORT ?? 0), env.LISTEN ?? '127.0.0.1', () => {
  const issuer = `${env.TLS_KEY ? 'https' : 'http'}://${host}:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  // A sign-in without any scope would end as access_denied, and many MCP clients send none.
  provider.use((ctx, next) => {
    if (ctx.path === '/auth' && ctx.method === 'GET' && !ctx.query.scope) ctx.query = { ...ctx.query, scope: ownScopes };
    return next();
  });
  // `expires_in` is recommended, not required (RFC 6749, section 5.1). Without it a client learns of the end from a 401.
  provider.use(async (ctx, next) => {
    await next();
    const whose = ctx.path === '/token' && (ctx.oidc?.entities.Account?.accountId ?? ctx.oidc?.client?.clientId);
    if (whose in brief) delete ctx.body.expires_in;
  });
  provider.on('server_error', (_ctx, error) => console.error('oidc provider:', error));
  server.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
