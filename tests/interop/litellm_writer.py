"""LiteLLM's two logs as JSON lines, under $LITELLM_LOGS: what its callbacks are given, and the rows of its SpendLogs table.

Loaded by the proxy (litellm.yaml). A callback's StandardLoggingPayload is written as it comes. A SpendLogs row is made by the
proxy's own code, which runs only with a database; it has none here, so its logger is named as a callback and the row is taken where it
would be inserted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy.db.db_spend_update_writer import DBSpendUpdateWriter
from litellm.proxy.hooks.proxy_track_cost_callback import _ProxyDBLogger

_FOLDER = Path(os.environ["LITELLM_LOGS"])


def _write(name: str, record: Any) -> None:
    with (_FOLDER / name).open("a", encoding="utf-8") as out:
        out.write(json.dumps(record, default=str) + "\n")


class Writer(CustomLogger):
    """Keeps every payload that a callback gets."""

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _write("payloads.jsonl", kwargs["standard_logging_object"])

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        _write("payloads.jsonl", kwargs["standard_logging_object"])


async def _insert(self: Any, payload: Any, prisma_client: Any = None, spend_logs_url: Any = None) -> Any:
    _write("spendlogs.jsonl", payload)
    return prisma_client


DBSpendUpdateWriter._insert_spend_log_to_db = _insert
writer, rows = Writer(), _ProxyDBLogger()
