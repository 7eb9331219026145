// What both TypeScript SDKs do with everything that a service may offer besides tools that answer: see `features.py`.

import { createInterface } from 'node:readline';

const WATCHED = 'test://watched-resource';
const TRIGGERS = ['test_trigger_tool_change', 'test_trigger_prompt_change', 'touch_watched_resource'];
export const CHANGES = ['tools/list_changed', 'prompts/list_changed', 'resources/updated'];

/** Who answers what the server asks of the client, and hears what it tells. */
export class Person {
  action = 'accept';
  lines = [];
  heard = [];

  elicit = async () =>
    this.action === 'accept' ? { action: 'accept', content: { username: 'alice', email: 'alice@example.test' } } : { action: this.action };
  sample = async () => ({ role: 'assistant', content: { type: 'text', text: 'Paris' }, model: 'none' });
  roots = async () => ({ roots: [{ uri: 'file:///home/alice' }] });
}

const text = (result) => result.content.filter((block) => block.type === 'text').map((block) => block.text).join('\n');

async function until(ready) {
  const deadline = Date.now() + 20_000;
  while (!ready()) {
    if (Date.now() > deadline) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** `call(name, arguments, options)` is the SDK's own; so is `modern`, whether there is no session. */
export async function see(client, person, revision, call) {
  const modern = revision >= '2026';
  const seen = { revision };
  seen.resources = (await client.listResources()).resources.map((resource) => resource.uri);
  seen.templates = (await client.listResourceTemplates()).resourceTemplates.map((template) => template.uriTemplate);
  seen.read = (await client.readResource({ uri: 'test://static-text' })).contents[0].text;
  seen.blob = (await client.readResource({ uri: 'test://static-binary' })).contents[0].mimeType;
  seen['by template'] = JSON.parse((await client.readResource({ uri: 'test://template/7/data' })).contents[0].text).id;
  await client.readResource({ uri: 'test://nothing' }).catch((error) => (seen['nothing there'] = error.code));
  seen.prompts = (await client.listPrompts()).prompts.map((prompt) => prompt.name);
  const prompt = await client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'a', arg2: 'b' } });
  seen.prompt = prompt.messages[0].content.text;
  const ref = { type: 'ref/prompt', name: 'test_prompt_with_arguments' };
  seen.completion = (await client.complete({ ref, argument: { name: 'arg1', value: 'pa' } })).completion.values;
  seen.content = (await call('test_multiple_content_types', {})).content.map((block) => block.type);
  const steps = [];
  await call('test_tool_with_progress', {}, { onprogress: ({ progress, total, message }) => steps.push([progress, total, message]) });
  seen.progress = steps;
  if (!modern) await client.setLoggingLevel('info');
  await call('test_tool_with_logging', {}, {}, 'info');
  seen.log = person.lines;
  seen.elicited = text(await call('test_elicitation', { message: 'Who are you?' }));
  person.action = 'decline';
  seen.declined = text(await call('test_elicitation', { message: 'Who are you?' }));
  person.action = 'accept';
  seen.sampled = text(await call('test_sampling', { prompt: 'Which capital?' }));
  seen.roots = text(await call('test_input_required_result_list_roots', {}));
  if (modern) await client.listen({ toolsListChanged: true, promptsListChanged: true, resourceSubscriptions: [WATCHED] });
  else await client.subscribeResource({ uri: WATCHED });
  for (const tool of TRIGGERS) await call(tool, {});
  await until(() => person.heard.length >= TRIGGERS.length);
  seen.changes = person.heard.sort();
  return seen;
}

export async function main(run) {
  const { value } = await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
  console.log(JSON.stringify(await run(JSON.parse(value))));
  process.exit(0);
}
