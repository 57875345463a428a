// Golden streams through the stream helpers of OpenAI's and Anthropic's npm SDKs; argument: the server's address;
// PUNA_PACKAGES: the folder of node_modules. The models are scripted: tests/support/scripted_model.rs.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const packages = createRequire(process.env.PUNA_PACKAGES + '/')
const { OpenAI } = packages('openai')
const { Anthropic } = packages('@anthropic-ai/sdk')
const chat = new OpenAI({ baseURL: process.argv[2] + '/v1', apiKey: 'none', maxRetries: 0 })
const claude = new Anthropic({ baseURL: process.argv[2], apiKey: 'none', maxRetries: 0 })

const sky = 'The sky is blue because air scatters blue light more than red light.'
const messages = [{ role: 'user', content: 'hi' }]
const schema = {
  type: 'object',
  properties: { city: { type: 'string' }, days: { type: 'integer' } },
  required: ['city', 'days'],
  additionalProperties: false,
}
const alarm = { type: 'object', properties: { at: { type: 'string' } } }
const rome = { city: 'Rome', days: 3 }
const functions = [
  { name: 'get_weather', parameters: schema },
  { name: 'set_alarm', parameters: alarm },
]

const completion = (model, more) => chat.chat.completions.stream({ model, messages, ...more })
const raw = (model, more) => chat.chat.completions.create({ model, messages, stream: true, ...more })
let text = ''
const stream = completion('text', { stream_options: { include_usage: true } })
stream.on('content', (delta) => (text += delta))
let whole = await stream.finalChatCompletion()
assert.equal(text, sky)
assert.equal(whole.choices[0].finish_reason, 'stop')
assert.ok((await stream.totalUsage()).completion_tokens > 5)
const tools = functions.map((one) => ({ type: 'function', function: one }))
whole = await completion('tool', { tools }).finalChatCompletion()
assert.equal(whole.choices[0].message.content, 'I look.')
assert.equal(whole.choices[0].finish_reason, 'tool_calls')
assert.deepEqual(JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments), rome)
whole = await completion('tools', { tools }).finalChatCompletion()
const names = whole.choices[0].message.tool_calls.map((call) => call.function.name)
assert.deepEqual(names, ['get_weather', 'set_alarm'])
let [thought, said] = ['', '']
for await (const part of await raw('think', { reasoning_effort: 'high' })) {
  thought += part.choices[0]?.delta.reasoning ?? ''
  said += part.choices[0]?.delta.content ?? ''
}
assert.deepEqual([thought, said], ['Two and two make four.', 'It is 4.'])
whole = await completion('text', { stop: [' because'] }).finalChatCompletion()
assert.equal(whole.choices[0].message.content, 'The sky is blue')
const ends = []
for await (const part of await raw('text', { max_tokens: 2 })) ends.push(part.choices[0]?.finish_reason)
assert.equal(ends.filter(Boolean).at(-1), 'length')
const response_format = { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } }
await assert.rejects(async () => {
  for await (const _part of await raw('json', { response_format, stop: ['Rome'] }));
}, /before it was complete/)

const response = (model, more) => chat.responses.stream({ model, input: 'hi', ...more }).finalResponse()
whole = await response('text')
assert.deepEqual([whole.output_text, whole.status], [sky, 'completed'])
whole = await response('tool', { tools: functions.map((one) => ({ type: 'function', ...one })) })
assert.deepEqual(whole.output.map((item) => item.type), ['message', 'function_call'])
assert.deepEqual(JSON.parse(whole.output[1].arguments), rome)
whole = await response('think', { reasoning: { effort: 'high' } })
assert.deepEqual(whole.output.map((item) => item.type), ['reasoning', 'message'])

const message = (model, more) => claude.messages.stream({ model, messages, max_tokens: 100, ...more }).finalMessage()
whole = await message('text')
assert.deepEqual([whole.content[0].text, whole.stop_reason], [sky, 'end_turn'])
const offered = functions.map((one) => ({ name: one.name, input_schema: one.parameters }))
whole = await message('tool', { tools: offered })
assert.deepEqual([whole.content[0].text, whole.content[1].input, whole.stop_reason], ['I look.', rome, 'tool_use'])
whole = await message('tools', { tools: offered })
assert.deepEqual(whole.content.map((block) => block.name), ['get_weather', 'set_alarm'])
whole = await message('think', { max_tokens: 2048, thinking: { type: 'enabled', budget_tokens: 1024 } })
assert.deepEqual([whole.content[0].thinking, whole.content[1].text], ['Two and two make four.', 'It is 4.'])
whole = await message('text', { max_tokens: 2 })
assert.equal(whole.stop_reason, 'max_tokens')
whole = await message('text', { stop_sequences: [' because'] })
assert.deepEqual([whole.stop_reason, whole.content[0].text], ['stop_sequence', 'The sky is blue'])
const output_config = { format: { type: 'json_schema', schema } }
await assert.rejects(message('json', { output_config, stop_sequences: ['Rome'] }), /before it was complete/)
console.log('all done')
