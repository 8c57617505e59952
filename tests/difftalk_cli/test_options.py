"""Options come from a stage's Config."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from difftalk_cli.main import COMMANDS, app
from difftalk_cli.options import OUTPUT_OPTIONS, RUNTIME_OPTIONS, build, field_docs, parse_shard
from stages.errors import UsageError
from stages.runtime import Runtime
from tests.difftalk_cli import small_command, small_stage

STAGE_COMMANDS = [name for name in COMMANDS if name not in ("weights", "doctor", "ui")]


def facts_of(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    code = build(small_command, "small", "A small command.").main(
        args=[*args, "--json"], prog_name="small", standalone_mode=False
    )
    assert code == 0
    return json.loads(capsys.readouterr().out)["facts"]


def test_options_without_arguments_are_the_config_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(capsys, "work")
    assert facts["config"] == vars(small_stage.Config())
    assert facts["workers"] == 1 and facts["shard"] is None


def test_every_kind_of_field_becomes_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    args = "--count 7 --share 0.25 --fast-enough --no-careful --kind other --number 4 --table a.csv --workers 3 --shard 1/4".split()
    facts = facts_of(capsys, "work", *args)
    assert facts["config"] == {
        "count": 7, "share": 0.25, "fast_enough": True, "careful": False, "kind": "other", "number": 4, "table": "a.csv",
    }  # fmt: skip
    assert facts["workers"] == 3 and facts["shard"] == [1, 4]


def test_help_shows_field_docstrings_defaults_and_choices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    build(small_command, "small", "A small command.").main(args=["--help"], prog_name="small", standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "A small command." in shown
    assert "How many; a second line of help. [default: 3]" in shown
    assert "--fast-enough" in shown and "--no-fast-enough" not in shown
    assert "--careful" in shown and "--no-careful" in shown
    assert "plain|other" in shown
    assert "None" not in shown


def test_a_bad_choice_or_type_is_a_usage_error() -> None:
    from difftalk_cli.main import BadUsage

    command = build(small_command, "small", "")
    for args in (["work", "--kind", "third"], ["work", "--count", "many"], ["work", "--unknown"], []):
        with pytest.raises(BadUsage) as caught:
            command.main(args=args, prog_name="small", standalone_mode=False)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["1", "1/", "/2", "a/b", "-1/3", "1/2/3", "1.0/2"])
def test_shards_that_are_no_fraction_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="I/N"):
        parse_shard(text)


def test_shard_counts_from_zero() -> None:
    assert parse_shard("0/8") == (0, 8)
    assert parse_shard(None) is None
    with pytest.raises(UsageError, match="8/8"):
        Runtime(shard=parse_shard("8/8"))


@pytest.mark.parametrize("name", STAGE_COMMANDS)
def test_every_field_of_every_stage_has_help(name: str) -> None:
    module = importlib.import_module(f"difftalk_cli.commands.{name.replace('-', '_')}")
    config = importlib.import_module(module.STAGE).Config
    docs = field_docs(config)
    assert set(docs) == {f.name for f in dataclasses.fields(config)}
    assert all(text.endswith(".") for text in docs.values()), docs


@pytest.mark.parametrize("name", STAGE_COMMANDS)
def test_help_of_every_command_shows_every_field(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as caught:
        app([name, "--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    module = importlib.import_module(f"difftalk_cli.commands.{name.replace('-', '_')}")
    own = inspect.signature(module.call).parameters  # one that is called like a setting stands for it, with its own words
    for field, text in field_docs(importlib.import_module(module.STAGE).Config).items():
        assert f"--{field.replace('_', '-')}" in shown, field
        assert text in shown or field in own, field


@pytest.mark.parametrize("name", STAGE_COMMANDS)
def test_no_two_options_of_a_command_share_a_name(name: str) -> None:
    module = importlib.import_module(f"difftalk_cli.commands.{name.replace('-', '_')}")
    own = [p for p in inspect.signature(module.call).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = {f.name for f in dataclasses.fields(importlib.import_module(module.STAGE).Config)} - {p.name for p in own}
    names = [*(p.name for p in own), *settings, *module.RUNTIME, *OUTPUT_OPTIONS]
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)


def test_runtime_options_have_runtime_defaults() -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(Runtime)}
    for name, (_, default, help) in RUNTIME_OPTIONS.items():
        assert default == defaults[name], name
        assert help


def test_paths_with_odd_characters_arrive_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    odd = 'a [bold]b "c" ü.csv'
    assert facts_of(capsys, "work", "--table", odd)["config"]["table"] == odd
