"""Settings as YAML 1.2, which PyYAML does not know: it reads `off` as False, and 010 as 8."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from pipeline.error_text import one_line


def read_yaml(text: str) -> Any:
    """What a YAML text says. Raises ValueError."""
    try:
        return yaml.load(text, Loader=_Yaml12Loader)
    # RecursionError: a hundred thousand brackets; ValueError: a number of thousands of digits; the
    # last two: a tag whose value does not fit, as `!!bool x`
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        place = 'in "<unicode string>", '  # which says nothing of the file's name
        raise ValueError(one_line(str(error).replace(place, "at "))) from error


def yaml_of(settings: dict[str, Any], *, only_ascii: bool = False) -> str:
    """A YAML text from which `read_yaml` makes equal settings, with lists for tuples.

    only_ascii: with escapes for all other characters.
    """
    text: str = yaml.dump(
        settings, Dumper=_Yaml12Dumper, sort_keys=False, allow_unicode=not only_ascii
    )
    return text.removesuffix("\n")


class _Yaml12Loader(yaml.SafeLoader):
    """Reads plain words as YAML 1.2 does: `off`, 1:30 and dates are text; 1e-3 and 010 numbers."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {
        letter: [(tag, word) for tag, word in known if tag.endswith((":null", ":merge"))]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuses references to lists: a few, one inside the other, stand for billions of words."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and isinstance(
            self.anchors.get(event.anchor), yaml.CollectionNode
        ):
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor} refers to a list", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Without YAML 1.1's octal numbers, in which 010 is 8."""
        text = self.construct_scalar(node)
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


class _Yaml12Dumper(yaml.SafeDumper):
    """Puts text in quotes that either version of YAML would read as something else."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """With escapes for line breaks, of which PyYAML does not read each kind as itself."""
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: Any) -> bool:
        """A reference to a list, as of two settings with the same default, would be refused."""
        return True


_Yaml12Dumper.add_representer(str, _Yaml12Dumper.represent_str)


for _tag, _words, _first_letters in (
    ("bool", "(true|false)$", "tf"),
    (
        "float",
        r"([-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.inf|\.nan)$",
        "-+.0123456789",
    ),
    ("int", r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
):
    for _reader_or_writer in (_Yaml12Loader, _Yaml12Dumper):
        _reader_or_writer.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(_words), list(_first_letters)
        )
_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _Yaml12Loader.construct_yaml_int)
