// What the drivers on Node share: see `driver.py`, which does the same.
//
// `open(job, login)` gives {revision, server, instructions, tools(), call(tool, arguments), close()}.

import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const require = createRequire(`${process.env.TOOLS_DIR}/interop-node/`);
const PACE = 2_000;
const PATIENCE = 150_000;

export class Login {
  tokens = 0;
  challenges = [];

  constructor(how) {
    Object.assign(this, how);
  }

  // `fetch`, which notes refusals by status 401.
  fetch = async (url, init) => {
    const answer = await fetch(url, init);
    if (answer.status === 401) this.challenges.push(answer.headers.get('www-authenticate') ?? '');
    return answer;
  };
}

/** What an SDK's OAuth asks of its host: a store in memory, and a browser without a person. */
export class Person {
  redirectUrl = 'http://127.0.0.1:1/callback'; // Never opened: the browser gives back where it would have gone.
  clientMetadata = {
    client_name: 'interop',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };

  constructor(login) {
    this.login = login;
  }

  state = () => 'of-this-login';
  clientInformation = () => this.client ?? { client_id: 'demo' };
  saveClientInformation = (client) => void (this.client = client);
  tokens = () => this.held;
  saveTokens = (tokens) => {
    this.login.tokens += 1;
    this.held = tokens;
  };
  codeVerifier = () => this.verifier;
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  saveDiscoveryState = (state) => void (this.discovered = state);
  discoveryState = () => this.discovered;
  redirectToAuthorization = (url) => {
    const follow = fileURLToPath(new URL('follow.py', import.meta.url));
    this.callback = new URL(execFileSync('python3', [follow, url.href, this.login.user], { encoding: 'utf8' }).trim());
  };
}

/** Connects; where that ends in a login, once more with its code. */
export async function connect(client, transport, provider) {
  let carrier = transport();
  try {
    await client().connect(carrier);
  } catch (error) {
    if (!provider?.callback) throw error;
    await carrier.finishAuth(provider.callback.searchParams.get('code'), provider.callback.searchParams.get('iss') ?? undefined);
    carrier = transport();
    const second = client();
    await second.connect(carrier);
    return [second, carrier];
  }
  throw new Error('connected without a login');
}

export function outcomeOf(result) {
  const text = result.content.filter((block) => block.type === 'text').map((block) => block.text).join('\n');
  return { isError: result.isError ?? false, text, structured: result.structuredContent ?? null };
}

async function outcome(call) {
  try {
    return { result: await call() };
  } catch (error) {
    if (Number.isInteger(error.code) && error.code < 0) return { error: { code: error.code, message: error.message } };
    return { failed: `${error.name}: ${error.message}${error.code === undefined ? '' : ` (${error.code})`}` };
  }
}

async function expire(job, login, open) {
  const seen = { before: null, after: null };
  try {
    const client = await open(job, login);
    const [, tool, args] = job.calls[0];
    const begun = Date.now();
    seen.before = await outcome(() => client.call(tool, args));
    while (Date.now() - begun < PATIENCE) {
      seen.after = await outcome(() => client.call(tool, args));
      if (login.tokens > 1 || !seen.after.result) break;
      await sleep(PACE);
    }
    await client.close();
  } catch (error) {
    seen.after = { failed: `${error.name}: ${error.message}` };
  }
  return { ...seen, tokens: login.tokens, challenges: login.challenges };
}

const say = (report) => console.log(JSON.stringify(report));

export async function main(open) {
  const lines = createInterface({ input: process.stdin });
  const told = lines[Symbol.asyncIterator]();
  const job = JSON.parse((await told.next()).value);
  const login = new Login(job.login);
  const client = await open(job, login);
  const answers = {};
  const { revision, server, instructions } = client;
  const tools = await client.tools();
  for (const [name, tool, args] of job.calls) answers[name] = await outcome(() => client.call(tool, args));
  say({ revision, server, instructions, tools, answers, tokens: login.tokens });
  await client.close();
  say({ expiry: await expire(job, new Login(JSON.parse((await told.next()).value)), open) });
  process.exit(0);
}
