// Checks session policies against requests that they must allow and must deny, by AWS's own reference data, offline.
//
//   session_policies.cjs < LINES
//
// Each line: {"name": …, "policy": {…} or its text, "cases": [{"want": "allow" | "deny", "action": "ec2:…",
// "resource": ARN or "*", "context": {key: value, …}}, …]}. What may be done is the intersection of the session policy and
// role_policy.json. A condition key that a request does not carry is absent, as it would be at AWS: a case that speaks
// of a Region has to say `aws:RequestedRegion`.
//
// A line may also say: "role", the role's policy in place of role_policy.json; "trust", the policy of the resource, as a role
// that is assumed has one; "scp", a service control policy; "principal", the ARN of who asks. Without "policy" nobody narrows
// what the role may do.
//
// One line per case, `ok` or `DIFF`, then the count. Exits 1 on any DIFF, on a policy above AWS's 2,048 bytes, and if
// there was nothing to check. A request that the simulator finds malformed, such as an action that does not exist, is
// a DIFF whatever was wanted: a typing error must not pass for a denial.
//
// The simulator is AGPL: it runs here, at development time, in a process of its own, and is part of nothing shipped.

const { readFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { join, resolve } = require('node:path');

const tools = resolve(process.env.TOOLS_DIR ?? join(__dirname, '../../../.tools'));
const { runSimulation } = createRequire(`${tools}/node/`)('@cloud-copilot/iam-simulate');

const LARGEST_POLICY = 2048;
// What every organization begins with; a service control policy only takes away.
const everything = { name: 'everything', policy: { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] } };
const rolePolicy = JSON.parse(readFileSync(join(__dirname, 'role_policy.json'), 'utf8'));

async function main() {
  let cases = 0;
  let failures = 0;
  const report = (ok, text) => {
    if (!ok) failures += 1;
    console.log(`${ok ? 'ok  ' : 'DIFF'} ${text}`);
  };
  const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line.trim());
  for (const line of lines) {
    const subject = JSON.parse(line);
    if (subject.policy) {
      const text = typeof subject.policy === 'string' ? subject.policy : JSON.stringify(subject.policy);
      const size = Buffer.byteLength(text);
      report(size <= LARGEST_POLICY, `${subject.name}: ${size} of ${LARGEST_POLICY} bytes`);
      subject.policy = JSON.parse(text);
    }
    for (const request of subject.cases) {
      cases += 1;
      const { decision, remark } = await decide(subject, request);
      const told = `${subject.name}: ${request.want} ${request.action} on ${request.resource}${contextText(request)}`;
      report(decision === request.want, decision === request.want ? told : `${told}: got ${decision}${remark}`);
    }
  }
  console.log(`${lines.length} policies, ${cases} cases, ${failures} failed`);
  process.exitCode = failures > 0 || cases === 0 ? 1 : 0;
}

/** What the session may do about the request: `allow`, `deny` or `error`, and a remark that helps when it surprises. */
async function decide(subject, { action, resource, context = {} }) {
  const account = resource.split(':')[4] || '123456789012';
  const principal = subject.principal ?? `arn:aws:sts::${account}:assumed-role/whitelistmcp-target/session`;
  const outcome = await runSimulation({
    request: { action, principal, resource: { resource, accountId: account }, contextVariables: context },
    sessionPolicy: subject.policy,
    identityPolicies: [{ name: 'role', policy: subject.role ?? rolePolicy }],
    resourcePolicy: subject.trust,
    serviceControlPolicies: subject.scp ? [{ orgIdentifier: 'root', policies: [everything, { name: 'scp', policy: subject.scp }] }] : [],
    resourceControlPolicies: [],
    additionalSettings: {},
  }, {});
  if (outcome.resultType === 'error') return { decision: 'error', remark: ` ${JSON.stringify(outcome.errors)}` };
  const ignored = outcome.result?.ignoredContextKeys ?? [];
  const remark = ignored.length ? ` (not keys of this action: ${ignored.join(', ')})` : '';
  return { decision: outcome.overallResult === 'Allowed' ? 'allow' : 'deny', remark };
}

function contextText({ context = {} }) {
  const pairs = Object.entries(context).map(([key, value]) => `${key}=${value}`);
  return pairs.length ? ` with ${pairs.join(', ')}` : '';
}

main();
