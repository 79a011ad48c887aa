"""Run by a tool's own interpreter: `python export_loaders.py TOOL FILE MODEL_DIR [OPTION=VALUE...]`.

Loads the file with the tool's own loader, as its command line would, and prints what it makes of it as JSON on the last line of output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def aiperf(path: str, model: str, block_size: str | None = None) -> Rows:
    """The turns of AIPerf's conversations."""
    from aiperf.common import random_generator
    from aiperf.common.tokenizer import Tokenizer
    from aiperf.config import BenchmarkConfig, BenchmarkRun
    from aiperf.dataset.generator.prompt import PromptGenerator
    from aiperf.dataset.loader.mooncake_trace import MooncakeTraceDatasetLoader

    data = {"name": "default", "type": "file", "path": path, "format": "mooncake_trace"}
    config = BenchmarkConfig.model_validate(
        {
            "models": ["tiny"],
            "tokenizer": {"name": model},
            "endpoint": {"urls": ["http://127.0.0.1:9"], "wait_for_model_timeout": 0},
            "datasets": [data | ({"block_size": int(block_size)} if block_size else {})],
            "phases": [{"name": "profiling", "type": "fixed_schedule"}],
        }
    )
    random_generator.init(0)
    tokenizer = Tokenizer.from_pretrained(model)
    loader = MooncakeTraceDatasetLoader(
        filename=path,
        run=BenchmarkRun(benchmark_id="x", cfg=config, artifact_dir=config.artifacts.dir),
        prompt_generator=PromptGenerator(prompts=None, prefix_prompts=None, tokenizer=tokenizer),
        default_block_size=512,
    )
    first = json.loads(Path(path).read_text("utf-8").splitlines()[0])
    assert loader.can_load(first, path)
    found = []
    for conversation in loader.convert_to_conversations(loader.load_dataset()):
        for turn in conversation.turns:
            text = "".join(content for one in turn.texts for content in one.contents)
            found.append(
                {
                    "session": conversation.session_id,
                    "mode": conversation.context_mode and str(conversation.context_mode),
                    "at_ms": turn.timestamp,
                    "delay_ms": turn.delay,
                    "output": turn.max_tokens,
                    "messages": turn.raw_messages,
                    "tools": turn.raw_tools,
                    "payload": turn.raw_payload,
                    "extra": turn.extra_body,
                    "tokens": tokenizer.encode(text) if text else None,
                }
            )
    return found


def guidellm(path: str, model: str, kind: str = "json_file", block_size: str | None = None) -> Rows:
    """The requests that GuideLLM sends: of rows of prompts, or of a Mooncake trace."""
    from guidellm.data.deserializers import DatasetDeserializerFactory
    from guidellm.data.finalizers.generative import GenerativeRequestFinalizer
    from guidellm.data.preprocessors.mappers import GenerativeColumnMapper
    from guidellm.schemas.data.entrypoints import DataArgs
    from guidellm.schemas.data.finalizers import GenerativeRequestFinalizerArgs
    from guidellm.schemas.data.preprocessors import GenerativeColumnMapperArgs
    from transformers import AutoTokenizer

    config: dict[str, Any] = {"kind": "json_file", "path": path}
    if kind == "mooncake":  # times in ms: the data's own scale makes seconds of them
        config = {
            "kind": kind,
            "source": config,
            "hash_id_block_size": int(block_size or 512),
            "time_scale": 0.001,
        }
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = DatasetDeserializerFactory.deserialize(
        config=DataArgs.model_validate(config), processor_factory=lambda: tokenizer, random_seed=0
    )
    mapper = GenerativeColumnMapper(GenerativeColumnMapperArgs())
    mapper.setup_data([data])
    finalize = GenerativeRequestFinalizer(GenerativeRequestFinalizerArgs())
    found = []
    for row in data:
        graph = finalize(mapper([{"dataset": row}]))
        (node,) = graph.nodes.values()
        found.append(
            {
                "prompt": "".join(node.request.columns["text_column"]),
                "input": node.request.input_metrics.text_tokens,
                "output": node.request.output_metrics.text_tokens,
                "at_s": node.settings.relative_timestamp,
            }
        )
    return found


def inference_perf(path: str, model: str, kind: str = "otel") -> Rows:
    """The events of inference-perf's sessions, or the rows of its trace of times and lengths."""
    if kind == "azure":
        from inference_perf.utils.trace_reader import AzurePublicDatasetReader

        reader = AzurePublicDatasetReader()
        found = reader.load_traces(Path(path))
        assert [row[1:] for row in found] == list(reader.stream_token_entries(Path(path)))
        return [{"at_s": at, "input": asked, "output": given} for at, asked, given in found]
    from inference_perf.config import APIConfig, APIType, DataConfig
    from inference_perf.datagen.replay.otel_trace_replay_datagen import OTelTraceReplayDataGenerator

    config = DataConfig.model_validate(
        {
            "type": "otel_trace_replay",
            "otel_trace_replay": {
                "hf_dataset_path": {"path": "json", "data_files": path},
                "use_static_model": True,
                "static_model_name": "tiny",
            },
        }
    )
    made = OTelTraceReplayDataGenerator(APIConfig(type=APIType.Chat), config, None)
    events: Rows = []
    for number in range(made.get_session_count()):
        session = made._build_session(number)
        assert session is not None
        events += [
            {
                "session": session.session_id.partition("_")[2],
                "request": event.call.call_id,
                "after": [name.split("_", 2)[2] for name in event.predecessor_event_ids],
                "wait_ms": event.wait_ms,
                "messages": event.call.messages,
                "tools": event.call.tool_definitions,
                "input": event.call.total_input_tokens,
                "output": event.call.expected_output_tokens,
            }
            for event in session.graph.events.values()
        ]
    return events


def vllm(path: str, model: str, kind: str = "custom", block_size: str = "16") -> Rows:
    """The samples of `vllm bench serve`."""
    import argparse

    from transformers import AutoTokenizer
    from vllm.benchmarks.datasets.datasets import add_dataset_parser, get_samples
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(formatter_class=argparse.HelpFormatter)
    add_dataset_parser(parser)
    words = ["--dataset-name", kind, "--dataset-path", path, "--num-prompts", "100000"]
    words += {
        "custom": [
            "--custom-output-len",
            "-1",
            "--skip-chat-template",
            "--disable-shuffle",
            "--no-oversample",
        ],
        "timed_trace": ["--timed-trace-chunk-hash-size", block_size, "--timed-trace-sec-multiplier", "0.001"],
    }[kind]
    args = parser.parse_args(words)
    return [
        {
            "prompt": sample.prompt,
            "input": sample.prompt_len,
            "output": sample.expected_output_len,
            "at_s": sample.timestamp,
        }
        for sample in get_samples(args, AutoTokenizer.from_pretrained(model))
    ]


def sglang_bench(path: str, model: str, kind: str = "openai") -> Rows:
    """The rows of SGLang's bench_serving; its packages are entered without their __init__, which want the whole engine."""
    import importlib.util
    from types import ModuleType

    spec = importlib.util.find_spec("sglang")
    assert spec is not None and spec.origin is not None
    home = Path(spec.origin).parent
    for package in ("sglang", "sglang.benchmark", "sglang.benchmark.datasets"):
        sys.modules[package] = bare = ModuleType(package)
        bare.__path__ = [str(home.joinpath(*package.split(".")[1:]))]
    from sglang.benchmark.datasets.mooncake import MooncakeDataset
    from sglang.benchmark.datasets.openai_dataset import OpenAIDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    if kind == "mooncake":
        found: Rows = MooncakeDataset(path, "mooncake", 100_000).load(tokenizer)
        return found
    return [
        {
            "messages": row.prompt,
            "input": row.prompt_len,
            "output": row.output_len,
            "extra": row.extra_request_body,
        }
        for row in OpenAIDataset(path, 100_000, None).load(tokenizer)
    ]


def dynamo(path: str, model: str, kind: str = "mooncake", block_size: str = "512") -> Rows:
    """The requests of Dynamo's replay through its simulated engine, with the tokens that its cache had of each."""
    from dynamo.replay import run_trace_replay

    model_name = {"execution_model": "tiny"} if kind == "agentic_mooncake" else {}
    report = run_trace_replay(
        path, trace_format=kind, trace_block_size=int(block_size), capture_per_request=True, **model_name
    )
    return [
        {
            "request": row.get("request_id"),
            "session": row["session_id"],
            "turn": row["turn_index"],
            "at_ms": row["arrival_time_ms"],
            "input": row["input_length"],
            "output": row["output_length"],
            "hit_tokens": row["reused_input_tokens"],
            "end_ms": row["terminal_time_ms"],
        }
        for row in report.per_request
    ]


if __name__ == "__main__":
    tool, file, model_dir, *options = sys.argv[1:]
    print(json.dumps(globals()[tool](file, model_dir, **dict(one.split("=", 1) for one in options))))
