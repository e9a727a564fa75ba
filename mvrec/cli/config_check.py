"""Checks for wrong keys in config files and flags before they are parsed.

jsonargparse knows whether a key is accepted, but not its file and line nor the probably intended key.
"""

import contextlib
import dataclasses
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import yaml

from mvrec.class_paths import current, imported, is_class_path, search_folder, trust
from mvrec.cli.help.hints import key_hint
from mvrec.errors import UserError, nearest
from mvrec.files import at_home
from mvrec.published import CREATE_MODEL, ZOO
from mvrec.recipes import find_config

CLASS_NODE_KEYS = frozenset({"class_path", "init_args", "dict_kwargs"})
CONFIG_FLAGS = ("-c", "--config")
BACKBONE_FLAG = re.compile(r"--model(\.(init_args\.)?backbone)+")
# Keys of the parser itself whose value may be a class path; those of classes are known by their types.
CLASS_KEYS = re.compile(
    r"data|model(\.backbone)*|model\.(optimizer|loss|lr_scheduler|metrics\.\w+)"
    r"|data\.(decoder|augment\.(before_crop|after_crop|on_device))|trainer\.(callbacks|logger|strategy|plugins|profiler)"
)
CONFIG_ENDINGS = (".yaml", ".yml", ".json")  # of files that may stand for a mapping
CLASS_IN_TEXT = re.compile(r"class_path[\"']?\s*[:=]\s*[\"']?([\w.]+)")


class Entry(NamedTuple):
    """One key of a config file or one flag, with its value and place.

    `key` is dotted and leaves out `init_args`. `is_class` says that the value stood under `class_path`.
    """

    key: str
    value: Any
    where: str
    is_class: bool = False

    @property
    def name(self) -> str:
        """The last name of the key."""
        return self.key.rpartition(".")[2]

    @property
    def place(self) -> str:
        """The place of the value and its key, which a flag names itself."""
        is_flag = self.where.startswith("--") and self.where[2:] == self.key
        return self.where if is_flag else f"{self.where}: {self.key}"


def flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of each `--name value` or `--name=value`; a flag without a value gets ""."""
    for position, argument in enumerate(arguments):
        if not argument.startswith("-") or re.fullmatch(r"-[\d.].*", argument):
            continue
        name, equals, value = argument.partition("=")
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        yield name, value if equals else ("" if following.startswith("--") else following)


def last_value(settings: Sequence[Entry], key: str) -> Entry | None:
    """Return the last entry of a key, `None` if it is not set or null."""
    # A mapping has no value of its own: what it holds are entries too.
    entry = next((entry for entry in reversed(settings) if entry.key == key and entry.value is not None), None)
    return None if entry is None or entry.value in ("", "null", "~") else entry


def is_short_name(value: Any) -> TypeGuard[str]:
    """Tell whether a value is a backbone's short name: `mvit_b_16x4` or `timm/resnet50`, not `package.module.name`."""
    return isinstance(value, str) and bool(value) and ("/" in value or "." not in value)


def backbone_node(name: str) -> dict[str, Any]:
    """Return the class path and arguments of a short name."""
    return {"class_path": CREATE_MODEL, "init_args": {"name": name}} if "/" in name else {"class_path": f"{ZOO}.{name}"}


def expand_backbones(config: Any) -> Any:
    """Replace short names of backbones in a loaded config by class paths: in `model`, and inside backbones."""
    if isinstance(config, dict):
        for node in (config, config.get("model")):
            while isinstance(node, dict):
                inner = node.get("backbone")
                if is_short_name(inner):
                    node["backbone"] = backbone_node(inner)
                node = inner.get("init_args", inner) if isinstance(inner, dict) else None
    return config


def expand_configs(arguments: Sequence[str]) -> Iterator[str]:
    """Replace the names of recipes in `--config NAME` by the paths of their files.

    Raises:
        UserError: Neither a file nor a recipe.
    """
    previous = ""
    for argument in arguments:
        name, _, value = argument.partition("=")
        if previous in CONFIG_FLAGS and not argument.startswith("--"):
            yield find_config(argument)
        elif name in CONFIG_FLAGS and value:
            yield f"{name}={find_config(value)}"
        else:
            yield argument
        previous = argument


def expand_flags(arguments: Sequence[str]) -> Iterator[str]:
    """Put class paths in place of short names in `--model.backbone NAME`.

    Class paths of earlier versions become those of this one.
    """
    flag = ""  # that the next argument is the value of
    for argument in arguments:
        name, equals, value = (flag, " ", argument) if flag else argument.partition("=")
        flag = argument if not flag and BACKBONE_FLAG.fullmatch(argument) else ""
        if not equals or not BACKBONE_FLAG.fullmatch(name) or not is_short_name(value):
            name, equals, value = argument.rpartition("=")
            yield f"{name}{equals}{current(value)}"
            continue
        node = backbone_node(value)
        yield node["class_path"] if equals == " " else f"{name}={node['class_path']}"
        yield from (f"{name}.{key}={argument}" for key, argument in node.get("init_args", {}).items())


def entries(arguments: Sequence[str]) -> list[Entry]:
    """Return all keys that config files and flags set, in the order in which they take effect.

    Raises:
        UserError: A config file is missing or not a YAML mapping.
    """
    all_entries: list[Entry] = []
    for name, value in flags(arguments):
        if name in CONFIG_FLAGS and not value:
            raise UserError(f"{name} needs the path of a file")
        if name in CONFIG_FLAGS:
            all_entries.extend(_file_entries(Path(find_config(value))))
        elif name.startswith("--"):
            key = name[2:].rstrip("+").replace(".init_args", "").removesuffix(".class_path")
            all_entries.append(Entry(key, value, name, is_class=name.endswith(".class_path")))
            all_entries.extend(_mapping_entries(all_entries[-1]))
    return all_entries


def as_value(text: str) -> Any:
    """Return the value that YAML reads from a text; the text itself where it is not YAML."""
    try:
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def reads_as_null(text: str) -> bool:
    """Return whether YAML reads a text as null."""
    try:
        return yaml.safe_load(text) is None
    except (ValueError, yaml.YAMLError):
        return False


def _mapping_entries(entry: Entry) -> Iterator[Entry]:
    """Yield the keys of a flag whose value is a mapping."""
    if not entry.value.startswith("{"):
        return
    with contextlib.suppress(yaml.YAMLError):  # the parser reports it
        if (tree := yaml.compose(entry.value, Loader=yaml.SafeLoader)) is not None:
            yield from _node_entries(tree, entry.key, entry.where)


def _file_entries(path: Path) -> list[Entry]:
    try:
        text = at_home(path).read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        loaded = yaml.safe_load(text)  # what can be composed may still be of no type
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except (RecursionError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if tree is None or (isinstance(loaded, dict) and list(loaded.values()) == [None]):
        raise UserError(f"{path}: this config file sets nothing")
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"{path}:{tree.start_mark.line + 1}: a config file must be a mapping of keys to values")
    return list(_node_entries(tree, "", path))


def _node_entries(node: yaml.Node, prefix: str, source: Path | str) -> Iterator[Entry]:
    """Yield the keys of a mapping in a file, or in a flag.

    Raises:
        UserError: A key repeats, of which YAML would take the last, or arguments of a class are in a wrong place.
    """
    for number, item in enumerate(node.value if isinstance(node, yaml.SequenceNode) else ()):
        if isinstance(item, yaml.ScalarNode):
            yield Entry(f"{prefix}[{number}]", item.value, _where(source, item))
        yield from _node_entries(item, f"{prefix}[{number}]", source)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, str] = {}
    for key_node, value_node in node.value:
        name, where = str(key_node.value), _where(source, key_node)
        key = f"{prefix}.{name}" if prefix else name
        if name in lines:
            raise UserError(f"{where}: {key} is set twice (also {lines[name]}): remove one")
        lines[name] = where
        if name in CLASS_NODE_KEYS:
            yield from _class_entries(name, value_node, prefix, source)
        elif re.fullmatch(r"model(\.backbone)+", key) and _is_string(value_node) and is_short_name(value_node.value):
            named = backbone_node(value_node.value)
            yield Entry(key, named["class_path"], where, is_class=True)
            yield from (Entry(f"{key}.{name}", value, where) for name, value in named.get("init_args", {}).items())
        else:
            yield Entry(key, _text_of(value_node), where)
            yield from _node_entries(value_node, key, source)
    argument = next((name for name in lines if name not in CLASS_NODE_KEYS), None)
    if prefix and "class_path" in lines and argument is not None:
        raise UserError(f"{lines[argument]}: {prefix}.{argument}: put the arguments of a class below init_args")


def _class_entries(name: str, node: yaml.Node, prefix: str, source: Path | str) -> Iterator[Entry]:
    is_path = name == "class_path"
    if not isinstance(node, yaml.ScalarNode if is_path else yaml.MappingNode) and not reads_as_null(str(node.value)):
        expected = "a name such as package.module.Class" if is_path else "a mapping of arguments"
        raise UserError(f"{_where(source, node)}: {prefix}.{name} must be {expected}")
    if is_path:
        yield Entry(prefix, node.value, _where(source, node), is_class=True)
    else:
        yield from _node_entries(node, prefix, source)


def _where(source: Path | str, node: yaml.Node) -> str:
    """Return the line of a node in a file, or its flag."""
    return source if isinstance(source, str) else f"{source}:{node.start_mark.line + 1}"


def _text_of(node: yaml.Node) -> str | None:
    """Return the value of a key in one line; `None` for a mapping, whose keys are entries too, or a list of these."""
    if isinstance(node, yaml.SequenceNode):
        items = [item.value for item in node.value]
        return f"[{', '.join(items)}]" if all(isinstance(item, str) for item in items) else None
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _is_string(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str"


class KnownKeys:
    """The keys that a parser accepts, including the arguments of the classes that the entries name.

    Args:
        plain: Dotted keys of the parser itself, as `parser.get_defaults().keys()` gives them.
        settings: Entries of configs and flags; their class paths add further keys.
    """

    def __init__(self, plain: Iterable[str], settings: Iterable[Entry]) -> None:
        self._children: dict[str, set[str]] = {"": set()}
        self._open: set[str] = set()  # keys below these are not checked
        self._unnamed: set[str] = set()  # keys below these neither, until an entry names a class
        self._named: set[str] = set()  # keys whose class an entry names
        self.hints: dict[str, Any] = {}  # the types of the arguments of classes
        self.owners: dict[str, str] = {}  # the modules that these classes come from
        self._plain = set(plain)
        for key in self._plain:
            self._add(key)
        for entry in settings:
            if (path := class_path_of(entry)) is not None or _is_class_hint(self.hints.get(entry.key)):
                self._add_class(entry, path or entry.value)

    def _add(self, key: str) -> None:
        parent, _, name = key.rpartition(".")
        if parent and name not in self._children.get(parent, set()):
            self._add(parent)
        self._children.setdefault(parent, set()).add(name)

    def _add_class(self, entry: Entry, class_path: Any) -> None:
        target = resolve(class_path)
        if callable(target):
            self._unnamed.discard(entry.key)
            self._named.add(entry.key)
            self._add_parameters(entry.key, target)

    def _add_parameters(self, key: str, target: Callable[..., Any]) -> None:
        try:
            parameters = own_parameters(target)
            hints = typing.get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
        except (ValueError, TypeError, NameError):
            self._open.add(key)
            return
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._add_rest(key, target)
                continue
            name = f"{key}.{parameter.name}"
            self._add(name)
            self.hints[name], self.owners[name] = hints.get(parameter.name), str(target.__module__)
            for kind in _alternatives(hints.get(parameter.name)):
                if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                    self._add_parameters(name, kind)
                elif kind is not None and kind not in (int, float, str, bool, type(None)):
                    self._unnamed.add(name)

    def _add_rest(self, key: str, target: Callable[..., Any]) -> None:
        """Add the keys of `**knobs`: in our own classes those of the parent."""
        parents = target.__mro__[1:] if isinstance(target, type) else ()
        parent = next((kind for kind in parents if "__init__" in vars(kind)), None)
        if parent is not None and parent.__module__.startswith("mvrec."):
            self._add_parameters(key, parent)
        else:
            self._open.add(key)

    def children(self, key: str) -> set[str]:
        """Return the accepted names below a key."""
        return self._children.get(key, set())

    def group(self, key: str) -> set[str]:
        """Return the names below a key that is always a mapping of the parser, such as `trainer`; else none."""
        names = self.children(key)
        is_class = "class_path" in names or any(
            key in keys for keys in (self._unnamed, self._named, self._plain, self.hints)
        )
        return set() if is_class else names

    def elsewhere(self, name: str) -> str:
        """Return a hint for an error message: the keys with this last name."""
        parents = [parent for parent, names in self._children.items() if parent and name in names]
        keys = sorted(f"{parent}.{name}" for parent in parents if "init_args" not in parent)
        return f"; did you mean {' or '.join(map(repr, keys[:3]))}?" if keys else ""

    def accepts(self, key: str) -> bool:
        """Return whether a key is accepted, or may be by a class that is not named yet."""
        return not self.children(key.partition(".")[0]) or self.unknown_part(key) is None

    def unknown_part(self, key: str) -> tuple[str, set[str]] | None:
        """Return the shortest part of a key that is not accepted, with the accepted names; `None` if all is."""
        path = ""
        for name in key.split("."):
            if path in self._open or path in self._unnamed:
                return None
            children = self._children.get(path)
            if children is None:
                return None if path in self._plain else (f"{path}.{name}", set())
            path = f"{path}.{name}" if path else name
            if name not in children:
                return path, children
        return None


def own_parameters(target: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """Return the parameters that a class or function has itself, where its `__signature__` may list its parent's."""
    if not isinstance(target, type) or target.__init__ is object.__init__:  # type: ignore[misc]
        return iter(inspect.signature(target).parameters.values())
    return itertools.islice(inspect.signature(target.__init__).parameters.values(), 1, None)  # type: ignore[misc]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) or (hint,)


def _is_class_hint(hint: Any) -> bool:
    """Return whether a type takes a class path; those of dataclasses take mappings."""
    kinds = [kind for kind in _alternatives(hint) if isinstance(kind, type) and not dataclasses.is_dataclass(kind)]
    return any(kind.__module__ not in ("builtins", "pathlib") for kind in kinds)


def class_path_of(entry: Entry) -> str | None:
    """Return the class that an entry surely names, by its key; `None` for paths of files and all other values."""
    key, value = entry.key.partition("[")[0].rstrip("+"), entry.value
    if key == "data" and isinstance(value, str) and value.isidentifier():  # jsonargparse takes the bare name of a class
        return f"mvrec.data.{value}"
    expected = entry.is_class or CLASS_KEYS.fullmatch(key)
    return current(value) if expected and is_class_path(value) and not value.endswith(CONFIG_ENDINGS) else None


def trust_named(settings: Iterable[Entry], *, configs: Iterable[Path] = ()) -> None:
    """Trust the modules that configs and flags name, and search for them next to configs."""
    for config in configs:
        search_folder(config.parent)
    for entry in settings:
        named = [class_path_of(entry), *CLASS_IN_TEXT.findall(entry.value if isinstance(entry.value, str) else "")]
        trust(*(path.rpartition(".")[0] for path in named if is_class_path(path)))


def resolve(class_path: Any) -> Any:
    """Return the class or function of a class path, or `None`."""
    if not is_class_path(class_path):
        return None
    try:
        return imported(class_path)
    except UserError:  # jsonargparse reports it
        return None


def class_entries(defaults: Any, prefix: str = "") -> Iterator[Entry]:
    """Yield the classes of default values, as entries of a config."""
    if isinstance(defaults, dict):
        if isinstance(defaults.get("class_path"), str):
            yield Entry(prefix, defaults["class_path"], "default", is_class=True)
        for name, value in defaults.items():
            below = prefix if name in CLASS_NODE_KEYS else f"{prefix}.{name}" if prefix else str(name)
            yield from class_entries(value, below)


def check_keys(
    plain: Iterable[str], settings: Sequence[Entry], *, defaults: dict[str, Any], fixed: dict[str, Any] | None = None
) -> KnownKeys:
    """Check all keys of configs and flags.

    Args:
        plain: Dotted keys that the parser itself accepts.
        settings: Entries of configs and flags.
        defaults: Nested default values; the classes in them accept keys too.
        fixed: Nested class paths that are not values of the parser.

    Returns:
        The keys, with their types as far as known.

    Raises:
        UserError: The first unknown key, with its place and the nearest right name.
    """
    keys = KnownKeys(plain, [*class_entries(fixed), *class_entries(defaults), *settings])
    refuse_unknown(settings, keys)
    return keys


def refuse_unknown(settings: Iterable[Entry], keys: KnownKeys) -> None:
    """Refuse the first key that nothing accepts, with its place and the nearest right name."""
    for entry in settings:
        if "[" in entry.key or entry.key in ("config", "help", "h", "print_config") or entry.key.endswith(".help"):
            continue
        wrong = keys.unknown_part(entry.key)
        if wrong is not None:
            part, candidates = wrong
            name = part.rpartition(".")[2]
            hint = key_hint(part, siblings=candidates, accepts=keys.accepts)
            hint = hint or keys.elsewhere(name) or nearest(name, candidates)
            raise UserError(f"{entry.where}: unknown key {part!r}{hint}")
