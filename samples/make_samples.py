"""Write the two invented samples, chat.jsonl and planted.jsonl, the same bytes every time: python samples/make_samples.py"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
START = datetime(2026, 8, 21, 9, 0, tzinfo=UTC)

SUPPORT = (
    "You are Mira, the support agent of Fernweh Outdoor, a shop for tents, packs and stoves. Be brief and warm; answer in "
    "the customer's language. Look an order up before you speak about it. Returns are free for 30 days, unused, with the "
    "tag on. A refund takes five working days. Never promise a date that the carrier has not given. Hand over to a "
    "person when a customer is hurt, threatens, or asks for one."
)
SUPPORT_TOOLS = [
    {"type": "function", "function": {"name": "lookup_order", "description": "Status, items and carrier of an order.",
     "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}}},
    {"type": "function", "function": {"name": "start_return", "description": "Make a return label for items of an order.",
     "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}, "items": {"type": "array", "items": {"type": "string"}}}, "required": ["order_id", "items"]}}},
]  # fmt: skip
CODER = (
    "You are a coding agent in the repository `harbor`, a Go service that plans berths for ferries. Work in small steps: "
    "read before you edit, run the tests after each edit, and stop when they pass. Rules of the house: no new "
    "dependency without asking; errors are wrapped with %w and say what was tried; a table test beside each function; "
    "time is a parameter, never time.Now() inside a package; SQL stays in store/. Do not touch files that the task does "
    "not name. When a command fails twice in the same way, say so and ask. Finish with two sentences: what changed, and "
    "how it was checked."
)
CODER_TOOLS = [
    {"type": "function", "function": {"name": name, "description": about,
     "parameters": {"type": "object", "properties": {k: {"type": "string"} for k in keys}, "required": keys}}}
    for name, about, keys in (
        ("read_file", "The text of one file.", ["path"]),
        ("edit_file", "Replace one piece of a file by another.", ["path", "old", "new"]),
        ("run", "Run a shell command in the repository; gives the last 4,000 characters it prints.", ["command"]),
    )
]  # fmt: skip
CUSTOMERS = [
    ("en", "Where is my order {n}? It was due on Friday.", "Can I still change the address?", "Thanks, that helps!"),
    ("de", "Hallo, mein Zelt aus Bestellung {n} ist undicht 😕", "Ja, das Überzelt, an der Naht.", "Super, danke schön!"),
    ("fr", "Bonjour, je voudrais renvoyer le réchaud de la commande {n}.", "Il est neuf, encore emballé.", "Parfait, merci."),
    ("ja", "注文{n}の配送状況を教えてください。", "届け先を変更できますか？", "ありがとうございます。"),
    ("es", "¿Dónde está mi pedido {n}?", "¿Y si no estoy en casa?", "Muchas gracias."),
]  # fmt: skip
REPLIES = {
    "en": ("It left our warehouse on Wednesday; the carrier says Monday.", "Yes, until the van is loaded. Which address?"),
    "de": ("Das tut mir leid. Ist es das Überzelt oder der Boden?", "Ich schicke Ihnen ein Rücksendeetikett per E-Mail."),
    "fr": ("Bien sûr. Le réchaud a-t-il déjà servi ?", "Voici l'étiquette de retour ; le remboursement prend cinq jours."),
    "ja": ("現在配送中で、月曜日の到着予定です。", "はい、積み込み前でしたら変更できます。"),
    "es": ("Salió el miércoles; el transportista dice el lunes.", "Lo dejan en el punto de recogida más cercano."),
}  # fmt: skip
TASKS = [
    ("Ferries longer than the berth are still planned. Fix it in berth/fit.go.", "berth/fit.go", "if ferry.Length < berth.Length {"),
    ("`make test` fails on Mondays. Find out why.", "clock/week.go", "day := int(time.Now().Weekday()) - 1"),
    ("Add the tide to the log line of each plan.", "plan/log.go", 'log.Printf("plan %s: %d berths", id, len(berths))'),
    ("Rename Slot to Berth in package quay, tests too.", "quay/slot.go", "type Slot struct { ID string; Length int }"),
]  # fmt: skip
IMAGE = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk" * 4


def tokens(value: Any) -> int:
    """A count such as a server would report; a fourth of the characters."""
    return len(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) // 4 + 3


class Log:
    """Calls one after another; the rows, and ids and prompts that the provider's cache has seen."""

    def __init__(self) -> None:
        self.rng = random.Random(20260821)
        self.rows: list[tuple[datetime, dict[str, Any]]] = []
        self.warm: dict[str, int] = {}

    def call(
        self,
        at: datetime,
        tenant: str,
        session: str,
        body: dict[str, Any],
        answer: dict[str, Any],
        status: int = 200,
    ) -> datetime:
        """Append one request and response pair; returns when it ended."""
        number = len(self.rows) + 1
        prompt = sum(tokens(m) for m in body["messages"]) + tokens(body.get("tools", ""))
        made = tokens(answer)
        cached = self.warm.get(session, self.warm.get(tenant, 0)) // 128 * 128
        ttft = 90 + (prompt - cached) * 0.4 + self.rng.expovariate(1 / 60)
        took = ttft + made * self.rng.uniform(14, 22)
        row: dict[str, Any] = {"timestamp": stamp(at), "request_id": f"req_{number:04d}", "tenant": tenant}
        if status != 200:
            took = 8 + self.rng.expovariate(1 / 10) if status == 429 else 2_000 + took
            kind = "rate_limit_exceeded" if status == 429 else "server_error"
            said = "Too many requests" if status == 429 else "The engine stopped answering"
            row |= {"status_code": status, "latency_ms": round(took, 3), "request": body}
            row["response"] = {"error": {"message": said, "type": kind, "param": None, "code": kind}}
        else:
            row |= {"status_code": 200, "latency_ms": round(took, 3)}
            if body.get("stream"):
                row["ttft_ms"] = round(ttft, 3)
            row["request"] = body
            row["response"] = {
                "id": f"chatcmpl-{number:04d}",
                "object": "chat.completion",
                "created": int(at.timestamp()),
                "model": body["model"] + "-2026-06-01",
                "choices": [{"index": 0, "message": answer, "finish_reason": "tool_calls" if "tool_calls" in answer else "stop"}],
                "usage": {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
                          "prompt_tokens_details": {"cached_tokens": cached}},
            }  # fmt: skip
            self.warm[session] = self.warm[tenant] = prompt
            self.warm[tenant] = tokens(body["messages"][0]) + tokens(body.get("tools", ""))
        self.rows.append((at, row))
        return at + timedelta(milliseconds=took)


def stamp(at: datetime) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tool_call(number: str, name: str, **arguments: Any) -> dict[str, Any]:
    """An assistant message that calls one tool."""
    call = {"id": number, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}}  # fmt: skip
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def support(log: Log, number: int, at: datetime) -> None:
    """One customer: a question, a look-up, an answer, and what they say to it."""
    language, first, second, thanks = CUSTOMERS[number % len(CUSTOMERS)]
    session, order = f"chat-{number:03d}", str(1040 + number)
    messages: list[dict[str, Any]] = [{"role": "system", "content": SUPPORT}]
    question: Any = first.format(n=order)
    if language == "de":
        question = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    messages.append({"role": "user", "content": question})

    def ask(answer: dict[str, Any], status: int = 200) -> None:
        nonlocal at
        body = {"model": "mira-8b", "messages": list(messages), "tools": SUPPORT_TOOLS, "temperature": 0.3, "stream": True,
                "user": f"customer-{number}", "metadata": {"session_id": session}}  # fmt: skip
        at = log.call(at, "fernweh", session, body, answer, status)
        if status == 200:
            messages.append(answer)

    look = tool_call(f"call_{number}a", "lookup_order", order_id=order)
    if number == 3:
        ask(look, status=429)
        at += timedelta(seconds=2)
    ask(look)
    found = {"order": order, "status": "shipped", "carrier": "DHL", "items": ["tent 2P", "pegs ×12"]}
    messages.append(
        {"role": "tool", "tool_call_id": f"call_{number}a", "content": json.dumps(found, ensure_ascii=False)}
    )
    at += timedelta(milliseconds=log.rng.uniform(40, 200))
    ask({"role": "assistant", "content": REPLIES[language][0]})
    for line, reply in ((second, REPLIES[language][1]), (thanks, "🙂")):
        at += timedelta(seconds=log.rng.uniform(4, 15))
        messages.append({"role": "user", "content": line})
        ask({"role": "assistant", "content": reply})


def coding(log: Log, number: int, at: datetime) -> None:
    """One task: read, edit, test, report."""
    task, path, line = TASKS[number]
    session = f"task-{number}"
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": CODER},
        {"role": "user", "content": [{"type": "text", "text": task}]},
    ]
    steps = [
        (
            tool_call(f"t{number}1", "read_file", path=path),
            f"package {path.split('/')[0]}\n\n\t{line}\n\t// …\n}}\n",
        ),
        (tool_call(f"t{number}2", "edit_file", path=path, old=line, new=line + " // fixed"), "edited 1 line"),
        (
            tool_call(f"t{number}3", "run", command="make test"),
            "ok  \tharbor/berth\t0.412s\nok  \tharbor/plan\t0.220s\n",
        ),
        ({"role": "assistant", "content": f"Changed one line of {path}. `make test` passes."}, None),
    ]
    for turn, (answer, result) in enumerate(steps):
        body = {"model": "forge-32b", "messages": list(messages), "tools": CODER_TOOLS, "temperature": 0, "max_completion_tokens": 2048,
                "stream": number % 2 == 0, "metadata": {"session_id": session}}  # fmt: skip
        if number == 1 and turn == 2:
            at = log.call(at, "harbor", session, body, answer, status=500)
        at = log.call(at, "harbor", session, body, answer)
        messages.append(answer)
        if result is not None:
            messages.append(
                {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": result}
            )
        at += timedelta(milliseconds=log.rng.uniform(100, 900))


def chat() -> list[dict[str, Any]]:
    """Eleven customers and four coding tasks over a minute, and one embedding."""
    log = Log()
    for number in range(11):
        support(log, number, START + timedelta(seconds=1.7 * number))
    for number in range(len(TASKS)):
        coding(log, number, START + timedelta(seconds=3 + 1.3 * number))
    rows = [row for _, row in sorted(log.rows, key=lambda pair: pair[0])]
    rows.insert(9, {
        "timestamp": rows[8]["timestamp"], "request_id": "req_emb", "tenant": "fernweh", "status_code": 200, "latency_ms": 11.5,
        "request": {"model": "embed-small", "input": "leaking tent", "encoding_format": "float"},
        "response": {"object": "list", "data": [], "model": "embed-small", "usage": {"prompt_tokens": 4, "total_tokens": 4}},
    })  # fmt: skip
    return rows


def planted() -> list[dict[str, Any]]:
    """Text completions of token ids, few enough to count by hand: see README.md."""
    s, a = list(range(1, 33)), list(range(100, 116))
    r1, r2 = s + a, [*s, *range(200, 216)]
    r6, r7 = [*r1, *range(300, 304)], list(range(400, 420))
    out2, out6 = list(range(600, 616)), list(range(700, 708))
    plan: list[
        tuple[str, float, list[int], list[int], float]
    ] = [  # model, arrival (s), prompt, output, seconds taken
        ("planted-a", 0, r1, [900, 901, 902, 903], 1.0),
        ("planted-a", 2, r2, out2, 3.0),
        ("planted-a", 3, r1[:40], [904, 905], 1.0),
        ("planted-a", 4, r1, [906], 0.5),
        ("planted-b", 5, r1, [907, 908], 1.0),
        ("planted-b", 6, r6, out6, 10.0),
        ("planted-a", 6, r7, [909], 1.0),
        ("planted-a", 6, [*r7, *range(500, 510)], [910], 1.0),
        ("planted-a", 8, [], [911, 912], 1.0),
        ("planted-a", 9, [*r2, *out2, *range(620, 624)], [913], 1.0),
        ("planted-b", 10, [*r6, *out6, *range(720, 724)], [914], 1.0),
    ]
    return [
        {
            "timestamp": stamp(START + timedelta(seconds=at)),
            "request_id": f"planted-{number}",
            "latency_ms": took * 1000,
            "status_code": 200,
            "request": {"model": model, "prompt": prompt, "max_tokens": len(output)},
            "response": {
                "id": f"cmpl-{number}",
                "object": "text_completion",
                "model": model,
                "choices": [{"index": 0, "text": "", "token_ids": output, "finish_reason": "length"}],
                "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(output), "total_tokens": len(prompt) + len(output)},
            },
        }
        for number, (model, at, prompt, output, took) in enumerate(plan, 1)
    ]  # fmt: skip


if __name__ == "__main__":
    for name, rows in (("chat", chat()), ("planted", planted())):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
        (HERE / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
