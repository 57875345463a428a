"""Real calls by pydantic-ai, instructor and OpenAI's agents; argument: the server's address.

The models are scripted: tests/support/scripted_model.rs.
"""

import os
import sys

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"  # Else it sends its traces to OpenAI.
import instructor
from agents import Agent as Agents, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel as ResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

base = sys.argv[1]
v1 = base + "/v1"
SKY = "The sky is blue because air scatters blue light more than red light."
CALL = ("Rome", 3)


class Place(BaseModel):
    city: str
    days: int


def chats(model):
    """The model by both of OpenAI's dialects."""
    provider = OpenAIProvider(base_url=v1, api_key="none")
    yield OpenAIChatModel(model, provider=provider)
    yield ResponsesModel(model, provider=provider)


for chat in chats("text"):
    assert Agent(chat).run_sync("hi").output == SKY, chat
for chat in chats("json"):
    place = Agent(chat, output_type=NativeOutput(Place)).run_sync("Where?").output
    assert (place.city, place.days) == CALL, (chat, place)
for chat in chats("tool"):
    calls = []
    agent = Agent(chat)

    @agent.tool_plain
    def get_weather(city: str, days: int) -> str:
        """Weather of a city."""
        calls.append((city, days))
        return "sun"

    try:
        agent.run_sync("Weather?", usage_limits=UsageLimits(request_limit=2))
    except UsageLimitExceeded:  # The model never does anything but call.
        pass
    assert calls == [CALL] * 2, (chat, calls)

client = instructor.from_openai(OpenAI(base_url=v1, api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
messages = [{"role": "user", "content": "Where?"}]
place = client.chat.completions.create(model="json", response_model=Place, messages=messages)
assert (place.city, place.days) == CALL, place


@function_tool
def get_weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"sun in {city}"


opened = AsyncOpenAI(base_url=v1, api_key="none")
for make in [OpenAIResponsesModel, OpenAIChatCompletionsModel]:
    said = Runner.run_sync(Agents(name="a", model=make("text", opened)), "hi").final_output
    assert said == SKY, (make, said)
    agent = Agents(name="b", model=make("tool", opened), tools=[get_weather], tool_use_behavior="stop_on_first_tool")
    said = Runner.run_sync(agent, "Weather?").final_output
    assert said == "sun in Rome", (make, said)
print("all done")
