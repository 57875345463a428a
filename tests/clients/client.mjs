// What the official JavaScript client does against puna; argument: the server's address; PUNA_PACKAGES: the folder of node_modules.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'

const { Ollama } = createRequire(process.env.PUNA_PACKAGES + '/')('ollama')
const client = new Ollama({ host: process.argv[2] })
const options = { temperature: 0, num_predict: 8 }
const messages = [{ role: 'user', content: 'Count from 1 to 10.' }]

const whole = await client.chat({ model: 'smol', messages, options })
assert.equal(whole.message.role, 'assistant')
assert.ok(whole.done && whole.message.content && whole.eval_count > 0)
let text = ''
for await (const part of await client.chat({ model: 'smol', messages, options, stream: true })) {
  text += part.message.content
}
assert.equal(text, whole.message.content)

const told = await client.generate({ model: 'smol', prompt: 'Count: one', raw: true, options, logprobs: true })
assert.equal(told.logprobs.length, told.eval_count)
const long = await client.generate({ model: 'smol', prompt: 'x', stream: true, options: { num_predict: 2000 } })
await assert.rejects(
  async () => {
    for await (const _part of long) long.abort()
  },
  { name: 'AbortError' },
)

await assert.rejects(client.chat({ model: 'nope', messages }), { status_code: 404 })
const vectors = await client.embed({ model: 'emb', input: ['a', 'b'] })
assert.deepEqual(vectors.embeddings.map((vector) => vector.length), [384, 384])

assert.equal((await client.show({ model: 'smol' })).details.family, 'llama')
assert.ok((await client.list()).models.some((model) => model.name === 'smol:latest'))
assert.ok((await client.ps()).models.some((model) => model.name === 'smol:latest'))
const steps = []
for await (const step of await client.create({ model: 'js', from: 'smol', system: 'Be brief.', stream: true })) {
  steps.push(step.status)
}
assert.equal(steps.at(-1), 'success')
await client.copy({ source: 'js', destination: 'js2' })
await client.delete({ model: 'js2' })
await assert.rejects(client.show({ model: 'js2' }), { status_code: 404 })
console.log('all done')
