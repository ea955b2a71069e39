"""Config classes as command lines: each field becomes a flag, a TOML key and its check."""

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import typer

from expo_cli.contracts.texts import whole_text
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import nearest

CONFIG_FILE = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        rich_help_panel="Running",
        help="TOML file with a table of settings per command (\\[train] learning_rate = 1e-5); "
        "flags override it.",
    ),
]


def config_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of `function` that is annotated with a config class by its flags.

    A value comes from its flag, else from the command's table in `--config`, else from the
    field's default. A ValueError raised by the class's own check becomes a UsageError (exit code 2).
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    configs = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    types = {
        name: hint
        for cls in configs.values()
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }
    knobs = {
        field.name: _parameter(field, types[field.name])
        for cls in configs.values()
        for field in fields(cls)
    }
    command = function.__module__.rpartition(".")[2].replace("_", "-")

    @wraps(function)
    def with_flags(config_file: Path | None, **values: Any) -> None:
        settings = _table(config_file, command, types) if config_file else {}
        flags = {name: values.pop(name) for name in knobs}
        settings |= {name: value for name, value in flags.items() if value not in (None, [])}
        built = {
            name: _build(cls, {f.name: settings[f.name] for f in fields(cls) if f.name in settings})
            for name, cls in configs.items()
        }
        function(**values, **built)

    own = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in signature.parameters.values()
        if p.name not in configs
    ]
    config_parameter = inspect.Parameter(
        "config_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=CONFIG_FILE
    )
    with_flags.__signature__ = signature.replace(
        parameters=[*own, *knobs.values(), config_parameter]
    )
    return with_flags


def _parameter(field: Field, hint: Any) -> inspect.Parameter:
    """The Typer parameter of a config field. None means "not given" for every type."""
    field_type, flag = get_args(hint)
    if get_origin(field_type) is tuple:
        field_type = list[get_args(field_type)[0]]
    name = field.name.replace("_", "-")
    option = typer.Option(
        f"--{name}/--no-{name}" if field_type is bool else f"--{name}",
        help=flag.help + _said_of_default(field.default),
        rich_help_panel=flag.panel,
        show_default=False,
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[field_type | None, option],
    )


def _said_of_default(default: Any) -> str:
    """As Typer puts it, which knows only None."""
    if default is MISSING:
        return " \\[required]"
    return "" if default in (None, (), False) else f" [dim]\\[default: {default}][/dim]"


def _table(path: Path, command: str, types: Mapping[str, Any]) -> dict[str, Any]:
    """The table `[command]` of a TOML file, with its types checked.

    Raises ExpoError when the file cannot be read, ContractError when it is not TOML, UsageError
    for an unknown key or a value of the wrong type.
    """
    try:
        document = tomllib.loads(whole_text(path, str(path)))
    # ValueError: not TOML, or a number with too many digits.
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{path}: {error}") from error
    commands = [
        "prep-prompts",
        "rollout",
        "score",
        "make-pairs",
        "train",
        "evaluate",
        "status",
        "env",
    ]
    for name, table in document.items():
        if name not in commands or not isinstance(table, dict):
            raise UsageError(
                f"{path}: {name!r} is not the table of a command; {nearest(name, commands)}"
            )
    settings = {key.replace("-", "_"): value for key, value in document.get(command, {}).items()}
    for key, value in settings.items():
        if key not in types:
            raise UsageError(f"{path}: [{command}] has no key {key!r}; {nearest(key, types)}")
        try:
            msgspec.convert(value, types[key])
        except msgspec.ValidationError as error:
            raise UsageError(f"{path}: [{command}] {key}: {error}") from error
    return settings


def _build(cls: type, settings: dict[str, Any]) -> Any:
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in settings]
    if missing:
        raise UsageError(f"--{missing[0].replace('_', '-')} is required")
    try:
        return msgspec.convert(settings, cls)
    except (ValueError, msgspec.ValidationError) as error:
        raise UsageError(str(error)) from error
